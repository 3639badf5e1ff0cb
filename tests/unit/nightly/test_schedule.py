"""Ticks: standard crontab meaning, once in repeated and skipped hours, missed ones in order."""

from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from iak.pipeline.nightly.schedule import deadline_of, missed_ticks, next_tick, ticks_after
from iak.schemas.nightly import ScheduleSpec


def _ticks(schedule, zone, first, last):
    """Return the ticks between two local midnights."""
    start = datetime.combine(first, time(), ZoneInfo(zone))
    end = datetime.combine(last, time(), ZoneInfo(zone))
    ticks = ticks_after(schedule, start - timedelta(microseconds=1))
    return list(takewhile(lambda tick: tick.instant < end.astimezone(UTC), ticks))


@pytest.mark.parametrize(
    ("zone", "cron", "day", "instant"),
    [
        ("Europe/Berlin", "30 2 * * *", date(2026, 3, 29), "2026-03-29T01:30Z"),  # skipped: 03:30
        ("Europe/Berlin", "30 2 * * *", date(2026, 10, 25), "2026-10-25T00:30Z"),  # first of two
        ("America/New_York", "30 2 * * *", date(2026, 3, 8), "2026-03-08T07:30Z"),
        ("America/New_York", "30 1 * * *", date(2026, 11, 1), "2026-11-01T05:30Z"),
        # Nuuk skips the hour before midnight: the tick fires on Sunday, and is Saturday's.
        ("America/Nuuk", "30 23 * * *", date(2026, 3, 28), "2026-03-29T01:30Z"),
        ("America/Nuuk", "30 23 * * *", date(2026, 10, 24), "2026-10-25T00:30Z"),
    ],
)
def test_a_changed_clock_fires_exactly_once_a_day(zone, cron, day, instant):
    schedule = ScheduleSpec(cron=cron, time_zone=zone)
    ticks = _ticks(schedule, zone, day - timedelta(days=2), day + timedelta(days=3))
    by_date = {tick.nominal.date(): tick.instant for tick in ticks}
    assert len(by_date) == len(ticks), "a date fires twice"
    assert by_date[day] == datetime.fromisoformat(instant)
    # Nuuk's range ends inside Sunday, so the days in the middle are compared.
    around = [day + timedelta(days=days) for days in (-1, 0, 1)]
    assert all(one in by_date for one in around)


@given(
    zone=st.sampled_from(
        ["UTC", "Europe/Berlin", "America/New_York", "America/Nuuk", "Australia/Lord_Howe"]
    ),
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    year=st.integers(2024, 2030),
)
def test_every_date_of_a_year_has_one_tick(zone, minute, hour, year):
    schedule = ScheduleSpec(cron=f"{minute} {hour} * * *", time_zone=zone)
    start = datetime(year, 1, 1, tzinfo=ZoneInfo(zone)) - timedelta(microseconds=1)
    ticks = list(islice(ticks_after(schedule, start), 300))
    dates = [tick.nominal.date() for tick in ticks]
    assert dates == [date(year, 1, 1) + timedelta(days=days) for days in range(300)]
    instants = [tick.instant for tick in ticks]
    assert instants == sorted(set(instants))


def test_standard_meaning_of_weekdays():
    sunday = ScheduleSpec(cron="0 3 * * 0")
    assert next_tick(sunday, datetime(2026, 11, 25, tzinfo=UTC)).nominal == datetime(
        2026, 11, 29, 3
    )
    either = ScheduleSpec(cron="0 3 13 * 5")  # the 13th, or a Friday
    nights = [
        t.nominal.day for t in islice(ticks_after(either, datetime(2026, 11, 1, tzinfo=UTC)), 4)
    ]
    assert nights == [6, 13, 20, 27]


def test_a_night_is_the_day_before_its_tick():
    tick = next_tick(ScheduleSpec(), datetime(2026, 11, 29, tzinfo=UTC))
    assert tick.night == date(2026, 11, 28)


@pytest.mark.parametrize(
    ("missed", "nights"),
    [("in_order", [25, 26, 27]), ("coalesce", [27])],
)
def test_missed_ticks(missed, nights):
    schedule = ScheduleSpec(missed=missed)
    now = datetime(2026, 11, 28, 12, tzinfo=UTC)
    due = missed_ticks(schedule, date(2026, 11, 24), now)
    assert [tick.night.day for tick in due] == nights


def test_nothing_is_missed_before_the_first_night_or_when_the_clock_went_back():
    now = datetime(2026, 11, 28, 12, tzinfo=UTC)
    assert missed_ticks(ScheduleSpec(), None, now) == []
    assert missed_ticks(ScheduleSpec(), date(2026, 11, 27), now) == []
    assert missed_ticks(ScheduleSpec(), date(2026, 12, 24), now) == []


@given(
    days=st.integers(0, 40),
    seconds=st.integers(0, 86_399),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/Nuuk"]),
)
def test_each_night_is_due_once_however_often_one_looks(days, seconds, zone):
    """Looking after every day, or once at the end, finds the same nights."""
    schedule = ScheduleSpec(cron="30 23 * * *", time_zone=zone)
    first = date(2026, 3, 1)
    end = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(days=days, seconds=seconds)
    once = [tick.night for tick in missed_ticks(schedule, first, end)]
    last, seen = first, []
    for day in range(days + 1):
        now = min(end, datetime(2026, 3, 2, tzinfo=UTC) + timedelta(days=day, seconds=seconds))
        for tick in missed_ticks(schedule, last, now):
            seen.append(tick.night)
            last = tick.night
    assert seen == once


def test_two_ticks_of_a_date_are_one_night():
    schedule = ScheduleSpec(cron="0 3,4 * * *")
    due = missed_ticks(schedule, date(2026, 11, 25), datetime(2026, 11, 28, 12, tzinfo=UTC))
    assert [tick.night.day for tick in due] == [26, 27]


@pytest.mark.parametrize(
    ("deadline", "zone", "started", "expected"),
    [
        (time(5, 30), "UTC", "2026-11-28T02:30Z", "2026-11-28T05:30Z"),
        (time(5, 30), "UTC", "2026-11-28T06:00Z", "2026-11-29T05:30Z"),
        (time(5, 30), "Asia/Shanghai", "2026-11-28T18:30Z", "2026-11-28T21:30Z"),
        (time(2, 30), "Europe/Berlin", "2026-03-29T00:10Z", "2026-03-29T01:30Z"),  # skipped
        (None, "UTC", "2026-11-28T02:30Z", None),
    ],
)
def test_the_deadline_is_the_next_one(deadline, zone, started, expected):
    schedule = ScheduleSpec(deadline=deadline, time_zone=zone)
    found = deadline_of(schedule, datetime.fromisoformat(started))
    assert found == (expected and datetime.fromisoformat(expected))


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("30 2 * *", "4 fields"),
        ("0 30 2 * * *", "6 fields"),
        ("61 2 * * *", "Bad minute"),
        ("@daily", "1 fields"),
        ("0 3 31 2,4 *", "Bad day-of-month"),  # never matches
        ("", "0 fields"),
    ],
)
def test_a_bad_line_is_refused_with_the_fields(cron, words):
    with pytest.raises(ValidationError, match=words):
        ScheduleSpec(cron=cron)
