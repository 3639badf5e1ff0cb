"""What a night's tuning took: rows, worker-seconds and money, shared out among its kernels."""

from iak.pipeline.nightly.outcomes import Done
from iak.pipeline.runs.nightly_tuning import tuning_of
from iak.schemas.night import DomainNight, NightRecord, TaskWindow, TuningCost
from iak.schemas.nightly import NightlySpec
from iak.schemas.record import RunRecord
from iak.schemas.tuning import TuningResult


def tuning_cost(
    spec: NightlySpec, record: NightRecord, tuned: RunRecord | None
) -> TuningCost | None:
    """Return what a night's tuning took; None where nothing was tuned."""
    if tuned is None:
        return None
    tuning = tuning_of(tuned)
    levels = {d.decision.name: d.decision.level for d in record.domains}
    own = [k.tuning_rows for k in tuning.kernels if levels.get(k.domain) == "domain"]
    every = [k.tuning_rows for k in tuning.kernels]
    seconds = tuned.timings_s.get("tune", 0.0) * int(tuned.spec.get("workers", 1))
    rows = sum(own) or max(every, default=0)
    cached, computed = tuning.cache.rows_read, tuning.cache.rows_computed
    return TuningCost(
        parameters_per_kernel=tuning.parameters_per_kernel,
        windows=[_with_labels(window, tuning) for window in record.windows],
        rows_tuned=rows,
        # The cache counts the rows that validate and judge as well.
        rows_from_cache=rows * cached // max(cached + computed, 1),
        worker_seconds=round(seconds, 3),
        cost=seconds / 3600 * spec.cost.per_worker_hour,
    )


def _with_labels(window: TaskWindow, tuning: TuningResult) -> TaskWindow:
    """Return a task's window with its labelled tuning rows and the positive ones."""
    counts = {
        "rows": tuning.labels.get(f"known {window.task}", 0),
        "positives": tuning.labels.get(f"positive {window.task}", 0),
    }
    return window.model_copy(update=counts)


def share_cost(
    domains: list[DomainNight], done: Done, spent: TuningCost | None
) -> list[DomainNight]:
    """Share the night's worker-seconds and cost out among its kernels, by their tuning rows."""
    rows = {name: kernel.tuning_rows for name, kernel in done.kernels.items()}
    whole = sum(rows.values())
    if spent is None or not whole:
        return domains
    shares = {d.decision.name: rows.get(d.decision.name, 0) / whole for d in domains}
    return [
        domain.model_copy(
            update={
                "worker_seconds": round(spent.worker_seconds * shares[domain.decision.name], 3),
                "cost": spent.cost * shares[domain.decision.name],
            }
        )
        for domain in domains
    ]
