"""The rows that are counted: all earlier days, or the training rows of a log without days."""

from datetime import date, timedelta

import pytest

from iak.pipeline.data.content import KeptContents
from iak.pipeline.data.view import open_log
from iak.pipeline.fresh.past import past_of
from tests.builders import write_file, write_log
from tests.unit.fresh.small import FRESH, dated_catalog, undated_catalog

FIRST = date(2026, 10, 1)
LAYOUT = [("hangzhou", str(FIRST + timedelta(days=day)), [6]) for day in range(8)]
SPLITS = {
    "pretrain": {"days": [0, 2]},
    "tune": {"days": [4, 5], "slice": [0.0, 0.7]},
    "valid": {"days": [4, 5], "slice": [0.7, 1.0]},
    "test": {"days": [7, 7]},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("log")
    write_log(root / "events", LAYOUT)
    return root


def past(root, catalog, wanted=("tune", "valid"), **options):
    view = open_log(catalog, str(root), wanted=wanted, **options)
    return past_of(view, KeptContents(None))


def days_of(past):
    (selection,) = past.selections
    files = (selection.snapshot.files[index] for index, _, _ in selection.groups)
    return sorted({dict(file.partition)["dt"] for file in files})


def test_every_day_until_the_nights_last_one_is_counted_and_none_after(root):
    found = past(root, dated_catalog(splits=SPLITS))
    assert days_of(found) == [day for _, day, _ in LAYOUT[:6]]
    assert date(1970, 1, 1) + timedelta(days=found.last) == date(2026, 10, 6)
    assert sum(selection.rows for selection in found.selections) == 36  # of all slices


def test_no_day_is_counted_whose_labels_were_not_collected(root):
    found = past(root, dated_catalog(splits=SPLITS), as_of=date(2026, 10, 4))
    assert days_of(found)[-1] == "2026-10-04"


def test_windows_bound_the_days_that_are_read(root):
    fresh = [{"keys": ["item_id"], "windows": ["P1D", "P2D"]}]
    assert days_of(past(root, dated_catalog(splits=SPLITS, fresh=fresh)))[0] == "2026-10-03"
    ripens = [
        {"label": "click", "kind": "click", "matures_after": "P1D"},
        {"label": "order", "kind": "conversion"},
    ]
    slow = dated_catalog(splits=SPLITS, fresh=fresh, tasks=ripens)
    assert days_of(past(root, slow))[0] == "2026-10-02"


def test_a_log_without_days_counts_its_training_rows_alone(tmp_path):
    for part in ("train", "valid", "test"):
        rows = write_log(tmp_path / part, [("hangzhou", "2026-10-01", [5])])
        rows = rows.drop_columns(["region", "dt"]).append_column("part", [[part] * 5])
        write_file(tmp_path / "events" / "region=hangzhou" / f"{part}.parquet", rows)
    splits = {
        "pretrain": {"where": {"part": ["train"]}},
        "tune": {"where": {"part": ["valid"]}, "slice": [0.0, 0.5]},
        "valid": {"where": {"part": ["valid"]}, "slice": [0.5, 1.0]},
        "test": {"where": {"part": ["test"]}},
    }
    catalog = undated_catalog(log__partition_keys=["region"], splits=splits)
    found = past(tmp_path, catalog)
    assert {selection.split.name for selection in found.selections} == {"pretrain", "tune"}
    assert found.selections[0].rows + found.selections[1].rows < 10  # not those that judge
    assert found.last is None
    assert found.fingerprint == past(tmp_path, catalog).fingerprint


def test_a_catalogue_without_statistics_counts_nothing(root):
    assert past(root, dated_catalog(splits=SPLITS, fresh=())) is None
    assert past(root, dated_catalog(splits=SPLITS, fresh=FRESH)) is not None
