"""Which dates a log's windows are counted from: none that is beyond today, none that is stray."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import dates
from iak.pipeline.data.dates import LogDates

FIRST = date(2026, 10, 1)


def days(*offsets: int) -> list[date]:
    return [FIRST + timedelta(days=offset) for offset in offsets]


def sorted_out(rows: dict[date, int], today: date | None = None) -> LogDates:
    return dates.sort_out(list(rows), rows_of=lambda _: rows, today=today)


TEN = dict.fromkeys(days(*range(10)), 1_000)


@pytest.mark.parametrize(
    ("more", "stray"),
    [
        pytest.param({}, [], id="nothing else"),
        pytest.param({92: 1}, [92], id="one row three months later"),
        pytest.param({92: 1, 95: 2}, [92, 95], id="two rows, days apart"),
        pytest.param({92: 1, 400: 90}, [92, 400], id="two runs"),
        pytest.param({-20_000: 5}, [-20_000], id="one row in 1971"),
        pytest.param({-20_000: 5, 92: 1}, [-20_000, 92], id="at both ends"),
        pytest.param({92: 1_000}, [], id="a day as full as the others, later"),
        pytest.param({92: 101}, [], id="more than a tenth of a usual day"),
        pytest.param({92: 1, 400: 1_000}, [], id="a thin day before a full one"),
        pytest.param({16: 1}, [], id="seven days later is a pause"),
        pytest.param({17: 1}, [17], id="eight days later is far"),
    ],
)
def test_a_nearly_empty_date_far_from_the_others_moves_no_window(more, stray):
    rows = TEN | {days(offset)[0]: count for offset, count in more.items()}
    result = sorted_out(rows)
    assert list(result.stray) == days(*stray)
    assert set(result.counted) == set(rows) - set(days(*stray))


def test_far_is_measured_by_the_logs_own_step():
    weekly = dict.fromkeys(days(*range(0, 70, 7)), 1_000)
    assert not sorted_out(weekly | {days(63 + 35)[0]: 1}).stray
    assert sorted_out(weekly | {days(63 + 36)[0]: 1}).stray


def test_two_dates_tell_of_nothing_usual():
    assert not sorted_out({days(0)[0]: 1_000, days(1)[0]: 1_000, days(400)[0]: 1}).stray


def test_rows_are_counted_only_where_a_date_is_in_doubt():
    def never(_: object) -> dict[date, int]:
        raise AssertionError("no date is in doubt")

    result = dates.sort_out(list(TEN), rows_of=never, today=days(9)[0])
    assert result.counted == tuple(TEN)


def test_a_date_beyond_today_moves_no_window_however_full_it_is():
    result = sorted_out(TEN, today=days(6)[0])
    assert result.counted == tuple(days(*range(7)))
    assert result.future == dict.fromkeys(days(7, 8, 9), 1_000)
    assert (
        "dates beyond today, 2026-10-07: 2026-10-08 (1,000 rows), "
        in result.findings("log", "dt")[0].what
    )


def test_a_month_that_is_not_over_is_no_mistake_of_the_writer():
    months = [date(2026, 8, 31), date(2026, 9, 30), date(2026, 10, 31)]
    for period, remedy in (("month", "a month counts when it is over"), ("day", "correct or")):
        result = dates.sort_out(
            months,
            rows_of=lambda days: dict.fromkeys(days, 5),
            today=date(2026, 10, 9),
            period=period,
        )
        assert result.newest == date(2026, 9, 30)
        (finding,) = result.findings("log", "year/month")
        assert remedy in finding.remedy


def test_a_log_that_lies_beyond_today_as_a_whole_shows_a_wrong_clock():
    result = sorted_out(TEN, today=date(2020, 1, 1))
    assert result.counted == tuple(TEN)
    assert result.today is None
    assert result.collected_by(None) == days(9)[0]
    (finding,) = result.findings("log", "dt")
    assert "every date of the log lies beyond" in finding.what
    assert "today=" in finding.remedy


def test_a_log_without_dates_has_none():
    result = dates.sort_out([], rows_of=lambda _: {}, today=FIRST)
    assert result.counted == ()
    assert result.collected_by(None) is None
    assert not result.findings("log", "dt")


@pytest.mark.parametrize(
    ("wanted", "today", "collected"),
    [
        (None, None, 9),
        (None, 20, 9),
        (None, 4, 4),
        (30, 20, 20),
        (30, None, 30),
        (3, 20, 3),
    ],
)
def test_labels_are_collected_by_the_newest_date_and_never_after_today(wanted, today, collected):
    result = sorted_out(TEN, today=None if today is None else days(today)[0])
    as_of = None if wanted is None else days(wanted)[0]
    assert result.collected_by(as_of) == days(collected)[0]


COUNTS = st.dictionaries(st.integers(-900, 900), st.integers(0, 3_000), max_size=30)


@given(COUNTS, st.none() | st.integers(-900, 900))
def test_every_date_is_counted_or_named_with_its_rows(counts, today):
    rows = {days(offset)[0]: count for offset, count in counts.items()}
    result = sorted_out(rows, None if today is None else days(today)[0])
    named = {**result.stray, **result.future}
    assert sorted([*result.counted, *named]) == sorted(rows)
    assert all(rows[day] == count for day, count in named.items())
    assert list(result.counted) == sorted(result.counted)
    if result.today and result.counted:
        assert result.counted[-1] <= result.today


@given(COUNTS, st.integers(3, 40), st.integers(1, 200))
def test_a_full_run_of_days_is_never_stray(counts, length, rows):
    bulk = dict.fromkeys(days(*range(2_000, 2_000 + length)), rows)
    around = {days(offset)[0]: min(count, rows) for offset, count in counts.items()}
    result = sorted_out(around | bulk)
    if length > len(around):
        assert set(bulk) <= set(result.counted)
