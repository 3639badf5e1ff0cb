"""Measure what a page shows of a kernel besides its verdict: its code, its calibration."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from iak.pipeline.iak.kernel import PRIOR, rate
from iak.pipeline.publish.gate import GateRows
from iak.pipeline.stats.losses import label_nats
from iak.pipeline.stats.reliability import reliability
from iak.pipeline.tuning.gate_rows import PairedRows
from iak.pipeline.tuning.information import InformationPoint
from iak.schemas.tuning import CodeDiagnostics, TrainingPoint

Curve = list[tuple[float, float, int]]
ACTIVE_VARIANCE = 0.01
"""Variance of a unit's mean over rows above which it is active (Burda et al. 2016, "Importance
weighted autoencoders", 5.2)."""


def mean_rate(rows: PairedRows | None) -> float | None:
    """Return the mean rate of a kernel's code in nats a row; None without gate rows."""
    if rows is None or rows.rate_n is None or not rows.rate_n.size:
        return None
    return float(rows.rate_n.mean(dtype=np.float64))


def code_of(
    rows: PairedRows | None,
    gate_rows: GateRows,
    kernel: Mapping[str, Tensor],
    pooled: Mapping[str, Tensor] | None,
) -> CodeDiagnostics | None:
    """Return what a kernel's code does on its gate rows; None without such rows.

    Args:
        rows: gate rows under base and kernel.
        gate_rows: the same rows, task by task.
        kernel: the kernel's weights.
        pooled: weights of the pooled kernel; None for that kernel itself.
    """
    if rows is None or rows.code is None:
        return None
    variance_C = rows.code.variances()
    return CodeDiagnostics(
        units=variance_C.size,
        active_units=int((variance_C > ACTIVE_VARIANCE).sum()),
        label_nats=_label_nats(gate_rows),
        prior_distance=None if pooled is None else _prior_distance(kernel, pooled),
        largest_change=float(np.abs(rows.candidate_own_nT - rows.base_own_nT).max()),
    )


def _label_nats(rows: GateRows) -> dict[str, tuple[float, float]]:
    """Return task -> nats about its label, of base and kernel, where both classes are present."""
    nats = {}
    for task in rows.tasks:
        labels_n = task.labels_n[task.mask_n]
        base, kernel = (
            label_nats(labels_n, p_n[task.mask_n], kept=task.kept)
            for p_n in (task.base_p_n, task.kernel_p_n)
        )
        if base is not None and kernel is not None:
            nats[task.task] = (base, kernel)
    return nats


def _prior_distance(kernel: Mapping[str, Tensor], pooled: Mapping[str, Tensor]) -> float:
    """Return the KL divergence of a kernel's prior from the pooled kernel's, in nats."""
    own, above = ([weights[name].double() for name in PRIOR] for weights in (kernel, pooled))
    return float(rate(*own, *above))


def path_of(points: Sequence[InformationPoint]) -> list[TrainingPoint]:
    """Return a kernel's epochs on the information plane, for its record."""
    return [TrainingPoint.model_validate(point._asdict()) for point in points]


def curves_of(rows: GateRows) -> dict[str, Curve]:
    """Return task -> the kernel's calibration curve, of the tasks that have gate rows."""
    curves = {
        task.task: reliability(
            task.labels_n[task.mask_n], task.kernel_p_n[task.mask_n], kept=task.kept
        )
        for task in rows.tasks
    }
    return {task: curve for task, curve in curves.items() if curve}
