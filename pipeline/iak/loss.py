"""Compute the information-bottleneck loss of both phases, domain by domain.

    compression: task loss of (frozen logits + probe of the code) + beta * rate
    matching:    task loss of the adapted logits                  + beta * rate

Each domain's loss is a mean over its own rows of the step, of all workers. A domain therefore
learns as if it were alone.

Shapes: B rows, T tasks, P slots present in the step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from iak.pipeline.iak.grouped import Segments, slot_sums, spread
from iak.pipeline.model.loss import TaskShape, task_losses


class BottleneckLoss(NamedTuple):
    """The loss of a step, and the task losses that it is made of."""

    share_P: Tensor
    """This worker's share of each domain's loss; shares add up over workers."""
    losses_BT: Tensor
    """Loss of each row and task in nats, without weights; 0 where the row has no label."""


def bottleneck_loss(
    logits_BT: Tensor,
    rate_B: Tensor,
    *,
    labels_BT: Tensor,
    mask_BT: Tensor,
    tasks: Sequence[TaskShape],
    labelled_PT: Tensor,
    rows_P: Tensor,
    rows: Segments,
    beta: float | Tensor,
) -> BottleneckLoss:
    """Return this worker's share of each domain's loss, and the rows' task losses.

    The gradient of the shares' sum is each domain's own, since domains share no weights.

    Args:
        logits_BT: frozen logits + probe in compression, adapted logits in matching.
        rate_B: nats of each row's code.
        labels_BT: 0 or 1, as floats.
        mask_BT: whether the row has the label.
        tasks: one per column, for their kinds and weights.
        labelled_PT: labelled rows of each slot and task in this step, of all workers. Without any
            the slot's task adds nothing.
        rows_P: rows of each slot in this step, of all workers.
        rows: end of each slot's rows among this worker's.
        beta: weight of the rate, in loss units per nat: one for all slots, or (P,).
    """
    weights_T = logits_BT.new_tensor([task.weight for task in tasks])
    share_BT = spread(weights_T / labelled_PT.clamp(min=1), rows)
    losses_BT = task_losses(logits_BT, labels_BT, mask_BT, tasks)
    rate_B = rate_B * spread(1.0 / rows_P.clamp(min=1), rows)
    price = spread(beta, rows) if isinstance(beta, Tensor) else beta
    share_P = slot_sums(torch.sum(losses_BT * share_BT, dim=1) + price * rate_B, rows)
    return BottleneckLoss(share_P, losses_BT)
