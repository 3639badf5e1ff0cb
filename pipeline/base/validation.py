"""Measure the base on validation rows, task by task, while it is trained.

Shapes: B rows of a batch, N rows that are measured, T tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from iak.pipeline.base.precision import MAX_ROWS, broadcast, gather_rows
from iak.pipeline.collectives import total
from iak.pipeline.data.batch import to_batch
from iak.pipeline.data.kept_steps import RowsInSteps
from iak.pipeline.model.loss import TaskShape, probabilities, task_losses
from iak.pipeline.process import Worker
from iak.pipeline.sharding.shard import unwrap
from iak.pipeline.stats.auc import auc
from iak.pipeline.stats.losses import log_loss
from iak.schemas.training import TaskQuality

Rows = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The quality of the model on validation rows, at one step."""

    loss: float
    """Weighted sum over tasks of the mean nats per labelled row, over all rows."""
    tasks: tuple[TaskQuality, ...]
    """Measured on MAX_ROWS rows of all workers at most."""


@torch.no_grad()
def validate(
    model: nn.Module,
    rows: RowsInSteps,
    tasks: Sequence[TaskShape],
    *,
    batch_rows: int,
    worker: Worker,
) -> Validation:
    """Measure the model on all workers' validation rows; a collective call.

    Args:
        model: sharded or not. It stays in evaluation mode afterwards.
        rows: this worker's validation rows.
        tasks: tasks that the model predicts.
        batch_rows: rows that this worker predicts at a time.
        worker: this process.

    Returns:
        The loss and the tasks' numbers, the same on every worker.
    """
    model.eval()
    sums = torch.zeros(2, len(tasks), dtype=torch.float64)
    kept: dict[str, list[Tensor]] = {"own": [], "entire": [], "labels": [], "mask": []}
    room = MAX_ROWS // worker.world
    for table in rows.in_step(batch_rows):
        batch = to_batch(table, rows.catalog).to(worker.device)
        logits_BT = unwrap(model)(batch.ids, batch.numeric_BN)
        losses_BT = task_losses(logits_BT, batch.labels_BT, batch.mask_BT, tasks)
        sums += torch.stack([losses_BT.sum(0), batch.mask_BT.sum(0)]).double().cpu()
        if room > 0:  # AUC needs the rows themselves, so only MAX_ROWS of them are kept
            p = probabilities(logits_BT.double(), tasks)
            columns = (p.own_BT.float(), p.entire_BT.float(), batch.labels_BT, batch.mask_BT)
            for name, values_BT in zip(kept, columns, strict=True):
                kept[name].append(values_BT[:room].cpu())
            room -= batch.rows
    losses_T, labelled_T = total(sums, worker)
    weights_T = torch.tensor([t.weight for t in tasks], dtype=torch.float64)
    loss = float((weights_T * losses_T / labelled_T.clamp(min=1)).sum())
    empty = torch.zeros(0, len(tasks))
    own = {name: torch.cat([empty, *parts]).numpy() for name, parts in kept.items()}
    rows_of_all = gather_rows(own, worker)
    measured = qualities_of(rows_of_all, tasks) if rows_of_all else []
    return Validation(loss=loss, tasks=tuple(broadcast(measured, worker)))


def mean_loss(
    model: nn.Module,
    rows: RowsInSteps,
    tasks: tuple[TaskShape, ...],
    batch_rows: int,
    worker: Worker,
) -> float:
    """Return the weighted sum over tasks of mean nats per labelled row; a collective call."""
    return validate(model, rows, tasks, batch_rows=batch_rows, worker=worker).loss


def qualities_of(rows: Rows, tasks: Sequence[TaskShape]) -> list[TaskQuality]:
    """Measure every task on its own rows, and a conversion on all rows too."""
    known_NT, labels_NT = rows["mask"] > 0, rows["labels"]
    qualities = []
    for index, task in enumerate(tasks):
        known_N = known_NT[:, index]
        if task.given is None:
            qualities.append(
                quality_of(task.name, labels_NT[known_N, index], rows["own"][known_N, index])
            )
            continue
        clicked_N = known_N & known_NT[:, task.given] & (labels_NT[:, task.given] == 1)
        qualities += [
            quality_of(task.name, labels_NT[clicked_N, index], rows["own"][clicked_N, index]),
            quality_of(task.entire, labels_NT[known_N, index], rows["entire"][known_N, index]),
        ]
    return qualities


def quality_of(task: str, labels_N: npt.NDArray[Any], p_N: npt.NDArray[Any]) -> TaskQuality:
    """Measure one task on its labelled rows.

    Args:
        task: name, for the result.
        labels_N: 0 or 1.
        p_N: predicted probabilities.

    Returns:
        The numbers that can be measured; `reason` says why others are missing.
    """
    rows, positives = len(labels_N), int((labels_N == 1).sum())
    if not rows:
        return TaskQuality(task=task, rows=0, positives=0, reason="no labelled validation row")
    broken = int((~np.isfinite(p_N)).sum())
    if broken:
        reason = f"{broken:,} of {rows:,} predictions are not finite"
        return TaskQuality(task=task, rows=rows, positives=positives, reason=reason)
    missing = "positive" if not positives else "negative" if positives == rows else ""
    return TaskQuality(
        task=task,
        rows=rows,
        positives=positives,
        log_loss=log_loss(labels_N, p_N),
        auc=auc(labels_N, p_N),
        calibration=float(p_N.sum(dtype=np.float64)) / positives if positives else None,
        reason=f"no {missing} validation row, so no AUC" if missing else "",
    )
