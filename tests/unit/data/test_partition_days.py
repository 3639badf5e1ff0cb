import os
from collections import Counter
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from iak.pipeline.data.content import KeptContents
from iak.pipeline.data.partition_days import (
    list_partitions,
    log_dates,
    newest_unmarked,
    read_newest_days,
)
from iak.schemas.domain import Domain
from tests.builders import DAYS, partition, small_catalog, write_file, write_log

LAYOUT = [("hangzhou", DAYS[0], [5]), ("hangzhou", DAYS[1], [4, 3]), ("ningbo", DAYS[1], [6])]
FIRST, LAST = date.fromisoformat(DAYS[0]), date.fromisoformat(DAYS[-1])


def newest(root, catalog=None, first=FIRST):
    return read_newest_days(
        catalog or small_catalog(log__path=""),
        str(root),
        days=(first, LAST),
        marker="_SUCCESS",
        kept=KeptContents(None),
    )


def by_name(found):
    return {(dict(p.partition).get("region"), str(p.day)): p for p in found.partitions}


@pytest.fixture
def rows(tmp_path):
    return write_log(tmp_path, LAYOUT)


@pytest.mark.usefixtures("rows")
def test_every_partition_of_every_day_is_described(tmp_path):
    found = by_name(newest(tmp_path))
    assert {key: one.rows for key, one in found.items()} == {
        ("hangzhou", DAYS[0]): 5, ("hangzhou", DAYS[1]): 7, ("ningbo", DAYS[1]): 6,
    }  # fmt: skip
    assert {one.files for one in found.values()} == {1}
    assert len({one.content for one in found.values()}) == 3


@pytest.mark.usefixtures("rows")
def test_days_outside_are_left_out(tmp_path):
    found = newest(tmp_path, first=date.fromisoformat(DAYS[1]))
    assert {str(one.day) for one in found.partitions} == {DAYS[1]}
    assert {len(of_domain) for of_domain in found.rows.values()} == {1, 2}


@pytest.mark.usefixtures("rows")
def test_a_marker_counts_in_the_folder_of_the_day(tmp_path):
    (tmp_path / partition("ningbo", DAYS[1]) / "_SUCCESS").touch()
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "region=hangzhou" / "_SUCCESS").touch()
    found = by_name(newest(tmp_path))
    assert [key for key, one in found.items() if one.has_marker] == [("ningbo", DAYS[1])]


@pytest.mark.usefixtures("rows")
def test_a_marker_above_the_partitions_of_a_day_counts_for_all_of_them(tmp_path):
    for region, day, _ in LAYOUT:
        target = tmp_path / "turned" / f"dt={day}" / f"region={region}"
        target.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / partition(region, day)).rename(target)
    (tmp_path / "turned" / f"dt={DAYS[1]}" / "_SUCCESS").touch()
    catalog = small_catalog(log__path="turned", log__partition_keys=["dt", "region"])
    found = by_name(newest(tmp_path, catalog))
    assert sorted(day for (_, day), one in found.items() if one.has_marker) == [DAYS[1]] * 2


@pytest.mark.usefixtures("rows")
def test_a_marker_above_folders_that_are_dates_alone_counts_for_none_of_them(tmp_path):
    for region, day, _ in LAYOUT:
        target = tmp_path / "alone" / region / day
        target.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / partition(region, day)).rename(target)
    (tmp_path / "alone" / "_SUCCESS").touch()
    (tmp_path / "alone" / "hangzhou" / "_SUCCESS").touch()
    (tmp_path / "alone" / "ningbo" / DAYS[1] / "_SUCCESS").touch()
    catalog = small_catalog(log__path="alone", log__folder_names="value")
    found = by_name(newest(tmp_path, catalog))
    assert len(found) == 3
    assert [key for key, one in found.items() if one.has_marker] == [("ningbo", DAYS[1])]


def test_the_newest_file_dates_a_partition(tmp_path, rows):
    folder = tmp_path / partition("ningbo", DAYS[1])
    write_file(folder / "later.parquet", rows.select(rows.column_names[:-2]).slice(0, 2))
    for name, written in (("later.parquet", 2_000_000_000), ("part-00002.parquet", 1)):
        os.utime(folder / name, (written, written))
    found = by_name(newest(tmp_path))["ningbo", DAYS[1]]
    assert (found.files, found.rows) == (2, 8)
    assert found.newest == datetime.fromtimestamp(2_000_000_000, UTC)


def test_a_log_without_markers_says_when_its_newest_file_was_written(tmp_path):
    catalog = small_catalog(log__path="")
    assert newest_unmarked(catalog, str(tmp_path), "_SUCCESS") is None
    write_log(tmp_path, LAYOUT)
    files = sorted(tmp_path.rglob("*.parquet"))
    for number, file in enumerate(files):
        os.utime(file, (1_000 + number,) * 2)
    written = datetime.fromtimestamp(1_000 + len(files) - 1, UTC)
    assert newest_unmarked(catalog, str(tmp_path), "_SUCCESS") == written
    (files[0].parent / "_SUCCESS").touch()
    assert newest_unmarked(catalog, str(tmp_path), "_SUCCESS") is None
    assert newest_unmarked(catalog, str(tmp_path), "_DONE") is not None


def test_content_is_that_of_the_rows_whatever_their_files_are_called(tmp_path, rows):
    before = by_name(newest(tmp_path))["ningbo", DAYS[1]].content
    folder = tmp_path / partition("ningbo", DAYS[1])
    (folder / "part-00002.parquet").rename(folder / "other.parquet")
    assert by_name(newest(tmp_path))["ningbo", DAYS[1]].content == before
    write_file(folder / "other.parquet", rows.select(rows.column_names[:-2]).slice(0, 6))
    assert by_name(newest(tmp_path))["ningbo", DAYS[1]].content != before


@pytest.mark.usefixtures("rows")
def test_a_file_that_cannot_be_read_is_named_with_its_partition(tmp_path):
    folder = tmp_path / partition("ningbo", DAYS[2])
    folder.mkdir(parents=True)
    (folder / "torn.parquet").write_bytes(b"PAR1 and no more")
    found = by_name(newest(tmp_path))["ningbo", DAYS[2]]
    assert (found.files, found.rows) == (1, 0)
    assert len(found.unreadable) == 1


@pytest.mark.parametrize("keys", [["region"], ["scene"], ["region", "scene"]])
def test_rows_are_counted_by_domain_partition_and_day(tmp_path, rows, keys):
    catalog = small_catalog(log__path="", domain={"keys": keys})
    found = newest(tmp_path, catalog).rows
    table = rows.filter(pc.is_valid(rows["scene"])) if "scene" in keys else rows
    expected = Counter()
    for line in table.to_pylist():
        domain = Domain(tuple((key, line[key]) for key in keys))
        expected[domain, (("region", line["region"]),), date.fromisoformat(line["dt"])] += 1
        expected[Domain(), (("region", line["region"]),), date.fromisoformat(line["dt"])] += 1
    counted = {(domain, *key): n for domain, keyed in found.items() for key, n in keyed.items()}
    assert counted == expected


def test_a_log_without_folders_has_one_partition_whose_days_are_those_of_its_rows(tmp_path):
    rows = pa.concat_tables([write_log(tmp_path / "made", LAYOUT)])
    flat = rows.select(rows.column_names[:-2]).append_column("region", rows["region"])
    write_file(tmp_path / "flat" / "all.parquet", flat)
    catalog = small_catalog(
        log__path="flat", log__partition_keys=[], log__date_key=None,
        splits={"tune": {"days": [-1, -1]}},
    )  # fmt: skip
    found = newest(tmp_path, catalog)
    times = rows["event_time"].to_pylist()
    expected = Counter(datetime.fromtimestamp(second, UTC).date() for second in times)
    assert {one.day: one.rows for one in found.partitions} == expected
    assert {one.partition for one in found.partitions} == {()}
    assert sum(found.rows[Domain()].values()) == len(rows)
    assert log_dates(catalog, str(tmp_path), today=None).newest == max(expected)


def test_folders_that_differ_in_their_time_alone_are_one_partition(tmp_path):
    """Else each day of year/month/day would be a partition that has no file on any other day."""
    rows = write_log(tmp_path / "made", LAYOUT)
    inside = rows.select(rows.column_names[:-2])
    keys = ["region", "year", "month", "day", "hour"]
    for region, day in {(region, day) for region, day, _ in LAYOUT}:
        own = inside.filter(pc.and_(pc.equal(rows["region"], region), pc.equal(rows["dt"], day)))
        year, month, number = day.split("-")
        folder = tmp_path / f"log/region={region}/year={year}/month={month}/day={number}"
        for hour in (0, 1):
            write_file(folder / f"hour={hour}/a.parquet", own.slice(hour, 1 if hour == 0 else None))
    by_event = {
        "log__partition_keys": keys, "log__time_keys": keys[1:], "log__date_key": None,
        "splits": {"tune": {"days": [-1, -1]}},
    }  # fmt: skip
    by_folder = {
        "log__partition_keys": ["region", "year/month/day", "hour"], "log__time_keys": ["hour"],
        "log__date_key": "year/month/day",
    }  # fmt: skip
    for layout in (by_event, by_folder):
        found = newest(tmp_path, small_catalog(log__path="log", **layout), first=date(2000, 1, 1))
        assert {one.partition for one in found.partitions} == {
            (("region", "hangzhou"),), (("region", "ningbo"),),
        }  # fmt: skip
        assert sum(found.rows[Domain()].values()) == sum(one.rows for one in found.partitions)
    days = Counter((region, date.fromisoformat(day)) for region, day, _ in LAYOUT)
    assert {(dict(one.partition)["region"], one.day) for one in found.partitions} == set(days)
    (tmp_path / "log/region=ningbo/year=2026/month=10/day=02/_SUCCESS").touch()
    found = newest(tmp_path, small_catalog(log__path="log", **by_folder))
    marked = [
        (dict(one.partition)["region"], one.day.day) for one in found.partitions if one.has_marker
    ]
    assert marked == [("ningbo", 2)]


@pytest.mark.usefixtures("rows")
def test_a_listing_reads_no_row_and_counts_the_same(tmp_path):
    catalog = small_catalog(log__path="", domain={"keys": ["scene"]})
    listed = list_partitions(catalog, str(tmp_path), days=(FIRST, LAST), marker="_SUCCESS")
    read = newest(tmp_path, catalog).partitions
    assert [(p.day, p.partition, p.rows) for p in listed] == [
        (p.day, p.partition, p.rows) for p in read
    ]
