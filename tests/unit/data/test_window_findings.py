"""What `iak check` finds on windows: lost rows, repeated ids, domains that nothing tunes."""

from datetime import date

import pytest

from iak.pipeline.data import repeats
from iak.pipeline.data.event_dates import NO_DAYS
from iak.pipeline.data.splits import Split
from iak.pipeline.data.window_findings import find_in_windows, find_repeated_ids
from tests.builders import DAYS, draw_rows, partition, small_catalog, small_reader, write_file

CATALOG = small_catalog()


def split(name, day, part=(0.0, 1.0)):
    at = date.fromisoformat(DAYS[day])
    return Split(name=name, first=at, last=at, where={}, slice=part)


SPLITS = (split("tune", 0), split("gate", 1, (0.0, 0.5)), split("test", 1, (0.5, 1.0)))


def write(root, *, region, day, rows=30, first=0, name="a"):
    path = root / "events" / partition(region, DAYS[day]) / f"{name}.parquet"
    return write_file(path, draw_rows(rows, first=first))


@pytest.fixture
def log(tmp_path):
    """A sound log: one region in both windows, each row once."""
    write(tmp_path, region="a", day=0)
    write(tmp_path, region="a", day=1, first=30)
    return tmp_path


def selections_of(log):
    """The rows of each split; nothing is refused that a job would refuse."""
    return {
        split.name: small_reader(log / "events", CATALOG, encoding=None, split=split).selection
        for split in SPLITS
    }


def windows(log):
    selections = selections_of(log)
    return list(find_in_windows(selections["tune"].snapshot, selections, CATALOG, NO_DAYS))


def repeated(log, *, all_ids=True):
    return [
        finding
        for selection in selections_of(log).values()
        for finding in find_repeated_ids(selection, CATALOG, all_ids=all_ids)
    ]


def test_a_sound_log_has_nothing_to_find(log):
    assert windows(log) == []
    assert repeated(log) == []


def test_a_domain_without_a_row_to_tune_on_is_found_in_each_split_that_judges_it(log):
    write(log, region="new", day=1, rows=20, first=60)
    found = windows(log)
    assert [finding.column for finding in found] == ["region", "region"]
    assert sum(finding.count for finding in found) == 20
    for split, finding in zip(("gate", "test"), found, strict=True):
        assert f"rows in {split} and none in tune: region=new" in finding.what


def test_a_domain_of_tune_alone_is_no_finding(log):
    write(log, region="old", day=0, rows=20, first=60)
    assert windows(log) == []


def test_a_window_that_loses_a_file_says_how_much(log):
    """A file without a column that the catalogue reads."""
    path = log / "events" / partition("a", DAYS[0]) / "late.parquet"
    write_file(path, draw_rows(10, first=60).drop_columns(["price"]))
    (finding,) = windows(log)
    assert finding.what == "split 'tune' loses 10 of 40 rows (25.0%)"
    assert finding.count == 10


def test_rows_of_files_that_cannot_be_read_are_found_by_their_window(log):
    write(log, region="a", day=0, name="b", first=90).write_bytes(b"no parquet")
    (finding,) = windows(log)
    assert finding.count == 1
    assert "allow_skipped=true" in finding.remedy
    assert "tune" in finding.what


def test_an_id_that_stands_twice_in_a_split_is_found(log):
    write(log, region="a", day=0, name="b", rows=10, first=20)
    (finding,) = repeated(log)
    assert (finding.column, finding.count, finding.level) == ("event_id", 10, "refuse")


def test_without_all_ids_the_newest_rows_are_looked_at(log, monkeypatch):
    monkeypatch.setattr(repeats, "LOOKED_AT_ROWS", 5)
    write(log, region="a", day=0, name="b", rows=10, first=20)
    assert repeated(log, all_ids=False) == []
    assert repeated(log, all_ids=True) != []
