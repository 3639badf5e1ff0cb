"""Let domains with few rows borrow from their parent: keep only a share of their own change.

    kernel <- parent + share * (kernel - parent)

The share is that of `kept_shares`, from the gains of the level's domains over their parents on the
validation rows, and their standard errors. So the level's own gains decide how much a change of a
domain is worth, and no constant does. Rows count as independent of each other.

The epoch that a kernel is taken from was chosen on the same rows, which makes gains a little too
large. The gate judges the kernel afterwards, on rows that nothing else has read.

Shapes: K slots of the level, B rows, T tasks.
"""

import numpy as np
import torch
from torch import Tensor

from iak.pipeline.collectives import total
from iak.pipeline.iak.bank import Bank
from iak.pipeline.iak.grouped import slot_sums
from iak.pipeline.model.loss import task_losses
from iak.pipeline.stats.auc import Floats
from iak.pipeline.stats.shrinkage import kept_shares
from iak.pipeline.tuning.context import TuningContext
from iak.pipeline.tuning.tuned_kernels import Tuned
from iak.pipeline.tuning.validation import predicted_batches


def borrow(
    done: Tuned, parents: Bank, is_fresh_K: Tensor, level: int, context: TuningContext
) -> None:
    """Move each kernel of a level towards its parent, and note the share kept; a collective call.

    Args:
        done: the tuned level, which is changed.
        parents: the kernel above each, in the slots of `done`.
        is_fresh_K: slots that have no kernel of an earlier night. The others stay as they are,
            since their change is of more rows than this night's.
        level: level whose slots are read, a column of `slots_nL`.
        context: validation rows, towers, tasks and this worker.
    """
    moved_K = (done.bank.flat_KN != parents.flat_KN).any(dim=1).cpu() & is_fresh_K
    slots = torch.nonzero(moved_K).flatten()
    gains_K, errors_K = _gains(done.bank, parents, level, context, moved_K)
    shares = kept_shares(gains_K[slots.numpy()], errors_K[slots.numpy()])
    for slot, share in zip(slots.tolist(), shares.tolist(), strict=True):
        parent_N = parents.flat_KN[slot]
        done.bank.flat_KN[slot] = torch.lerp(parent_N, done.bank.flat_KN[slot], share)
        done.own_share[done.bank.names[slot]] = share


@torch.no_grad()
def _gains(
    bank: Bank, parents: Bank, level: int, context: TuningContext, wanted_K: Tensor
) -> tuple[Floats, Floats]:
    """Return each slot's mean gain in nats a labelled row, and its error; NaN where unknown."""
    weights_T = torch.tensor([task.weight for task in context.tasks], dtype=torch.float64)
    # Rows, and sums of gains and of their squares.
    sums_K3 = torch.zeros(len(bank.names), 3, dtype=torch.float64)
    rows, device = context.valid, context.worker.device
    batches = (predicted_batches(b, level, context, rows, wanted_K) for b in (bank, parents))
    for own, above in zip(*batches, strict=True):
        mask_BT = rows.mask_nT[own.index_B].to(device)
        labels_BT = rows.labels_nT[own.index_B].to(device)
        lower_BT = task_losses(above.logits_BT, labels_BT, mask_BT, context.tasks).double()
        lower_BT -= task_losses(own.logits_BT, labels_BT, mask_BT, context.tasks)
        gain_B = lower_BT @ weights_T.to(device)
        values_B3 = torch.stack([mask_BT.any(dim=1).double(), gain_B, gain_B.square()], dim=1)
        sums_K3[own.present] += slot_sums(values_B3, own.segments).cpu()
    rows_K, gains_K, squares_K = total(sums_K3, context.worker).numpy().T
    with np.errstate(divide="ignore", invalid="ignore"):
        means_K = gains_K / rows_K
        # Rounding may leave a variance of equal gains below zero.
        variances_K = np.maximum(squares_K / rows_K - means_K**2, 0.0) / (rows_K - 1)
    return means_K, np.sqrt(np.where(rows_K > 1, variances_K, np.nan))
