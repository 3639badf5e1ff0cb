"""Make the page of a night from its record and the records of earlier nights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from iak.pipeline.progress import PROGRESS
from iak.pipeline.registry.stored_bundles import newest_folders
from iak.pipeline.report.bars import Bar, bars_of, days_chart, drift_bars, log_days
from iak.pipeline.report.charts import Chart, calibration_chart, scatter_chart, stacked_bar
from iak.pipeline.report.domain_lines import (
    DomainLine,
    domain_lines,
    falls_back,
    mean_auc,
    tasks_of,
)
from iak.pipeline.report.evidence_words import EVIDENCE
from iak.pipeline.report.information_plane import information_plane
from iak.pipeline.report.links import relative_link
from iak.pipeline.report.nights import INDEX, RECORD
from iak.pipeline.report.rendering import render
from iak.pipeline.report.summary import WORDS, sentence_of
from iak.pipeline.report.trends import OUTCOMES, trends_of
from iak.pipeline.report.wording import (
    decimal,
    duration,
    percent,
    plural,
    said_once,
    short,
    signed,
    size,
)
from iak.schemas.base import JsonObject
from iak.schemas.night import Method, NightRecord

MAX_COSTS = 12
"""Domains whose cost is drawn, the most expensive first."""
MAX_BAD_DAYS = 10
"""Days of single partitions that the page lists."""
MAX_DAYS = 42
"""Newest days of the log that are drawn."""
MAX_EXCEEDED = 20
"""Limits of a replay that did not hold, which the page lists."""
_COMPARED: tuple[Method, ...] = ("base", "candidate")
"""Methods whose AUC the page compares."""
_WAYS = {
    "from_stores": ("read from object stores", "object"),
    "to_stores": ("written to object stores", "object"),
    "to_workers": ("driver to other machines", "file"),
    "from_workers": ("other machines to the driver", "file"),
}
"""Field of a night's traffic -> its name on the page, and the name of what was carried."""


def night_page(record: NightRecord, history: Sequence[NightRecord], folder: Path) -> str:
    """Return the page of a night as one HTML file.

    Args:
        record: the night.
        history: earlier nights, oldest first.
        folder: where the page will lie; links are relative to it.
    """
    lines = domain_lines(record, history)
    tasks = tasks_of(record)
    days = log_days(record.days)
    return render(
        "night.html.j2",
        record=record,
        title=f"{record.name}, night of {record.night}",
        sentence=sentence_of(record),
        seconds=_seconds(record),
        index=f"../{INDEX}",
        words=WORDS,
        outcomes=OUTCOMES,
        outcome_bar=_outcome_bar(record),
        service=_service(record),
        facts=_facts(record, tasks),
        fallbacks=sum(falls_back(domain) for domain in record.domains),
        **_attention(record, lines),
        lines=lines,
        tasks=[difference.of for difference in lines[0].differences] if lines else [],
        trends=trends_of([*history, record]) if history else None,
        calibrations=[chart for task in tasks if (chart := _calibrations(record, task))],
        has_rates=any(domain.rate is not None for domain in record.domains),
        rates=_rates(record),
        plane=_plane(record),
        code_findings=_code_findings(record),
        has_evidence=any(line.evidence for line in lines),
        evidence_note=EVIDENCE,
        drift=drift_bars(record.drift),
        unseen=bars_of({table: share for table, share in record.unseen.items() if share}, percent),
        max_exceeded=MAX_EXCEEDED,
        days=days_chart(days[-MAX_DAYS:]) if days else None,
        phases=bars_of(record.timings_s, duration),
        costs=_costs(record),
        traffic=_traffic(record),
        links=_links(record, folder),
        bundle_links=_bundle_links(record, folder),
    )


def _attention(record: NightRecord, lines: Sequence[DomainLine]) -> JsonObject:
    """Return the domains and the days of the log that a person should look at, worst first."""
    bad_days = sorted((each for each in record.days if each.reason), key=lambda d: not d.holds)
    return {
        "urgent": [
            line
            for outcome in ("failed", "held")
            for line in lines
            if line.night.outcome == outcome
        ],
        "bad_days": bad_days[:MAX_BAD_DAYS],
        "more_bad_days": max(0, len(bad_days) - MAX_BAD_DAYS),
    }


def _seconds(record: NightRecord) -> float | None:
    """Return the time from the night's start to its end; None while it runs."""
    if record.ended_at is None:
        return None
    return (record.ended_at - record.started_at).total_seconds()


def _outcome_bar(record: NightRecord) -> Chart:
    """Return a bar that shows how many kernels had each outcome."""
    counts = record.counts
    return stacked_bar("Kernels by outcome", {WORDS[o]: (counts[o], o) for o in OUTCOMES})


def _service(record: NightRecord) -> list[tuple[str, int]]:
    """Return how many domains each kind of kernel serves, their own first."""
    counted = {"its own kernel": 0, "parent": 0, "pooled": 0, "base": 0}
    for domain in record.domains:
        counted[domain.served_by if falls_back(domain) else "its own kernel"] += 1
    return [(name, number) for name, number in counted.items() if number]


def _facts(record: NightRecord, tasks: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return the night's main numbers: what, value, and a note below it."""
    facts = []
    for task in tasks[:2]:
        base, candidate = (mean_auc(record, task, method) for method in _COMPARED)
        if base is not None and candidate is not None:
            ends = f"{base:.4f} to {candidate:.4f}{_within_users(record, task)}"
            facts.append((f"AUC of {task}, over base", signed(candidate - base), ends))
    if record.rows_tuned:
        cached = percent(record.rows_from_cache / record.rows_tuned, 0)
        facts.append(("rows tuned", short(record.rows_tuned), f"{cached} from the cache"))
    if record.unseen:
        table, share = max(record.unseen.items(), key=lambda item: item[1])
        facts.append(("ids unseen by the base, at most", percent(share), f"table {table}"))
    if record.drift:
        furthest = max(record.drift, key=lambda line: abs(line.index))
        note = f"{furthest.name}, {furthest.word}"
        facts.append(("largest drift", decimal(furthest.index, 3), note))
    return [*facts, *_outside(record)]


def _outside(record: NightRecord) -> list[tuple[str, str, str]]:
    """Return the largest cost of a kernel outside its domain; nothing where none was measured."""
    measured = [(d.outside, d.decision.name) for d in record.domains if d.outside]
    if not measured:
        return []
    worst, name = max(measured, key=lambda pair: pair[0].change)
    return [("nats a row, outside its domain, at worst", signed(worst.change), f"kernel of {name}")]


def _within_users(record: NightRecord, task: str) -> str:
    """Return the gain of a task's mean AUC within users, for a note; empty where there is none."""
    base, candidate = (mean_auc(record, task, method, "gauc") for method in _COMPARED)
    if base is None or candidate is None:
        return ""
    return f"; within users {signed(candidate - base)}"


def _calibrations(record: NightRecord, task: str) -> Chart | None:
    """Return one task's curves of all domains, the pooled kernel's on top."""
    curves = [
        ("curve" if d.decision.level == "pooled" else "thin", s.reliability)
        for d in record.domains
        for s in d.scores
        if s.task == task and s.reliability
    ]
    curves.sort(key=lambda curve: curve[0] == "curve")
    return calibration_chart(f"Calibration of {task}", curves) if curves else None


def _rates(record: NightRecord) -> Chart | None:
    """Return the chart of each code's rate against its kernel's gain."""
    points = [
        (d.rate, 1000 * d.verdict.gain, d.outcome, d.decision.name)
        for d in record.domains
        if d.rate is not None and d.verdict and d.verdict.gain is not None
    ]
    if not points:
        return None
    return scatter_chart(
        "Rate of each code, and gain of its kernel",
        points,
        x_name="rate, nats a row",
        y_name="gain, 1/1000 nats a row",
    )


def _plane(record: NightRecord) -> Chart | None:
    """Return the information plane over the night's tuning, the pooled kernel's line on top."""
    kernels = [
        ("curve" if d.decision.level == "pooled" else "thin", d.decision.name, d.path)
        for d in record.domains
    ]
    kernels.sort(key=lambda kernel: kernel[0] == "curve")
    return information_plane("Information plane over tuning", kernels)


def _code_findings(record: NightRecord) -> list[str]:
    """Return sentences about kernels whose code has collapsed, or which do nothing."""
    return said_once((d.decision.name, d.code.flaw()) for d in record.domains if d.code)


def _costs(record: NightRecord) -> list[Bar]:
    """Return the workers' time of the most expensive domains, and of all others together."""
    seconds = {d.decision.name: d.worker_seconds for d in record.domains if d.worker_seconds}
    return bars_of(seconds, duration, max_bars=MAX_COSTS)


def _traffic(record: NightRecord) -> list[Bar]:
    """Return the bytes that went each way between machines, and how many files they were."""
    carried = record.traffic.by_way()
    bars = bars_of({way: each.bytes for way, each in carried.items()}, lambda n: size(int(n)))
    return [
        replace(bar, name=name, word=plural(carried[bar.name].files, noun))
        for bar in bars
        for name, noun in [_WAYS[bar.name]]
    ]


def _links(record: NightRecord, folder: Path) -> list[tuple[str, str, str | None]]:
    """Return the files and folders of the night: name, path, and a link where one works."""
    run = record.run_dir
    paths: dict[str, str | Path | None] = {
        "record of the night": folder / RECORD,
        "run folder": run,
        "log of the tuning": f"{run}/{PROGRESS}" if run else None,
        "bundles of the tuning": f"{run}/bundles" if run else None,
        "base": record.base,
        "registry": record.registry,
    }
    return [(name, str(path), relative_link(path, folder)) for name, path in paths.items() if path]


def _bundle_links(record: NightRecord, folder: Path) -> dict[str, str]:
    """Return digest -> link of every bundle that the registry still holds in a local folder."""
    if "://" in record.registry:
        return {}
    digests = {d for line in record.domains for d in (line.bundle, line.candidate) if d}
    folders = newest_folders(Path(record.registry))
    links = {digest: relative_link(folders.get(digest), folder) for digest in digests}
    return {digest: link for digest, link in links.items() if link}
