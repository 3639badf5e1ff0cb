"""Ids that training never saw are counted by table, over encoded rows."""

import pyarrow as pa
import pytest

from iak.pipeline.data import features, hashing, unseen
from iak.pipeline.data.unseen import UnseenIds
from tests.builders import batch_of, draw_rows, encoding_of, small_catalog

CATALOG = small_catalog(
    features=[
        {"kind": "categorical", "name": "user_id"},
        {"kind": "categorical", "name": "item", "column": "item_id"},
        {"kind": "list", "name": "hist", "table": "item", "last": 9},
        {"kind": "cross", "name": "user_scene", "columns": ["user_id", "scene"]},
        {"kind": "numeric", "name": "age", "buckets": 3},
    ],
    tables={"item": {"min_count": 1}, "user_scene": {"encoding": "hash", "rows": 12}},
)


def rows(users: list[str | None], items: list[int | None], hist: list[list[int] | None]):
    table = draw_rows(len(users)).append_column("region", pa.array(["a"] * len(users)))
    changed = {"user_id": pa.array(users), "item_id": pa.array(items, pa.int64())}
    changed["hist"] = pa.array(hist, pa.list_(pa.int64()))
    for name, column in changed.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return batch_of(table)


TAUGHT = rows(["u", "u"], [1, 2], [[3], []])
ENCODING = encoding_of(TAUGHT, CATALOG)


def encoded(raw: pa.RecordBatch) -> pa.RecordBatch:
    identity = hashing.keys_of(raw.column("event_id"))
    return features.encode(raw, identity=identity, catalog=CATALOG, encoding=ENCODING)


def test_unseen_ids_are_counted_among_those_that_are_not_null():
    odd = encoded(rows(["u", "x", None], [1, 9, None], [[3, 8, 8], None, []]))
    counted = UnseenIds()
    counted.add(odd, CATALOG)
    assert counted.ids == {"user_id": 2, "item": 5}
    assert counted.unseen == {"user_id": 1, "item": 3}
    assert counted.shares() == {"item": 0.6, "user_id": 0.5}


def test_counts_of_parts_and_of_workers_add_up():
    whole, parts = UnseenIds(), [UnseenIds(), UnseenIds()]
    odd = encoded(rows(["u", "x", "y"], [1, 9, 2], [[3, 8], None, [7]]))
    whole.add(odd, CATALOG)
    parts[0].add(odd.slice(0, 1), CATALOG)
    parts[1].add(pa.Table.from_batches([odd.slice(1)]), CATALOG)
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.counts().items():
            total[name] = total.get(name, 0) + count
    assert UnseenIds.of_counts(total).shares() == whole.shares()
    empty = UnseenIds()
    empty.add(features.no_rows(CATALOG), CATALOG)
    assert empty.shares() == {}


@pytest.mark.parametrize(
    ("shares", "usual", "jumped"),
    [
        ({"a": 0.5}, {"a": 0.1}, {"a": (0.5, 0.1)}),
        ({"a": 0.29}, {"a": 0.1}, {}),
        ({"a": 0.5}, {}, {}),
        ({"a": 0.1}, {"a": 0.9}, {}),
    ],
)
def test_a_share_jumps_where_it_lies_far_above_the_usual_one(shares, usual, jumped):
    assert unseen.jumps(shares, usual) == jumped
    assert ("ids changed" in unseen.describe(shares, usual)) == bool(jumped)


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        ({"a": 0.0004, "b": 0.25, "c": 0.0}, "b 25.0%, hardly any in the other 2"),
        ({"a": 0.0, "b": 0.0004}, "hardly any in any table"),
        ({"a": 0.0005}, "a 0.1%"),
        ({}, "no table with a vocabulary"),
    ],
)
def test_tables_with_hardly_any_unseen_id_are_only_counted(shares, text):
    assert unseen.describe(shares) == text
