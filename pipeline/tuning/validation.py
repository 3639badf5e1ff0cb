"""Predict rows with the kernels of a bank, without noise, and measure their validation loss.

Shapes: K slots of the bank, T tasks, B rows of a batch on this worker, P slots present in it; the
other letters are those of kernel.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from iak.pipeline.activations.rows import TuningRows
from iak.pipeline.collectives import total
from iak.pipeline.iak import bank as banks
from iak.pipeline.iak.bank import Bank
from iak.pipeline.iak.grouped import Segments, slot_sums
from iak.pipeline.model.loss import task_losses
from iak.pipeline.tuning.context import TuningContext
from iak.pipeline.tuning.schedule import by_slot

_BATCH_ROWS = 8192


class Validated(NamedTuple):
    """Validation loss of each slot of a bank."""

    loss_K: Tensor
    """Weighted sum over tasks of the mean loss in nats of a labelled row."""
    is_known_K: Tensor
    """Whether the slot has a labelled row at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedBatch:
    """Rows sorted by slot, and their kernels' predictions."""

    index_B: Tensor
    """Indices of the rows among this worker's."""
    present: slice
    """Slots from the first to the last that has rows here."""
    segments: Segments
    h_BH: Tensor
    logits_BT: Tensor
    code_BC: Tensor
    """Each row's code, without noise."""
    rate_B: Tensor
    """Nats of each row's code."""


@torch.no_grad()
def valid_losses(bank: Bank, level: int, context: TuningContext, wanted_K: Tensor) -> Validated:
    """Return the validation loss of each wanted slot over all workers' rows; a collective call.

    Args:
        bank: K kernels.
        level: level whose slots are read, a column of `slots_nL`.
        context: validation rows, towers, tasks and this worker.
        wanted_K: slots to validate; the others have loss 0 and count as not known.
    """
    slots = len(bank.names)
    # float64: a sum over millions of rows, compared between epochs to small differences.
    sums_KT = torch.zeros(slots, len(context.tasks), dtype=torch.float64)
    counts_KT = torch.zeros(slots, len(context.tasks), dtype=torch.float64)
    rows, device = context.valid, context.worker.device
    for batch in predicted_batches(bank, level, context, rows, wanted_K):
        index_B, present, segments = batch.index_B, batch.present, batch.segments
        mask_BT = rows.mask_nT[index_B].to(device)
        labels_BT = rows.labels_nT[index_B].to(device)
        losses_BT = task_losses(batch.logits_BT, labels_BT, mask_BT, context.tasks)
        sums_KT[present] += slot_sums(losses_BT.double(), segments).cpu()
        counts_KT[present] += slot_sums(mask_BT.double(), segments).cpu()
    sums_KT, counts_KT = total(torch.stack([sums_KT, counts_KT]), context.worker)
    weights_T = torch.tensor([t.weight for t in context.tasks], dtype=torch.float64)
    loss_K = (weights_T * sums_KT / counts_KT.clamp(min=1)).sum(dim=1)
    return Validated(loss_K, counts_KT.sum(dim=1) > 0)


@torch.no_grad()
def predicted_batches(
    bank: Bank, level: int, context: TuningContext, rows: TuningRows, wanted_K: Tensor
) -> Iterator[PredictedBatch]:
    """Yield the wanted slots' rows under their kernels, without noise; a collective call.

    Args:
        bank: K kernels.
        level: level whose slots are read, a column of `slots_nL`.
        context: towers and this worker; its own rows are not read.
        rows: rows to predict.
        wanted_K: slots whose rows are wanted.
    """
    for index_B, present, lengths_P in by_slot(
        rows.slots_nL[:, level], wanted_K, batch_rows=_BATCH_ROWS, worker=context.worker
    ):
        h_BH, a_BA = rows.activations.of(index_B)
        segments = Segments.of(lengths_P, context.worker.device)
        weights = banks.views(bank.flat_KN[present].contiguous(), bank.shape)
        code = banks.encode(weights, a_BA, None, segments)
        logits_BT = banks.decode(weights, context.heads, h_BH, code.z_BC, segments)
        yield PredictedBatch(
            index_B=index_B,
            present=present,
            segments=segments,
            h_BH=h_BH,
            logits_BT=logits_BT,
            code_BC=code.z_BC,
            rate_B=code.rate_B,
        )
