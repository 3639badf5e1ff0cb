"""Prepare the lines of a page's table of domains from the record of a night."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from iak.pipeline.report.charts import (
    Chart,
    Scale,
    calibration_chart,
    interval_scale,
    outcome_columns,
)
from iak.pipeline.report.code_words import code_words
from iak.pipeline.report.differences import Difference, difference_of
from iak.pipeline.report.evidence_words import evidence_words
from iak.pipeline.report.information_plane import path_words
from iak.schemas.night import METHODS, DomainNight, Method, NightRecord

MAX_TASKS = 2
"""Tasks that have a column of intervals; the lines below the table have all."""
MAX_LINES = 500
"""Domains that the page shows; `night.json` has all."""
_URGENCY = {"failed": 0, "held": 1, "promoted": 2, "waiting": 3}
"""Outcome -> its position in the order by which domains are left out, the last ones first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainLine:
    """One domain of the table, and its details below the table."""

    anchor: str
    """Identifier of its details on the page. It is a number, since names may hold any character."""
    name: str
    night: DomainNight
    differences: tuple[Difference, ...]
    calibration: float | None
    """Predicted over observed positives of the first task, by the candidate."""
    trend: Chart | None
    """Its last nights; none on the page of a single night."""
    curves: tuple[Chart, ...]
    """The candidate's calibration, task by task."""

    @property
    def evidence(self) -> str:
        """Return how far its chain is from being proved; empty where it has none."""
        night = self.night
        if night.log_evidence is None:
            return ""
        return evidence_words(
            night.log_evidence, night.evidence_needed, night.evidence_nights, night.proved_on
        )

    @property
    def code(self) -> str:
        """Return what its code does on the gate rows; empty where it has none."""
        return code_words(self.night.rate, self.night.code)

    @property
    def path(self) -> str:
        """Return what its code kept and told in each epoch; empty where it was not tuned."""
        return path_words(self.night.path)

    @property
    def has_gauc(self) -> bool:
        """Return whether any task has an AUC within users."""
        return any(value is not None for s in self.night.scores for value in s.gauc)

    @property
    def falls_back(self) -> bool:
        """Return whether another kernel than its own, or the base alone, serves it."""
        return falls_back(self.night)


def falls_back(night: DomainNight) -> bool:
    """Return whether a domain is served by another kernel than its own, or by the base."""
    return night.served_by not in ("own", night.decision.level)


def tasks_of(record: NightRecord) -> list[str]:
    """Return the tasks that any domain has scores of, in their first order."""
    return list(dict.fromkeys(s.task for d in record.domains for s in d.scores))


def shown_domains(record: NightRecord) -> list[DomainNight]:
    """Return the domains that a page shows, in the record's order.

    Of more than `MAX_LINES`, those that failed or were held come first.
    """
    order = range(len(record.domains))
    urgent = sorted(order, key=lambda i: (_URGENCY[record.domains[i].outcome], i))
    return [record.domains[i] for i in sorted(urgent[:MAX_LINES])]


def domain_lines(record: NightRecord, history: Sequence[NightRecord]) -> list[DomainLine]:
    """Return the lines of the table.

    Args:
        record: the night.
        history: earlier nights, oldest first.
    """
    tasks = tasks_of(record)[:MAX_TASKS]
    shown = shown_domains(record)
    scales = {
        task: interval_scale(
            s.delta_auc for d in shown for s in d.scores if s.task == task and s.delta_auc
        )
        for task in tasks
    }
    trends = _trends([*history, record]) if history else {}
    return [
        DomainLine(
            anchor=f"d{index}",
            name=domain.decision.name,
            night=domain,
            differences=tuple(_difference(domain, task, scales[task]) for task in tasks),
            calibration=candidate_calibration(domain),
            trend=trends.get(domain.decision.name),
            curves=tuple(
                calibration_chart(
                    f"{s.task}, {s.rows:,} rows", [("curve", s.reliability)], size=160
                )
                for s in domain.scores
                if s.reliability
            ),
        )
        for index, domain in enumerate(shown)
    ]


def _difference(domain: DomainNight, task: str, scale: Scale) -> Difference:
    scores = next((s for s in domain.scores if s.task == task), None)
    return difference_of(task, scores.delta_auc if scores else None, scale)


def _trends(nights: Sequence[NightRecord]) -> Mapping[str, Chart]:
    """Return domain -> its outcome and gain, night by night."""
    of_night = [{d.decision.name: d for d in night.domains} for night in nights]
    return {
        name: outcome_columns(
            f"Last {len(nights)} nights of {name}",
            [
                (d.outcome, d.verdict.gain if d.verdict else None) if d else ("absent", None)
                for d in (domains.get(name) for domains in of_night)
            ],
        )
        for name in of_night[-1]
    }


def candidate_calibration(domain: DomainNight) -> float | None:
    """Return predicted over observed positives of a domain's first task, by the candidate."""
    index = METHODS.index("candidate")
    return next((scores.calibration[index] for scores in domain.scores), None)


def mean_auc(
    record: NightRecord, task: str, method: Method, metric: Literal["auc", "gauc"] = "auc"
) -> float | None:
    """Return a task's mean AUC over the domains, each weighted by its gate rows.

    Only domains that have the AUC of both base and candidate count, so that two methods of one
    night are compared on the same domains.

    Args:
        record: the night.
        task: name of the task.
        method: method whose AUC is shown.
        metric: AUC over all rows, or the mean AUC within users.
    """
    index = METHODS.index(method)
    pairs = [
        (s.rows, values[index])
        for d in record.domains
        if d.decision.level == "domain"
        for s in d.scores
        if s.task == task and _has_both(values := getattr(s, metric))
    ]
    known = [(rows, auc) for rows, auc in pairs if auc is not None]
    total = sum(rows for rows, _ in known)
    return sum(rows * auc for rows, auc in known) / total if total else None


def _has_both(values: Sequence[float | None]) -> bool:
    base, _, candidate = values
    return base is not None and candidate is not None
