"""Encoded rows and their tensors say the same."""

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import features
from iak.pipeline.data.batch import to_batch
from tests.builders import small_catalog

CATALOG = small_catalog(
    features=[
        {"kind": "categorical", "name": "one"},
        {"kind": "list", "name": "many"},
        {"kind": "numeric", "name": "price"},
    ],
    tables={},
)
LABEL = st.sampled_from([None, 0.0, 1.0])
ROW = st.tuples(
    st.integers(0, 99),
    st.lists(st.integers(0, 99), max_size=4),
    st.floats(-5, 5, width=32),
    LABEL,
    LABEL,
)


def encoded(rows: list[tuple]) -> pa.Table:
    schema = features.no_rows(CATALOG).schema
    columns = {"f.one": 0, "f.many": 1, "n.price": 2, "y.ctr": 3, "y.cvr": 4}
    made = [
        pa.array(
            [row[columns[field.name]] for row in rows]
            if field.name in columns
            else [None] * len(rows),
            field.type,
        )
        for field in schema
    ]
    return pa.table(made, schema=schema)


@given(rows=st.lists(ROW, max_size=12), data=st.data())
def test_ragged_ids_survive_the_way_through_a_keyed_jagged_tensor(rows, data):
    first = data.draw(st.integers(0, len(rows)))
    count = data.draw(st.integers(0, len(rows) - first))
    cut = data.draw(st.integers(0, count))
    table = encoded(rows).slice(first, count)
    rows = rows[first : first + count]
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    forms = [table, chunked]
    if len(table):
        forms.append(table.combine_chunks().to_batches()[0])
    for form in forms:
        batch = to_batch(form, CATALOG)
        assert batch.rows == count
        back = {key: [v.tolist() for v in batch.ids[key].to_dense()] for key in batch.ids.keys()}  # noqa: SIM118 - a KJT is no dict
        assert back == {"one": [[row[0]] for row in rows], "many": [list(row[1]) for row in rows]}
        assert batch.numeric_BN.tolist() == [[row[2]] for row in rows]
        assert batch.mask_BT.tolist() == [[v is not None for v in row[3:]] for row in rows]
        assert batch.labels_BT.tolist() == [[v or 0.0 for v in row[3:]] for row in rows]


def test_a_batch_of_no_rows_has_all_keys_and_the_right_widths():
    batch = to_batch(features.no_rows(CATALOG), CATALOG)
    assert batch.ids.keys() == ["one", "many"]
    assert batch.ids.lengths().numel() == 0
    assert batch.numeric_BN.shape == (0, 1)
    assert batch.labels_BT.shape == batch.mask_BT.shape == (0, 2)
    assert batch.mask_BT.dtype == torch.bool
    assert batch.labels_BT.dtype == batch.numeric_BN.dtype == torch.float32


def test_a_log_without_dense_numbers_gives_a_matrix_without_columns():
    catalog = small_catalog(features=[{"kind": "categorical", "name": "one"}], tables={})
    batch = to_batch(encoded([(1, [], 0.0, 1.0, None)]), catalog)
    assert batch.numeric_BN.shape == (1, 0)


def test_writing_to_labels_does_not_touch_the_rows():
    table = encoded([(1, [2], 0.0, 1.0, 0.0)])
    batch = to_batch(table, CATALOG)
    batch.labels_BT.zero_()
    batch.mask_BT.zero_()
    assert table.column("y.ctr").to_pylist() == [1.0]


@pytest.mark.parametrize("device", ["cpu"])
def test_a_batch_is_already_on_its_device(device):
    batch = to_batch(encoded([(1, [2], 0.0, 1.0, 0.0)]), CATALOG)
    assert batch.to(torch.device(device)) is batch
