"""Show a difference with its interval: as a number, as text, and as a mark on a common scale."""

from dataclasses import dataclass

from iak.pipeline.report.charts import IntervalMark, Scale, interval_mark
from iak.pipeline.report.wording import interval, signed

Interval = tuple[float, float, float]
"""Value, low and high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference of a table, with the name of its number."""

    of: str
    """Name of the number."""
    value: float | None
    text: str
    """The value, as it is written."""
    interval: str
    """The ends of its interval, as they are written; empty where there is none."""
    mark: IntervalMark | None
    """The interval, drawn on the column's common scale."""


def difference_of(
    name: str,
    measured: Interval | None,
    scale: Scale,
    *,
    digits: int = 4,
    is_better_below: bool = False,
) -> Difference:
    """Return a difference as a table shows it.

    Args:
        name: name of the number.
        measured: value and ends of its interval; None where there is none.
        scale: scale of the column.
        digits: decimals of the text.
        is_better_below: whether less is better, as of a loss.
    """
    if measured is None:
        return Difference(of=name, value=None, text=signed(None), interval="", mark=None)
    value, low, high = measured
    return Difference(
        of=name,
        value=value,
        text=signed(value, digits),
        interval=interval(low, high, digits),
        mark=interval_mark(measured, scale, is_better_below=is_better_below),
    )
