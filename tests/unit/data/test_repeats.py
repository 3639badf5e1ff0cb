"""Repeated row ids are counted exactly while they fit, and by a fair sample of ids beyond."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import hashing, parquet, repeats
from iak.pipeline.data.check import check_log
from iak.pipeline.data.repeats import KeyCounter, Repeats
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadLog
from tests.builders import (
    DAYS,
    EVERYTHING,
    draw_rows,
    partition,
    small_catalog,
    snapshot_of,
    write_file,
)


@given(st.lists(st.lists(st.integers(0, 50), max_size=20), max_size=8), st.integers(60, 200))
def test_rows_minus_distinct_ids_are_repeated_however_they_come(parts, kept):
    counter = KeyCounter(kept=2 * kept)
    for part in parts:
        counter.add(hashing.keys_of(pa.array(part, pa.int64())))
    ids = [i for part in parts for i in part]
    result = counter.repeats("id")
    assert (result.rows, result.repeated) == (len(ids), len(ids) - len(set(ids)))
    assert not result.is_estimated


@pytest.mark.parametrize("times", [1, 2, 5])
def test_more_ids_than_are_held_give_an_estimate_of_the_share(times):
    counter = KeyCounter(kept=4_096)
    for start in range(0, 100_000, 5_000):
        keys = hashing.keys_of(pa.array(np.arange(start, start + 5_000)))
        for _ in range(times):
            counter.add(keys)
    result = counter.repeats("id")
    assert result.rows == 100_000 * times
    assert result.is_estimated
    assert result.share == pytest.approx(1 - 1 / times, abs=1e-5)


def test_an_estimate_of_a_rare_repeat_is_near():
    counter = KeyCounter(kept=1 << 14)
    ids = np.arange(200_000)
    counter.add(hashing.keys_of(pa.array(np.append(ids, ids[::20]))))
    assert counter.repeats("id").share == pytest.approx(0.05 / 1.05, rel=0.2)


def write_days(root, *starts, rows=100):
    for day, start in zip(DAYS, starts, strict=False):
        path = root / f"events/region=ningbo/dt={day}/a.parquet"
        write_file(path, draw_rows(rows, first=start))


@pytest.mark.parametrize(
    ("starts", "allowed", "is_refused"),
    [
        pytest.param((0, 100), 0.01, False, id="none"),
        pytest.param((0, 99), 0.01, False, id="one row in two hundred"),
        pytest.param((0, 99), 0.0, True, id="one row where none is allowed"),
        pytest.param((0, 0), 0.01, True, id="a day that came twice"),
        pytest.param((0, 0), 0.5, False, id="a day that came twice, allowed"),
    ],
)
def test_a_log_whose_ids_repeat_too_often_is_refused_by_jobs_and_check(
    tmp_path, starts, allowed, is_refused
):
    write_days(tmp_path, *starts)
    catalog = small_catalog(log__max_repeated_ids=allowed)
    report = check_log(catalog, str(tmp_path), sample_rows=10)
    results = [f for f in report.findings if "repeated id" in f.what]
    assert [f.level for f in results if f.level == "refuse"] == ["refuse"] * is_refused
    if not is_refused:
        view = open_log(catalog, str(tmp_path), wanted=["pretrain"])
        assert [f.what for f in view.findings] == [f.what for f in results]
        return
    with pytest.raises(BadLog, match=r"repeated id in event_id: .*log\.max_repeated_ids"):
        open_log(catalog, str(tmp_path), wanted=["pretrain"])


def test_ids_that_are_all_the_same_are_told_as_such_and_not_as_empty_slices(tmp_path):
    rows = draw_rows(40)
    at = rows.schema.get_field_index("event_id")
    path = tmp_path / "events" / partition("ningbo", DAYS[0]) / "a.parquet"
    write_file(path, rows.set_column(at, "event_id", pa.array(["x"] * 40)))
    halves = {"tune": {"slice": [0.0, 0.5]}, "gate": {"slice": [0.5, 1.0]}}
    with pytest.raises(BadLog, match="repeated id in event_id: 39 of 40 rows"):
        open_log(small_catalog(splits=halves), str(tmp_path), wanted=list(halves))


def test_a_row_that_two_splits_hold_is_no_repeat(tmp_path):
    write_days(tmp_path, 0, 100)
    catalog = small_catalog(splits={"pretrain": {}, "tune": {}})
    assert not open_log(catalog, str(tmp_path), wanted=["pretrain", "tune"]).findings


def test_null_ids_repeat_nothing(tmp_path):
    rows = draw_rows(50).set_column(0, "event_id", pa.nulls(50, pa.int64()))
    write_file(tmp_path / "events/region=ningbo/dt=2026-10-01/a.parquet", rows)
    assert not open_log(small_catalog(), str(tmp_path), wanted=["pretrain"]).findings


def test_the_newest_rows_are_looked_at_until_there_are_enough_and_all_when_asked(tmp_path):
    write_days(tmp_path, 0, 0, 200)
    catalog = small_catalog()
    selection = parquet.select(snapshot_of(tmp_path / "events", catalog), EVERYTHING, catalog)
    some = repeats.count_repeats([selection], catalog, rows=150)
    everything = repeats.count_repeats([selection], catalog, rows=None)
    assert some == Repeats(column="event_id", rows=200, repeated=0)
    assert everything == Repeats(column="event_id", rows=300, repeated=100)
    assert repeats.count_repeats([selection], small_catalog(log__row_id=None)) is None


def test_check_looks_at_all_ids_when_asked(tmp_path, monkeypatch):
    write_days(tmp_path, 0, 0, 200)
    monkeypatch.setattr(repeats, "LOOKED_AT_ROWS", 150)
    catalog = small_catalog()
    levels = {}
    for all_ids in (False, True):
        report = check_log(catalog, str(tmp_path), sample_rows=10, all_ids=all_ids)
        levels[all_ids] = [f.level for f in report.findings if "repeated id" in f.what]
    assert levels == {False: [], True: ["refuse"]}
