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

from pipeline.iak.grouped import spread
from pipeline.iak.kernel import KernelOutput
from pipeline.iak.noise import Phase
from pipeline.model.loss import TaskShape, task_losses


def bottleneck_loss(
    output: KernelOutput,
    *,
    phase: Phase,
    frozen_BT: Tensor | None,
    labels_BT: Tensor,
    mask_BT: Tensor,
    tasks: Sequence[TaskShape],
    labelled_PT: Tensor,
    rows_P: Tensor,
    bounds: Sequence[int],
    beta: float,
) -> Tensor:
    """This worker's share of the sum over domains of their losses; shares add up over workers.

    Args:
        output: of the bank.
        phase: which logits are judged.
        frozen_BT: the base's logits; needed in compression.
        labels_BT: labels.
        mask_BT: which of them count.
        tasks: their kinds and weights.
        labelled_PT: labelled rows of each present slot and task in this step, over all workers.
        rows_P: rows of each present slot in this step, over all workers.
        bounds: where each slot's rows end.
        beta: price of the rate, in loss units a nat.
    """
    if phase == "compression":
        assert frozen_BT is not None, "compression judges the probe on top of the base's logits"
        logits_BT = frozen_BT + output.probe_BT
    else:
        logits_BT = output.logits_BT
    weights_T = logits_BT.new_tensor([task.weight for task in tasks])
    share_BT = spread(weights_T / labelled_PT.clamp(min=1), bounds)
    losses_BT = task_losses(logits_BT, labels_BT, mask_BT, tasks)
    rate = (output.rate_B * spread(1.0 / rows_P.clamp(min=1), bounds)).sum()
    return torch.sum(losses_BT * share_BT) + beta * rate
