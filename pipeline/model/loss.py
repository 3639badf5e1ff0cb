"""Compute the multi-task loss with label masks. A conversion is learned over all rows.

Shapes: B rows, T tasks.
Source: Ma et al. 2018, "Entire space multi-task model" (ESMM), eq. 2-4: a conversion tower gives
p(conversion | click), and its loss is on p(click) * p(conversion | click), whose label is known
for every impression.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LN_2 = math.log(2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskShape:
    """One task: the meaning of its logit, and the weight of its loss."""

    name: str
    kind: Literal["binary", "click", "conversion"]
    given: int | None = None
    """Index of the earlier task that a conversion is conditional on; None for other kinds."""
    weight: float = 1.0
    """Factor on its mean loss in the sum over tasks."""
    entire: str = ""
    """Name of a conversion's probability over all rows."""


class LogProbabilities(NamedTuple):
    """ln p and ln (1 - p) of each task's event over all rows."""

    yes_BT: Tensor
    no_BT: Tensor


class Probabilities(NamedTuple):
    """Each task's probabilities."""

    own_BT: Tensor
    """Probability of the task's own event; of a conversion, given its click."""
    entire_BT: Tensor
    """Probability over all rows; of a conversion, times its click's probability."""


def log_probabilities(logits_BT: Tensor, tasks: Sequence[TaskShape]) -> LogProbabilities:
    """Return ln p and ln (1 - p) of each task over all rows, exact for rare and likely events.

    A conversion has p = c * v, where c is the click's probability and v the conversion's given a
    click. Then 1 - p = (1 - c) + c * (1 - v) is a sum of positive terms, so that no digits cancel.
    Its logarithm is exact for a likely event. For a rare event ln (1 - p) is computed from p.

    Args:
        logits_BT: the heads' output.
        tasks: one per column.
    """
    yes: list[Tensor] = []
    no: list[Tensor] = []
    for task, logit_B in zip(tasks, logits_BT.unbind(dim=1), strict=True):
        yes_B, no_B = logsigmoid(logit_B), logsigmoid(-logit_B)
        if task.given is not None:
            no_B = torch.logaddexp(no[task.given], yes[task.given] + no_B)
            yes_B = yes[task.given] + yes_B
            no_B = _sharp_when_rare(yes_B, no_B)
        yes.append(yes_B)
        no.append(no_B)
    return LogProbabilities(yes_BT=torch.stack(yes, dim=1), no_BT=torch.stack(no, dim=1))


def _sharp_when_rare(yes_B: Tensor, no_B: Tensor) -> Tensor:
    """Return ln (1 - p): `no_B` where p >= 1/2, and computed from p = exp(yes_B) below.

    Near ln 1 = 0 the sum in `no_B` rounds to 6e-8, as large as the whole value at p = 1e-7.
    """
    is_rare_B = yes_B < -LN_2
    # The inner `where` keeps exp below 1/2: log1p of the other branch would give a NaN gradient.
    rare_B = torch.log1p(-torch.where(is_rare_B, yes_B, -LN_2).exp())
    return torch.where(is_rare_B, rare_B, no_B)


def task_losses(
    logits_BT: Tensor, labels_BT: Tensor, mask_BT: Tensor, tasks: Sequence[TaskShape]
) -> Tensor:
    """Return the cross-entropy in nats of each row and task, 0 where `mask_BT` is False.

    Args:
        logits_BT: the heads' output.
        labels_BT: 0 or 1, as floats. A value under a False mask, NaN too, is not read.
        mask_BT: whether the row has the label.
        tasks: one per column. A conversion's label is over all rows: 1 only if clicked as well.

    Returns:
        losses_BT, unweighted.
    """
    log_p = log_probabilities(logits_BT, tasks)
    labels_BT = torch.where(mask_BT, labels_BT, 0.0)  # before the product: 0 * NaN is NaN
    losses_BT = -(labels_BT * log_p.yes_BT + (1.0 - labels_BT) * log_p.no_BT)
    return torch.where(mask_BT, losses_BT, 0.0)


def share_of_mean(
    losses_BT: Tensor, *, counts_T: Tensor, tasks: Sequence[TaskShape], world: int = 1
) -> Tensor:
    """Return this worker's share of the weighted mean loss over the rows of all workers.

    Args:
        losses_BT: this worker's `task_losses`.
        counts_T: labelled rows of each task, summed over all workers. A task without any adds 0.
        tasks: for their weights.
        world: number of workers. Gradients are averaged over workers (by DDP for dense parameters,
            by torchrec's gradient division for tables), so that each share is scaled by `world`.

    Returns:
        A scalar whose mean over workers is the loss of the whole batch.
    """
    weights_T = losses_BT.new_tensor([task.weight for task in tasks])
    means_T = losses_BT.sum(dim=0) / counts_T.clamp(min=1)
    return world * (weights_T * means_T).sum()


def probabilities(logits_BT: Tensor, tasks: Sequence[TaskShape]) -> Probabilities:
    """Return each task's own probability, and its probability over all rows."""
    entire_BT = log_probabilities(logits_BT, tasks).yes_BT.exp()
    return Probabilities(own_BT=logits_BT.sigmoid(), entire_BT=entire_BT)
