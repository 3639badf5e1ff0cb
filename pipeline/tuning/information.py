"""Measure what a code keeps and tells while it is tuned: a point of the information plane an epoch.

    rate        nats a row that the code keeps of its inputs, an upper bound of I(Z; X)
    label nats  entropy of the labels less the loss, a lower bound of what predictions tell of Y

Both are means over the rows of an epoch, with the noise that its steps drew, while the weights
move. They are sums of numbers that each step computes anyway. So no row is predicted again, and no
weight depends on them.

Source: Tishby and Zaslavsky 2015, "Deep learning and the information bottleneck principle", for the
plane; Alemi et al. 2017, "Deep variational information bottleneck", for both bounds.

Shapes: B rows of a step, P slots present in it, T tasks, S = 2 + 3 T sums: rows, nats, then
labelled rows, loss and positives of each task.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from iak.pipeline.iak.grouped import Segments, slot_sums
from iak.pipeline.iak.noise import Phase


class InformationPoint(NamedTuple):
    """One epoch of one kernel. It is a tuple, because a checkpoint stores it as JSON."""

    phase: Phase
    epoch: int
    """Number of the epoch in its phase, from 1."""
    beta: float
    """Weight of the rate at the end of the epoch, in loss units per nat."""
    rate: float
    """Nats a row that the code keeps."""
    label_nats: float | None
    """Nats that predictions tell of the labels: of each task a labelled row, summed over tasks.
    None where no task has labels of both classes."""


def information_sums(
    rate_B: Tensor, losses_BT: Tensor, labels_BT: Tensor, mask_BT: Tensor, rows: Segments
) -> Tensor:
    """Return each slot's sums over this worker's rows of a step, (P, S), in float64 on the CPU.

    Args:
        rate_B: nats of each row's code.
        losses_BT: loss of each row in nats; 0 where it has no label.
        labels_BT: 0 or 1; not read where the mask is False.
        mask_BT: whether the row has the label.
        rows: end of each slot's rows.
    """
    values_BS = torch.cat(
        [
            torch.ones_like(rate_B).unsqueeze(1),
            rate_B.detach().unsqueeze(1),
            mask_BT.to(rate_B.dtype),
            losses_BT.detach(),
            torch.where(mask_BT, labels_BT, 0.0),
        ],
        dim=1,
    )
    return slot_sums(values_BS.double(), rows).cpu()


def point_of(
    sums_S: Sequence[float], *, phase: Phase, epoch: int, beta: float
) -> InformationPoint | None:
    """Return the point of a kernel's epoch; None without rows, or where a sum is not finite.

    Args:
        sums_S: sums over the rows of the epoch, of all workers.
        phase: phase of the epoch.
        epoch: its number in the phase, from 1.
        beta: weight of the rate at its end.
    """
    rows, nats, *by_task = sums_S
    if rows < 1 or not all(map(math.isfinite, sums_S)):
        return None
    tasks = len(by_task) // 3
    labelled_T, loss_T, positives_T = (by_task[i * tasks : (i + 1) * tasks] for i in range(3))
    label_nats = [
        _entropy(positives / labelled) - loss / labelled
        for labelled, loss, positives in zip(labelled_T, loss_T, positives_T, strict=True)
        if 0 < positives < labelled
    ]
    return InformationPoint(
        phase, epoch, beta, nats / rows, sum(label_nats) if label_nats else None
    )


def _entropy(p: float) -> float:
    """Return the entropy of a label that is 1 with probability p, 0 < p < 1, in nats."""
    return -(p * math.log(p) + (1 - p) * math.log1p(-p))
