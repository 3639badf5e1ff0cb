"""Predict rows by the bundles in their slots, and the rows without one by the base.

Shapes: B rows, R rows sorted and filled up, P slots that have rows, and the letters of
bundle_set.py and kernel.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from iak.pipeline.iak.predictor import SEGMENT_ROWS, Predictor, SlotLinear, SortedRows
from iak.pipeline.model.heads import Heads, Tail
from iak.pipeline.publish.bundle_set import BASE_SLOT, BundleSet


class BundlePredictor:
    """The bundles of a set at work on their base."""

    def __init__(self, bundles: BundleSet, heads: Heads | Tail) -> None:
        """Prepare the kernels' products.

        Args:
            bundles: the kernels, on the base's device.
            heads: the base's towers, or its tail.
        """
        self.bundles = bundles
        """The kernels."""
        self._heads = heads
        self._predictor = Predictor(bundles.weights, heads)
        # Stored as N x X, as (outputs, inputs). Only kernels of several standardisations need it.
        narrow = None if bundles.shared is not None else bundles.narrow_KNX
        self._narrow = None if narrow is None else SlotLinear(narrow)

    @torch.no_grad()
    def logits(
        self, h_BH: Tensor, x_BX: Tensor, slots_B: Tensor, s_BS: Tensor | None = None
    ) -> Tensor:
        """Return adapted logits, each row's by the bundle in its slot, or the base's without one.

        A row's logits do not depend on the other rows.

        Args:
            h_BH: the base's representation.
            x_BX: embeddings of the rows.
            slots_B: slot of each row, `BASE_SLOT` for none.
            s_BS: fresh statistics of the rows; None where the kernels read none.
        """
        bundles, filled = self.bundles, _filled_rows(slots_B)
        rows, order = filled.rows, filled.index
        if not rows.slots:
            logits_BT: Tensor = self._heads(h_BH)
            return logits_BT
        if bundles.shared is not None:
            # Once for the batch: each of 1,000 slots would read a copy of the components.
            a_RA = bundles.shared.of(h_BH, x_BX).index_select(0, order)
            h_RH = h_BH.index_select(0, order)
        else:
            h_RH = h_BH.index_select(0, order)
            a_RA = self._standardised(h_RH, x_BX.index_select(0, order), rows)
        if bundles.fresh_mean_KS is not None and bundles.fresh_scale_KS is not None:
            assert s_BS is not None, "these kernels read fresh statistics"
            s_RS = s_BS.index_select(0, order) - rows.spread(bundles.fresh_mean_KS)
            a_RA = torch.cat([a_RA, s_RS / rows.spread(bundles.fresh_scale_KS)], dim=1)
        added = self._predictor.added(h_RH, a_RA, rows)
        own = filled.is_row
        within_BX = _put_back(added.within_BX[own], order[own], rows=len(h_BH))
        skip_BT = _put_back(added.logits_BT[own], order[own], rows=len(h_BH))
        return self._read_out(h_BH, within_BX) + skip_BT

    def _read_out(self, h_BH: Tensor, within_BX: Tensor) -> Tensor:
        """Return the logits of moved hidden units, or of moved h before a tail.

        All rows of the batch go through it together: products of few rows round otherwise.
        """
        heads = self._heads
        if isinstance(heads, Tail):
            moved_BT: Tensor = heads(h_BH + within_BX)
            return moved_BT
        shift_BTD = within_BX.unflatten(1, (heads.tasks, heads.hidden))
        return heads.read_out(heads.hidden_units(h_BH) + shift_BTD)

    def _standardised(self, h_RH: Tensor, x_RX: Tensor, rows: SortedRows) -> Tensor:
        """Return the encoder inputs of sorted rows, each by its own kernel's statistics."""
        bundles, units = self.bundles, h_RH.shape[1]
        a_RA = torch.cat([h_RH, x_RX], dim=1) if bundles.reads_x else h_RH
        a_RA = (a_RA - rows.spread(bundles.mean_KA)) / rows.spread(bundles.scale_KA)
        if self._narrow is None:
            return a_RA
        return torch.cat([a_RA[:, :units], self._narrow(a_RA[:, units:], rows)], dim=1)


def _put_back(values_RX: Tensor, index_R: Tensor, *, rows: int) -> Tensor:
    """Return values in the batch's order, and zeros for rows without any."""
    return values_RX.new_zeros(rows, values_RX.shape[1]).index_copy_(0, index_R, values_RX)


@dataclass(frozen=True, slots=True)
class _FilledRows:
    """Rows of a batch sorted by slot, each slot's filled up to a multiple of `SEGMENT_ROWS`."""

    rows: SortedRows
    index: Tensor
    """Index in the batch of each sorted row. What fills a slot up is its last row again."""
    is_row: Tensor
    """Whether it is a row of the batch, and does not fill up."""


def _filled_rows(slots_B: Tensor) -> _FilledRows:
    """Return the rows that have a slot, sorted and filled up."""
    order = torch.argsort(slots_B, stable=True)
    order = order[slots_B[order] != BASE_SLOT]
    # The rows of each slot are filled up to a whole number of segments.
    slots_P, lengths_P = slots_B[order].unique_consecutive(return_counts=True)
    filled_P = -(-lengths_P // SEGMENT_ROWS) * SEGMENT_ROWS
    index_R = torch.arange(len(slots_P), device=slots_B.device).repeat_interleave(filled_P)
    # Number of each row within its slot. Rows beyond the slot's last one repeat it.
    number_R = torch.arange(len(index_R), device=slots_B.device)
    number_R = number_R - (filled_P.cumsum(0) - filled_P)[index_R]
    last_R = lengths_P[index_R] - 1
    starts_P = lengths_P.cumsum(0) - lengths_P
    return _FilledRows(
        rows=SortedRows(
            slots=slots_P.tolist(), lengths=filled_P.tolist(), owners_B=slots_P[index_R]
        ),
        index=order[starts_P[index_R] + torch.minimum(number_R, last_R)],
        is_row=number_R <= last_R,
    )
