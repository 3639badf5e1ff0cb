"""Hold a kernel that ranks worse within users, although it may rank no worse over all rows."""

from iak.pipeline.publish.gate import TaskRows
from iak.pipeline.stats.auc import Array
from iak.pipeline.stats.gauc import paired_gauc
from iak.schemas.job import GateSpec
from iak.schemas.verdict import Comparison, TaskVerdict


def gauc_of(
    rows: TaskRows, users_n: Array | None, spec: GateSpec, *, is_judged: bool
) -> Comparison | None:
    """Return a task's mean AUC within users, of kernel and base; None where there is none.

    Args:
        rows: the task's gate rows; all probabilities are finite.
        users_n: key of each row's user; None where the log declares none.
        spec: the AUC that a task may lose.
        is_judged: whether rows are enough; harm is not shown without.
    """
    if users_n is None:
        return None
    mask_n = rows.mask_n
    paired = paired_gauc(
        rows.labels_n[mask_n], rows.kernel_p_n[mask_n], rows.base_p_n[mask_n], users_n[mask_n]
    )
    if paired is None:
        return None
    return Comparison(
        kernel=paired.gauc_a,
        base=paired.gauc_b,
        delta=paired.delta,
        low=paired.low,
        high=paired.high,
        harm=is_judged and paired.high < -spec.auc_margin,
    )


def held_by_gauc(task: TaskVerdict, gauc: Comparison | None, spec: GateSpec) -> TaskVerdict:
    """Return a task's verdict, which also holds where users' own rankings show harm.

    Args:
        task: the verdict by AUC, log-loss and calibration.
        gauc: the task's GAUC; None where it has none.
        spec: the AUC that a task may lose.
    """
    if gauc is None or not gauc.harm:
        return task
    harm = (
        f"GAUC {gauc.base:.4f} -> {gauc.kernel:.4f}, difference {gauc.delta:+.4f} "
        f"[{gauc.low:+.4f}, {gauc.high:+.4f}] wholly below {-spec.auc_margin:+g}"
    )
    reason = ", ".join(part for part in (task.reason, harm) if part)
    return task.model_copy(update={"holds": True, "reason": reason})
