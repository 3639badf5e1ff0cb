"""Features that read one column in several ways: each gets what it would get alone."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import contract, features
from tests.builders import SCHEMA, batch_of, draw_rows, encoding_of, small_catalog

READERS = {
    "slot": [
        {"kind": "numeric"},
        {"kind": "numeric", "log": True},
        {"kind": "numeric", "standardise": False},
        {"kind": "numeric", "buckets": 3},
        {"kind": "numeric", "boundaries": [1.5, 3.5]},
        {"kind": "categorical"},
        {"kind": "categorical", "table": "few"},
        {"kind": "categorical", "table": "many"},
        {"kind": "categorical", "table": "exact"},
        {"kind": "cross", "columns": ["slot", "scene"]},
    ],
    "scene": [
        {"kind": "categorical"},
        {"kind": "categorical", "table": "few"},
        {"kind": "categorical", "table": "many"},
        {"kind": "cross", "columns": ["scene", "user_id"], "table": "few"},
    ],
    "hist": [
        {"kind": "list", "last": 1},
        {"kind": "list", "last": 5, "table": "few"},
        {"kind": "list", "last": 5, "padding": 3},
    ],
}
ALL = [(column, how) for column, hows in READERS.items() for how in hows]
TABLES = {
    "few": {"encoding": "hash", "rows": 5},
    "many": {"encoding": "hash", "rows": 999},
    "exact": {"encoding": "identity", "rows": 9},
}


def catalog_of(readers):
    """A catalogue with these features alone, named by their place in `ALL`."""
    features = []
    for position in readers:
        column, how = ALL[position]
        named = {"name": f"r{position}", **how}
        features.append(named if "columns" in how else {**named, "column": column})
    used = {how.get("table") for _, how in (ALL[position] for position in readers)}
    tables = {name: table for name, table in TABLES.items() if name in used}
    return small_catalog(features=features, tables=tables)


def encoded(rows, catalog):
    """The encoded features of these rows."""
    batch = batch_of(rows.append_column("region", pa.array(["ningbo"] * len(rows))))
    plain = contract.rows_as_declared(batch, batch.schema.names, catalog)
    out = features.encode(
        plain,
        identity=np.arange(len(rows), dtype=np.uint64),
        catalog=catalog,
        encoding=encoding_of(plain, catalog),
    )
    return {n: out.column(n).to_pylist() for n in out.schema.names if n[:2] in ("f.", "n.")}


@given(
    readers=st.lists(st.sampled_from(range(len(ALL))), min_size=2, unique=True),
    seed=st.integers(0, 9),
)
def test_each_reader_of_a_column_gets_what_it_gets_alone(readers, seed):
    rows = draw_rows(60, seed=seed)
    together = encoded(rows, catalog_of(readers))
    alone = {}
    for position in readers:
        alone |= encoded(rows, catalog_of([position]))
    assert together == alone


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.uint64(), pa.decimal128(12, 0), pa.dictionary(pa.int8(), pa.int64())],
)
def test_a_number_that_is_an_id_too_is_read_as_both_in_any_spelling(kind):
    plain = draw_rows(60)
    is_coded = pa.types.is_dictionary(kind)
    slot = pc.max_element_wise(plain["slot"].combine_chunks(), pa.scalar(0, pa.int32()))
    spelt = slot.cast(pa.int64()).dictionary_encode() if is_coded else slot.cast(kind)
    positions = [p for p, (column, _) in enumerate(ALL) if column == "slot"]
    at = SCHEMA.get_field_index("slot")
    one = encoded(plain.set_column(at, "slot", slot), catalog_of(positions))
    other = encoded(plain.set_column(at, "slot", spelt), catalog_of(positions))
    assert one == other
