"""Decide whether a kernel is published: the gate. It uses no clock and no disk.

A kernel is compared with the base on the same rows, which were used for nothing else. Rows of one
user count as dependent.

1. A task is *judged* where its gate rows meet the floors on positives and negatives. A task that
   is not judged neither supports a kernel nor holds it, since an interval from a handful of
   positives proves nothing. Where no task is judged, the kernel is held.
2. A judged task *holds* the kernel where harm is shown: the whole 95 % interval of its AUC,
   log-loss or calibration is beyond a margin, on the worse side. If the gate demanded proof of
   harmlessness instead, no domain with few rows would ever be published.
3. The gain must exceed `z` standard errors. It is the mean decrease of the weighted loss
   in nats, summed over the judged tasks that tuning trains on.

A harm test wrongly holds at most one in forty candidates whose measure is worse by exactly its
margin, and fewer that change nothing. With T tasks there are 3 T tests, which are not corrected for
their number. Of simulated candidates that are exactly as good as the base on three
tasks (nine tests), 7 % are held for harm at 40 positives in each task, 4 % at 200, 3 % at 1,000
(test_gate.py measures it). A false hold costs a night's gain; a false publication costs users.

Shapes: n gate rows of a kernel, N rows of all kernels that count for a task.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from iak.pipeline.stats.auc import Array, Bools, Floats, Ints
from iak.pipeline.stats.clusters import mean_and_error, one_sided
from iak.pipeline.stats.metrics import BesideBase, MetricRow, metric_rows
from iak.schemas.job import GateSpec
from iak.schemas.verdict import Comparison, TaskVerdict, Verdict

_ROWS_AT_ONCE = 2**20
"""Gate rows that are measured together, and those of one kernel more; some hundred bytes each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRows:
    """One task on the gate rows of one kernel; every array has all n gate rows."""

    task: str
    """Name of the metric task."""
    mask_n: Bools
    """Whether the row counts for the task."""
    labels_n: Array
    """0 or 1; not read where the mask is False."""
    base_p_n: Array
    kernel_p_n: Array
    gain_n: Array | None = None
    """Weighted nats by which the kernel's loss is below the base's; None where tuning does not
    lower this task's loss."""
    kept: float = 1.0
    """Share of negatives that the sampled log kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRows:
    """All gate rows of one kernel."""

    tasks: tuple[TaskRows, ...]
    users_n: Array | None = None
    """Key of each row's user; None where the log declares none."""

    @property
    def rows(self) -> int:
        """Return n."""
        return self.tasks[0].mask_n.size


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskBatch:
    """One task on the gate rows of many kernels, those that count for it, kernel after kernel."""

    task: str
    kept: float
    kernels: int
    kernel_N: Ints
    """Index of the row's kernel."""
    labels_N: Array
    base_p_N: Array
    kernel_p_N: Array
    users_N: Array | None

    @classmethod
    def of(cls, gates: Sequence[GateRows], index: int) -> "TaskBatch":
        """Return one task of kernels that `side_by_side` returns together.

        Args:
            gates: the kernels' gate rows.
            index: index of the task.
        """
        tasks = [gate.tasks[index] for gate in gates]
        masks = [task.mask_n for task in tasks]

        def joined(parts: Iterable[Array]) -> Array:
            return np.concatenate([p[mask] for p, mask in zip(parts, masks, strict=True)])

        users = [gate.users_n for gate in gates if gate.users_n is not None]
        return cls(
            task=tasks[0].task,
            kept=tasks[0].kept,
            kernels=len(gates),
            kernel_N=np.repeat(np.arange(len(gates)), [np.count_nonzero(m) for m in masks]),
            labels_N=joined(task.labels_n for task in tasks),
            base_p_N=joined(task.base_p_n for task in tasks),
            kernel_p_N=joined(task.kernel_p_n for task in tasks),
            users_N=joined(users) if users else None,
        )


@dataclass(frozen=True, slots=True)
class _Gain:
    """The mean gain over the judged tasks' rows."""

    mean: float
    error: float
    critical: float
    """Standard errors that the gain must exceed."""
    sentence: str
    """The gain with its error, rows and users, for the reason."""

    @property
    def low(self) -> float | None:
        return self.mean - self.critical * self.error if math.isfinite(self.error) else None


def judge(gate: GateRows, spec: GateSpec | None = None) -> Verdict:
    """Return whether the kernel is published: no task shows harm, and the gain exceeds its noise.

    Args:
        gate: the kernel's gate rows under base and kernel.
        spec: floors, margins and the standard errors of the gain; the defaults when absent.

    Raises:
        ValueError: an array does not have all gate rows.
    """
    (verdict,) = judge_each((gate,), spec)
    return verdict


def judge_each(gates: Sequence[GateRows], spec: GateSpec | None = None) -> list[Verdict]:
    """Return the verdict on each of many kernels, bit for bit the one that `judge` returns.

    Their rows are measured side by side: of a few dozen rows each, thousands of kernels would cost
    calls and not sums.

    Args:
        gates: each kernel's gate rows under base and kernel.
        spec: floors, margins and the standard errors of the gain; the defaults when absent.

    Raises:
        ValueError: an array does not have all gate rows of its kernel.
    """
    for gate in gates:
        _check_same_rows(gate)
    spec = spec or GateSpec()
    measured: dict[int, tuple[BesideBase, ...]] = {}
    for indices in side_by_side(gates):
        together = [gates[index] for index in indices]
        by_task = [_measure(TaskBatch.of(together, n)) for n in range(len(together[0].tasks))]
        measured |= zip(indices, zip(*by_task, strict=True), strict=True)
    return [_verdict(gate, measured[index], spec) for index, gate in enumerate(gates)]


def side_by_side(gates: Sequence[GateRows]) -> Iterable[list[int]]:
    """Return the indices of the kernels that are measured together, in some order.

    They have the same tasks, and all of them users or none.
    """
    alike: dict[Hashable, list[int]] = {}
    rows = 0
    for index, gate in enumerate(gates):
        tasks = tuple((task.task, task.kept) for task in gate.tasks)
        alike.setdefault((gate.users_n is None, tasks, rows // _ROWS_AT_ONCE), []).append(index)
        rows += gate.rows
    return alike.values()


def _measure(batch: TaskBatch) -> list[BesideBase]:
    """Return one task's metrics of each kernel, beside the base's."""
    return metric_rows(
        method="kernel",
        domains=("gate",) * batch.kernels,
        domain_index=batch.kernel_N,
        task=batch.task,
        labels=batch.labels_N,
        p=batch.kernel_p_N,
        p_base=batch.base_p_N,
        users=batch.users_N,
        kept=batch.kept,
    )


def _verdict(gate: GateRows, measured: Sequence[BesideBase], spec: GateSpec) -> Verdict:
    """Return the verdict on one kernel, given the metrics of each of its tasks."""
    is_labelled_n = np.logical_or.reduce([task.mask_n for task in gate.tasks])
    rows = int(np.count_nonzero(is_labelled_n))
    if not_finite := _not_finite(gate):
        reason = f"{not_finite:,} of {rows:,} gate rows have a loss that is not finite"
        return Verdict(publish=False, reason=reason, rows=rows)
    tasks = tuple(_judge_task(task, spec) for task in measured)
    judged = [t for t, verdict in zip(gate.tasks, tasks, strict=True) if verdict.judged]
    if not any(task.gain_n is not None for task in judged):
        return Verdict(publish=False, reason=_why_none(tasks, rows), rows=rows, tasks=tasks)
    gain = _gain(judged, gate.users_n, spec.z)
    publish, reason = _decide(gain, tasks)
    return Verdict(
        publish=publish, reason=reason, gain=gain.mean, gain_low=gain.low, rows=rows, tasks=tasks
    )


def _decide(gain: _Gain, tasks: Sequence[TaskVerdict]) -> tuple[bool, str]:
    """Return whether to publish, and why."""
    if holding := [t for t in tasks if t.holds]:
        return False, "; ".join(f"{t.task} holds it: {t.reason}" for t in holding)
    if not math.isfinite(gain.error):
        return False, f"{gain.sentence}: all rows are one user's, so other users are unknown"
    bound = f"{gain.critical:.3g} standard errors"
    if gain.mean <= gain.critical * gain.error:
        return False, f"{gain.sentence}: not beyond {bound}"
    return True, f"{gain.sentence}: beyond {bound}"


def _judge_task(beside: BesideBase, spec: GateSpec) -> TaskVerdict:
    """Return the verdict on one task: its comparisons, and whether it holds the kernel."""
    measured = beside.row
    why_not = _why_not_judged(measured, spec)
    auc, log_loss, calibration = _comparisons(beside, spec, is_judged=not why_not)
    harms = [
        _describe_harm(what, compared, margin)
        for what, compared, margin in (
            ("AUC", auc, -spec.auc_margin),
            ("log-loss", log_loss, spec.logloss_margin),
            ("calibration", calibration, spec.calibration_margin),
        )
        if compared.harm
    ]
    return TaskVerdict(
        task=measured.task,
        rows=measured.rows,
        positives=measured.positives,
        negatives=measured.rows - measured.positives,
        cluster=measured.cluster,
        clusters=measured.clusters,
        se_ratio=measured.se_ratio,
        auc=auc,
        log_loss=log_loss,
        calibration=calibration,
        judged=not why_not,
        holds=bool(harms),
        reason=why_not or ", ".join(harms),
    )


def _why_not_judged(measured: MetricRow, spec: GateSpec) -> str:
    """Return the reason why a task's rows are too few; empty where they are enough."""
    negatives = measured.rows - measured.positives
    if measured.positives < spec.min_positives:
        return f"{measured.positives:,} positives, fewer than {spec.min_positives:,}"
    if negatives < spec.min_negatives:
        return f"{negatives:,} negatives, fewer than {spec.min_negatives:,}"
    return measured.reasons.get("delta_auc", "")


def _comparisons(
    beside: BesideBase, spec: GateSpec, *, is_judged: bool
) -> tuple[Comparison, Comparison, Comparison]:
    """Return AUC, log-loss and calibration of kernel and base, each with whether it shows harm.

    Args:
        beside: the kernel's metrics on the gate rows, and the base's.
        spec: margins.
        is_judged: whether there are enough rows. Without them no harm is shown.
    """
    measured = beside.row
    is_auc_worse = (
        measured.delta_auc_high is not None and measured.delta_auc_high < -spec.auc_margin
    )
    loss_low, off_low = measured.delta_logloss_low, measured.delta_calibration_low
    auc = Comparison(
        kernel=measured.auc,
        base=beside.base_auc,
        delta=measured.delta_auc,
        low=measured.delta_auc_low,
        high=measured.delta_auc_high,
        harm=is_judged and is_auc_worse,
    )
    log_loss = Comparison(
        kernel=measured.logloss,
        base=beside.base_logloss,
        delta=measured.delta_logloss,
        low=loss_low,
        high=measured.delta_logloss_high,
        harm=is_judged and loss_low is not None and loss_low > spec.logloss_margin,
    )
    calibration = Comparison(
        kernel=measured.calibration,
        base=beside.base_calibration,
        delta=measured.delta_calibration,
        low=off_low,
        high=measured.delta_calibration_high,
        harm=is_judged and off_low is not None and off_low > spec.calibration_margin,
    )
    return auc, log_loss, calibration


def _describe_harm(what: str, compared: Comparison, margin: float) -> str:
    """Return a sentence about the harm, with its numbers."""
    side = "below" if what == "AUC" else "above"
    return (
        f"{what} {compared.base:.4f} -> {compared.kernel:.4f}, difference {compared.delta:+.4f} "
        f"[{compared.low:+.4f}, {compared.high:+.4f}] wholly {side} {margin:+g}"
    )


def _why_none(tasks: Sequence[TaskVerdict], rows: int) -> str:
    """Return the reason why no task could be judged, with the counts of each task."""
    if not rows:
        return "no gate row has a label"
    counts = "; ".join(
        f"{t.task} has {t.positives:,} positives and {t.negatives:,} negatives ({t.reason})"
        for t in tasks
    )
    return f"no task is judged: {counts}"


def _gain(judged: Sequence[TaskRows], users_n: Array | None, z: float) -> _Gain:
    """Return the mean gain over the rows of the judged tasks, and its clustered error.

    Args:
        judged: tasks that are judged, one of them at least with a gain.
        users_n: key of each row's user; None where the log declares none.
        z: standard errors of a normal distribution that the gain must exceed.
    """
    counted = [(task.mask_n, task.gain_n) for task in judged if task.gain_n is not None]
    mask_n = np.logical_or.reduce([mask for mask, _ in counted])
    # One sum for each row: the gains of its tasks are not independent of each other.
    total_n: Floats = np.zeros(mask_n.size)
    for task_mask_n, gain_n in counted:
        total_n += np.where(task_mask_n, gain_n, 0.0)
    users = None if users_n is None else users_n[mask_n]
    mean, error, clusters = mean_and_error(total_n[mask_n], users)
    rows = int(np.count_nonzero(mask_n))
    of_users = "" if users is None else f" of {clusters:,} users"
    return _Gain(
        mean=mean,
        error=error,
        critical=one_sided(z, clusters, "row" if users is None else "user"),
        sentence=f"gain {mean:.5f} ± {error:.5f} nats/row on {rows:,} gate rows{of_users}",
    )


def _not_finite(gate: GateRows) -> int:
    """Count the labelled rows with a loss or a probability that is not finite."""
    is_not_finite_n = np.zeros(gate.tasks[0].mask_n.size, np.bool_)
    for task in gate.tasks:
        numbers = [task.base_p_n, task.kernel_p_n]
        numbers += [] if task.gain_n is None else [task.gain_n]
        is_finite_n = np.logical_and.reduce([np.isfinite(number) for number in numbers])
        is_not_finite_n |= task.mask_n & ~is_finite_n
    return int(np.count_nonzero(is_not_finite_n))


def _check_same_rows(gate: GateRows) -> None:
    """Refuse arrays that are not of the same rows."""
    sizes = {
        array.size
        for task in gate.tasks
        for array in (task.mask_n, task.labels_n, task.base_p_n, task.kernel_p_n, task.gain_n)
        if array is not None
    }
    sizes |= set() if gate.users_n is None else {gate.users_n.size}
    if len(sizes) != 1:
        raise ValueError(f"arrays of {sorted(sizes)} rows: the gate needs all on the same rows")
