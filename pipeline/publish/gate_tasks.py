"""Turn a kernel's gate rows into what the gate reads: one task after the other, as metrics do."""

from collections.abc import Mapping, Sequence

import numpy as np

from iak.pipeline.publish.gate import GateRows, TaskRows
from iak.pipeline.tuning.gate_rows import PairedRows
from iak.schemas.predictions import MetricTask


def gate_rows_of(
    rows: PairedRows | None, titles: Sequence[str], tasks: Sequence[MetricTask]
) -> GateRows:
    """Return a kernel's gate rows, one entry for each metric task.

    Args:
        rows: gate rows under base and candidate; None where the kernel has none.
        titles: the catalogue's tasks, in the order of the rows' columns.
        tasks: tasks that metrics measure.
    """
    if rows is None:
        rows = _no_rows(len(titles))
    column = {title: index for index, title in enumerate(titles)}
    return GateRows(
        tasks=tuple(_task_rows(rows, task, column) for task in tasks), users_n=rows.user_n
    )


def _task_rows(rows: PairedRows, task: MetricTask, column: Mapping[str, int]) -> TaskRows:
    """Return one task's columns of the gate rows.

    Args:
        rows: gate rows under base and candidate.
        task: task that metrics measure.
        column: index of each of the catalogue's tasks.
    """
    index = column[task.task]
    mask_n = rows.mask_nT[:, index]
    if task.given:  # a conversion by itself is judged where its click happened
        given = column[task.given]
        mask_n = mask_n & rows.mask_nT[:, given] & (rows.labels_nT[:, given] == 1)
    gain_n = rows.base_loss_nT[:, index].astype(np.float64) - rows.candidate_loss_nT[:, index]
    is_own = task.space == "own"
    return TaskRows(
        task=task.name,
        mask_n=mask_n,
        labels_n=rows.labels_nT[:, index],
        base_p_n=(rows.base_own_nT if is_own else rows.base_entire_nT)[:, index],
        kernel_p_n=(rows.candidate_own_nT if is_own else rows.candidate_entire_nT)[:, index],
        gain_n=gain_n if task.has_loss else None,
        kept=task.kept,
    )


def _no_rows(tasks: int) -> PairedRows:
    """Return the gate rows of a kernel that has none."""
    floats = np.zeros((0, tasks), np.float32)
    return PairedRows(
        base_loss_nT=floats,
        candidate_loss_nT=floats,
        labels_nT=floats,
        mask_nT=np.zeros((0, tasks), np.bool_),
        base_own_nT=floats,
        base_entire_nT=floats,
        candidate_own_nT=floats,
        candidate_entire_nT=floats,
    )
