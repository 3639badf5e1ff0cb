"""Predict rows by the bundles in their slots, and the rows without one by the base.

Shapes: B rows, R rows sorted and filled up, P slots that have rows, and the letters of
bundle_set.py and predictor.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iak.pipeline.iak.folded import fold
from iak.pipeline.iak.predictor import SEGMENT_ROWS, Predictor, SortedRows
from iak.pipeline.model.heads import Heads, Tail
from iak.pipeline.publish.bundle_set import BASE_SLOT, BundleSet
from iak.pipeline.publish.encoder_inputs import EncoderInputs


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
        self._inputs = EncoderInputs(bundles)
        layers = fold(bundles.weights, heads, self._inputs.mean_KA, self._inputs.scale_KA)
        self._predictor = Predictor(layers, tasks=heads.tasks)

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
        filled = _FilledRows.of(slots_B)
        if not filled.rows.slots:
            logits_BT: Tensor = self._heads(h_BH)
            return logits_BT
        u_RA = self._inputs.of(h_BH, x_BX, s_BS, filled.rows, filled.index_R)
        both_BY = self._predictor.added(u_RA, filled.rows).index_select(0, filled.place_B)
        if len(filled.without):
            both_BY[filled.without] = 0.0
        added = self._predictor.parts(both_BY)
        return self._read_out(h_BH, added.within_BX) + added.logits_BT

    def _read_out(self, h_BH: Tensor, within_BX: Tensor) -> Tensor:
        """Return the logits of moved hidden units, or of moved h before a tail.

        All rows of the batch go through it together: products of few rows round otherwise.
        """
        heads = self._heads
        if isinstance(heads, Tail):
            moved_BT: Tensor = heads(h_BH + within_BX)
            return moved_BT
        shift_BTD = within_BX.unflatten(1, (heads.tasks, heads.hidden))
        return heads.read_out(heads.hidden_units(h_BH).add_(shift_BTD))


@dataclass(frozen=True, slots=True)
class _FilledRows:
    """Rows of a batch sorted by slot, each slot's filled up to a multiple of `SEGMENT_ROWS`."""

    rows: SortedRows
    index_R: Tensor
    """Index in the batch of each sorted row. What fills a slot up is its last row again."""
    place_B: Tensor
    """Index among the sorted rows of each row of the batch; 0 where it has no slot."""
    without: Tensor
    """Indices in the batch of rows that have no slot."""

    @classmethod
    def of(cls, slots_B: Tensor) -> "_FilledRows":
        """Sort the rows that have a slot, and fill them up.

        By NumPy: for the few rows of a request, each operation of torch costs several of these.
        """
        slots = slots_B.cpu().numpy()
        counts = np.bincount(slots - BASE_SLOT, minlength=1)  # without a slot, then of each slot
        slots_P = np.flatnonzero(counts[1:])
        lengths_P = counts[1:][slots_P]
        starts_P = np.cumsum(lengths_P) - lengths_P
        # NumPy sorts integers of 16 bits by radix, in a third of the time.
        narrow = slots.astype(np.int16) if len(counts) < 2**15 else slots
        order = np.argsort(narrow, kind="stable")
        without, order = order[: counts[0]], order[counts[0] :]
        filled_P = -(-lengths_P // SEGMENT_ROWS) * SEGMENT_ROWS
        moved_P = np.cumsum(filled_P) - filled_P - starts_P  # how far filling up moves a slot
        place = np.arange(len(order)) + np.repeat(moved_P, lengths_P)
        index_R = np.repeat(order[starts_P + lengths_P - 1], filled_P)
        index_R[place] = order
        place_B = np.zeros(len(slots), np.int64)
        place_B[order] = place
        owners_R = np.repeat(slots_P, filled_P)
        on_device = [
            torch.from_numpy(array).to(slots_B.device)
            for array in (owners_R, index_R, place_B, without)
        ]
        rows = SortedRows(
            slots=slots_P.tolist(), lengths=filled_P.tolist(), owners_B=on_device.pop(0)
        )
        return cls(rows, *on_device)
