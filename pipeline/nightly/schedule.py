"""Compute when nights run: the ticks of a crontab line in a time zone, each exactly once.

A tick is named by its *nominal* time, what the clock on the wall would show if it were never
changed. CronSim counts nominal times, and each is then turned into one instant:

- In an hour that the clock skips, `ZoneInfo` shifts a time by the skipped span: 02:30 becomes
  03:30 of the new clock. The tick keeps its nominal date, although the instant may lie in the next
  day (Nuuk skips the hour before midnight).
- In an hour that the clock repeats, the first of the two instants is taken.

CronSim 2.8 would decide both cases itself if it were given a zone, but then only the instant
remains, and the date of a shifted tick near midnight would be the wrong one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim

from iak.schemas.nightly import ScheduleSpec

_LONGEST_SHIFT = timedelta(days=1)
"""More than any clock was ever moved: Samoa skipped a whole day in 2011."""


@dataclass(frozen=True, order=True, slots=True)
class Tick:
    """One run of the schedule."""

    instant: datetime
    """When it fires, in UTC."""
    nominal: datetime
    """What crontab means, without a zone."""

    @property
    def night(self) -> date:
        """Return the night's date: the last whole day before the tick's nominal date."""
        return self.nominal.date() - timedelta(days=1)


def ticks_after(schedule: ScheduleSpec, after: datetime) -> Iterator[Tick]:
    """Yield the ticks later than an instant, oldest first, without end.

    Args:
        schedule: crontab line and time zone.
        after: an instant, with its zone.
    """
    zone = ZoneInfo(schedule.time_zone)
    start = after.astimezone(zone).replace(tzinfo=None) - _LONGEST_SHIFT
    for nominal in CronSim(schedule.cron, start):
        tick = Tick(nominal.replace(tzinfo=zone).astimezone(UTC), nominal)
        if tick.instant > after:
            yield tick


def next_tick(schedule: ScheduleSpec, after: datetime) -> Tick:
    """Return the first tick later than an instant."""
    return next(ticks_after(schedule, after))


def missed_ticks(schedule: ScheduleSpec, last_night: date | None, now: datetime) -> list[Tick]:
    """Return the ticks that are due and whose night did not run, oldest first.

    With `missed = "coalesce"` the newest stands for all of them. A service without a first night
    has missed none: its first tick is the next one. Two ticks of one date are one night.

    Args:
        schedule: crontab line, time zone, and what to do with missed ticks.
        last_night: date of the newest night that ran; None before the first one.
        now: the present instant, with its zone. When the clock was moved back, nothing is due.
    """
    if last_night is None:
        return []
    # The night's own tick is a day later than its date; the search starts there.
    midnight = datetime.combine(last_night, datetime.min.time(), ZoneInfo(schedule.time_zone))
    is_due = takewhile(lambda tick: tick.instant <= now, ticks_after(schedule, midnight))
    by_night = {tick.night: tick for tick in is_due if tick.night > last_night}
    due = list(by_night.values())
    return due if schedule.missed == "in_order" else due[-1:]


def nights_between(schedule: ScheduleSpec, first: date, last: date) -> list[date]:
    """Return the dates of the schedule's nights from one date to another, both included."""
    zone = ZoneInfo(schedule.time_zone)
    start = datetime.combine(first, datetime.min.time(), zone)
    ticks = takewhile(lambda tick: tick.night <= last, ticks_after(schedule, start))
    return list(dict.fromkeys(tick.night for tick in ticks if tick.night >= first))


def deadline_of(schedule: ScheduleSpec, started: datetime) -> datetime | None:
    """Return the first deadline after a start, in UTC; None where the schedule has none.

    Args:
        schedule: time of day of the deadline, and its time zone.
        started: an instant, with its zone.
    """
    if schedule.deadline is None:
        return None
    zone = ZoneInfo(schedule.time_zone)
    day = started.astimezone(zone).date()
    for days in range(3):  # a skipped hour may put today's deadline before the start
        nominal = datetime.combine(day + timedelta(days=days), schedule.deadline, zone)
        if (deadline := nominal.astimezone(UTC)) > started:
            return deadline
    raise AssertionError("a day without a deadline within three days")
