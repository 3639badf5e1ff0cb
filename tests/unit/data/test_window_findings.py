"""What the windows of a log lose, and row ids that repeat."""

from iak.pipeline.data import parquet
from iak.pipeline.data.event_dates import NO_DAYS
from iak.pipeline.data.window_findings import find_in_windows, find_repeated_ids
from tests.builders import (
    DAYS,
    EVERYTHING,
    draw_rows,
    small_catalog,
    snapshot_of,
    write_file,
    write_log,
)

CATALOG = small_catalog()


def findings_of(root):
    snapshot = snapshot_of(root, CATALOG)
    selections = {"all": parquet.select(snapshot, EVERYTHING, CATALOG)}
    return list(find_in_windows(snapshot, selections, CATALOG, NO_DAYS))


def test_a_window_that_loses_a_file_says_how_much(tmp_path):
    write_log(tmp_path, [("ningbo", DAYS[0], [6]), ("ningbo", DAYS[1], [10])])
    assert findings_of(tmp_path) == []
    write_file(
        tmp_path / "region=ningbo" / f"dt={DAYS[0]}" / "late.parquet",
        draw_rows(4).drop_columns(["price"]),
    )
    (finding,) = findings_of(tmp_path)
    assert finding.what == "split 'all' loses 4 of 20 rows (20.0%)"
    assert finding.count == 4


def test_a_delivery_that_came_twice_is_refused(tmp_path):
    write_log(tmp_path, [("ningbo", DAYS[0], [50])])
    everything = parquet.select(snapshot_of(tmp_path, CATALOG), EVERYTHING, CATALOG)
    assert list(find_repeated_ids(everything, CATALOG, all_ids=True)) == []
    write_file(tmp_path / "region=ningbo" / f"dt={DAYS[0]}" / "again.parquet", draw_rows(50))
    twice = parquet.select(snapshot_of(tmp_path, CATALOG), EVERYTHING, CATALOG)
    (finding,) = find_repeated_ids(twice, CATALOG, all_ids=True)
    assert (finding.level, finding.count) == ("refuse", 50)
