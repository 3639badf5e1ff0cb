"""Choose the dates of a log that its windows are counted from.

A window such as `days = [-2, -1]` counts from the log's last date, so one row with a wrong date
would move every window. Two kinds of date are left out, and warned of:

- beyond today: no event has happened there yet. Where every date lies beyond today, the clock is
  wrong or the log is synthetic, and today bounds nothing;
- stray: one date, or a run of dates, at the log's start or end that is far from the rest and
  nearly empty. Far means a gap of more than a week and of more than five times the log's usual
  step between dates. Nearly empty means that each date has at most a tenth of a usual date's rows.

The usual step is the median over all dates. The rows of a usual date are the median over the
longest run without such a gap. That run needs at least three dates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from statistics import median

from iak.pipeline.data.contract import Finding
from iak.pipeline.data.notice import notice
from iak.pipeline.data.splits import Period
from iak.pipeline.first_few import first_few

FAR_DAYS = 7
"""Least gap, in days, that may be far."""
FAR_STEPS = 5
"""Least gap that may be far, in usual steps."""
NEARLY_EMPTY = 0.1
"""Rows of a nearly empty date over those of a usual one, at most."""
_USUAL_DATES = 3
"""Fewest dates of a run that show what is usual."""
_COUNTED_DATES = 31
"""Most dates of the run whose rows are counted: counting reads footers."""
RowsOf = Callable[[Sequence[date]], Mapping[date, int]]
"""Counts the rows of each of these dates; called only where some date is in doubt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogDates:
    """The dates of a log: those that windows are counted from, and the others."""

    counted: tuple[date, ...] = ()
    """Dates that windows are counted from, ascending."""
    stray: Mapping[date, int] = field(default_factory=dict)
    """Dates that are far from the others and nearly empty, with their rows."""
    future: Mapping[date, int] = field(default_factory=dict)
    """Dates beyond today, with their rows."""
    today: date | None = None
    """The last date that a row can have; None where no clock bounds the log."""
    unread: Mapping[str, int] = field(default_factory=dict)
    """Values of the date's partition key that name no date, with their rows."""
    period: Period = "day"
    """What folders name. A week or a month has the date of its last day."""
    is_beyond_today: bool = False
    """Whether every date lies beyond the clock's, so that the clock bounds nothing."""

    @property
    def newest(self) -> date | None:
        """Return the last date that windows are counted from."""
        return self.counted[-1] if self.counted else None

    @property
    def span(self) -> str:
        """Return the first and the last date as part of a message."""
        if not self.counted:
            return "the log has no date"
        return f"the log's first day is {self.counted[0]}, its last {self.counted[-1]}"

    def collected_by(self, wanted: date | None) -> date | None:
        """Return the last date whose labels can have been collected, at most today.

        Args:
            wanted: the date that the job or the catalogue gives; None takes the newest date.
        """
        as_of = wanted or self.newest
        return min(as_of, self.today) if as_of and self.today else as_of

    def findings(self, where: str, column: str) -> list[Finding]:
        """Return the warnings about these dates.

        Args:
            where: folder of the log.
            column: partition key or column that holds the date.
        """
        doubts = (
            (self.stray, "dates far from the others"),
            (self.future, f"dates beyond today, {self.today}"),
        )
        findings = [
            notice(
                f"{what}: {_listed(dates)}",
                column=column,
                count=sum(dates.values()),
                remedy=f"No window is counted from them; a {self.period} counts when it is over"
                if dates is self.future and self.period != "day"
                else "No window is counted from them; correct or remove the rows",
                where=where,
            )
            for dates, what in doubts
            if dates
        ]
        if self.is_beyond_today:
            findings.append(
                notice(
                    f"every date of the log lies beyond this machine's: {self.span}",
                    column=column,
                    count=0,
                    remedy="The clock bounds no date now; set it right, or give today=",
                    where=where,
                )
            )
        return findings


def _listed(dates: Mapping[date, int]) -> str:
    """Return up to three dates with their rows as text, and how many more there are."""
    shown = [
        f"{day} ({rows:,} {'row' if rows == 1 else 'rows'})" for day, rows in sorted(dates.items())
    ]
    return first_few(shown, 3)


def sort_out(
    dates: Sequence[date],
    *,
    rows_of: RowsOf,
    today: date | None,
    unread: Mapping[str, int] | None = None,
    period: Period = "day",
) -> LogDates:
    """Separate the dates that windows are counted from, from stray and future ones.

    Args:
        dates: every date of the log, in any order.
        rows_of: counts the rows of some dates; called only where a date is in doubt.
        today: the last date that a row can have; None where no clock bounds the log.
        unread: values that name no date, with their rows.
        period: what folders name; a week or a month has the date of its last day.
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
        period=period,
        is_beyond_today=is_beyond_today,
    )


def _rows(rows_of: RowsOf, dates: Sequence[date]) -> dict[date, int]:
    counts = rows_of(dates) if dates else {}
    return {day: counts.get(day, 0) for day in dates}


def _without_strays(
    dates: Sequence[date], rows_of: RowsOf
) -> tuple[Sequence[date], dict[date, int]]:
    """Return the dates without stray ones at either end, and the stray ones with their rows."""
    runs = _runs(dates)
    bulk = max(runs, key=len, default=[])
    if len(runs) < 2 or len(bulk) < _USUAL_DATES:
        return dates, {}
    # The usual rows are those of at most `_COUNTED_DATES` dates of the longest run.
    step = -(-len(bulk) // _COUNTED_DATES)
    usual = median(_rows(rows_of, bulk[::step]).values())
    stray: dict[date, int] = {}
    # Runs go from either end, until one has a date that is not nearly empty.
    for end in (0, -1):
        while runs[end] is not bulk:
            rows = _rows(rows_of, runs[end])
            if max(rows.values()) > NEARLY_EMPTY * usual:
                break
            stray |= rows
            runs.pop(end)
    return [day for run in runs for day in run], dict(sorted(stray.items()))


def _runs(dates: Sequence[date]) -> list[list[date]]:
    """Return the dates in runs, cut where a gap is far longer than the usual step."""
    steps = [(later - earlier).days for earlier, later in pairwise(dates)]
    far = max(FAR_DAYS, FAR_STEPS * median(steps)) if steps else 0
    runs: list[list[date]] = []
    for day, step in zip(dates, [None, *steps], strict=False):  # without dates, [None] is longer
        if step is None or step > far:
            runs.append([])
        runs[-1].append(day)
    return runs
