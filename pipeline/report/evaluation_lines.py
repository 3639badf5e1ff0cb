"""Prepare the tables of an evaluation's page from its metrics, task by task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iak.pipeline.report.charts import (
    Chart,
    Curve,
    Scale,
    calibration_chart,
    interval_scale,
    stacked_bar,
)
from iak.pipeline.report.differences import Difference, Interval, difference_of
from iak.pipeline.report.gate_words import gate_word, served_word
from iak.pipeline.stats.metrics import ALL, POOLED_ROWS, MetricRow
from iak.schemas.prediction import EvaluationResult
from iak.schemas.predictions import BASE, IAK, PUBLISHED

METHODS = {BASE: "base", IAK: "tuned", PUBLISHED: "published", "oracle": "oracle"}
"""Method that a page shows -> its name on the page."""
MAX_LINES = 500
"""Domains of a table, those with most rows; `metrics.json` has all."""
_DIFFERENCES = (("delta_auc", 1.0, 4), ("delta_logloss", 100.0, 2))
"""Fields of a metric row, the factor by which they are shown, and decimals."""
RowOf = Mapping[tuple[str, str], MetricRow]
"""Method and domain -> the row of one task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationLine:
    """One domain of one task, or a summary over domains."""

    domain: str
    rows: int
    positives: float | None
    auc: tuple[float | None, ...]
    """Of each method that the page shows."""
    differences: tuple[Difference, ...]
    """AUC, log-loss in per cent, and calibration: the tuned kernels' against the base's."""
    calibration: tuple[float | None, ...]
    """Of the base and the tuned kernels."""
    gate: str
    """What the gate decided on the domain's own kernel."""
    served: str
    """Which published kernel serves the domain."""
    reason: str
    """Why a number is missing; empty where none is."""
    is_summary: bool
    """Whether it is over domains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPart:
    """One task's part of the page."""

    task: str
    anchor: str
    """Identifier of this part of the page."""
    methods: tuple[str, ...]
    """Names of the methods that have a column."""
    lines: tuple[EvaluationLine, ...]
    left_out: int
    """Number of domains that have no line."""
    sentence: str
    """In how many domains kernels rank better than the base, and in how many worse."""
    verdict_bar: Chart | None
    """The same as a bar; none of a base without kernels."""
    calibration: Chart | None


def task_part(
    number: int,
    rows: Sequence[MetricRow],
    result: EvaluationResult,
    curves: Mapping[str, Curve],
) -> TaskPart:
    """Return one task's part of the page.

    Args:
        number: number of the task, for its anchor.
        rows: metrics of this task.
        result: result of the evaluation, with the gate's decisions.
        curves: method -> calibration curve over all rows.
    """
    row_of = {(row.method, row.domain): row for row in rows}
    methods = [method for method in METHODS if (method, ALL) in row_of]
    domains = _largest_first(row_of)
    shown = domains[:MAX_LINES]
    with_summaries = [*(d for d in (ALL, POOLED_ROWS) if (BASE, d) in row_of), *shown]
    tuned = [row_of[IAK, domain] for domain in with_summaries if (IAK, domain) in row_of]
    scales = [
        interval_scale(each for row in tuned if (each := _interval(row, name, factor)))
        for name, factor, _ in _DIFFERENCES
    ]
    sentence, bar = _verdict([row_of[IAK, d] for d in domains if (IAK, d) in row_of])
    return TaskPart(
        task=rows[0].task,
        anchor=f"t{number}",
        methods=tuple(METHODS[method] for method in methods),
        lines=tuple(_line(d, methods, row_of, scales, result) for d in with_summaries),
        left_out=len(domains) - len(shown),
        sentence=sentence,
        verdict_bar=bar,
        calibration=_calibration(rows[0].task, curves),
    )


def _largest_first(row_of: RowOf) -> list[str]:
    """Return the domains without the summaries, those with most rows first."""
    domains = [d for method, d in row_of if method == BASE and d not in (ALL, POOLED_ROWS)]
    return sorted(domains, key=lambda domain: -row_of[BASE, domain].rows)


def _verdict(tuned: Sequence[MetricRow]) -> tuple[str, Chart | None]:
    """Return the number of domains in which kernels rank better, as a sentence and as a bar."""
    if not tuned:
        return "There are no kernels: this is the base alone.", None
    better = sum(row.delta_auc_low is not None and row.delta_auc_low > 0 for row in tuned)
    worse = sum(row.delta_auc_high is not None and row.delta_auc_high < 0 for row in tuned)
    unclear = len(tuned) - better - worse
    bar = stacked_bar(
        f"Domains of {tuned[0].task}",
        {
            "better": (better, "promoted"),
            "unclear": (unclear, "past"),
            "worse": (worse, "failed"),
        },
    )
    return (
        f"The tuned kernels rank better than the base in {better:,} of {len(tuned):,} domains and "
        f"worse in {worse:,}; {unclear:,} show no clear difference.",
        bar,
    )


def _line(
    domain: str,
    methods: Sequence[str],
    row_of: RowOf,
    scales: Sequence[Scale],
    result: EvaluationResult,
) -> EvaluationLine:
    base, tuned = row_of[BASE, domain], row_of.get((IAK, domain))
    differences = [
        difference_of(
            name,
            _interval(tuned, name, factor),
            scale,
            digits=digits,
            is_better_below=name == "delta_logloss",
        )
        for (name, factor, digits), scale in zip(_DIFFERENCES, scales, strict=True)
        if tuned
    ]
    return EvaluationLine(
        domain=domain,
        rows=base.rows,
        positives=base.positives,
        auc=tuple(row_of[method, domain].auc for method in methods),
        differences=tuple(differences),
        calibration=(base.calibration, *((tuned.calibration,) if tuned else ())),
        gate=gate_word(result, domain, base.task) if tuned else "-",
        served=served_word(result, domain),
        reason="; ".join(dict.fromkeys((tuned or base).reasons.values())),
        is_summary=domain in (ALL, POOLED_ROWS),
    )


def _interval(row: MetricRow, name: str, factor: float) -> Interval | None:
    """Return a difference with its ends; None where any of them is missing."""
    value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None or low is None or high is None:
        return None
    return factor * value, factor * low, factor * high


def _calibration(task: str, curves: Mapping[str, Curve]) -> Chart | None:
    kinds = {BASE: "beside", IAK: "curve"}
    drawn = [(kinds[method], curves[method]) for method in kinds if method in curves]
    return calibration_chart(f"Calibration of {task}", drawn) if drawn else None
