"""Describe the layout of x, and move dense tensors that run along x to another layout.

x lists its inputs one after the other, each with its own number of units. Where a layout gains
inputs, the weights that read them start at zero. The model then answers as it did before, until it
is trained further.
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
    is_number: bool = False


class AlongX(NamedTuple):
    """The axes of a dense tensor that begin with the units of x; other units may follow on them."""

    reads: int | None = None
    """Axis that is multiplied with x: a new unit's entries start at zero."""
    makes: int | None = None
    """Axis along which units of x are made: a new unit's entries start fresh."""
    pairs: int | None = None
    """Axis that begins with one entry for each pair of vectors (`pairs_of`), which are the vector
    of all numbers and the embeddings. A new pair's entries start fresh. Its product is zero at
    first, because the weights that read a new input are zero. If the entries were zero too,
    neither factor would get a gradient."""


def pairs_of(vectors: int) -> Tensor:
    """Return the positions of both vectors of each pair, `pairs_2P`, in order.

    Args:
        vectors: number of vectors.
    """
    return torch.triu_indices(vectors, vectors, offset=1, device="cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOrigin:
    """The origin of each unit of x in an earlier layout."""

    units_before: int
    """Units of x in the earlier layout."""
    unit_before: tuple[int, ...]
    """Each unit of x -> its index in the earlier layout, or NOWHERE for a new one."""
    embeddings_before: int
    """Embeddings of x in the earlier layout."""
    embedding_before: tuple[int, ...]
    """Each embedding of x -> its position among the earlier ones, or NOWHERE for a new one."""

    @property
    def is_same(self) -> bool:
        """Return whether both layouts are equal."""
        return self.unit_before == tuple(range(self.units_before))

    @property
    def keeps_all(self) -> bool:
        """Return whether every unit of the earlier layout is still part of x."""
        return set(range(self.units_before)) <= set(self.unit_before)

    def indices(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the entries of an axis that have an origin, and the index of each origin.

        Args:
            length: entries of the axis now. It begins with x, and other units may follow.
        """
        beyond = range(self.units_before, self.units_before + length - len(self.unit_before))
        before = torch.tensor([*self.unit_before, *beyond])
        (now,) = torch.where(before != NOWHERE)
        return now, before[now]

    def pair_indices(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the entries of an axis of pairs that have an origin, and each origin's index.

        Args:
            length: entries of the axis now. It begins with the pairs, and other entries may follow.
        """
        # Vector 0 holds the numbers. It has no input of its own, and so is never new.
        vector_V = torch.tensor([0, *(e if e == NOWHERE else 1 + e for e in self.embedding_before)])
        pairs_before = pairs_of(1 + self.embeddings_before).T.tolist()
        index_before = {tuple(pair): index for index, pair in enumerate(pairs_before)}
        # A pair is the same whichever of its vectors comes first.
        moved = [
            index_before.get((min(pair), max(pair)), NOWHERE)
            for pair in vector_V[pairs_of(len(vector_V))].T.tolist()
        ]
        first = len(pairs_before)
        before = torch.tensor([*moved, *range(first, first + length - len(moved))])
        (now,) = torch.where(before != NOWHERE)
        return now, before[now]

    def fits(self, along: AlongX, now: Sequence[int], before: Sequence[int]) -> bool:
        """Return whether two shapes differ by nothing but the units of x.

        Args:
            along: the axes that begin with x.
            now: shape of the tensor in this layout.
            before: shape of the tensor in the earlier layout.
        """
        more = len(self.unit_before) - self.units_before
        pairs, pairs_before = (
            pairs_of(1 + embeddings).shape[1]
            for embeddings in (len(self.embedding_before), self.embeddings_before)
        )
        longer = {along.reads: more, along.makes: more, along.pairs: pairs - pairs_before}
        expected = [length - longer.get(axis, 0) for axis, length in enumerate(now)]
        return expected == list(before)


def input_origin(before: Sequence[Input], now: Sequence[Input]) -> InputOrigin:
    """Map the units of one layout to another; an input of another width counts as new."""
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
    embeddings = [part for part in before if not part.is_number]
    positions = {part: position for position, part in enumerate(embeddings)}
    return InputOrigin(
        units_before=end,
        unit_before=tuple(unit_before),
        embeddings_before=len(embeddings),
        embedding_before=tuple(positions.get(part, NOWHERE) for part in now if not part.is_number),
    )


@torch.no_grad()
def carry_over(now: Tensor, before: Tensor, along: AlongX, origin: InputOrigin) -> None:
    """Fill a tensor of this layout from the same tensor of an earlier layout.

    Args:
        now: overwritten in place. Along `makes` and `pairs`, entries without an origin keep their
            values; along `reads`, they become zero.
        before: the tensor in the earlier layout.
        along: the axes that begin with x.
        origin: origin of each unit of x.
    """
    part = before.to(now)
    if along.pairs is not None:
        to_pairs, from_pairs = origin.pair_indices(now.shape[along.pairs])
        part = part.index_select(along.pairs, from_pairs.to(now.device))
        now.index_copy_(along.pairs, to_pairs.to(now.device), part)
        return
    if along.makes is not None:
        to_makes, from_makes = origin.indices(now.shape[along.makes])
        part = part.index_select(along.makes, from_makes.to(now.device))
    if along.reads is not None:
        to_reads, from_reads = origin.indices(now.shape[along.reads])
        shape = list(part.shape)
        shape[along.reads] = now.shape[along.reads]
        wide = part.new_zeros(shape)  # zero: a new input changes no answer until it is trained
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
