"""`iak evaluate`: evaluate base and kernels on the same later rows, with paired intervals."""

from collections.abc import Callable, Mapping, Sequence

from iak.jobs.console_report import console_report
from iak.jobs.launchers import launcher_of
from iak.jobs.progress import console
from iak.jobs.skipped import not_ripe
from iak.jobs.tables import largest, number, show_facts, show_table
from iak.pipeline.data import unseen
from iak.pipeline.report.gate_words import gate_word, served_word
from iak.pipeline.runs.evaluate import Evaluation, evaluate
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.runs.metrics import METRICS, ORACLES, tasks_of
from iak.pipeline.stats.metrics import ALL, POOLED_ROWS, MetricRow
from iak.schemas.domain import POOLED
from iak.schemas.job import EvaluateSpec
from iak.schemas.log import Catalog
from iak.schemas.prediction import EvaluationResult
from iak.schemas.predictions import BASE, IAK, PREDICTIONS, PUBLISHED

MAX_DOMAINS = 40
"""Domains shown, those with most rows; metrics.json has all."""


def main(spec: EvaluateSpec) -> int:
    """Evaluate base and kernels on the same later rows, with paired intervals."""
    catalog = load_catalog(spec.catalog)
    with console_report() as report:
        evaluation = evaluate(spec, catalog, launcher_of(spec), report)
    show(evaluation, catalog)
    return 0


def show(evaluation: Evaluation, catalog: Catalog) -> None:
    """Show a table for each task, then the facts of the whole evaluation."""
    result, record, run_dir = evaluation.result, evaluation.record, evaluation.run_dir
    for task in tasks_of(catalog):
        show_task(result, evaluation.rows, task.name)
    planted = {
        name: number(value, 4)
        for name in ("reachable_share", "reachable_share_published", "base_gap")
        if (value := getattr(result, name)) is not None
    }
    gate = (result.gate or {}).get(POOLED)
    pooled = {} if gate is None else {"pooled kernel": "published" if gate.publish else "held"}
    show_facts(
        f"metrics at {run_dir / METRICS}",
        planted
        | pooled
        | {
            "predictions": f"{run_dir / PREDICTIONS}",
            "unseen ids": "; ".join(
                f"{split}: {unseen.describe(shares, result.unseen_usual)}"
                for split, shares in result.unseen.items()
            ),
            "quarantined": result.contract or "nothing",
            "labels not ripe": not_ripe(
                result.contract,
                sum(split.rows for split in record.snapshot.splits.values()),
            ),
            "seconds": record.timings_s,
        },
    )
    console.print()


def show_task(result: EvaluationResult, rows: Sequence[MetricRow], task: str) -> None:
    """Show one task: a line for each domain, the base beside its kernels."""
    by = {(r.method, r.domain): r for r in rows if r.task == task}
    domains = {domain: row.rows for (method, domain), row in by.items() if method == BASE}
    shown = largest(domains, MAX_DOMAINS, always=(ALL, POOLED_ROWS))
    columns = _columns(result, by, task)
    show_table(
        f"{task} on {result.split}",
        list(columns),
        [[cell(domain) for cell in columns.values()] for domain in shown],
        caption=caption_of(by, has_kernels=(IAK, ALL) in by, more=len(domains) - len(shown)),
        text=("gate",),
    )


def _columns(
    result: EvaluationResult, by: Mapping[tuple[str, str], MetricRow], task: str
) -> dict[str, Callable[[str], str]]:
    """Return the columns of a task's table: head of each -> how it shows a domain.

    Args:
        result: result of the evaluation, with the gate's decisions.
        by: method and domain -> metrics of the task.
        task: name of the task.
    """
    has_kernels, has_oracle = ((method, ALL) in by for method in (IAK, ORACLES[0]))

    def auc(method: str) -> Callable[[str], str]:
        return lambda domain: number(by[method, domain].auc)

    def from_base(metric: str, digits: int) -> Callable[[str], str]:
        methods = (BASE, IAK) if has_kernels else (BASE,)
        return lambda domain: " -> ".join(
            number(getattr(by[method, domain], metric), digits) for method in methods
        )

    columns: dict[str, Callable[[str], str]] = {
        "domain": str,
        "rows": lambda domain: f"{by[BASE, domain].rows:,}",
        "positives": lambda domain: f"{by[BASE, domain].positives:,}",
        "base AUC": auc(BASE),
    }
    if has_kernels:
        columns |= {"tuned AUC": auc(IAK), "published AUC": auc(PUBLISHED)}
    if has_oracle:
        columns["oracle AUC"] = auc(ORACLES[0])
    if has_kernels:
        columns["delta [95 %]"] = lambda domain: delta_of(by[IAK, domain])
    columns |= {"log-loss": from_base("logloss", 4), "calibration": from_base("calibration", 3)}
    if has_kernels:
        columns["gate"] = lambda domain: gate_word(result, domain, task)
        columns["served by"] = lambda domain: served_word(result, domain)
    return columns


def caption_of(by: Mapping[tuple[str, str], MetricRow], *, has_kernels: bool, more: int) -> str:
    """Return a caption: the meaning of columns and summary lines, and the intervals' assumption."""
    sentences = [
        "all: mean over the domains, each weighted by its rows, so that only rows of one domain "
        "are ranked against each other.",
        "pooled: all rows ranked together, so that differences between domains count too.",
    ]
    if more:
        sentences.append(f"{more:,} smaller domains are in metrics.json.")
    if has_kernels:
        sentences.append(
            "tuned: every kernel, held or not; a domain without one takes its parent's or the "
            "pooled one. published: after the gate, with the kernel that serves the domain. delta: "
            "tuned minus base AUC. log-loss, calibration: base -> tuned."
        )
        summed = by[IAK, ALL]
        if summed.cluster == "user":
            wider = (
                ""
                if summed.se_ratio is None
                else (
                    f"; the standard error of `all` is {summed.se_ratio:.2f} times that of "
                    "independent rows"
                )
            )
            sentences.append(f"Intervals count the rows of one user as dependent{wider}.")
        else:
            sentences.append("Intervals take rows as independent: the log declares no user.")
    return " ".join(sentences)


def delta_of(row: MetricRow) -> str:
    """Return the AUC's paired difference to the base, with its interval."""
    if row.delta_auc is None or row.delta_auc_low is None or row.delta_auc_high is None:
        return "-"
    return f"{row.delta_auc:+.4f} [{row.delta_auc_low:+.4f}, {row.delta_auc_high:+.4f}]"
