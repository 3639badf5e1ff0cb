"""Write a night's numbers for Prometheus, as a file of the node exporter's textfile collector.

`metrics_server.py` serves the same numbers over HTTP.

Every metric is a gauge with the label `service`. An alert for a night that is late compares
`iak_night_ended_timestamp_seconds` with the current time.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, time
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from iak.pipeline.files import put_file
from iak.pipeline.report.domain_lines import (
    candidate_calibration,
    falls_back,
    shown_domains,
)
from iak.schemas.night import NightRecord

NIGHT_METRICS = {
    "iak_night_date_timestamp_seconds": "Nominal date of the newest night, at midnight UTC.",
    "iak_night_started_timestamp_seconds": "Time at which the newest night began.",
    "iak_night_ended_timestamp_seconds": "Time at which the newest night ended.",
    "iak_night_deadline_timestamp_seconds": "Time by which the newest night should have ended.",
    "iak_night_finished": "1 where the newest night finished, 0 where it broke.",
    "iak_night_exit_code": "0 all promoted, 4 some held, 5 some failed, 6 nothing to do, 1 failed.",
    "iak_night_attempts": "Times that the newest night was started.",
    "iak_night_rows_tuned": "Rows that the newest night tuned on.",
    "iak_night_rows_from_cache": "Tuned rows whose activations came from the cache.",
    "iak_night_worker_seconds": "Seconds of all workers together.",
    "iak_night_cost": "Price of the workers' time, in the currency of nightly.toml.",
    "iak_night_base_age_days": "Age of the base.",
    "iak_night_registry_generation": "Number of the registry's newest commit.",
    "iak_night_fallbacks": "Domains that another kernel than their own serves, or the base alone.",
    "iak_night_notices": "Notices on the page of the newest night.",
}
"""Metric with one value per night -> its description."""
LABELLED_METRICS = {
    "iak_night_kernels": ("outcome", "Kernels by outcome."),
    "iak_night_phase_seconds": ("phase", "Seconds of each phase."),
    "iak_night_unseen_share": ("table", "Share of the window's ids that the base does not know."),
    "iak_night_drift": ("input", "Drift of each input, and of each label's rate."),
    "iak_night_carried_bytes": ("way", "Bytes between machines, without rows of the log."),
    "iak_night_carried_files": ("way", "Files and objects that these bytes were."),
    "iak_night_days": ("state", "Days of the log by state."),
    "iak_domain_gain_nats": ("domain", "Gain of the newest candidate over the base, nats a row."),
    "iak_domain_kernel_age_days": ("domain", "Age of the kernel that served before the night."),
    "iak_domain_calibration": ("domain", "Predicted over observed positives of the first task."),
    "iak_domain_worker_seconds": ("domain", "Seconds of all workers for the domain."),
}
"""Metric with one more label -> that label, and its description."""
Parts = Mapping[str, float | None]
Values = dict[tuple[str, ...], float | None]


def metrics_text(record: NightRecord) -> bytes:
    """Return a night in Prometheus's text format. A number that is None has no line."""
    return generate_latest(night_registry(record))


def night_registry(record: NightRecord) -> CollectorRegistry:
    """Return a night's numbers as Prometheus's client library collects them."""
    registry = CollectorRegistry()
    whole = _night_values(record)
    for name, description in NIGHT_METRICS.items():
        _add(registry, name, description, {(record.name,): whole[name]}, ["service"])
    parts = _labelled_values(record)
    for name, (label, description) in LABELLED_METRICS.items():
        values: Values = {(record.name, part): value for part, value in parts[name].items()}
        _add(registry, name, description, values, ["service", label])
    return registry


def write_metrics(record: NightRecord, folder: Path) -> Path:
    """Write the metrics where the collector finds them, and return the file's path.

    Args:
        record: the night.
        folder: folder of the collector. It reads only names that end in `.prom`, so that it never
            sees a file that is being written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"iak_{record.name}.prom"
    put_file(path, metrics_text(record))
    return path


def _add(
    registry: CollectorRegistry,
    name: str,
    description: str,
    values: Values,
    labels: Iterable[str],
) -> None:
    gauge = Gauge(name, description, labels, registry=registry)
    for parts, value in values.items():
        if value is not None:
            gauge.labels(*parts).set(value)


def _night_values(record: NightRecord) -> dict[str, float | None]:
    after = record.registry_after
    midnight = datetime.combine(record.night, time(), UTC).timestamp()
    return {
        "iak_night_date_timestamp_seconds": midnight,
        "iak_night_started_timestamp_seconds": record.started_at.timestamp(),
        "iak_night_ended_timestamp_seconds": record.ended_at.timestamp()
        if record.ended_at
        else None,
        "iak_night_deadline_timestamp_seconds": record.deadline.timestamp()
        if record.deadline
        else None,
        "iak_night_finished": float(record.status == "finished"),
        "iak_night_exit_code": record.exit_code,
        "iak_night_attempts": record.attempts,
        "iak_night_rows_tuned": record.rows_tuned,
        "iak_night_rows_from_cache": record.rows_from_cache,
        "iak_night_worker_seconds": record.worker_seconds,
        "iak_night_cost": record.cost,
        "iak_night_base_age_days": record.base_age_days,
        "iak_night_registry_generation": record.registry_before if after is None else after,
        "iak_night_fallbacks": sum(falls_back(domain) for domain in record.domains),
        "iak_night_notices": len(record.notices),
    }


def _labelled_values(record: NightRecord) -> dict[str, Parts]:
    """Return the values of each labelled metric, by label.

    Of very many domains, only those that the page shows have values.
    """
    domains = {domain.decision.name: domain for domain in shown_domains(record)}
    states = [each.state for each in record.days]
    return {
        "iak_night_kernels": {outcome: float(n) for outcome, n in record.counts.items()},
        "iak_night_phase_seconds": record.timings_s,
        "iak_night_unseen_share": record.unseen,
        "iak_night_drift": {line.name: line.index for line in record.drift},
        "iak_night_carried_bytes": {w: c.bytes for w, c in record.traffic.by_way().items()},
        "iak_night_carried_files": {w: c.files for w, c in record.traffic.by_way().items()},
        "iak_night_days": {state: float(states.count(state)) for state in states},
        "iak_domain_gain_nats": {
            name: d.verdict.gain if d.verdict else None for name, d in domains.items()
        },
        "iak_domain_kernel_age_days": {n: d.decision.age_days for n, d in domains.items()},
        "iak_domain_calibration": {
            name: candidate_calibration(domain) for name, domain in domains.items()
        },
        "iak_domain_worker_seconds": {n: d.worker_seconds for n, d in domains.items()},
    }
