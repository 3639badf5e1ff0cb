"""`iak finetune`: tune a kernel for each domain on a frozen base, and gate each of them."""

from collections.abc import Mapping, Sequence
from statistics import median

from rich.markup import escape

from iak.jobs.console_report import console_report
from iak.jobs.launchers import launcher_of
from iak.jobs.progress import console
from iak.jobs.skipped import not_ripe
from iak.jobs.tables import largest, number, show_facts, show_table
from iak.pipeline.errors import SOME_FAILED, SOME_HELD
from iak.pipeline.first_few import first_few
from iak.pipeline.report.wording import said_once
from iak.pipeline.runs.finetune import tune_night
from iak.pipeline.runs.load import load_catalog
from iak.schemas.domain import POOLED
from iak.schemas.job import FinetuneSpec
from iak.schemas.log_snapshot import LogSnapshot
from iak.schemas.paths import reference_text
from iak.schemas.results import NightResult
from iak.schemas.tuning import CacheUse, KernelResult, TuningRunResult
from iak.schemas.verdict import TaskVerdict, Verdict

MAX_DOMAINS = 40
"""Domains of the table, the largest ones; `record.json` has all."""


def main(spec: FinetuneSpec) -> int:
    """Tune every domain's kernel on a frozen base and write the bundles."""
    with console_report() as report:
        launcher = launcher_of(spec)
        night = tune_night(spec, load_catalog(spec.catalog), launcher, report)
    show(night, spec)
    return night.exit_code


def labelled_rows(counts: Mapping[str, int]) -> str:
    """Return the labelled rows of each task as text, from the counts of `LabelCounts`."""
    known = {n.removeprefix("known "): c for n, c in counts.items() if n.startswith("known ")}
    return ", ".join(
        f"{task} {count:,} ({counts[f'positive {task}']:,} positive)"
        for task, count in known.items()
    )


def _cache_text(cache: CacheUse) -> str:
    """Return the use of the cache as text: rows read and rows added."""
    if not cache.folder:
        return "not kept on disk"
    text = f"{cache.rows_read:,} rows from the cache, {cache.rows_computed:,} added to it"
    stopped = f"; writing stopped: {cache.stopped}" if cache.stopped else ""
    return f"{text}, at {cache.folder}{stopped}"


def below_floor(rows: Mapping[str, int]) -> str:
    """Return as text the domains with too few tuning rows, those with most first.

    Args:
        rows: domain -> its tuning rows.
    """
    if not rows:
        return "none"
    most = sorted(rows, key=lambda name: -rows[name])
    return f"{len(rows):,} domains: {first_few([f'{name} ({rows[name]:,} rows)' for name in most])}"


def at_cap(tuning: TuningRunResult, spec: FinetuneSpec) -> str:
    """Return as text the kernels whose last epoch was best, and the settings for more epochs.

    Where rates fall to zero over a kernel's epochs, its last epoch is often its best, and more
    epochs need not gain. Then no setting is named.

    Args:
        tuning: what the run tuned.
        spec: its settings.
    """
    stopped, kernels = tuning.stopped_at_cap, len(tuning.kernels)
    if not stopped:
        return f"none of {kernels}"
    sentence = f"{len(stopped)} of {kernels} ({first_few(stopped)})"
    if spec.pooled.decay_share and spec.domain.decay_share:
        return f"{sentence}; usual where rates fall to zero"
    sentence += "; pooled.max_epochs, domain.max_epochs give more"
    if tuning.live:  # levels.py: a level that starts from live kernels has its own cap
        sentence += "; pooled.live_epochs, domain.live_epochs where kernels start from live= ones"
    return sentence


def counted_facts(snapshot: LogSnapshot) -> dict[str, str]:
    """Return the rows that fresh statistics counted, as a fact of a run; empty where it has none.

    Args:
        snapshot: the log in the run's record.
    """
    counted = snapshot.counted
    if counted is None:
        return {}
    until = f"until {counted.last_day}" if counted.last_day else "out of fold"
    return {"fresh statistics": f"of {counted.rows:,} rows, {until}"}


def task_cells(gate: Verdict, tasks: Sequence[str]) -> list[str]:
    """Return a cell for each task: the AUC's difference, harm, or why it was not judged."""
    by = {task.task: task for task in gate.tasks}
    return [_task_cell(by[name]) if name in by else "-" for name in tasks]


def _task_cell(task: TaskVerdict) -> str:
    if not task.judged:
        return f"not judged: {task.reason}"
    text = f"{task.auc.delta:+.4f} [{task.auc.low:+.4f}, {task.auc.high:+.4f}]"
    return f"HOLDS {text}" if task.holds else text


def _intervals(kernels: Sequence[KernelResult]) -> str:
    """Return a sentence about the intervals: which rows they take as independent."""
    judged = [t for k in kernels for t in k.gate.tasks if t.judged]
    if not judged:
        return "No task of any kernel has enough gate rows to be judged."
    if judged[0].cluster == "row":
        return "Differences to the base; rows are taken as independent: the log declares no user."
    by: dict[str, list[float]] = {}
    for task in judged:
        by.setdefault(task.task, []).extend([] if task.se_ratio is None else [task.se_ratio])
    ratios = ", ".join(f"{name} {median(values):.2f}" for name, values in by.items() if values)
    return (
        "Differences to the base; rows of one user count as dependent. Standard errors over those "
        f"of independent rows, median over kernels: {ratios or 'none known'}."
    )


def verdicts(kernels: Sequence[KernelResult]) -> str:
    """Return as text how many kernels are published, how many are held, and how many unjudged."""
    held = [kernel for kernel in kernels if not kernel.published]
    unjudged = sum(not any(task.judged for task in kernel.gate.tasks) for kernel in held)
    text = f"{len(kernels) - len(held):,} of {len(kernels):,} published, {len(held):,} held"
    if unjudged:
        text += f" ({unjudged:,} of them with too few gate rows to be judged)"
    if unjudged > len(kernels) / 2:
        text += "; coarser keys or a larger min_rows of [domain] give each more rows"
    return text


def _show_kernels(kernels: Sequence[KernelResult]) -> None:
    """Show a line for the pooled kernel and for each of the largest domains."""
    tasks = list(dict.fromkeys(t.task for k in kernels for t in k.gate.tasks))
    rows = {kernel.domain: kernel.tuning_rows for kernel in kernels}
    shown = set(largest(rows, MAX_DOMAINS, always=(POOLED,)))
    left = len(kernels) - len(shown)
    more = f" {left:,} smaller domains are in record.json." if left > 0 else ""
    show_table(
        "kernels",
        (
            "domain",
            "tuning rows",
            "best epoch",
            "gate gain",
            *(f"{task} AUC [95 %]" for task in tasks),
            "verdict",
        ),
        [
            (
                k.domain,
                f"{k.tuning_rows:,}",
                str(k.best_epoch),
                number(k.gate.gain, 5, sign=True),
                *task_cells(k.gate, tasks),
                ("published: " if k.published else "held: ") + k.reason,
            )
            for k in kernels
            if k.domain in shown
        ],
        caption=_intervals(kernels) + more,
    )


def show(night: NightResult, spec: FinetuneSpec) -> None:
    """Show the kernels, the run's facts, the folder of the bundles, and remarks on kernels.

    Args:
        night: the run.
        spec: its settings.
    """
    tuning, record = night.tuning, night.record
    _show_kernels(night.kernels)
    show_facts(
        f"bundles at {reference_text(night.bundles)}",
        {
            "tables and trunk": f"unchanged, digest {tuning.digest[:16]}",
            "kernels": verdicts(night.kernels),
            "parameters a kernel": f"{tuning.parameters_per_kernel:,}",
            "below their floor": below_floor(tuning.below_floor),
            "best at the last epoch": at_cap(tuning, spec),
            "labelled tuning rows": labelled_rows(tuning.labels),
            "quarantined": tuning.contract or "nothing",
            "labels not ripe": not_ripe(
                tuning.contract, sum(split.rows for split in record.snapshot.splits.values())
            ),
            "activations": _cache_text(tuning.cache),
            **counted_facts(record.snapshot),
            "seconds": record.timings_s,
        },
    )
    remarks = [(k.domain, k.code.flaw()) for k in night.kernels if k.code]
    remarks += [(k.domain, k.borrowed()) for k in night.kernels]
    for sentence in (*tuning.failed.values(), *said_once(remarks)):
        console.print(escape(sentence))
    if record.exit_code == SOME_HELD:
        console.print("[dim]some kernels are held (exit code 4)[/dim]")
    if record.exit_code == SOME_FAILED:
        console.print("[dim]some kernels failed; the others are as above (exit code 5)[/dim]")
