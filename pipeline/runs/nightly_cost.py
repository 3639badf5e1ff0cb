"""Compute the cost of a night's tuning, in rows, worker-seconds and money, and of each kernel."""

from iak.pipeline.nightly.outcomes import NightOutcomes
from iak.schemas.night import DomainNight, NightRecord, TaskWindow, TuningCost
from iak.schemas.nightly import NightlySpec
from iak.schemas.record import RunRecord
from iak.schemas.tuning import TuningResult


def tuning_cost(
    spec: NightlySpec, record: NightRecord, tuned: RunRecord | None
) -> TuningCost | None:
    """Return the cost of a night's tuning; None where nothing was tuned.

    Args:
        spec: the platform's settings; `cost` has the price of a worker's hour.
        record: record of the night.
        tuned: record of the tuning run; None where no domain trained.
    """
    if tuned is None:
        return None
    tuning = tuned.result_as(TuningResult)
    levels = {d.decision.name: d.decision.level for d in record.domains}
    own = [k.tuning_rows for k in tuning.kernels if levels.get(k.domain) == "domain"]
    every = [k.tuning_rows for k in tuning.kernels]
    seconds = tuned.timings_s.get("tune", 0.0) * tuned.settings.workers
    # Each row counts once: kernels above the domains are tuned on the same rows.
    rows = sum(own) or max(every, default=0)
    cached, computed = tuning.cache.rows_read, tuning.cache.rows_computed
    return TuningCost(
        parameters_per_kernel=tuning.parameters_per_kernel,
        windows=[_with_labels(window, tuning) for window in record.windows],
        rows_tuned=rows,
        # The cache also counts validation and gate rows, so only its share of hits is taken.
        rows_from_cache=rows * cached // max(cached + computed, 1),
        worker_seconds=round(seconds, 3),
        cost=seconds / 3600 * spec.cost.per_worker_hour,
    )


def _with_labels(window: TaskWindow, tuning: TuningResult) -> TaskWindow:
    """Return a task's window with the numbers of labelled and of positive tuning rows."""
    counts = {
        "rows": tuning.labels.get(f"known {window.task}", 0),
        "positives": tuning.labels.get(f"positive {window.task}", 0),
    }
    return window.model_copy(update=counts)


def share_cost(
    domains: list[DomainNight], outcomes: NightOutcomes, spent: TuningCost | None
) -> list[DomainNight]:
    """Divide the night's worker-seconds and cost among its kernels, by their tuning rows.

    Args:
        domains: the night's domains.
        outcomes: their results, with the tuning rows of each kernel.
        spent: what `tuning_cost` returned.
    """
    rows = {name: kernel.tuning_rows for name, kernel in outcomes.kernels.items()}
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
