"""One meaning, many Arrow types: what is encoded does not depend on how a column is spelled."""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.data import contract, features, normal
from iak.pipeline.data.normal import plain
from tests.builders import batch_of, draw_rows, encoding_of, raw_rows, small_catalog, write_file

D = Decimal
IDS, LISTS, WHOLE = "id", "list of ids", "whole number"


def decimals(values: list[int | None], kind: pa.DataType) -> pa.Array:
    return pa.array([None if v is None else D(v) for v in values], kind)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        pytest.param(pa.array(["a", None], pa.string_view()), IDS, ["a", None], id="string_view"),
        pytest.param(pa.array([b"a", None], pa.binary()), IDS, ["a", None], id="binary"),
        pytest.param(pa.array([b"a", None], pa.binary_view()), IDS, ["a", None], id="binary_view"),
        pytest.param(pa.array([b"ab", None], pa.binary(2)), IDS, ["ab", None], id="fixed binary"),
        pytest.param(pa.array([1, None], pa.date32()), IDS, ["1970-01-02", None], id="date"),
        pytest.param(decimals([5, None, -7], pa.decimal32(5, 0)), IDS, [5, None, -7], id="small"),
        pytest.param(decimals([5, None], pa.decimal64(15, 0)), WHOLE, [5, None], id="decimal64"),
        pytest.param(decimals([5, -7], pa.decimal128(38, 0)), IDS, [5, -7], id="NUMBER(38, 0)"),
        pytest.param(decimals([2**63], pa.decimal128(20, 0)), IDS, [-(2**63)], id="as uint64"),
        pytest.param(decimals([5, None], pa.decimal256(60, 0)), IDS, [5, None], id="decimal256"),
        pytest.param(
            decimals([10**30, None], pa.decimal128(38, 0)), "number", [1e30, None], id="a number"
        ),
        pytest.param(
            pa.array([D("5.5"), None], pa.decimal32(5, 1)), "number", [5.5, None], id="fraction"
        ),
        pytest.param(
            pa.array([[1], None, [2, 3], []], pa.list_view(pa.int64())),
            LISTS,
            [[1], None, [2, 3], []],
            id="list_view",
        ),
        pytest.param(
            pa.array([[9], [1], None, [2, 3]], pa.large_list_view(pa.int64())).slice(1),
            LISTS,
            [[1], None, [2, 3]],
            id="a slice of a large_list_view",
        ),
        pytest.param(
            pa.array([[9, 9], [1, 2], None], pa.list_(pa.int64(), 2)).slice(1),
            LISTS,
            [[1, 2], None],
            id="a slice of a fixed-size list",
        ),
        pytest.param(
            pa.array([[D(3), None], None], pa.list_(pa.decimal128(20, 0))),
            "list of whole numbers",
            [[3, None], None],
            id="a list of decimals",
        ),
        pytest.param(pa.nulls(2), IDS, [None, None], id="nothing at all"),
        pytest.param(pa.nulls(2), LISTS, [None, None], id="no list at all"),
        pytest.param(
            pa.array([1.0, float("nan"), None]), "label", [1.0, None, None], id="a NaN label"
        ),
        pytest.param(
            pa.array([1.0, float("nan")], pa.float16()), "label", [1.0, None], id="a float16 label"
        ),
        pytest.param(
            pa.array([86_400, None], pa.duration("s")),
            "time",
            [datetime(1970, 1, 2), None],
            id="a duration since the log's start",
        ),
    ],
)
def test_a_spelling_becomes_plain_and_stays_so(values, kind, expected):
    made = plain(values, kind)
    made.validate(full=True)
    assert made.to_pylist() == expected
    assert plain(made, kind).equals(made)
    assert normal.plain_type(values.type, kind) == made.type


def test_a_uuid_is_the_text_that_people_write():
    one = uuid.UUID("12345678-1234-5678-1234-567812345678")
    assert plain(pa.array([one.bytes, None], pa.uuid()), IDS).to_pylist() == [str(one), None]


def test_decimals_wider_than_64_bits_stay_apart():
    wide = [10**30 + step for step in range(1000)] + [10**37]
    made = plain(decimals(wide, pa.decimal128(38, 0)), IDS)
    assert len(made.unique()) == len(wide)


@given(
    values=st.lists(st.none() | st.integers(-(2**24) + 1, 2**24 - 1), max_size=9),
    kind=st.sampled_from([pa.float32(), pa.float64()]),
    of=st.sampled_from(["id", "whole number"]),
)
def test_ids_that_a_null_turned_into_floats_are_the_ids(values, kind, of):
    ids = pa.array(values, pa.int64())
    assert plain(ids.cast(kind), of).equals(ids)
    with_nan = pa.array([float("nan") if v is None else v for v in values], kind)
    assert plain(with_nan, of).equals(ids)
    assert plain(ids.cast(kind).dictionary_encode(), of).equals(ids)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(0.5, pa.float64()), (2.0**53, pa.float64()), (2.0**24, pa.float32()), (1e300, pa.float64())],
)
def test_a_float_that_may_be_another_id_is_refused_by_its_value(value, kind):
    with pytest.raises(pa.ArrowInvalid, match=r"is no whole number that a float holds exactly"):
        plain(pa.array([1.0, None, value], kind), "id")


def test_text_that_is_no_utf8_is_refused_and_not_read_as_something_else():
    with pytest.raises(pa.ArrowInvalid, match="UTF8"):
        plain(pa.array([b"\xff"], pa.binary()), IDS)


def test_a_column_that_cannot_be_read_is_named_with_what_to_write():
    rows = pa.record_batch(
        {"a": pa.array([b"b"]), "event_id": pa.array([b"\xff" * 16], pa.binary(16))}
    )
    with pytest.raises(pa.ArrowInvalid, match=r"^event_id \(fixed_size_binary\[16\]\): .*hexadec"):
        normal.plain_rows(rows, ["a", "event_id"], {"a": "id", "event_id": "id"})


@pytest.mark.parametrize(
    ("actual", "kind"),
    [
        (pa.duration("s"), "id"),
        (pa.string(), "number"),
        (pa.string(), "label"),
        (pa.binary(), "number"),
        (pa.struct({"a": pa.int64()}), "id"),
        (pa.list_(pa.list_(pa.int64())), "list of ids"),
        (pa.list_(pa.decimal128(10, 2)), "list of ids"),
        (pa.map_(pa.string(), pa.int64()), "list of ids"),
        (pa.int64(), "list of ids"),
        (pa.decimal128(10, 2), "id"),
        (pa.time32("s"), "number"),
        (pa.string(), "whole number"),
    ],
)
def test_what_has_no_plain_form_is_no_such_column(actual, kind):
    column = {"id": "item_id", "number": "price", "label": "click"}
    column |= {"list of ids": "hist", "whole number": "slot"}
    schema = draw_rows(1).schema
    changed = schema.set(schema.get_field_index(column[kind]), pa.field(column[kind], actual))
    problem = contract.schema_problem(changed, small_catalog())
    assert problem is not None
    assert problem.what.startswith(f"{column[kind]}: {actual}, expected ")


CATALOG = small_catalog(
    features=[
        {"kind": "categorical", "name": "user_id"},
        {"kind": "categorical", "name": "item", "column": "item_id"},
        {"kind": "categorical", "name": "slot"},
        {"kind": "list", "name": "hist", "table": "item", "last": 3},
        {"kind": "list", "name": "words", "last": 3, "padding": "b"},
        {"kind": "cross", "name": "user_item", "columns": ["user_id", "item_id"]},
        {"kind": "numeric", "name": "age", "buckets": 3},
    ],
    tables={
        "item": {"min_count": 1},
        "slot": {"encoding": "identity", "rows": 6},
        "user_item": {"encoding": "hash", "rows": 50},
    },
)
BASE = draw_rows(40).append_column(
    "words",
    pa.array([None if n % 7 == 0 else ["a", "b", "c", "b"][n % 3 :] for n in range(40)]),
)
TEXT: tuple[pa.DataType, ...] = (
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
)
NUMBERS: tuple[pa.DataType, ...] = (
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.decimal128(5, 0),
    pa.decimal128(38, 0),
    pa.decimal256(50, 0),
)
LISTS_OF = (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)


def respelled(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Python values in an Arrow type, decimals and bytes as they are wanted there."""
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)

    def leaf(value: Any) -> Any:
        if isinstance(value, list):
            return [leaf(item) for item in value]
        inner = kind.value_type if hasattr(kind, "value_type") else kind
        is_decimal = pa.types.is_decimal(inner) and value is not None
        return D(value) if is_decimal else value

    return pa.array([leaf(value) for value in values], kind)


def encoded(rows: pa.RecordBatch) -> dict[str, list[Any]]:
    columns = [c for c in CATALOG.columns if c not in CATALOG.log.partition_keys]
    plain_rows = contract.rows_as_declared(rows, columns, CATALOG)
    again = contract.rows_as_declared(plain_rows, columns, CATALOG)
    assert again.equals(plain_rows)
    table = plain_rows.append_column("region", pa.array(["ningbo"] * len(rows)))
    batch = features.encode(
        table,
        identity=np.arange(len(rows), dtype=np.uint64),
        catalog=CATALOG,
        encoding=ENCODING,
    )
    return {name: batch.column(name).to_pylist() for name in batch.schema.names}


ENCODING = encoding_of(
    batch_of(BASE.append_column("region", pa.array(["ningbo"] * len(BASE)))), CATALOG
)
EXPECTED = encoded(batch_of(BASE))


@settings(max_examples=30)
@given(
    text=st.sampled_from(TEXT),
    item=st.sampled_from([*NUMBERS, pa.float32(), pa.float64()]),
    inner=st.sampled_from(NUMBERS),
    word=st.sampled_from(TEXT[:6]),
    make=st.sampled_from(LISTS_OF),
    age=st.sampled_from([*NUMBERS, pa.float32(), pa.float64()]),
)
def test_what_is_encoded_does_not_depend_on_how_columns_are_spelled(
    text, item, inner, word, make, age
):
    columns = {name: BASE.column(name).combine_chunks() for name in BASE.schema.names}
    kinds = {"user_id": text, "item_id": item, "slot": inner, "age": age}
    kinds |= {"hist": make(inner), "words": make(word)}
    for name, kind in kinds.items():
        columns[name] = respelled(columns[name].to_pylist(), kind)
    assert encoded(pa.RecordBatch.from_pydict(columns)) == EXPECTED


@settings(max_examples=20)
@given(size=st.integers(0, 4), nulls=st.sets(st.integers(0, 39)))
def test_fixed_size_lists_read_as_lists_of_that_size(size, nulls):
    values = [None if n in nulls else [n % 20] * size for n in range(40)]
    columns = {name: BASE.column(name).combine_chunks() for name in BASE.schema.names}
    results = [
        encoded(pa.RecordBatch.from_pydict({**columns, "hist": pa.array(values, kind)}))
        for kind in (pa.list_(pa.int64()), pa.list_(pa.int64(), size))
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "kind", [pa.string_view(), pa.large_string(), pa.binary_view(), pa.decimal128(30, 0)], ids=str
)
def test_a_file_in_another_spelling_is_read_as_the_plain_one(tmp_path, kind):
    catalog = small_catalog()
    plain_rows = draw_rows(20)
    name = "item_id" if pa.types.is_decimal(kind) else "user_id"
    column = respelled(plain_rows.column(name).to_pylist(), kind)
    index = plain_rows.schema.get_field_index(name)
    results = []
    for folder, rows in (("a", plain_rows), ("b", plain_rows.set_column(index, name, column))):
        path = write_file(tmp_path / folder / "region=ningbo/dt=2026-10-01/a.parquet", rows)
        assert contract.schema_problem(pq.read_schema(path), catalog) is None
        ((batch, _),) = raw_rows(tmp_path / folder, catalog)
        results.append(repr(batch.to_pylist()))  # NaN equals NaN
    assert results[0] == results[1]
