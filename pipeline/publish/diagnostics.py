"""Measure what a page shows of a kernel besides its verdict: its code's rate, its calibration."""

import numpy as np

from iak.pipeline.publish.gate import GateRows
from iak.pipeline.stats.reliability import reliability
from iak.pipeline.tuning.gate_rows import PairedRows

Curve = list[tuple[float, float, int]]


def mean_rate(rows: PairedRows | None) -> float | None:
    """Return the mean rate of a kernel's code in nats a row; None without gate rows."""
    if rows is None or rows.rate_n is None or not rows.rate_n.size:
        return None
    return float(rows.rate_n.mean(dtype=np.float64))


def curves_of(rows: GateRows) -> dict[str, Curve]:
    """Return task -> the kernel's calibration curve, of the tasks that have gate rows."""
    curves = {
        task.task: reliability(
            task.labels_n[task.mask_n], task.kernel_p_n[task.mask_n], kept=task.kept
        )
        for task in rows.tasks
    }
    return {task: curve for task, curve in curves.items() if curve}
