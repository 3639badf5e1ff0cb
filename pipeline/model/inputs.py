"""How x is laid out, and how dense tensors that run along it are carried over to another layout.

x lists its inputs one after the other, each so many units wide. Where a layout gains inputs, what
reads them starts at zero: the model answers as it did before, until it learns on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

NOWHERE = -1


class Input(NamedTuple):
    """A feature's embedding, or a number, in x."""

    name: str
    width: int


class AlongX(NamedTuple):
    """The axes of a dense tensor that run along x, ahead of whatever else follows on them."""

    reads: int | None = None
    """Axis that is multiplied with x: a new unit's entries start at zero."""
    makes: int | None = None
    """Axis along which units of x are made: a new unit's entries start fresh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOrigin:
    """Where each unit of x comes from."""

    units_before: int
    """Units of x before."""
    unit_before: tuple[int, ...]
    """Each unit of x -> that unit before, or NOWHERE."""

    @property
    def is_same(self) -> bool:
        """Whether nothing moved."""
        return self.unit_before == tuple(range(self.units_before))

    @property
    def keeps_all(self) -> bool:
        """Whether every unit of before is still there."""
        return set(range(self.units_before)) <= set(self.unit_before)

    def places(self, length: int) -> tuple[Tensor, Tensor]:
        """Entries of an axis of `length` that come from somewhere, and from where.

        The axis begins with x and may go on after it.
        """
        beyond = range(self.units_before, self.units_before + length - len(self.unit_before))
        before = torch.tensor([*self.unit_before, *beyond])
        (now,) = torch.where(before != NOWHERE)
        return now, before[now]

    def fits(self, along: AlongX, now: Sequence[int], before: Sequence[int]) -> bool:
        """Whether a tensor of shape `before` is, but for x, of shape `now`."""
        more = len(self.unit_before) - self.units_before
        expected = [
            length - more if axis in (along.reads, along.makes) else length
            for axis, length in enumerate(now)
        ]
        return expected == list(before)


def input_origin(before: Sequence[Input], now: Sequence[Input]) -> InputOrigin:
    """Where the units of one layout lie in another; an input of another width is a new one."""
    starts: dict[Input, int] = {}
    end = 0
    for part in before:
        starts[part] = end
        end += part.width
    unit_before = [
        starts[part] + unit if part in starts else NOWHERE
        for part in now
        for unit in range(part.width)
    ]
    return InputOrigin(units_before=end, unit_before=tuple(unit_before))


@torch.no_grad()
def carry_over(now: Tensor, before: Tensor, along: AlongX, origin: InputOrigin) -> None:
    """Fill `now`, a tensor that starts fresh, from one that ran along the layout before."""
    part = before.to(now)
    if along.makes is not None:
        to_makes, from_makes = origin.places(now.shape[along.makes])
        part = part.index_select(along.makes, from_makes.to(now.device))
    if along.reads is not None:
        to_reads, from_reads = origin.places(now.shape[along.reads])
        shape = list(part.shape)
        shape[along.reads] = now.shape[along.reads]
        wide = part.new_zeros(shape)
        wide.index_copy_(
            along.reads,
            to_reads.to(now.device),
            part.index_select(along.reads, from_reads.to(now.device)),
        )
        part = wide
    if along.makes is not None:
        now.index_copy_(along.makes, to_makes.to(now.device), part)
    else:
        now.copy_(part)
