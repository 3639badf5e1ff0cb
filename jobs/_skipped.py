"""What a job leaves out of its log, said before it starts: files, days, rows, labels, domains."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta, timezone
from typing import Any

from rich.markup import escape

from iak.jobs._progress import console
from iak.jobs._tables import show_table
from iak.pipeline.data import domains, skipped, view
from iak.pipeline.data.domains import Serving
from iak.pipeline.data.file_problems import file_problems
from iak.pipeline.data.skipped import SkippedFiles, days_listed
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import PipelineError
from iak.schemas.job import LogJobSpec
from iak.schemas.log import Catalog

MAY_MOVE = ("allow_skipped", "max_skipped_share")
"""Settings that change nothing that is read; a refused run is resumed under others."""
_EARLIEST_ZONE = timezone(timedelta(hours=14))
"""The zone in which a date begins first: no row can lie beyond its today, whatever the log's."""


def today_of(spec: LogJobSpec, catalog: Catalog) -> date | None:
    """Return the date that no row of the log can lie beyond.

    Args:
        spec: a job; its `today` wins.
        catalog: the log's catalogue; the dates of a planted log are made up, and no clock bounds
            them.
    """
    if spec.today or catalog.log.truth:
        return spec.today
    return datetime.now(_EARLIEST_ZONE).date()


def report_skipped(opened: LogView, spec: LogJobSpec) -> None:
    """Print what the job does not read, and refuse a log that loses too much.

    Raises:
        BadLog: a window loses a whole day, or more than `max_skipped_share` of its rows, and
            `allow_skipped` is not set.
    """
    rows = [_line(group) for group in opened.skipped.files]
    rows += _unread_folders(opened) + _ignored(opened)
    if rows:
        show_table(
            f"not read of log '{opened.catalog.log.name}'",
            ("reason", "files", "rows", "days", "for example"),
            rows,
        )
    for loss in opened.skipped.windows:
        console.print(f"[yellow]{escape(loss.message)}[/yellow]")
    if opened.skipped.undated:
        console.print(f"[yellow]{escape(skipped.undated_message(opened.skipped))}[/yellow]")
    for found in opened.findings:
        console.print(f"[yellow]{escape(f'{found.what}. {found.remedy}')}[/yellow]")
    if not spec.allow_skipped:
        skipped.refuse_skipped(
            opened.skipped, max_share=spec.max_skipped_share, where=opened.snapshot.uri
        )


def _line(group: SkippedFiles) -> tuple[str, ...]:
    about = "about " if group.is_estimated else ""
    days = days_listed(group.days) or "-"
    return (
        group.reason,
        f"{group.files:,}",
        f"{about}{group.rows:,}",
        days,
        ", ".join(group.examples),
    )


def _unread_folders(opened: LogView) -> list[tuple[str, ...]]:
    """Folders whose name is no date, where the others have one."""
    unread = opened.dates.unread
    if not unread:
        return []
    key = opened.catalog.log.date_key
    examples = ", ".join(f"{key}={name}" for name in sorted(unread)[:3])
    rows = f"{sum(unread.values()):,}"
    return [
        (f"its folder's {key} is no date, so that no window holds it", "-", rows, "-", examples)
    ]


def _ignored(opened: LogView) -> list[tuple[str, ...]]:
    """Files and folders that are no part of the log, by reason."""
    return [
        (problem.message, f"{problem.files:,}", "-", "-", ", ".join(problem.examples))
        for problem in file_problems(opened.snapshot)
        if problem.is_ignored
    ]


def document(opened: LogView) -> dict[str, Any]:
    """Return what a record keeps of it."""
    return {
        "skipped": {
            "files": [
                asdict(group) | {"days": _text(group.days)} for group in opened.skipped.files
            ],
            "windows": [
                asdict(loss) | {"whole_days": _text(loss.whole_days), "share": loss.share}
                for loss in opened.skipped.windows
            ],
            "rows_without_a_time": opened.skipped.undated,
            "folders_without_a_date": dict(opened.dates.unread),
        },
        "dates": {
            "first": str(opened.dates.counted[0]) if opened.dates.counted else None,
            "last": str(opened.dates.newest) if opened.dates.newest else None,
            "stray": {str(day): rows for day, rows in opened.dates.stray.items()},
            "beyond_today": {str(day): rows for day, rows in opened.dates.future.items()},
            "today": str(opened.dates.today or ""),
        },
        "warnings": [asdict(found) for found in opened.findings],
    }


def _text(days: tuple[date, ...]) -> list[str]:
    return [str(day) for day in days]


def not_ripe(counts: Mapping[str, int], rows: int) -> str:
    """Return the labels that were masked since they had not matured, with their share of the rows.

    Args:
        counts: what the contract counted.
        rows: rows that were read.
    """
    found = []
    for what, count in sorted(counts.items()):
        if match := re.fullmatch(r"warn: not ripe by (\S+) in (.+)", what):
            share = count / rows if rows else 0.0
            found.append(f"{match[2]}: {count:,} of {rows:,} rows ({share:.1%}) by {match[1]}")
    return "; ".join(found) or "none"


def report_untuned(
    opened: LogView, serving: Serving, judged: Sequence[str] = domains.JUDGED
) -> list[dict[str, Any]]:
    """Print which domains of some splits have no tuning row, and which kernel serves them.

    Args:
        opened: what the job reads; splits that it does not read are counted beside it.
        serving: which kernel serves a domain.
        judged: splits to look at, of gate and test.

    Returns:
        The domains, for the record.
    """
    try:
        selections = view.select_also(opened, ("tune", *judged))
        rows = domains.count_domains(selections, opened.catalog)
    except PipelineError as error:  # of a split that the job itself does not read
        console.print(f"[yellow]domains were not counted: {escape(str(error))}[/yellow]")
        return []
    if "tune" not in selections:
        return []
    found = domains.find_untuned(rows, serving)
    for split in judged:
        if message := domains.untuned_message(found, split):
            console.print(f"[yellow]{escape(message)}[/yellow]")
    return [asdict(domain) for domain in found]
