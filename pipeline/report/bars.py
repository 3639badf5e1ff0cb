"""Prepare lists of bars, and the chart of the log's days."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from iak.pipeline.report.charts import Chart, Label, Path, Rect, Scale, nice_ceiling
from iak.pipeline.report.wording import day, decimal, short
from iak.schemas.night import DriftLine, PartitionDay, PartitionState

MAX_BARS = 20
"""Bars of a list at most."""
_MAX_DRIFT = 1.0
"""Drift index of the longest bar; from .25 on an input counts as changed."""
_MIN_DAYS = 8
"""Days that the chart always has room for, so that the columns of a few days are not broad."""
_DAY_KINDS: dict[PartitionState, str] = {
    "complete": "past",
    "open": "waiting",
    "shrunken": "held",
    "one_class": "held",
    "changed": "held",
    "absent": "failed",
}
"""State of a day -> class of its column, the worst state last."""
_DRIFT_KINDS = {"stable": "past", "moved": "held", "changed": "failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One line of a list of bars."""

    name: str
    text: str
    """The number, as it is written."""
    length: float
    """Per cent of the longest bar."""
    noise: float | None = None
    """Length that noise alone would give, per cent of the longest bar; None where unknown."""
    kind: str = "past"
    """Class of the style sheet."""
    word: str = ""
    """What the number means, beside it; empty for nothing."""


def bars_of(
    values: Mapping[str, float], text: Callable[[float], str], *, max_bars: int = MAX_BARS
) -> list[Bar]:
    """Return a bar for each number, the largest first; those beyond `max_bars` share the last.

    Args:
        values: name -> number, none of them negative.
        text: returns the text of a number.
        max_bars: numbers that have a bar of their own.
    """
    names = sorted(values, key=lambda name: -values[name])
    shown = {name: values[name] for name in names[:max_bars]}
    if len(names) > max_bars:
        shown[f"{len(names) - max_bars:,} more"] = sum(values[name] for name in names[max_bars:])
    longest = max(shown.values(), default=0) or 1.0
    return [
        Bar(name=name, text=text(value), length=round(100 * value / longest, 1))
        for name, value in shown.items()
    ]


def drift_bars(lines: Sequence[DriftLine]) -> list[Bar]:
    """Return a bar for each input and label, those that moved furthest first."""
    furthest = max((max(abs(line.index), line.noise) for line in lines), default=0)
    # One input may move a hundred times as far as the others. Its bar is cut, its number is not.
    longest = min(furthest, _MAX_DRIFT) or 1.0
    return [
        Bar(
            name=line.name,
            text=decimal(line.index, 3),
            length=round(min(100 * abs(line.index) / longest, 100.0), 1),
            noise=round(min(100 * line.noise / longest, 100.0), 1),
            kind=_DRIFT_KINDS[line.word],
            word=line.word,
        )
        for line in sorted(lines, key=lambda line: -abs(line.index))[:MAX_BARS]
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogDay:
    """One day of the log over all its partitions."""

    day: date
    state: PartitionState
    """The worst of its partitions."""
    rows: int
    late: int
    """Partitions that came late."""
    partitions: int


def log_days(days: Sequence[PartitionDay]) -> list[LogDay]:
    """Return the days of the log, oldest first.

    Args:
        days: days of every partition, in any order.
    """
    by_day: dict[date, list[PartitionDay]] = {}
    for each in days:
        by_day.setdefault(each.day, []).append(each)
    return [
        LogDay(
            day=day_of_log,
            state=max((each.state for each in parts), key=list(_DAY_KINDS).index),
            rows=sum(each.rows for each in parts),
            late=sum(each.is_late for each in parts),
            partitions=len(parts),
        )
        for day_of_log, parts in sorted(by_day.items())
    ]


def days_chart(days: Sequence[LogDay]) -> Chart:
    """Return a column for each day of the log: its rows, its state, and whether it came late.

    Args:
        days: days of the log, oldest first, at least one.
    """
    width, height, top, bottom = 350.0, 132.0, 26.0, 110.0
    step = (width - 8) / max(len(days), _MIN_DAYS)
    most = nice_ceiling(max(each.rows for each in days))
    y = Scale(0, most, bottom, top)
    rects, labels = [], [Label(width - 4, 10, f"{short(most)} rows", "end")]
    for index, each in enumerate(days):
        left = round(4 + index * step, 1)
        # At least 2 units high, so that a day without rows is visible.
        column_top = min(y(each.rows), bottom - 2)
        late = f", late in {each.late:,} of {each.partitions:,} partitions" if each.late else ""
        title = f"{day(each.day)}: {each.state}{late}, {each.rows:,} rows"
        kind = _DAY_KINDS[each.state]
        rects.append(
            Rect(left, column_top, round(step * 0.8, 1), round(bottom - column_top, 1), kind, title)
        )
        if each.late:
            labels.append(Label(round(left + step * 0.4, 1), column_top - 3, "late", "middle"))
    first, last = (f"{d.day.day} {d.day:%b}" for d in (days[0], days[-1]))
    end = round(4 + (len(days) - 0.2) * step, 1)
    states = [each.state for each in days]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    dates = [Label(4, height - 6, first)]
    dates += [Label(end, height - 6, last, "end")] if len(days) > 1 else []
    return Chart(
        title="Rows of each day of the log",
        summary=f"{first} to {last}: {counts}; {sum(d.late > 0 for d in days)} came late.",
        width=width,
        height=height,
        rects=tuple(rects),
        paths=(Path(f"M4 {bottom}H{width - 4}", "axis"),),
        labels=(*labels, *dates),
    )
