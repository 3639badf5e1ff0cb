"""What is wrong with the splits of a log: no rows, labels that cannot be trained on."""

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data import vocabulary_size
from iak.pipeline.data.event_dates import NO_DAYS, read_dates
from iak.pipeline.data.split_findings import SplitSample, select_splits
from tests.builders import DAYS, draw_rows, partition, small_catalog, snapshot_of, write_file

CATALOG = small_catalog(
    splits={
        "pretrain": {"days": [0, 0]},
        "tune": {"days": [1, 1], "where": {"scene": ["nowhere"]}},
        "test": {"days": [2, 2]},
    }
)


@pytest.fixture
def root(tmp_path):
    for number, day in enumerate(DAYS):
        rows = draw_rows(60, first=100 * number)
        clicks = pa.array(np.zeros(60), pa.int8())
        rows = rows.set_column(rows.schema.get_field_index("click"), "click", clicks)
        rows = rows.set_column(rows.schema.get_field_index("order"), "order", clicks)
        write_file(tmp_path / partition("ningbo", day) / "a.parquet", rows)
    return tmp_path


def test_a_split_without_rows_is_named_with_what_it_asks_for(root):
    dates, _ = read_dates(str(root), CATALOG)
    chosen, findings = select_splits(snapshot_of(root, CATALOG), CATALOG, dates, NO_DAYS)
    assert {name: selection.rows for name, selection in chosen.items()} == {
        "pretrain": 60,
        "test": 60,
    }
    (finding,) = [f for f in findings if f.what.startswith("split 'tune'")]
    assert finding.level == "warn"
    assert "They ask for scene = 'nowhere', and values of scene are" in finding.what


def test_a_task_without_a_positive_cannot_be_trained(root):
    dates, _ = read_dates(str(root), CATALOG)
    chosen, _ = select_splits(snapshot_of(root, CATALOG), CATALOG, dates, NO_DAYS)
    sample = SplitSample(CATALOG, chosen, 1_000, None)
    findings = [f for f in sample.findings() if "cannot be trained" in f.what]
    assert {f.level for f in findings} == {"refuse"}, "all rows of the split were read"
    assert any(
        f.what == "task ctr cannot be trained on split 'pretrain': "
        "none of its 60 labelled rows is positive"
        for f in findings
    )


def test_a_vocabulary_without_a_bound_that_is_large_is_named_with_what_hashing_costs(
    root, monkeypatch
):
    monkeypatch.setattr(vocabulary_size, "LARGE", 3)
    tables = {"user_id": {"min_count": 1}, "user_scene": {"rows": 100}, "item": {"min_count": 1}}
    catalog = small_catalog(splits={"pretrain": {"days": [0, 0]}}, tables=tables)
    dates, _ = read_dates(str(root), catalog)
    chosen, _ = select_splits(snapshot_of(root, catalog), catalog, dates, NO_DAYS)
    sample = SplitSample(catalog, chosen, 1_000, None)
    large = {f.column: f for f in sample.findings() if f.what.startswith("large vocabulary")}
    users = len({*draw_rows(60).column("user_id").to_pylist()} - {None})
    assert large["user_id"].count == users
    assert f"{users:,} ids would get a row each" in large["user_id"].what
    assert "hash" in large["user_id"].remedy
    assert "user_scene" not in large, "its rows are bounded"


@pytest.mark.parametrize(("wanted", "found"), [(1_000, 2), (30, 0)])
def test_a_task_that_validation_rows_cannot_judge_is_named_where_all_were_read(root, wanted, found):
    catalog = small_catalog(
        splits={"pretrain": {"days": [0, 0]}, "valid": {"days": [1, 2]}, "tune": {"days": [0, 0]}}
    )
    dates, _ = read_dates(str(root), catalog)
    chosen, _ = select_splits(snapshot_of(root, catalog), catalog, dates, NO_DAYS)
    sample = SplitSample(catalog, chosen, wanted, None)
    findings = [f for f in sample.findings() if "cannot be validated on split 'valid'" in f.what]
    assert len(findings) == found
    assert all(f.level == "warn" and "no" in f.what for f in findings)
