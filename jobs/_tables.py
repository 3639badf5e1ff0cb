"""What a job says at its end: a few facts, or a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from jobs._progress import console


def show_facts(title: str, facts: Mapping[str, Any]) -> None:
    """A title and its facts, one a line."""
    console.print(f"[bold]{title}[/bold]")
    for name, value in facts.items():
        told = (
            "  ".join(f"{k}: {v}" for k, v in value.items())
            if isinstance(value, Mapping)
            else value
        )
        console.print(f"  {name}: {told}")


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    text: Sequence[str] = (),
) -> None:
    """Print a table.

    Args:
        title: above it.
        columns: their heads; all but the first and the last are numbers, and stand right.
        rows: cells as text.
        caption: sentences below it.
        text: further columns that are text, and stand left.
    """
    table = Table(
        title=escape(title),
        title_justify="left",
        header_style="bold",
        caption=escape(caption) or None,
        caption_justify="left",
    )
    for place, column in enumerate(columns):
        is_text = place in (0, len(columns) - 1) or column in text
        table.add_column(escape(column), justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def number(value: float | None, digits: int = 4, *, sign: bool = False) -> str:
    """A number as people read it; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
