"""Print the result of a job: a few facts, or a table."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from iak.jobs.progress import console
from iak.schemas.manifest import BaseManifest

_MAX_WIDTH = 200
"""Characters of a line at most where the output is a file or a pipe."""


def show_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Print a title and its facts, one on each line."""
    console.print(f"[bold]{escape(title)}[/bold]")
    for name, value in facts.items():
        text = (
            "  ".join(f"{k}: {v}" for k, v in value.items())
            if isinstance(value, Mapping)
            else value
        )
        # Names of domains and paths may hold brackets, which are not style here.
        console.print(f"  {name}: {text}", markup=False)


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    text: Sequence[str] = (),
    ends_in_number: bool = False,
) -> None:
    """Print a table.

    Args:
        title: title above the table.
        columns: heads of the columns. All but the first and the last are numbers, aligned right.
        rows: cells of each row, as text.
        caption: sentences below the table.
        text: heads of further columns of text, aligned left.
        ends_in_number: whether the last column is a number too.
    """
    table = Table(
        title=escape(title),
        title_justify="left",
        header_style="bold",
        caption=escape(caption) or None,
        caption_justify="left",
    )
    for index, column in enumerate(columns):
        is_last_text = index == len(columns) - 1 and not ends_in_number
        is_text = index == 0 or is_last_text or column in text
        table.add_column(escape(column), justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    _print_wide(table)


def _print_wide(table: Table) -> None:
    """Print a table. Without a terminal it is as wide as its cells, up to 200 characters."""
    if console.is_terminal:
        console.print(table)
        return
    asked = Measurement.get(console, console.options.update(max_width=_MAX_WIDTH), table).maximum
    before = console.width
    console.width = max(before, asked)  # print() takes no width beyond the console's own
    try:
        console.print(table)
    finally:
        console.width = before


def largest(rows: Mapping[str, int], most: int, *, always: Collection[str]) -> list[str]:
    """Return the names with most rows, in their order, and those that are always shown.

    Args:
        rows: name -> its number of rows.
        most: names returned at most, without those of `always`.
        always: names that are returned in any case, such as summaries.
    """
    named = sorted((name for name in rows if name not in always), key=lambda name: -rows[name])
    shown = {*named[:most], *always}
    return [name for name in rows if name in shown]


def number(value: float | None, digits: int = 4, *, sign: bool = False) -> str:
    """Return a number with fixed digits; a dash for None."""
    if value is None:
        return "-"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def precision_costs(manifest: BaseManifest) -> str:
    """Return as text, by precision and task, the AUC minus that of fp32."""
    full = {entry.task: entry.auc for entry in manifest.precisions if entry.precision == "fp32"}
    costs: dict[str, list[str]] = {}
    for entry in manifest.precisions:
        before = full.get(entry.task)
        if entry.precision != "fp32" and entry.auc is not None and before is not None:
            costs.setdefault(entry.precision, []).append(f"{entry.task} {entry.auc - before:+.5f}")
    return "; ".join(f"{name}: {', '.join(texts)}" for name, texts in costs.items()) or "no AUC"
