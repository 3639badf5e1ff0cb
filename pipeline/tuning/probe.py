"""Measure what each kernel would cost on rows outside its domain: what it forgot of the base.

The probe is a fixed sample of the gate rows of all domains. A row is drawn by its key, so the next
night reads the same rows, as far as they are still in its window. No kernel was tuned on them.

A kernel serves its own domain alone, so what it forgets costs nothing where routes are right. It
tells how far the kernel is from the base, and what a wrong route would cost.

Shapes: K slots of the level, P of them side by side, B rows of the probe, T tasks.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from iak.pipeline.activations.rows import TuningRows
from iak.pipeline.activations.standardizer import KernelInputs
from iak.pipeline.collectives import total
from iak.pipeline.iak import bank as banks
from iak.pipeline.iak import noise
from iak.pipeline.iak.bank import Bank
from iak.pipeline.iak.grouped import Segments
from iak.pipeline.model.loss import task_losses
from iak.pipeline.tuning.context import TuningContext
from iak.schemas.tuning import OutsideLoss

PROBE_ROWS = 512
"""Rows of the probe, about. Every kernel reads them, so they are few beside a domain's own rows."""
_ROWS_AT_ONCE = 4096
"""Rows of all kernels that run side by side. For one kernel's few rows a call costs more than its
products, and intermediate results of more rows leave the processor's cache."""


@torch.no_grad()
def outside_losses(
    bank: Bank, level: int, context: TuningContext, rows: TuningRows
) -> Mapping[str, OutsideLoss]:
    """Return each kernel's loss on the probe's rows of other domains; a collective call.

    A kernel is left out where the probe has fewer than two labelled rows outside its domain.

    Args:
        bank: the level's kernels at their best.
        level: level whose slots are read, a column of `slots_nL`.
        context: towers, tasks and this worker; its own rows are not read.
        rows: this worker's rows of the gate slice.
    """
    index_B = _drawn(rows, context)
    inputs = rows.activations.of(index_B)
    labels_BT, mask_BT = rows.labels_nT[index_B], rows.mask_nT[index_B]
    slot_B, is_labelled_B = rows.slots_nL[index_B, level], mask_BT.any(dim=1)
    base_B = _losses(context.heads(inputs.h_BH), labels_BT, mask_BT, context)
    # Rows, and sums of the changes of loss and of their squares.
    sums_K3 = torch.zeros(len(bank.names), 3, dtype=torch.float64)
    at_once = max(1, _ROWS_AT_ONCE // max(len(index_B), 1))
    for first in range(0, len(bank.names), at_once):
        kernels = bank.part(slice(first, first + at_once))
        slot_P = torch.arange(first, first + len(kernels.names))
        losses_PB = _losses_of_each(kernels, context, inputs, labels_BT, mask_BT)
        is_outside_PB = is_labelled_B & (slot_B != slot_P[:, None])
        change_PB = (losses_PB - base_B).where(is_outside_PB, 0.0)
        sums_K3[slot_P] = torch.stack(
            [is_outside_PB.sum(dim=1), change_PB.sum(dim=1), change_PB.square().sum(dim=1)], dim=1
        )
    sums = total(sums_K3, context.worker).cpu().tolist()
    return {
        name: _outside(int(count), change, squares)
        for name, (count, change, squares) in zip(bank.names, sums, strict=True)
        if count > 1
    }


def _drawn(rows: TuningRows, context: TuningContext) -> Tensor:
    """Return the indices of this worker's rows that belong to the probe; a collective call."""
    count = int(total(torch.tensor(len(rows)), context.worker))
    share_n = noise.uniform(rows.identity_n, 1).squeeze(1)
    return torch.nonzero(share_n < PROBE_ROWS / max(count, 1)).squeeze(1)


def _losses_of_each(
    kernels: Bank,
    context: TuningContext,
    inputs: KernelInputs,
    labels_BT: Tensor,
    mask_BT: Tensor,
) -> Tensor:
    """Return the loss of each row under each of P kernels, without noise, (P, B)."""
    count, rows = len(kernels.names), len(labels_BT)
    segments = Segments.of(torch.full((count,), rows), context.worker.device)
    h_BH, a_BA, labels_BT, mask_BT = (
        column.repeat(count, 1) for column in (*inputs, labels_BT, mask_BT)
    )
    weights = banks.views(kernels.flat_KN.contiguous(), kernels.shape)
    code = banks.encode(weights, a_BA, None, segments)
    logits_BT = banks.decode(weights, context.heads, h_BH, code.z_BC, segments)
    return _losses(logits_BT, labels_BT, mask_BT, context).view(count, rows)


def _losses(
    logits_BT: Tensor, labels_BT: Tensor, mask_BT: Tensor, context: TuningContext
) -> Tensor:
    """Return the loss of each row in nats, all tasks together by their weights, (B,)."""
    weights_T = torch.tensor([task.weight for task in context.tasks], dtype=torch.float64)
    losses_BT = task_losses(logits_BT.cpu(), labels_BT, mask_BT, context.tasks)
    return losses_BT.double() @ weights_T


def _outside(rows: int, change: float, squares: float) -> OutsideLoss:
    """Return the mean change of loss over some rows, and its standard error.

    Args:
        rows: number of rows, at least 2.
        change: sum of the changes over rows.
        squares: sum of their squares.
    """
    mean = change / rows
    # Rounding may leave a variance of equal changes below zero.
    variance = max(squares / rows - mean**2, 0.0) / (rows - 1)
    return OutsideLoss(rows=rows, change=mean, error=variance**0.5)
