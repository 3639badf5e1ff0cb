"""The dates of a log, and which of them its windows are counted from.

A window such as `days = [-2, -1]` counts from the log's last date, so one row with a wrong date
would move every window. Two kinds of date are left out, and warned of:

- beyond today: no event has happened there yet. Where every date lies beyond today the clock is
  what is wrong, or the log is made up, and today bounds nothing;
- stray: one date, or a run of dates, at the log's start or end that is far from the rest and
  nearly empty. Far is a gap of more than a week and of more than five times the log's usual step
  between dates. Nearly empty is a tenth at most of the rows of a usual date, date by date.

The usual step is the median over all dates. A usual date is the median over the longest run without
such a gap, which needs three dates at least: two dates tell of nothing usual.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from statistics import median

from iak.pipeline.data.contract import Finding
from iak.pipeline.data.notice import notice

FAR_DAYS = 7
FAR_STEPS = 5
NEARLY_EMPTY = 0.1
_USUAL_DATES = 3
"""Dates from which on a run tells what is usual."""
_COUNTED_DATES = 31
"""Dates of the run whose rows are counted where counting costs."""
RowsOf = Callable[[Sequence[date]], Mapping[date, int]]
"""Rows of each of these dates; asked only where some date lies far from the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogDates:
    """The dates of a log, sorted out."""

    counted: tuple[date, ...] = ()
    """Dates that windows are counted from, ascending."""
    stray: Mapping[date, int] = field(default_factory=dict)
    """Dates that are far from the others and nearly empty, with their rows."""
    future: Mapping[date, int] = field(default_factory=dict)
    """Dates beyond today, with their rows."""
    today: date | None = None
    """The date that no row can lie beyond; None where no clock bounds the log."""
    unread: Mapping[str, int] = field(default_factory=dict)
    """Values of the date's partition key that name no date, with their rows."""
    is_beyond_today: bool = False
    """Whether every date lies beyond the clock's, so that the clock bounds nothing."""

    @property
    def newest(self) -> date | None:
        """Return the last date that windows are counted from."""
        return self.counted[-1] if self.counted else None

    @property
    def span(self) -> str:
        """Return the first and the last date, as a message says them."""
        if not self.counted:
            return "the log has no date"
        return f"the log's first day is {self.counted[0]}, its last {self.counted[-1]}"

    def collected_by(self, wanted: date | None) -> date | None:
        """Return the last date whose labels can have been collected: never later than today."""
        as_of = wanted or self.newest
        return min(as_of, self.today) if as_of and self.today else as_of

    def findings(self, where: str, column: str) -> list[Finding]:
        """Return what to warn of.

        Args:
            where: folder of the log.
            column: partition key or column that holds the date.
        """
        doubts = (
            (self.stray, "dates far from the others"),
            (self.future, f"dates beyond today, {self.today}"),
        )
        found = [
            notice(
                f"{what}: {_listed(dates)}",
                column=column,
                count=sum(dates.values()),
                remedy="No window is counted from them; mend or remove the rows",
                where=where,
            )
            for dates, what in doubts
            if dates
        ]
        if self.is_beyond_today:
            found.append(
                notice(
                    f"every date of the log lies beyond this machine's: {self.span}",
                    column=column,
                    count=0,
                    remedy="The clock bounds nothing now; set the clock right, or give today=",
                    where=where,
                )
            )
        return found


def _listed(dates: Mapping[date, int]) -> str:
    """Up to three dates with their rows, and how many more there are."""
    shown = [
        f"{day} ({rows:,} {'row' if rows == 1 else 'rows'})"
        for day, rows in sorted(dates.items())[:3]
    ]
    more = len(dates) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more dates" if more else "")


def sort_out(
    dates: Sequence[date],
    *,
    rows_of: RowsOf,
    today: date | None,
    unread: Mapping[str, int] | None = None,
) -> LogDates:
    """Sort out the dates of a log: those that windows are counted from, and the others.

    Args:
        dates: every date of the log, in any order.
        rows_of: counts the rows of some dates; called only where a date is in doubt.
        today: the date that no row can lie beyond, None where no clock bounds the log.
        unread: values that name no date, with their rows.
    """
    known = sorted(set(dates))
    past = [day for day in known if today is None or day <= today]
    is_beyond_today = bool(known) and not past
    future = [] if is_beyond_today else known[len(past) :]
    counted, stray = _without_strays(known if is_beyond_today else past, rows_of)
    return LogDates(
        counted=tuple(counted),
        stray=stray,
        future=_rows(rows_of, future),
        today=None if is_beyond_today else today,
        unread=dict(unread or {}),
        is_beyond_today=is_beyond_today,
    )


def _rows(rows_of: RowsOf, dates: Sequence[date]) -> dict[date, int]:
    counts = rows_of(dates) if dates else {}
    return {day: counts.get(day, 0) for day in dates}


def _without_strays(
    dates: Sequence[date], rows_of: RowsOf
) -> tuple[Sequence[date], dict[date, int]]:
    """The dates without stray ones at either end, and the stray ones with their rows."""
    runs = _runs(dates)
    bulk = max(runs, key=len, default=[])
    if len(runs) < 2 or len(bulk) < _USUAL_DATES:
        return dates, {}
    step = -(-len(bulk) // _COUNTED_DATES)
    usual = median(_rows(rows_of, bulk[::step]).values())
    stray: dict[date, int] = {}
    for end in (0, -1):
        while runs[end] is not bulk:
            rows = _rows(rows_of, runs[end])
            if max(rows.values()) > NEARLY_EMPTY * usual:
                break
            stray |= rows
            runs.pop(end)
    return [day for run in runs for day in run], dict(sorted(stray.items()))


def _runs(dates: Sequence[date]) -> list[list[date]]:
    """The dates, cut where a gap is far longer than the usual step."""
    steps = [(later - earlier).days for earlier, later in pairwise(dates)]
    far = max(FAR_DAYS, FAR_STEPS * median(steps)) if steps else 0
    runs: list[list[date]] = []
    for day, step in zip(dates, [None, *steps], strict=False):  # no date, no step
        if step is None or step > far:
            runs.append([])
        runs[-1].append(day)
    return runs
