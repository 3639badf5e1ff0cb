"""Dates of a log: from event times of any unit and zone, or from folders that agree with them."""

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data import splits
from iak.pipeline.data.check import check_log
from iak.pipeline.data.event_dates import read_dates
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadLog
from iak.schemas.log import Catalog
from tests.builders import draw_rows, small_catalog, write_file, write_log

DAYS = [date(2026, 10, 1) + timedelta(days=n) for n in range(10)]


def by_time(zone: str = "UTC", **split: Any) -> Catalog:
    changes = {"log__date_key": None, "log__partition_keys": [], "log__time_zone": zone}
    return small_catalog(
        **changes,
        domain__keys=["scene"],
        features=[{"kind": "categorical", "name": "user_id"}],
        tables={},
        splits={"tune": split},
    )


def write_times(root: Path, times: pa.Array) -> None:
    rows = draw_rows(len(times)).set_column(1, "event_time", times)
    write_file(root / "events" / "a.parquet", rows)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "America/New_York"])
@pytest.mark.parametrize(
    "kind",
    [
        pa.int64(),
        pa.float64(),
        pa.timestamp("ns"),
        pa.timestamp("ms"),
        pa.timestamp("us", "Asia/Tokyo"),
    ],
)
def test_dates_are_cut_from_event_times_in_the_logs_zone(tmp_path, zone, kind):
    midnight = datetime(2026, 10, 2, tzinfo=ZoneInfo(zone)).timestamp()
    seconds = [midnight - 1, midnight, midnight + 86_399, midnight + 86_400]
    if pa.types.is_timestamp(kind):  # without a zone it is what the wall clock showed
        moments = [datetime.fromtimestamp(s, ZoneInfo(kind.tz or zone)) for s in seconds]
        times = pa.array([m if kind.tz else m.replace(tzinfo=None) for m in moments], kind)
    else:
        times = pa.array([int(s) for s in seconds]).cast(kind)
    write_times(tmp_path, times)
    view = open_log(
        by_time(zone, dates=["2026-10-02", "2026-10-02"]), str(tmp_path), wanted=["tune"]
    )
    assert view.selections["tune"].rows == 2
    assert read_dates(str(tmp_path / "events"), by_time(zone, days=[0, 0]))[0].counted == (
        date(2026, 10, 1),
        date(2026, 10, 2),
        date(2026, 10, 3),
    )


def test_milliseconds_given_as_seconds_are_refused_with_the_remedy(tmp_path):
    write_times(tmp_path, pa.array([1_790_812_800_000]))
    with pytest.raises(BadLog, match="milliseconds"):
        open_log(by_time(days=[0, 0]), str(tmp_path), wanted=["tune"])


def test_a_file_without_the_time_column_is_quarantined_while_others_give_the_dates(tmp_path):
    write_times(tmp_path, pa.array([1_790_812_800]))
    write_file(tmp_path / "events" / "b.parquet", draw_rows(3).drop_columns(["event_time"]))
    view = open_log(by_time(days=[0, 0]), str(tmp_path), wanted=["tune"])
    assert view.selections["tune"].rows == 1
    assert [u.path for u in view.snapshot.unreadable] == ["b.parquet"]


def test_times_in_a_coarser_unit_than_the_declared_one_are_refused_by_name(tmp_path):
    write_file(tmp_path / "events/a.parquet", draw_rows(40))
    catalog = by_time(days=[0, 0])
    log = catalog.log.model_copy(update={"event_time_unit": "ms"})
    with pytest.raises(BadLog, match=r'2026-10-01; in milliseconds.*1970.*event_time_unit = "s"'):
        read_dates(str(tmp_path / "events"), catalog.model_copy(update={"log": log}))


def test_check_tells_of_a_wrong_unit_once_and_not_again_for_each_split(tmp_path):
    write_file(tmp_path / "events/a.parquet", draw_rows(40))
    catalog = by_time(days=[0, 0])
    log = catalog.log.model_copy(update={"event_time_unit": "ms"})
    findings = check_log(
        catalog.model_copy(update={"log": log}), str(tmp_path), sample_rows=100
    ).findings
    assert [f.level for f in findings if "in milliseconds, the unit" in f.what] == ["refuse"]
    assert not [f for f in findings if f.what.startswith("split")]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_counted_from_the_logs_own_start_are_no_other_unit(tmp_path, unit):
    rows = draw_rows(40)
    since = pa.array(np.arange(1, 41) * 86_400 * int(splits.PER_SECOND[unit]))
    write_file(
        tmp_path / "events/a.parquet",
        rows.set_column(rows.schema.get_field_index("event_time"), "event_time", since),
    )
    catalog = by_time(days=[0, 0])
    log = catalog.log.model_copy(update={"event_time_unit": unit})
    days, _ = read_dates(str(tmp_path / "events"), catalog.model_copy(update={"log": log}))
    assert days.counted[0] == date(1970, 1, 2)
    assert len(days.counted) == 40


def test_files_of_two_units_are_refused_whichever_of_them_is_declared(tmp_path):
    rows = draw_rows(40)
    at = rows.schema.get_field_index("event_time")
    in_ms = pa.compute.multiply(rows.column("event_time"), 1000)
    write_file(tmp_path / "events/seconds.parquet", rows)
    write_file(tmp_path / "events/millis.parquet", rows.set_column(at, "event_time", in_ms))
    catalog = by_time(days=[0, 0])
    with pytest.raises(BadLog, match=r"millis.parquet: .*only some files are so, write all in one"):
        read_dates(str(tmp_path / "events"), catalog)
    log = catalog.log.model_copy(update={"event_time_unit": "ms"})
    expected = r"1970-01-21 in seconds.parquet \(1 of 2 files\) and 2026-10-03 in millis.parquet"
    with pytest.raises(BadLog, match=expected):
        read_dates(str(tmp_path / "events"), catalog.model_copy(update={"log": log}))


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()], ids=str)
def test_a_date_column_is_an_event_time_of_whole_days(tmp_path, kind):
    rows = draw_rows(60)
    times = rows.column("event_time").cast(pa.timestamp("s")).cast(pa.date32()).cast(kind)
    write_file(
        tmp_path / "events/a.parquet",
        rows.set_column(rows.schema.get_field_index("event_time"), "event_time", times),
    )
    catalog = by_time("Asia/Shanghai", days=[1, 1])
    view = open_log(catalog, str(tmp_path), wanted=["tune"])
    assert view.dates.counted == tuple(DAYS[:3])
    assert view.selections["tune"].rows == times.to_pylist().count(DAYS[1])


@pytest.mark.parametrize(
    ("times", "message"),
    [
        pytest.param(["2026-10-01"] * 4, "string, expected time .*an Arrow timestamp", id="text"),
        pytest.param([None] * 4, "event_time is null in all 4 rows of 1 files", id="nulls"),
    ],
)
def test_a_log_without_a_date_says_what_its_times_are(tmp_path, times, message):
    rows = draw_rows(4)
    kind = pa.string() if times[0] else pa.int64()
    write_file(
        tmp_path / "events/a.parquet",
        rows.set_column(
            rows.schema.get_field_index("event_time"), "event_time", pa.array(times, kind)
        ),
    )
    with pytest.raises(BadLog, match=message):
        open_log(by_time(days=[0, 0]), str(tmp_path), wanted=["tune"])


def test_milliseconds_of_some_files_only_are_refused_where_they_are_read(tmp_path):
    times = pa.array([1_790_812_800] * 3)
    rows = draw_rows(3)
    path = tmp_path / "events" / "region=ningbo"
    write_file(path / "dt=2026-10-01/a.parquet", rows.set_column(1, "event_time", times))
    late = pa.array([1_790_899_200_000] * 3)
    write_file(path / "dt=2026-10-02/a.parquet", rows.set_column(1, "event_time", late))
    tasks = [{"label": "click", "kind": "click", "matures_after": "P1D"}]
    catalog = small_catalog(tasks=tasks, splits={"tune": {"days": [0, 1]}})
    with pytest.raises(BadLog, match=r"dt=2026-10-02/a\.parquet: event_time .*milliseconds"):
        open_log(catalog, str(tmp_path), wanted=["tune"])


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_that_contradict_their_folders_days_are_refused(tmp_path, unit):
    write_log(tmp_path / "events", [("ningbo", str(DAYS[0]), [20])])
    tasks = [{"label": "click", "kind": "click", "matures_after": "P1D"}]
    catalog = small_catalog(
        log__event_time_unit=unit, tasks=tasks, splits={"tune": {"days": [0, 0]}}
    )
    with pytest.raises(BadLog, match=r"event_time says 1970-01-.*its folder 2026-10-01"):
        open_log(catalog, str(tmp_path), wanted=["tune"])


def test_folders_of_hours_are_no_days_and_are_named(tmp_path):
    write_file(tmp_path / "events/region=a/dt=2026-10-01 05%3A00%3A00/a.parquet", draw_rows(3))
    catalog = small_catalog(splits={"tune": {"days": [0, 0]}})
    with pytest.raises(BadLog, match="no folder of 'dt' names a date: dt=2026-10-01 05:00:00"):
        open_log(catalog, str(tmp_path), wanted=["tune"])
