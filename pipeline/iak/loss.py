"""The information-bottleneck loss of the two phases, per domain and summed over domains.

    compression: task loss of (frozen logits + probe of the code) + beta * rate
    matching:    task loss of the adapted logits                  + beta * rate

Each domain's loss is a mean over its own rows of the step, counted over all workers, so a domain
learns as if it were alone.

Shapes: B rows, T tasks, P slots.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from iak.pipeline.iak.grouped import Segments, spread
from iak.pipeline.model.loss import TaskShape, task_losses


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
    beta: float,
) -> Tensor:
    """This worker's share of the sum over domains of their losses; shares add up over workers.

    Args:
        logits_BT: what the phase judges: frozen logits + probe in compression, the adapted ones
            in matching.
        rate_B: nats a row's code carries.
        labels_BT: labels.
        mask_BT: which of them count.
        tasks: their kinds and weights.
        labelled_PT: labelled rows of each present slot and task in this step, over all workers.
        rows_P: rows of each present slot in this step, over all workers.
        rows: which of this worker's rows are whose.
        beta: price of the rate, in loss units a nat.
    """
    weights_T = logits_BT.new_tensor([task.weight for task in tasks])
    share_BT = spread(weights_T / labelled_PT.clamp(min=1), rows)
    losses_BT = task_losses(logits_BT, labels_BT, mask_BT, tasks)
    rate = (rate_B * spread(1.0 / rows_P.clamp(min=1), rows)).sum()
    return torch.sum(losses_BT * share_BT) + beta * rate
