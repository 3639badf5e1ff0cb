"""Show the files and folders that a run leaves out of its log, and the labels that it masks."""

import re
from collections.abc import Mapping

from iak.jobs.tables import show_table
from iak.pipeline.events import LogPartlyRead, NotRead


def show_partly_read(event: LogPartlyRead) -> None:
    """Show a line for each reason why files or folders are left out."""
    show_table(
        f"not read of log '{event.log}'",
        ("reason", "files", "rows", "days", "for example"),
        [_line(group) for group in event.groups],
    )


def _line(group: NotRead) -> tuple[str, ...]:
    about = "about " if group.is_estimated else ""
    return (
        group.reason,
        "-" if group.files is None else f"{group.files:,}",
        "-" if group.rows is None else f"{about}{group.rows:,}",
        group.days or "-",
        ", ".join(group.examples),
    )


def not_ripe(counts: Mapping[str, int], rows: int) -> str:
    """Return the labels that were masked since they had not matured, with their share of the rows.

    Args:
        counts: rows by finding of the log's contract.
        rows: rows that were read; 0 where none were.
    """
    parts = []
    for what, count in sorted(counts.items()):
        if match := re.fullmatch(r"warn: not ripe by (\S+) in (.+)", what):
            share = count / rows if rows else 0.0
            parts.append(f"{match[2]}: {count:,} of {rows:,} rows ({share:.1%}) by {match[1]}")
    return "; ".join(parts) or "none"
