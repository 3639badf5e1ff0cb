"""Splits: windows by partition or by event time, slices of the right share, and no shared rows."""

import tempfile
from datetime import UTC, date, datetime, timedelta
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from iak.pipeline.data import hashing, splits
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadLog, BadRequest
from iak.schemas.log import SplitSpec
from tests.builders import batch_of, draw_rows, small_catalog, write_file, write_log
from tests.unit.data.test_event_dates import by_time, write_times

DAYS = [date(2026, 10, 1) + timedelta(days=n) for n in range(10)]


@pytest.mark.parametrize(
    ("days", "first", "last"),
    [
        pytest.param((0, 0), 0, 0, id="the first day"),
        pytest.param((-1, -1), 9, 9, id="the last day"),
        pytest.param((0, -4), 0, 6, id="all but the last three"),
        pytest.param((-3, -2), 7, 8, id="from the end"),
        pytest.param((2, 4), 2, 4, id="from the start"),
        pytest.param((0, -1), 0, 9, id="everything"),
    ],
)
def test_days_count_from_both_ends(days, first, last):
    split = splits.resolve("any", SplitSpec(days=days), dates=DAYS)
    assert (split.first, split.last) == (DAYS[first], DAYS[last])


def test_a_window_that_a_short_log_leaves_empty_is_refused():
    with pytest.raises(BadRequest, match="too short"):
        splits.resolve("pretrain", SplitSpec(days=(0, -9)), dates=DAYS[:5])


def test_days_of_a_log_without_dates_are_refused():
    with pytest.raises(BadLog, match="no dated row"):
        splits.resolve("tune", SplitSpec(days=(0, 1)), dates=[])


def test_nanoseconds_do_not_stop_the_reading_of_a_time():
    times = pa.array([1_790_812_800_123_456_789, None], pa.timestamp("ns"))
    assert splits.seconds_of(times).tolist() == [pytest.approx(1_790_812_800.123456), -np.inf]


def test_a_row_without_a_time_is_in_no_window(tmp_path):
    noon = int(datetime(2026, 10, 2, 12, tzinfo=UTC).timestamp())
    write_times(tmp_path, pa.array([noon, None, noon]))
    view = open_log(by_time(days=[0, -1]), str(tmp_path), wanted=["tune"])
    assert view.selections["tune"].rows == 2


def test_slices_are_disjoint_whole_and_about_their_share():
    keys = hashing.keys_of(pa.array(np.arange(100_000)))
    rows = batch_of({"event_id": pa.array(np.arange(100_000))})
    catalog = small_catalog()
    cuts = [0.0, 0.8, 0.9, 1.0]
    masks = []
    for low, high in pairwise(cuts):
        split = splits.Split(name="s", first=None, last=None, where={}, slice=(low, high))
        masks.append(splits.mask(split, rows, keys, catalog))
        assert masks[-1].mean() == pytest.approx(high - low, abs=0.005)
    assert (np.sum(masks, axis=0) == 1).all()


def test_a_slice_by_a_column_keeps_its_values_together(tmp_path):
    catalog = small_catalog(
        log__slice_by="user_id", splits={"tune": {"slice": [0, 0.5]}, "gate": {"slice": [0.5, 1]}}
    )
    write_log(tmp_path / "events", [("ningbo", "2026-10-01", [60, 60])])
    view = open_log(catalog, str(tmp_path), wanted=["tune", "gate"])
    users = [
        {u for rows, _ in view.raw_rows(name) for u in rows.column("user_id").to_pylist()}
        for name in ("tune", "gate")
    ]
    assert not users[0] & users[1]
    assert len(users[0] | users[1]) == 9
    assert sum(view.selections[n].rows for n in ("tune", "gate")) == 120


VALUES = st.lists(st.sampled_from(["search", "feed", "配送"]), min_size=1, max_size=2, unique=True)


DAY = st.sampled_from([-4, -3, -2, -1, 0, 1, 2, 3])


DATE = st.sampled_from([f"2026-10-0{n}" for n in range(1, 6)])


PART = st.sampled_from([0.0, 0.3, 0.6, 1.0])


SPEC = st.fixed_dictionaries(
    {},
    optional={
        "where": st.fixed_dictionaries(
            {}, optional={"scene": VALUES, "region": st.just(["ningbo"])}
        ),
        "days": st.tuples(DAY, DAY).filter(lambda d: d[0] <= d[1] or (d[0] < 0) != (d[1] < 0)),
        "slice": st.tuples(PART, PART).filter(lambda s: s[0] < s[1]),
    },
)


DATED = st.fixed_dictionaries({"dates": st.tuples(DATE, DATE).filter(lambda d: d[0] <= d[1])})


@given(
    declared=st.dictionaries(
        st.sampled_from(["tune", "valid", "gate", "test"]),
        st.one_of(SPEC, DATED),
        min_size=2,
        max_size=4,
    ),
    length=st.integers(1, 6),
)
@settings(max_examples=300)
def test_splits_that_the_catalogue_accepts_share_no_row_whatever_the_log(declared, length):
    try:
        catalog = small_catalog(splits=declared)
    except ValidationError as error:
        assert "may share rows" in str(error)  # noqa: PT017 - most draws are refused, and that is fine
        return
    dates = DAYS[:length]
    rows = draw_rows(40)
    keys = hashing.keys_of(rows.column("event_id"))
    taken: dict[str, set[tuple]] = {}
    for name, spec in catalog.splits.items():
        try:
            split = splits.resolve(name, spec, dates=dates)
        except BadRequest:
            continue
        chosen = splits.mask(split, batch_of(rows), keys, catalog)
        positions = range(40) if chosen is None else np.flatnonzero(chosen)
        taken[name] = {
            (region, day, int(position))
            for region in ("ningbo", "hangzhou")
            for day in dates
            if splits.admits(split, {"region": region, "dt": str(day)}, log=small_catalog().log)
            for position in positions
        }
    assert all(not a & b for a, b in combinations(taken.values(), 2))


def test_days_are_the_same_with_and_without_a_prefix_of_the_partition():
    split = splits.resolve("t", SplitSpec(days=(0, 0), where={"region": ("ningbo",)}), dates=DAYS)
    for known, is_admitted in (
        ({"region": "ningbo"}, True),
        ({"region": "hangzhou"}, False),
        ({"region": None}, False),
        ({"region": "ningbo", "dt": "2026-10-01"}, True),
        ({"region": "ningbo", "dt": "2026-10-02"}, False),
        ({"region": "ningbo", "dt": "someday"}, False),
        ({"region": "ningbo", "dt": None}, False),
    ):
        assert splits.admits(split, known, log=small_catalog().log) is is_admitted


def test_a_log_on_disk_is_cut_the_same_by_any_accepted_splits():
    with tempfile.TemporaryDirectory() as folder:
        write_log(Path(folder) / "events", [("ningbo", str(day), [20]) for day in DAYS[:6]])
        declared = {
            "pretrain": {"days": [0, -4]},
            "tune": {"days": [-3, -2], "slice": [0, 0.8]},
            "gate": {"days": [-3, -2], "slice": [0.8, 1]},
            "test": {"days": [-1, -1]},
        }
        view = open_log(small_catalog(splits=declared), folder, wanted=list(declared))
        rows = {name: s.rows for name, s in view.selections.items()}
        assert rows["pretrain"] == 60
        assert rows["tune"] + rows["gate"] == 40
        assert rows["test"] == 20
        assert view.as_of == DAYS[5]


@pytest.mark.parametrize(
    ("value", "day"),
    [
        ("2026-10-01", date(2026, 10, 1)),
        ("20261001", date(2026, 10, 1)),
        ("2026-10-01 00:00:00", date(2026, 10, 1)),
        ("2026-10-01T00:00:00", date(2026, 10, 1)),
        ("2026-10-01 00:00:00.000000", date(2026, 10, 1)),
        ("2026-10-01T00:00:00Z", date(2026, 10, 1)),
        ("2026-10-01 00:00:00+08:00", date(2026, 10, 1)),
        ("20261001T000000", date(2026, 10, 1)),
        ("2026-W40-4", date(2026, 10, 1)),
        (" 2026-10-01 ", date(2026, 10, 1)),
        ("2026-10-01 05:00:00", None),
        ("2026-10", date(2026, 10, 31)),  # a month stands for its last day
        ("2028-02", date(2028, 2, 29)),
        ("202602", date(2026, 2, 28)),
        ("2026-W08", date(2026, 2, 22)),
        ("2026W08", date(2026, 2, 22)),
        ("2026020307", date(2026, 2, 3)),  # an hour belongs to its day
        ("2026-02-03-23", date(2026, 2, 3)),
        ("2026020324", None),
        ("events_20260203", date(2026, 2, 3)),
        ("web-log-2026-02-03", date(2026, 2, 3)),
        ("events_20261303", None),
        ("events_202602", None),
        ("events_2026020307", None),
        ("_20260203", None),
        ("20260203ab", None),
        ("2026-13", None),
        ("260210", None),
        ("2026", None),
        ("someday", None),
        ("", None),
        (None, None),
    ],
)
def test_a_date_partition_may_be_spelled_as_any_iso_date_or_midnight(value, day):
    assert splits.parse_date(value) == day


ZONES = st.sampled_from(
    ["UTC", "Asia/Shanghai", "America/New_York", "America/Sao_Paulo", "Australia/Lord_Howe"]
)


@pytest.mark.parametrize(
    ("value", "day"),
    [
        ("0", date(1970, 1, 1)),
        (" 3 ", date(1970, 1, 4)),
        ("day_03", date(1970, 1, 4)),
        ("v2_D3", date(1970, 1, 4)),
        ("20788", date(2026, 12, 1)),
        ("2026-10-03", None),
        ("20261003", None),
        ("-3", None),
        ("3.5", None),
        ("day", None),
        ("", None),
        (None, None),
    ],
)
def test_a_numbered_day_counts_from_1970(value, day):
    log = small_catalog(log__date_unit="d").log
    assert splits.day_of(value, log) == splits.numbered_day(value) == day
    if day is not None:
        split = splits.Split(name="tune", first=day, last=day, where={}, slice=(0.0, 1.0))
        assert splits.admits(split, {"dt": value}, log=log)
        assert not splits.admits(split, {"dt": value}, log=small_catalog().log)


@given(st.lists(st.integers(-40_000, 40_000) | st.none(), min_size=1))
def test_a_number_of_a_day_is_the_time_of_its_date(numbers):
    days = pa.array(numbers, pa.int32())
    found = splits.seconds_of(days, unit="d")
    assert np.array_equal(found, splits.seconds_of(days.cast(pa.date32())))
    log = small_catalog(log__event_time_unit="d", log__time_zone="UTC").log
    counted = {date(1970, 1, 1) + timedelta(days=n) for n in numbers if n is not None and n >= 0}
    assert splits.days_of(found, log).keys() == counted


def test_days_since_1970_that_are_declared_as_seconds_are_told():
    log = small_catalog().log
    with pytest.raises(BadLog, match=r'In days that is 2026-10-01; .* Set event_time_unit = "d"'):
        splits.refuse_coarser_unit(20_727.0, 20_790.0, log)
    splits.refuse_coarser_unit(1.0, 64.0, log)


@given(day=st.dates(date(1990, 1, 1), date(2099, 12, 31)))
def test_a_month_ends_on_its_day_and_no_day_is_a_month(day):
    end = splits.parse_date(f"{day:%Y-%m}")
    assert end is not None
    assert (end.year, end.month) == (day.year, day.month)
    assert (end + timedelta(days=1)).day == 1
    assert splits.period_of([str(day), f"{day:%Y%m}", None]) == "month"
    assert splits.period_of([str(day), None]) == "day"


@given(day=st.dates(date(1990, 1, 1), date(2099, 12, 31)))
def test_a_week_ends_on_its_sunday(day):
    year, week, _ = day.isocalendar()
    value = f"{year}-W{week:02}"
    end = splits.parse_date(value)
    assert end is not None
    assert end.isocalendar() == (year, week, 7)
    assert splits.period_of([value, str(day)]) == "week"


UNITS = st.sampled_from(["s", "ms", "us", "ns"])


MOMENTS = st.integers(1_500_000_000, 1_800_000_000)


@given(MOMENTS, ZONES, UNITS, UNITS)
def test_an_event_has_one_time_whatever_the_unit_or_zone_it_is_written_in(
    moment, zone, unit, written
):
    per_second = int(splits.PER_SECOND[unit])
    number = pa.array([moment * per_second])
    stamped = pa.array([moment * int(splits.PER_SECOND[written])]).cast(pa.timestamp(written, zone))
    results = [
        splits.seconds_of(number, unit=unit, time_zone=zone),
        splits.seconds_of(stamped, unit=unit, time_zone=zone),
        splits.seconds_of(stamped.cast(pa.timestamp(written, "Asia/Tokyo")), time_zone=zone),
    ]
    assert [seconds.tolist() for seconds in results] == [[moment]] * 3
    float_number = number.cast(pa.float64(), safe=False)
    assert splits.seconds_of(float_number, unit=unit) == pytest.approx([moment], abs=1e-6)


def test_the_last_nanosecond_of_a_day_belongs_to_that_day():
    midnight = 1_790_899_200
    late = pa.array([midnight * 10**9 - 1])
    assert splits.seconds_of(late, unit="ns")[0] < midnight
    assert splits.seconds_of(late.cast(pa.timestamp("ns")))[0] < midnight


@given(
    st.datetimes(datetime(2010, 1, 1), datetime(2030, 1, 1)),
    ZONES,
    UNITS,
)
def test_a_wall_time_falls_on_the_date_that_it_shows_whatever_the_clock_did(wall, zone, unit):
    wall = wall.replace(microsecond=0)
    seconds = splits.seconds_of(pa.array([wall], pa.timestamp(unit)), time_zone=zone)
    low, high = splits.window_seconds(wall.date(), wall.date(), zone)
    assert low <= seconds[0] < high
    assert splits.days_of(seconds, small_catalog(log__time_zone=zone).log) == {wall.date(): 1}
    assert splits.date_of_seconds(float(seconds[0]), zone) == wall.date()


@pytest.mark.parametrize(
    ("wall", "zone", "instant"),
    [
        pytest.param(
            datetime(2026, 11, 1, 1, 30),
            "America/New_York",
            datetime(2026, 11, 1, 5, 30, tzinfo=UTC),
            id="a time that occurs twice is the first",
        ),
        pytest.param(
            datetime(2026, 3, 8, 2, 30),
            "America/New_York",
            datetime(2026, 3, 8, 7, 0, tzinfo=UTC),
            id="a time that is skipped is the end of the gap",
        ),
        pytest.param(
            datetime(2018, 11, 4, 0, 30),
            "America/Sao_Paulo",
            datetime(2018, 11, 4, 3, 0, tzinfo=UTC),
            id="a gap at midnight leaves the date",
        ),
    ],
)
def test_a_clock_change_is_resolved_in_one_way(wall, zone, instant):
    assert splits.seconds_of(pa.array([wall]), time_zone=zone).tolist() == [instant.timestamp()]


@pytest.mark.parametrize("declared", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("written", ["s", "ms", "us", "ns"])
def test_times_in_a_finer_unit_than_the_declared_one_are_refused_by_name(declared, written):
    log = small_catalog(log__event_time_unit=declared).log
    times = pa.array([1_790_812_800 * int(splits.PER_SECOND[written])] * 3)
    units = list(splits.PER_SECOND)
    if units.index(written) <= units.index(declared):
        assert np.isfinite(splits.event_seconds(times, log)).all()
        return
    with pytest.raises(BadLog, match=f'Set event_time_unit = "{written}"') as error:
        splits.event_seconds(times, log)
    assert "2026-10-01" in str(error.value)


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(pa.array([], pa.int64()), id="none"),
        pytest.param(pa.array([None, None], pa.int64()), id="nulls"),
        pytest.param(pa.array([0, 5, 1_000_000]), id="counted from the log's start"),
        pytest.param(pa.array([float("nan"), 1_790_812_800.0]), id="NaN"),
        pytest.param(pa.array([1_790_812_800] * 3 + [1_790_812_800_000]), id="one wild value"),
        pytest.param(pa.array([-1, 1_790_812_800]), id="before 1970"),
    ],
)
def test_a_few_odd_times_are_no_other_unit(times):
    assert len(splits.event_seconds(times, small_catalog().log)) == len(times)


def test_a_row_without_a_slice_key_is_cut_by_its_place(tmp_path):
    rows = draw_rows(2_000)
    none = pa.nulls(2_000, pa.string())
    write_file(
        tmp_path / "events/region=ningbo/dt=2026-10-01/a.parquet",
        rows.set_column(2, "user_id", none),
        [700, 1_300],
    )
    catalog = small_catalog(
        log__slice_by="user_id", splits={"tune": {"slice": [0, 0.5]}, "gate": {"slice": [0.5, 1]}}
    )
    view = open_log(catalog, str(tmp_path), wanted=["tune", "gate"])
    read = {
        name: [i for rows, _ in view.raw_rows(name) for i in rows.column("event_id").to_pylist()]
        for name in ("tune", "gate")
    }
    assert {name: len(ids) for name, ids in read.items()} == {
        name: selection.rows for name, selection in view.selections.items()
    }
    assert sorted(read["tune"] + read["gate"]) == list(range(2_000))
    assert len(read["tune"]) == pytest.approx(1_000, abs=100)


def test_null_row_ids_get_keys_of_their_own_and_leave_the_others_as_they_are(tmp_path):
    rows = draw_rows(40)
    ids = pa.array([i if i % 3 else None for i in range(40)], pa.int64())
    root = tmp_path / "events/region=ningbo/dt=2026-10-01"
    write_file(root / "a.parquet", rows.set_column(0, "event_id", ids), [25, 15])
    view = open_log(small_catalog(), str(tmp_path), wanted=["pretrain"])
    keys = np.concatenate([keys for _, keys in view.raw_rows("pretrain")])
    assert len(set(keys.tolist())) == 40
    known = np.arange(40) % 3 != 0
    assert (keys[known] == hashing.keys_of(pa.array(np.arange(40)))[known]).all()


@pytest.mark.parametrize(
    ("values", "is_short"),
    [
        (["201012", "201013", None], True),
        (["261005"], True),
        (["201001", "201012"], False),
        (["2010-12", "201013x"], False),
        (["201012", "shop"], False),
        (["20201013"], False),
        ([], False),
    ],
)
def test_days_of_six_digits_are_told_from_months_by_all_values(values, is_short):
    assert bool(splits.short_days(values)) == is_short
