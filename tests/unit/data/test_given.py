"""Columns of a given base: encoded as they are, whatever their type, or their rows quarantined."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given as holds_for
from hypothesis import strategies as st

from iak.pipeline.data import contract, given, vocabulary
from iak.pipeline.data.batch import to_batch
from iak.pipeline.data.breaches import named
from iak.pipeline.data.feature_keys import feature_keys
from iak.pipeline.data.features import encode_parts, no_rows
from tests.builders import batch_of, encoding_of
from tests.given_log import UNITS, given_catalog, given_rows

CATALOG = given_catalog()
PLAIN = given_catalog(features=[])


def raw(count=6, **columns):
    """Rows in plain types, with some columns changed."""
    table = given_rows(count, "a").append_column("region", pa.array(["a"] * count))
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return contract.rows_as_declared(batch_of(table), CATALOG.columns[:], CATALOG)


def encoded(rows, catalog=CATALOG):
    identity = np.arange(len(rows), dtype=np.uint64)
    inspection = contract.inspect(rows, catalog)
    (batch,) = encode_parts(
        rows, (len(rows),), identity=identity, catalog=catalog,
        encoding=encoding_of(rows, catalog), unlabelled=inspection.quarantined,
    )  # fmt: skip
    return batch


def bf16_bits(h):
    return pa.array(torch.from_numpy(h).bfloat16().view(torch.uint16).numpy().tolist())


def test_the_logits_of_a_batch_are_those_of_the_log_bit_for_bit():
    rows = raw()
    batch = to_batch(encoded(rows), CATALOG)
    given_logits = np.stack([rows.column(f"logit_{t}").to_numpy() for t in ("ctr", "cvr")], axis=1)
    assert torch.equal(batch.numeric_BN[:, -2:], torch.from_numpy(given_logits).float())
    h = np.array(rows.column("h").to_pylist(), np.float32)
    assert torch.equal(batch.numeric_BN[:, 1:-2], torch.from_numpy(h))
    assert batch.ids.keys() == []


@pytest.mark.parametrize("kind", ["list", "fixed", "large", "half", "double", "bf16"])
def test_activations_of_any_type_are_read(kind):
    h = np.array([[1, -2, 0.5], [0, 3, -0.25]], np.float32)  # exact in every type
    flat = pa.array(h.reshape(-1))
    column = {
        "list": pa.array(h.tolist(), pa.list_(pa.float32())),
        "fixed": pa.FixedSizeListArray.from_arrays(flat, UNITS),
        "large": pa.array(h.tolist(), pa.large_list(pa.float32())),
        "half": pa.array(h.astype(np.float16).tolist(), pa.list_(pa.float16())),
        "double": pa.array(h.tolist(), pa.list_(pa.float64())),
        "bf16": bf16_bits(h).cast(pa.list_(pa.uint16())),
    }[kind]
    read = encoded(raw(2, h=column)).column(given.H)
    assert read.to_pylist() == h.tolist()


@pytest.mark.parametrize(
    ("columns", "bad", "what"),
    [
        ({"logit_ctr": [1.0, None, 2.0]}, [1], "no finite logit in logit_ctr"),
        ({"logit_ctr": [np.nan, 1.0, np.inf]}, [0, 2], "no finite logit in logit_ctr"),
        ({"logit_cvr": [0.0, 1e300, 1.0]}, [1], "no finite logit in logit_cvr"),
        ({"h": [[1.0] * 3, [1.0] * 2, None]}, [1, 2], "no list of 3 finite numbers in h"),
        ({"h": [[1.0, np.nan, 1.0], [0.0] * 3, [1.0, None, 1.0]]}, [0, 2], "no list of 3 finite"),
    ],
)  # fmt: skip
def test_a_row_without_a_usable_answer_loses_its_labels_and_stays_finite(columns, bad, what):
    rows = raw(3, **{name: pa.array(values) for name, values in columns.items()})
    counts = named(contract.inspect(rows, CATALOG).counts)
    assert [c for name, c in counts.items() if name.startswith(f"quarantine: {what}")] == [len(bad)]
    batch = to_batch(encoded(rows), CATALOG)
    assert batch.numeric_BN.isfinite().all()
    assert (~batch.mask_BT).any(1).nonzero().flatten().tolist() == bad


def test_a_null_list_that_hides_values_reads_none_of_them():
    values = pa.array([1.0, 2, 3, 9, 9, 9, 4, 5, 6], pa.float32())
    mask = pa.array([False, True, False])
    hidden = pa.ListArray.from_arrays(pa.array([0, 3, 6, 9], pa.int32()), values, mask=mask)
    h_nU, is_usable_n = given.activations(hidden, UNITS)
    assert is_usable_n.tolist() == [True, False, True]
    assert h_nU[is_usable_n].tolist() == [[1, 2, 3], [4, 5, 6]]


@holds_for(start=st.integers(0, 5), stop=st.integers(0, 6))
def test_a_part_of_encoded_rows_is_that_part_of_the_batch(start, stop):
    whole, length = encoded(raw()), max(stop - start, 0)
    part = to_batch(whole.slice(start, length), CATALOG).numeric_BN
    assert torch.equal(part, to_batch(whole, CATALOG).numeric_BN[start : start + length])


def test_no_rows_have_the_types_of_encoded_rows():
    some = encoded(raw()).schema
    for field in no_rows(CATALOG).schema:
        assert some.field(field.name).type == field.type, field.name
    assert to_batch(no_rows(CATALOG), CATALOG).numeric_BN.shape == (0, 1 + UNITS + 2)


@pytest.mark.parametrize("column", ["logit_ctr", "logit_cvr", "h"])
def test_keys_of_the_cache_tell_rows_with_another_answer_apart(column):
    rows, other = raw(1), raw(2).slice(1, 1)
    changed = rows.set_column(
        rows.schema.get_field_index(column), column, other.column(column)
    )  # fmt: skip
    one, two = (feature_keys(encoded(r, PLAIN)) for r in (rows, changed))
    assert (one != two).any()


def test_another_version_of_the_model_is_another_schema():
    encoding = encoding_of(raw(), CATALOG)
    base = CATALOG.base.model_copy(update={"version": "2"})
    renamed = CATALOG.model_copy(update={"base": base})
    assert vocabulary.schema_hash(CATALOG, encoding) != vocabulary.schema_hash(renamed, encoding)


@pytest.mark.parametrize(
    ("column", "changed", "says"),
    [
        ("h", pa.list_(pa.float32(), UNITS + 1), "lists of 4 numbers, base.units says 3"),
        ("h", pa.float32(), "h: float, expected list of number"),
        ("logit_ctr", pa.string(), "logit_ctr: string, expected number"),
    ],
)
def test_a_file_whose_columns_have_another_type_is_refused(column, changed, says):
    schema = given_rows(1, "a").schema
    index = schema.get_field_index(column)
    assert contract.schema_problem(schema, CATALOG) is None
    problem = contract.schema_problem(schema.set(index, pa.field(column, changed)), CATALOG)
    assert problem is not None
    assert says in problem.what
