"""Compute what K kernels add to the base's output, for each row the kernel in its slot.

Tuning moves weights in every step. Here they stay, so what follows from weights alone is computed
once (folded.py), and only kernels that have rows cost time.

Shapes: K slots, B rows, P slots that have rows, G segments of S rows, I inputs, O outputs, X hidden
units of all towers or units of h before a tail, Y = X + T, and the letters of kernel.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm, pad

from iak.pipeline.iak.folded import Layer
from iak.pipeline.model.batch_invariant import MIN_OUTPUTS

SEGMENT_ROWS = 4
"""Rows of a slot come in multiples of this number, and a product has so many rows, neither more nor
less. Products of other numbers of rows may round a row otherwise: with 512 inputs and 64 outputs
one of 8 rows differs from one of 16 (MKL of torch 2.13, one thread). Most domains of a request have
few rows, so a small number fills up little. One to three rows take another path of MKL."""
_MAX_COPIED = 8192
"""Entries up to which matrices are copied segment by segment, so that one call multiplies all of
them. Larger ones are multiplied slot by slot: reading them once costs less than copying them."""
_COPIED = 2**18
"""Entries that are copied at a time: 1 MiB, which stays in a core's cache until multiplied."""
_CALL = 20_000
"""Entries whose copy costs as much as a call. Few slots of many rows are multiplied slot by slot
too. A row's result is the same to the bit."""
_FLOATS = 4
"""Inputs and outputs of a product are filled up to a multiple of so many floats, 16 bytes: where
rows begin elsewhere, a product may round them otherwise."""


@dataclass(frozen=True)
class SortedRows:
    """Rows that are sorted by slot; only slots that have some are listed."""

    slots: Sequence[int]
    """Slots that have rows, rising."""
    lengths: Sequence[int]
    """Rows of each of them, a multiple of `SEGMENT_ROWS`."""
    owners_B: Tensor
    """Slot of each row."""

    @cached_property
    def segment_owners(self) -> Tensor:
        """Return the slot of each segment of `SEGMENT_ROWS` rows, (G,)."""
        return self.owners_B[::SEGMENT_ROWS].contiguous()

    def spread(self, values_K: Tensor) -> Tensor:
        """Return the value of each row's slot; further dimensions stay."""
        return values_K.index_select(0, self.owners_B)

    @cached_property
    def runs(self) -> list[int]:
        """Return how many times `SEGMENT_ROWS` rows each of the slots has."""
        return [length // SEGMENT_ROWS for length in self.lengths]

    @cached_property
    def present(self) -> Tensor:
        """Return the slots that have rows, (P,), on the rows' device."""
        return torch.tensor(self.slots, device=self.owners_B.device)

    @cached_property
    def ends(self) -> Tensor:
        """Return the index after each slot's last row, (P,), as `grouped_mm` takes it."""
        ends_P = torch.tensor(self.lengths).cumsum(0, dtype=torch.int32)
        return ends_P.to(self.owners_B.device)


class SlotLinear:
    """A matrix for each slot, and its product with the rows of that slot."""

    def __init__(self, w_KIO: Tensor) -> None:
        """Take the matrices; they are copied where they must be filled up or lie otherwise.

        As (inputs, outputs) they are multiplied with four rows in two thirds of the time that
        (outputs, inputs) take.
        """
        inputs, self.outputs = w_KIO.shape[1:]
        few = max(MIN_OUTPUTS - self.outputs, 0)  # see pipeline/model/batch_invariant.py
        missing = (-inputs % _FLOATS, few or -self.outputs % _FLOATS)
        if any(missing):
            w_KIO = pad(w_KIO, (0, missing[1], 0, missing[0]))
        self._missing_inputs = missing[0]
        self._w_KIO = w_KIO.contiguous()
        # Views are made once: 1,000 of them cost as much as the products of a small batch.
        self._by_slot = self._w_KIO.split(1)

    def __call__(self, x_BI: Tensor, rows: SortedRows) -> Tensor:
        """Return w[k] x[b] for each row b of each slot k, `y_BO`."""
        if self._missing_inputs:
            x_BI = pad(x_BI, (0, self._missing_inputs))
        # On a CPU grouped_mm walks through all K slots, and lets a row round by the rows beside it
        # (torch 2.13).
        if x_BI.device.type != "cpu":
            w_POI = self._w_KIO[rows.present].transpose(1, 2).contiguous()
            y_BO = grouped_mm(x_BI, w_POI.transpose(1, 2), offs=rows.ends)
        else:
            y_BO = self._by_segments(x_BI.unflatten(0, (-1, SEGMENT_ROWS)), rows).flatten(0, 1)
        return y_BO[:, : self.outputs] if y_BO.shape[1] > self.outputs else y_BO

    def _by_segments(self, x_GSI: Tensor, rows: SortedRows) -> Tensor:
        """Return the product of each segment of `SEGMENT_ROWS` rows, `y_GSO`."""
        entries = self._w_KIO[0].numel()
        if entries <= _MAX_COPIED and len(x_GSI) * entries <= len(rows.slots) * _CALL:
            return self._by_copies(x_GSI, rows)
        y_GSO = x_GSI.new_empty(len(x_GSI), SEGMENT_ROWS, self._w_KIO.shape[2])
        parts = zip(x_GSI.split(rows.runs), rows.slots, y_GSO.split(rows.runs), strict=True)
        for run, slot, out in parts:
            w_1IO = self._by_slot[slot]
            # `expand` copies nothing, but 400 calls of it cost a millisecond.
            torch.bmm(run, w_1IO if len(run) == 1 else w_1IO.expand(len(run), -1, -1), out=out)
        return y_GSO

    def _by_copies(self, x_GSI: Tensor, rows: SortedRows) -> Tensor:
        """Return the same from copies of the matrices, some segments at a time."""
        some = max(1, _COPIED // self._w_KIO[0].numel())
        y_GSO = x_GSI.new_empty(len(x_GSI), SEGMENT_ROWS, self._w_KIO.shape[2])
        parts = (part.split(some) for part in (rows.segment_owners, x_GSI, y_GSO))
        for owners, x, y in zip(*parts, strict=True):
            torch.bmm(x, self._w_KIO.index_select(0, owners), out=y)
        return y_GSO


class Added(NamedTuple):
    """What kernels add to the base's output for B rows."""

    within_BX: Tensor
    """Added to the towers' hidden units, T * D of them; before a tail, to h."""
    logits_BT: Tensor
    """Added to the logits."""


class Predictor:
    """K kernels on one base, which predict with the mean of the code."""

    def __init__(self, layers: Sequence[Layer], *, tasks: int) -> None:
        """Prepare the products.

        Args:
            layers: the kernels, from `folded.fold`.
            tasks: T.
        """
        self._products = [SlotLinear(layer.w_KIO) for layer in layers]
        self._biases = [layer.b_KO for layer in layers]
        self._tasks = tasks

    def added(self, u_BA: Tensor, rows: SortedRows) -> Tensor:
        """Return what the kernels add, `both_BY`; a row's numbers do not depend on the other rows.

        Args:
            u_BA: inputs of the kernels before they are standardised, sorted by slot. One row or
                more.
            rows: the slots that they are sorted by.
        """
        y_BO = self._products[0](u_BA, rows)
        hidden = self._biases[0].shape[1]  # what follows are the adapters' outputs
        y_BO[:, :hidden].add_(rows.spread(self._biases[0])).relu_()
        for product, b_KO in zip(self._products[1:], self._biases[1:], strict=True):
            y_BO = product(y_BO, rows).add_(rows.spread(b_KO))
        return y_BO

    def parts(self, both_BY: Tensor) -> Added:
        """Return the parts of what is added, as views."""
        return Added(both_BY[:, : -self._tasks], both_BY[:, -self._tasks :])
