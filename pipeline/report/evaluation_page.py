"""Make the page of an evaluation: base and kernels on the same rows, task by task."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from iak.pipeline.report.charts import Curve
from iak.pipeline.report.evaluation_lines import task_part
from iak.pipeline.report.links import relative_link
from iak.pipeline.report.rendering import render
from iak.pipeline.report.wording import count, percent, signed
from iak.pipeline.stats.metrics import ALL, MetricRow
from iak.schemas.prediction import EvaluationResult
from iak.schemas.predictions import IAK
from iak.schemas.record import RunRecord

Curves = Mapping[str, Mapping[str, Curve]]
"""Task -> method -> its calibration curve over all rows."""
_FILES = ("record.json", "metrics.json", "metrics.parquet", "predictions")


def evaluation_page(
    record: RunRecord, rows: Sequence[MetricRow], curves: Curves, run_dir: Path, folder: Path
) -> str:
    """Return the page of an evaluation as one HTML file.

    Args:
        record: record of the run.
        rows: its metrics.
        curves: calibration curves; empty where the predictions are gone.
        run_dir: the run folder, for its files.
        folder: where the page will lie; links are relative to it.
    """
    tasks = list(dict.fromkeys(row.task for row in rows))
    result = record.result_as(EvaluationResult)
    parts = [
        task_part(number, [row for row in rows if row.task == task], result, curves.get(task, {}))
        for number, task in enumerate(tasks)
    ]
    return render(
        "evaluation.html.j2",
        title=f"Evaluation on {result.split or 'unknown rows'}",
        record=record,
        parts=parts,
        facts=_facts(result, rows, tasks),
        clusters=rows[0].cluster if rows else "row",
        inputs={name: str(digest)[:12] for name, digest in record.inputs.items()},
        unseen=_unseen(result),
        files=[(name, relative_link(run_dir / name, folder)) for name in _FILES],
        run=str(run_dir),
        base=record.settings.base or "",
        bundles=record.settings.bundles or "none: the base alone",
    )


def _facts(
    result: EvaluationResult, rows: Sequence[MetricRow], tasks: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Return the main numbers: what, value, and a note."""
    facts = []
    summed = {row.task: row for row in rows if (row.method, row.domain) == (IAK, ALL)}
    for row in (summed[task] for task in tasks if task in summed):
        if row.delta_auc is not None:
            ends = f"{signed(row.delta_auc_low)} to {signed(row.delta_auc_high)}"
            facts.append((f"AUC of {row.task}, tuned over base", signed(row.delta_auc), ends))
    if result.rows:
        facts.append(("rows", count(result.rows), f"split {result.split or '?'}"))
    if result.reachable_share is not None:
        share = percent(result.reachable_share)
        facts.append(("of the reachable gain", share, "known of a planted log alone"))
    return facts


def _unseen(result: EvaluationResult) -> list[tuple[str, str, str]]:
    """Return split, table and share of ids that the base does not know."""
    return [
        (split, table, percent(share, 2))
        for split, tables in result.unseen.items()
        for table, share in tables.items()
    ]
