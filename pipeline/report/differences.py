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
    value: float | None
    text: str
    interval: str
    mark: IntervalMark | None


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
        name: what it is of.
        measured: None where there is no value.
        scale: of the column.
        digits: decimals.
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
