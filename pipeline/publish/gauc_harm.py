"""Hold a kernel that ranks worse within users, although it may rank no worse over all rows."""

from collections.abc import Sequence

from iak.pipeline.publish.gate import GateRows, TaskBatch, side_by_side
from iak.pipeline.stats.gauc import PairedGauc, paired_gaucs
from iak.schemas.job import GateSpec
from iak.schemas.verdict import Comparison, TaskVerdict, Verdict


def gaucs_of(
    gates: Sequence[GateRows], verdicts: Sequence[Verdict], spec: GateSpec
) -> list[dict[str, Comparison]]:
    """Return task -> mean AUC within users, of each kernel and the base, where there is one.

    Args:
        gates: each kernel's gate rows.
        verdicts: the gate's verdicts on them. A kernel whose probabilities are not all finite has
            no verdict on any task, and no GAUC; without enough rows harm is not shown.
        spec: the AUC that a task may lose.
    """
    by_kernel: list[dict[str, Comparison]] = [{} for _ in gates]
    with_users = [i for i, v in enumerate(verdicts) if v.tasks and gates[i].users_n is not None]
    for indices in side_by_side([gates[i] for i in with_users]):
        together = [with_users[index] for index in indices]
        for number in range(len(gates[together[0]].tasks)):
            batch = TaskBatch.of([gates[i] for i in together], number)
            for index, paired in zip(together, _paired(batch), strict=True):
                if paired is not None:
                    judged = verdicts[index].tasks[number].judged
                    by_kernel[index][batch.task] = _comparison(paired, spec, is_judged=judged)
    return by_kernel


def _paired(batch: TaskBatch) -> list[PairedGauc | None]:
    """Return the GAUC of each kernel and the base on one task."""
    assert batch.users_N is not None, "without users there is no GAUC"
    return paired_gaucs(
        batch.labels_N,
        batch.kernel_p_N,
        batch.base_p_N,
        batch.users_N,
        group_N=batch.kernel_N,
        num_groups=batch.kernels,
    )


def _comparison(paired: PairedGauc, spec: GateSpec, *, is_judged: bool) -> Comparison:
    """Return a kernel's GAUC beside the base's, with whether it shows harm."""
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
