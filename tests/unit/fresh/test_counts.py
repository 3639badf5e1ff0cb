"""What is counted of a file: each rate of each key, and an item's most frequent neighbours."""

import numpy as np

from iak.pipeline.data import parquet, table_sum
from iak.pipeline.data.table_sum import Entries, merge
from iak.pipeline.fresh import counts
from iak.pipeline.fresh.counts import (
    count_rows,
    key_bounds,
    most_frequent_pairs,
    pair_keys,
    rates,
    table_widths,
)
from tests.builders import EVERYTHING, snapshot_of, write_log
from tests.unit.fresh.small import dated_catalog, drawn, raw_of, with_labels

CATALOG = dated_catalog()


def test_a_conversion_counts_over_clicked_rows_and_over_all_rows():
    nan = np.nan
    labels = {"ctr": np.array([1, 0, 1, nan]), "cvr": np.array([1, 0, nan, 1])}
    found = rates(labels, CATALOG.tasks)
    assert list(found) == ["ctr", "cvr", "ctcvr"]
    np.testing.assert_array_equal(found["cvr"], [1, nan, nan, nan])
    np.testing.assert_array_equal(found["ctcvr"], [1, 0, nan, nan])


def test_every_row_with_a_label_is_counted_once_and_a_broken_one_in_no_rate():
    rows = drawn(50)
    click = np.arange(50) % 2
    click[0] = 5  # no label
    tables = count_rows(raw_of(with_labels(rows, click)), CATALOG)
    assert set(tables) == set(table_widths(CATALOG))
    all_rows = tables["s.key."].counts_nC.sum(axis=0)
    assert all_rows[:2].tolist() == [49, 25]  # known clicks, and clicks
    for name, entries in tables.items():
        if name.startswith("s.key."):
            assert entries.counts_nC.sum(axis=0).tolist() == all_rows.tolist()


def test_a_pair_lies_beside_the_other_pairs_of_its_item():
    items, others = np.arange(9, dtype=np.uint64) << np.uint64(40), np.arange(9, dtype=np.uint64)
    keys = pair_keys(items, others)
    assert len(np.unique(keys)) == 9
    assert np.array_equal(keys >> np.uint64(32), items >> np.uint64(32))


def test_an_item_keeps_its_most_frequent_neighbours_of_each_day():
    owner = np.uint64(7) << np.uint64(32)
    keys = owner | np.array([1, 2, 3, 1, 2], np.uint64)
    periods = np.array([0, 0, 0, 1, 1], np.int32)
    pairs = merge([Entries(keys, periods, np.array([[4], [9], [5], [1], [1]]))])
    kept = most_frequent_pairs(pairs, 2)
    seen = zip(kept.keys_n & np.uint64(7), kept.periods_n, kept.counts_nC[:, 0], strict=True)
    assert sorted((int(k), int(p), int(c)) for k, p, c in seen) == [
        (1, 1, 1), (2, 0, 9), (2, 1, 1), (3, 0, 5),
    ]  # fmt: skip


def test_a_file_is_counted_the_same_however_few_entries_wait_to_be_merged(tmp_path, monkeypatch):
    write_log(tmp_path, [("hangzhou", "2026-10-01", [20] * 8)])
    selection = parquet.select(snapshot_of(tmp_path, CATALOG), EVERYTHING, CATALOG)
    whole = counts.count_file(selection, 0, CATALOG)
    monkeypatch.setattr(table_sum, "MAX_WAITING_ENTRIES", 3)
    parts = counts.count_file(selection, 0, CATALOG)
    for name, entries in whole.items():
        assert np.array_equal(entries.keys_n, parts[name].keys_n)
        assert np.array_equal(entries.counts_nC, parts[name].counts_nC)


def test_a_table_that_two_specifications_read_has_the_larger_bound():
    fresh = ({"keys": ["item_id"], "most_keys": 5}, {"keys": ["item_id", "scene"], "most_keys": 3})
    assert key_bounds(dated_catalog(fresh=fresh)) == {
        "s.key.": 5, "s.key.item_id": 5, "s.key.item_id+region": 5, "s.key.item_id+scene": 3,
        "s.key.item_id+scene+region": 3,
    }  # fmt: skip
