"""`iak compare RUN RUN [SPLIT]`: compare two evaluations on the same rows, method by method."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import numpy as np

from iak.jobs.progress import console
from iak.jobs.tables import largest, number, show_facts, show_table
from iak.pipeline.errors import BadRequest
from iak.pipeline.files import put_output
from iak.pipeline.publish.predictions import (
    Ints,
    Predictions,
    paired_rows,
    probabilities_of,
    read_predictions,
    task_columns,
)
from iak.pipeline.stats.metrics import ALL, POOLED_ROWS, MetricRow, evaluate_methods
from iak.pipeline.storage.working_copy import readable_folder
from iak.schemas.base import JsonObject
from iak.schemas.job import CompareSpec
from iak.schemas.predictions import MetricTask

FIRST, SECOND = "first", "second"
FORMAT = 1
MAX_DOMAINS = 20
"""Domains shown, those with most rows. The JSON has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two runs predicted on the same rows. In each pair, the first run comes first."""

    split: str
    runs: tuple[str, str]
    """Their run folders."""
    bases: tuple[str, str]
    """Fingerprints of their bases."""
    rows: tuple[int, int]
    """Rows that each predicted."""
    rows_compared: int
    methods_of_one_run: tuple[list[str], list[str]]
    """Methods that only the first run has, and only the second."""
    tasks: tuple[MetricTask, ...]
    lines: Mapping[str, Sequence[MetricRow]]
    """Method -> metrics of both runs, with differences of the second to the first."""

    def as_json(self) -> JsonObject:
        """Return the comparison as JSON values."""
        return {
            "kind": "iak-comparison",
            "format": FORMAT,
            "split": self.split,
            "runs": list(self.runs),
            "bases": list(self.bases),
            "rows": list(self.rows),
            "rows_compared": self.rows_compared,
            "methods_of_one_run": list(self.methods_of_one_run),
            "tasks": [task.model_dump(mode="json") for task in self.tasks],
            "lines": [
                {"compared": method, **asdict(row)}
                for method, metrics in self.lines.items()
                for row in metrics
            ],
        }


def main(spec: CompareSpec) -> int:
    """Compare every method that both runs have, on every task that both measure."""
    first, second = (
        read_predictions(readable_folder(run), spec.split) for run in (spec.first, spec.second)
    )
    positions = paired_rows(first, second, common=spec.common)
    rows = compare(first, second, positions)
    comparison = comparison_of(spec, first, second, positions, rows)
    if spec.json_out:
        put_output(spec.json_out, json.dumps(comparison.as_json(), indent=1))
    show(comparison)
    return 0


def compare(
    first: Predictions, second: Predictions, positions: tuple[Ints, Ints]
) -> dict[str, list[MetricRow]]:
    """Return method -> metrics of both runs, with differences of the second to the first.

    Args:
        first: predictions of the first run.
        second: predictions of the second run.
        positions: positions of the same rows in each run, from `paired_rows`.

    Raises:
        BadRequest: the runs share no method or no task.
    """
    methods = [m for m in first.document.methods if m in second.document.methods]
    tasks = [t for t in first.document.tasks if t in second.document.tasks]
    if not tasks:
        raise BadRequest(
            f"{first.run_dir} has {_names(first)}, {second.run_dir} {_names(second)}: they have "
            "no task in common. Compare runs of one catalogue's tasks"
        )
    # Rows are grouped by the domains of the first run, because the second run may define others.
    first_rows = first.table.take(positions[0])
    second_rows = second.table.take(positions[1])
    is_known = first_rows.column("domain").is_valid()
    first_rows, second_rows = first_rows.filter(is_known), second_rows.filter(is_known)
    names, index = np.unique(
        first_rows.column("domain").to_numpy(zero_copy_only=False), return_inverse=True
    )
    columns = task_columns(first_rows, tasks)
    before, after = (probabilities_of(run, tasks, methods) for run in (first_rows, second_rows))
    rows: dict[str, list[MetricRow]] = {}
    for method in methods:
        rows[method] = evaluate_methods(
            columns.labels,
            {FIRST: before[method], SECOND: after[method]},
            domain_index=index,
            domain_names=[str(name) for name in names],
            users=first_rows.column("user").to_numpy() if first.document.has_users else None,
            masks=columns.masks,
            kept=columns.kept,
            base=FIRST,
        )
    return rows


def _names(run: Predictions) -> list[str]:
    return [task.name for task in run.document.tasks]


def comparison_of(
    spec: CompareSpec,
    first: Predictions,
    second: Predictions,
    positions: tuple[Ints, Ints],
    rows: Mapping[str, Sequence[MetricRow]],
) -> Comparison:
    """Return the whole comparison."""
    return Comparison(
        split=spec.split,
        runs=(str(first.run_dir), str(second.run_dir)),
        bases=(first.document.base_fingerprint, second.document.base_fingerprint),
        rows=(len(first.table), len(second.table)),
        rows_compared=int(positions[0].size),
        methods_of_one_run=(_only_in(first, second), _only_in(second, first)),
        tasks=tuple(first.document.tasks),
        lines=rows,
    )


def _only_in(run: Predictions, other: Predictions) -> list[str]:
    """Return the methods of a run that the other one lacks."""
    return sorted(set(run.document.methods) - set(other.document.methods))


def show(comparison: Comparison) -> None:
    """Print a table for each task: every method in both runs, by domain and together."""
    rows = comparison.lines
    tasks = dict.fromkeys(row.task for metrics in rows.values() for row in metrics)
    for task in tasks:
        lines = []
        for method, metrics in rows.items():
            by = {(row.method, row.domain): row for row in metrics if row.task == task}
            domains = {domain: row.rows for (_, domain), row in by.items()}
            shown = largest(domains, MAX_DOMAINS, always=(ALL, POOLED_ROWS))
            lines += [_line(method, by, domain) for domain in shown]
        show_table(
            f"{task} on {comparison.split}",
            ("method", "domain", "rows", "AUC", "delta [95 %]", "log-loss", "calibration"),
            lines,
            caption=_caption(rows, task),
            text=("domain",),
        )
    runs = [
        f"{run}, {count:,} rows, base {base[:12]}"
        for run, count, base in zip(comparison.runs, comparison.rows, comparison.bases, strict=True)
    ]
    alone = ", ".join(chain.from_iterable(comparison.methods_of_one_run))
    show_facts(
        f"{comparison.rows_compared:,} rows compared",
        {"first": runs[0], "second": runs[1], "methods of one run alone": alone or "none"},
    )
    console.print()


def _line(method: str, by: Mapping[tuple[str, str], MetricRow], domain: str) -> list[str]:
    before, after = by[FIRST, domain], by[SECOND, domain]
    return [
        method,
        domain,
        f"{after.rows:,}",
        f"{number(before.auc)} -> {number(after.auc)}",
        _delta(after, "delta_auc", 1.0, 4),
        f"{number(before.logloss)}, {_delta(after, 'delta_logloss', 100.0, 2)} %",
        f"{number(before.calibration, 3)} -> {number(after.calibration, 3)}, "
        f"{_delta(after, 'delta_calibration', 1.0, 3)}",
    ]


def _delta(row: MetricRow, name: str, scale: float, digits: int) -> str:
    """Return a difference with its interval."""
    values = [getattr(row, f"{name}{end}") for end in ("", "_low", "_high")]
    if any(value is None for value in values):
        return "-"
    value, low, high = (
        f"{scale * value + 0.0:+.{digits}f}" for value in values
    )  # so that -0.0 has no sign
    return f"{value} [{low}, {high}]"


def _caption(rows: Mapping[str, Sequence[MetricRow]], task: str) -> str:
    """Return a caption: what the columns compare, and what the intervals assume."""
    summed = next(
        row
        for metrics in rows.values()
        for row in metrics
        if (row.method, row.task, row.domain) == (SECOND, task, ALL)
    )
    dependent = (
        f"rows of one user count as dependent ({summed.clusters:,} users)"
        if summed.cluster == "user"
        else "rows are taken as independent: the log declares no user"
    )
    return (
        f"second minus first, 95 % intervals; {dependent}. log-loss: the first's, then the change "
        "in per cent. calibration: first -> second, then how much further from 1. all: mean over "
        "the domains, weighted by rows. pooled: all rows ranked together."
    )
