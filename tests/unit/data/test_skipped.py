"""What a job cannot read is counted by file, day and row, and too much of it is refused."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data import skipped
from iak.pipeline.data.check import check_log
from iak.pipeline.data.view import LogView, open_log
from iak.pipeline.errors import BadLog
from tests.builders import DAY_S, DAYS, FIRST_S, draw_rows, partition, small_catalog, write_file

CATALOG = small_catalog(splits={"pretrain": {"days": [0, 1]}, "test": {"days": [2, 2]}})
FIRST = date(2026, 10, 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two regions of three days, 100 rows each."""
    for number, (region, day) in enumerate((r, d) for r in ("hangzhou", "ningbo") for d in DAYS):
        path = tmp_path / "events" / partition(region, day) / "part-0.parquet"
        write_file(path, draw_rows(100, first=100 * number))
    return tmp_path


def opened(root: Path) -> LogView:
    return open_log(CATALOG, str(root), wanted=["pretrain", "test"])


def spoil(root: Path, region: str, day: str, how: str) -> None:
    path = root / "events" / partition(region, day) / "part-0.parquet"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        write_file(path, draw_rows(100).drop_columns(["price"]))


def test_a_whole_log_loses_nothing(root):
    view = opened(root)
    assert view.skipped == skipped.Skipped(rows=600)
    skipped.refuse_skipped(view.skipped, max_share=0.0, where="log")


@pytest.mark.parametrize(
    ("how", "reason", "is_estimated"),
    [
        ("schema", "missing columns: price", False),
        ("cut", "no whole Parquet file", True),
    ],
)
def test_files_are_grouped_by_reason_with_their_rows_and_days(root, how, reason, is_estimated):
    for region in ("hangzhou", "ningbo"):
        spoil(root, region, DAYS[0], how)
    view = opened(root)
    (group,) = view.skipped.files
    assert (group.reason, group.files, group.is_estimated) == (reason, 2, is_estimated)
    assert group.rows == pytest.approx(200, rel=0.2 if is_estimated else 0)
    assert group.days == (FIRST,)
    assert group.examples[0] == f"{partition('hangzhou', DAYS[0])}/part-0.parquet"
    (loss,) = view.skipped.windows
    assert (loss.splits, loss.whole_days) == (("pretrain",), (FIRST,))
    assert loss.share == pytest.approx(0.5, rel=0.1)
    assert ("about" in loss.message) == is_estimated


def test_a_file_without_a_byte_counts_as_many_rows_as_a_usual_one(root):
    spoil(root, "ningbo", DAYS[1], "empty")
    (loss,) = opened(root).skipped.windows
    assert (loss.lost, loss.rows) == (100, 400)
    assert "loses about 100 of 400 rows (25.0%)" in loss.amount


def test_a_day_of_which_another_file_is_left_is_no_whole_day(root):
    spoil(root, "ningbo", DAYS[1], "schema")
    (loss,) = opened(root).skipped.windows
    assert (loss.lost, loss.rows, loss.whole_days) == (100, 400, ())
    skipped.refuse_skipped(opened(root).skipped, max_share=0.25, where="log")
    with pytest.raises(BadLog, match=r"split 'pretrain' loses 100 of 400 .*\n.*max_skipped_share"):
        skipped.refuse_skipped(opened(root).skipped, max_share=0.24, where="log")


def test_a_file_without_a_byte_was_to_hold_its_day(root):
    for region in ("hangzhou", "ningbo"):
        spoil(root, region, DAYS[0], "empty")
    (loss,) = opened(root).skipped.windows
    assert loss.whole_days == (FIRST,)
    with pytest.raises(BadLog, match="all of 2026-10-01"):
        skipped.refuse_skipped(opened(root).skipped, max_share=1.0, where="log")


def test_a_file_that_no_window_holds_costs_no_window_anything(root):
    write_file(root / "events" / "stray.parquet", draw_rows(5_000))
    view = opened(root)
    (group,) = view.skipped.files
    assert (group.files, group.days) == (1, ())
    assert not view.skipped.windows


def test_folders_that_name_no_date_are_counted(root):
    write_file(root / "events" / partition("ningbo", "someday") / "a.parquet", draw_rows(7))
    write_file(
        root / "events" / partition("ningbo", "__HIVE_DEFAULT_PARTITION__") / "a.parquet",
        draw_rows(8),
    )
    assert opened(root).dates.unread == {"someday": 7, "null": 8}


def test_a_split_that_loses_all_its_rows_says_why(root):
    for region in ("hangzhou", "ningbo"):
        spoil(root, region, DAYS[2], "schema")
    with pytest.raises(BadLog) as error:
        opened(root)
    assert "the window of split 'test' is 2026-10-03 to 2026-10-03" in str(error.value)
    assert "split 'test' loses 200 of 200 rows (100.0%), and all of 2026-10-03" in str(error.value)
    assert "2 of 6 files lack price (200 rows)" in str(error.value)


def test_check_says_what_a_job_would_refuse(root):
    spoil(root, "ningbo", DAYS[1], "schema")
    report = check_log(CATALOG, str(root), sample_rows=1_000)
    (finding,) = [f for f in report.findings if "loses" in f.what]
    assert finding.count == 100
    assert "max_skipped_share" in finding.remedy


@pytest.mark.parametrize("has_time", [True, False])
def test_days_of_a_log_without_date_folders_come_from_the_lost_files_own_times(tmp_path, has_time):
    for day in range(4):
        rows = draw_rows(50, first=50 * day)
        times = FIRST_S + DAY_S * day + np.arange(50)
        rows = rows.set_column(1, "event_time", pa.array(times))
        if day == 1:
            rows = rows.drop_columns(["price", *([] if has_time else ["event_time"])])
        write_file(tmp_path / "events" / f"{day}.parquet", rows)
    catalog = small_catalog(
        log__date_key=None,
        log__partition_keys=[],
        domain__keys=["scene"],
        features=[{"kind": "numeric", "name": "price"}],
        tables={},
        splits={"pretrain": {"days": [0, 1]}, "test": {"days": [2, 3]}},
    )
    view = open_log(catalog, str(tmp_path), wanted=["pretrain", "test"])
    losses = {loss.splits: (loss.lost, loss.rows, loss.whole_days) for loss in view.skipped.windows}
    if has_time:
        assert losses == {("pretrain",): (50, 100, (date(2026, 10, 2),))}
    else:  # it may belong to either window
        assert losses == {("pretrain",): (50, 100, ()), ("test",): (50, 150, ())}


def test_rows_without_a_time_are_counted_and_too_many_refused(tmp_path):
    times = [FIRST_S + 60 * n if n % 4 else None for n in range(40)]
    rows = draw_rows(40).set_column(1, "event_time", pa.array(times, pa.int64()))
    write_file(tmp_path / "events" / "a.parquet", rows)
    catalog = small_catalog(
        log__date_key=None,
        log__partition_keys=[],
        domain__keys=["scene"],
        features=[{"kind": "numeric", "name": "price"}],
        tables={},
        splits={"pretrain": {"days": [0, 0]}},
    )
    view = open_log(catalog, str(tmp_path), wanted=["pretrain"])
    assert view.selections["pretrain"].rows == 30
    assert (view.skipped.undated, view.skipped.undated_share) == (10, 0.25)
    skipped.refuse_skipped(view.skipped, max_share=0.25, where="log")
    with pytest.raises(BadLog, match=r"10 of 40 rows \(25.0%\) have no event time"):
        skipped.refuse_skipped(view.skipped, max_share=0.24, where="log")
    report = check_log(catalog, str(tmp_path), sample_rows=1_000)
    (finding,) = [f for f in report.findings if "no event time" in f.what]
    assert (finding.column, finding.count) == ("event_time", 10)
