"""The column of the event's time, in any usual form, and the columns that only tell a row's day."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from iak.pipeline.data.guess_catalog import guess_catalog
from iak.pipeline.data.guess_labels import Guess
from iak.pipeline.data.guess_time import day_columns, guess_time, is_month_and_day, times_of
from iak.pipeline.data.log_sample import read_sample
from tests.unit.data.shop import DAY, START, shop, write


def guessed(root):
    return guess_catalog(read_sample(str(root), rows=10_000))


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        ("iso", lambda times: pc.strftime(times, format="%Y-%m-%d %H:%M:%S")),
        ("%m/%d/%Y %H:%M", lambda times: pc.strftime(times, format="%m/%d/%Y %H:%M")),
        (
            "%a %b %d %H:%M:%S %z %Y",
            lambda times: pc.strftime(times, format="%a %b %d %H:%M:%S -0000 %Y"),
        ),
        ("%y%m%d%H", lambda times: pc.strftime(times, format="%y%m%d%H").cast(pa.int64())),
    ],
)
def test_a_time_in_text_or_digits_is_found_with_its_format(written, texts, tmp_path):
    times = shop().column("event_time").combine_chunks().cast(pa.timestamp("s"))
    write(tmp_path, shop(event_time=None, hour=texts(times)))
    guess = guessed(tmp_path)
    assert (guess.time.column, guess.time.format) == ("hour", written)


@pytest.mark.parametrize(
    ("zone", "guess"), [("Asia/Kolkata", "Asia/Kolkata"), ("UTC", "UTC"), ("+05:30", "UTC")]
)
def test_a_city_that_a_timestamps_type_names_is_the_zone(zone, guess, tmp_path):
    seconds = shop().column("event_time").to_numpy()
    times = pa.array(seconds * 10**9, pa.timestamp("ns", zone))
    write(tmp_path, shop(event_time=times))
    time = guess_time(read_sample(str(tmp_path), rows=1_000), None)
    assert (time.column, time.time_zone) == ("event_time", guess)


def test_a_birthday_is_not_the_time_of_the_event(tmp_path):
    seconds = shop().column("event_time").to_numpy()
    births = pa.array((seconds - 30 * 365 * DAY) * 1_000, pa.timestamp("ms"))
    write(tmp_path, shop(event_time=None, birth_date=births))
    assert guessed(tmp_path).time is None


def test_numbers_that_are_no_times_are_none():
    assert times_of(pa.chunked_array([np.arange(3_000)])) is None
    assert times_of(pa.chunked_array([[20261301, 20261005]])) is None, "there is no month 13"
    assert times_of(pa.chunked_array([["2026-10-05", "soon"]])) is None


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_days_as_yymmdd_are_times_where_no_month_and_no_id_is_written_so(kind, tmp_path):
    days = pa.array([261020 + n // 200 for n in range(2_000)]).cast(kind)
    write(tmp_path, shop(event_time=None, dt=days))
    guess = guessed(tmp_path)
    assert (guess.time.column, guess.time.format) == ("dt", "%y%m%d")
    assert guess.time.why.startswith("every sampled value is a day as yymmdd, and most days")
    assert guess.splits["test"].days == (-1, -1)


@pytest.mark.parametrize(
    "values",
    [
        range(201001, 201013),  # the months of 2010, or twelve days of October 2020
        range(261025, 261035),  # there is no 32 October
        [261013, 261101, 270101, 270213, 270601],  # far from each other
        [261013, 261014, 261015],  # few
    ],
)
def test_other_numbers_of_six_digits_are_no_days(values):
    assert times_of(pa.chunked_array([pa.array(values)])) is None


DAYS = np.repeat(np.arange(8), 100)
FOLDERS = pa.array([f"2026-10-{1 + day:02d}" for day in DAYS])


@pytest.mark.parametrize(
    ("values", "is_day"),
    [
        (20261001 + DAYS, True),
        (DAYS * 24 + np.arange(800) % 4, True),
        (DAYS * 2, True),
        (DAYS % 7, False),
        (np.arange(800) % 10, False),
        (np.arange(800), False),
    ],
    ids=["a date", "an hour of a day", "a number of the day", "a weekday", "an id", "a row"],
)
def test_a_column_whose_values_lie_on_one_day_tells_the_day(values, is_day):
    rows = pa.table({"dt": FOLDERS, "x": values})
    told = day_columns(rows, ["x"], Guess(column="dt", why=""), None)
    assert set(told) == ({"x"} if is_day else set())
    assert not day_columns(rows, ["x"], None, None), "without days nothing can be said"


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1_000)])
def test_a_time_that_counts_from_the_logs_start_begins_at_1970(unit, per_second, tmp_path):
    elapsed = (shop().column("event_time").to_numpy() - START) * per_second
    write(tmp_path, shop(event_time=None, timestamp=elapsed))
    guess = guessed(tmp_path)
    assert (guess.time.column, guess.time.unit, guess.time.is_elapsed) == ("timestamp", unit, True)
    assert guess.splits_why == "10 days from 1970-01-01 to 1970-01-10"
    assert "timestamp" not in {feature.column for feature in guess.features}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("duration", lambda draw: draw.integers(0, 10 * DAY, 2_000)),
        ("time_since_last_click", lambda draw: draw.integers(0, 10 * DAY, 2_000)),
        ("play_time_ms", lambda draw: draw.integers(0, 10 * DAY, 2_000)),
        ("time", lambda draw: draw.integers(0, 3_600, 2_000)),
        ("time", lambda draw: draw.integers(0, 24, 2_000) * 10_000 + draw.integers(0, 60, 2_000)),
        ("time", lambda draw: draw.integers(-DAY, 10 * DAY, 2_000)),
        ("time", lambda draw: draw.integers(5 * DAY, 10 * DAY, 2_000)),
    ],
    ids=["a length", "a span", "time watched", "an hour", "a clock", "below zero", "begins late"],
)
def test_other_numbers_do_not_count_from_the_logs_start(name, values, tmp_path):
    write(tmp_path, shop(event_time=None, **{name: values(np.random.default_rng(5))}))
    assert guessed(tmp_path).time is None


def test_the_events_time_written_once_more_is_no_feature(tmp_path):
    seconds = shop().column("event_time").to_numpy()
    opened = seconds - np.random.default_rng(0).integers(0, 900 * DAY, 2_000)
    write(tmp_path, shop(timestamp_ms=seconds * 1_000, account_opened=opened))
    guess = guessed(tmp_path)
    reasons = {left.column: left.why for left in guess.left_out}
    (again,) = {"event_time", "timestamp_ms"} - {guess.time.column}
    assert reasons[again] == "it is the event's time once more"
    assert reasons.get("account_opened") != reasons[again]


@pytest.mark.parametrize(
    ("unit", "first", "per_second"),
    [("s", START, 1), ("ms", START, 1_000), ("s", 0, 1)],
    ids=["seconds", "milliseconds", "since the log's start"],
)
def test_numbers_in_text_are_the_times_that_numbers_are(unit, first, per_second, tmp_path):
    times = (shop().column("event_time").to_numpy() - START + first) * per_second
    write(tmp_path / "typed", shop(event_time=None, timestamp=times))
    write(tmp_path / "written", shop(event_time=None, timestamp=times.astype(str)))
    typed, written = (guessed(tmp_path / kind) for kind in ("typed", "written"))
    assert (written.time.unit, written.time.format) == (unit, "unix")
    assert typed.time.format is None
    assert written.splits == typed.splits
    assert written.splits["test"].days


def test_durations_are_times_since_the_logs_start(tmp_path):
    seconds = shop().column("event_time").to_numpy() - START + 1082 * DAY
    durations = pa.array(np.sort(seconds) * 10**9, pa.duration("ns"))
    write(tmp_path, shop(event_time=None, timestamp=durations, stay=durations))
    sample = read_sample(str(tmp_path), rows=10_000)
    time = guess_time(sample, None)
    assert (time.column, time.unit) == ("timestamp", "timestamp")
    assert "1972-12-18" in time.why


@pytest.mark.parametrize(
    ("values", "is_one"),
    [
        ([511, 1111, 1231], False),
        ([511, 612, 713, 829, 1111, 1231], True),
        (["0511", "0612", "0713", "0829", "1111"], True),
        ([511, 612, 713, 832, 1111, 1231], False),
        ([2020, 2021, 2022, 2023, 2024], False),
    ],
)
def test_a_month_and_a_day_without_a_year_are_no_feature(values, is_one):
    column = pa.chunked_array([values * 50])
    assert is_month_and_day("time_stamp", column) == is_one
    assert not is_month_and_day("seller", column)
