"""Encoding is a function of the row alone, and every odd value has its declared row."""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import features, hashing
from iak.pipeline.data.domain_columns import domain_names
from iak.pipeline.data.features import Encoding
from iak.schemas.feature import FIRST_ROW, NULL_ROW, UNSEEN_ROW
from iak.schemas.log import Catalog
from tests.builders import batch_of, draw_rows, encoding_of, small_catalog

CATALOG = small_catalog(domain__keys=["region"], domain__parent=["scene"])


def with_region(rows: pa.Table) -> pa.Table:
    regions = ["hangzhou", "ningbo", None]
    return rows.append_column("region", pa.array([regions[i % 3] for i in range(len(rows))]))


ROWS = with_region(draw_rows(80))
ENCODING = encoding_of(batch_of(ROWS), CATALOG)


def encode(rows: pa.RecordBatch, catalog: Catalog = CATALOG, encoding: Encoding = ENCODING) -> Any:
    identity = hashing.keys_of(rows.column("event_id"))
    return features.encode(rows, identity=identity, catalog=catalog, encoding=encoding)


def one_feature(feature: dict[str, Any], table: dict[str, Any] | None = None) -> Catalog:
    name = feature.get("table", feature["name"])
    return small_catalog(features=[feature], tables={name: table} if table else {}, log__user=None)


def ids(catalog: Catalog, column: pa.Array, *, taught: pa.Array | None = None, **more: Any) -> list:
    """What the catalogue's only feature makes of a column `c`."""

    def rows(values: pa.Array) -> pa.RecordBatch:
        count = len(values)
        zeros = pa.array([0] * count, pa.int8())
        plain = {
            "c": values,
            "event_id": pa.array(range(count), pa.int64()),
            "click": zeros,
            "order": zeros,
        }
        return pa.RecordBatch.from_pydict({**plain, "region": pa.array(["a"] * count), **more})

    encoding = encoding_of(rows(column if taught is None else taught), catalog)
    return encode(rows(column), catalog, encoding).column(0).to_pylist()


def recoded(rows: pa.RecordBatch, *, coded: set[str], wide: bool, large: bool) -> pa.RecordBatch:
    """The same values in other physical types."""
    columns = {}
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        kind = column.type
        is_list = pa.types.is_list(kind)
        if large and pa.types.is_string(kind):
            kind = pa.large_string()
        if large and is_list:
            kind = pa.large_list(kind.value_type)
        if wide and pa.types.is_integer(kind):
            kind = pa.int64()
        cast = column.cast(kind)
        columns[name] = cast.dictionary_encode() if name in coded and not is_list else cast
    return pa.RecordBatch.from_pydict(columns)


@given(
    order=st.permutations(range(24)),
    cuts=st.lists(st.integers(0, 24), max_size=4),
    coded=st.sets(st.sampled_from(["user_id", "item_id", "scene", "region", "slot"])),
    wide=st.booleans(),
    large=st.booleans(),
)
def test_encoding_is_a_function_of_the_row_alone(order, cuts, coded, wide, large):
    rows = batch_of(ROWS.slice(13, 24))
    expected = encode(rows).to_pylist()
    other = recoded(rows.take(pa.array(order)), coded=coded, wide=wide, large=large)
    ends = sorted({0, 24, *cuts})
    parts = [encode(other.slice(a, b - a)).to_pylist() for a, b in itertools.pairwise(ends)]
    assert [row for part in parts for row in part] == [expected[i] for i in order]


def test_rows_encode_the_same_from_inside_a_larger_array():
    whole = batch_of(ROWS)
    copied = pa.RecordBatch.from_pylist(ROWS.slice(17, 30).to_pylist(), ROWS.schema)
    assert encode(whole.slice(17, 30)).to_pylist() == encode(copied).to_pylist()


def test_lists_of_coded_text_encode_like_lists_of_text():
    catalog = one_feature({"kind": "list", "name": "c", "last": 2}, {"min_count": 1})
    plain = pa.array([["a", "b", None], None, [], ["c"]], pa.list_(pa.string()))
    flat = plain.flatten().dictionary_encode()
    offsets = pa.array([0, None, 3, 3, 4], pa.int32())
    coded = pa.ListArray.from_arrays(offsets, flat)
    assert coded.to_pylist() == plain.to_pylist()
    assert ids(catalog, coded) == ids(catalog, plain)


def test_a_null_reads_row_0_and_an_unseen_or_rare_id_row_1():
    catalog = one_feature({"kind": "categorical", "name": "c"}, {"min_count": 2})
    taught = pa.array(["often", "often", "once", None, None])
    got = ids(catalog, pa.array(["often", "once", "never", None]), taught=taught)
    assert got == [FIRST_ROW, UNSEEN_ROW, UNSEEN_ROW, NULL_ROW]


def test_a_null_inside_a_dictionary_is_a_null():
    catalog = one_feature({"kind": "categorical", "name": "c"}, {"min_count": 1})
    words = pa.array(["a", None])
    coded = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), words)
    assert ids(catalog, coded) == [FIRST_ROW, NULL_ROW, NULL_ROW]


@pytest.mark.parametrize("rows", [3, 4, 1000])
def test_hashed_ids_stay_inside_their_table(rows):
    table = {"encoding": "hash", "rows": rows}
    catalog = one_feature({"kind": "categorical", "name": "c"}, table)
    got = np.array(ids(catalog, pa.array([*range(5_000), None])))
    assert got[-1] == NULL_ROW
    assert got[:-1].min() == FIRST_ROW
    assert got[:-1].max() == rows - 1


def test_identity_ids_are_shifted_by_the_two_first_rows_and_stay_inside():
    catalog = one_feature({"kind": "categorical", "name": "c"}, {"encoding": "identity", "rows": 6})
    assert ids(catalog, pa.array([0, 3, 4, -1, None])) == [2, 5, 1, 1, 0]
    huge = pa.array([2, 2**64 - 1], pa.uint64())
    assert ids(catalog, huge) == [4, UNSEEN_ROW]


def test_a_history_keeps_its_last_values_and_tells_null_from_empty():
    feature = {"kind": "list", "name": "c", "last": 2}
    catalog = one_feature(feature, {"encoding": "identity", "rows": 12})
    lists = pa.array([[1, 2, 3], None, [], [4, None], [9]], pa.list_(pa.int64()))
    assert ids(catalog, lists) == [[4, 5], [NULL_ROW], [], [6, NULL_ROW], [11]]
    assert ids(catalog, lists.slice(1, 3)) == [[NULL_ROW], [], [6, NULL_ROW]]


def test_a_null_list_that_hides_values_reads_only_the_null_row():
    feature = {"kind": "list", "name": "c", "last": 5}
    catalog = one_feature(feature, {"encoding": "identity", "rows": 12})
    hiding = pa.ListArray.from_arrays(
        pa.array([0, 2, 4], pa.int32()), pa.array([1, 2, 3, 4]), mask=pa.array([True, False])
    )
    assert ids(catalog, hiding) == [[NULL_ROW], [5, 6]]


@given(
    st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(0, 6)), max_size=6)))
)
def test_lists_encode_as_a_plain_reading_says(lists):
    catalog = one_feature(
        {"kind": "list", "name": "c", "last": 3}, {"encoding": "identity", "rows": 6}
    )

    def row(value: int | None) -> int:
        if value is None:
            return NULL_ROW
        return value + FIRST_ROW if value < 4 else UNSEEN_ROW

    expected = [[NULL_ROW] if v is None else [row(i) for i in v[-3:]] for v in lists]
    assert ids(catalog, pa.array(lists, pa.list_(pa.int16()))) == expected


def test_numbers_are_standardised_and_missing_ones_are_the_mean():
    catalog = one_feature({"kind": "numeric", "name": "c", "clip": 1.5})
    got = ids(
        catalog,
        pa.array([0.0, 2.0, None, np.nan, np.inf, -np.inf, 50.0]),
        taught=pa.array([0.0, 2.0]),
    )
    assert got == [-1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.5]


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array([2**60 + 1, 3]), id="integers beyond a float's precision"),
        pytest.param(pa.array([1.5, 2.5]).cast(pa.decimal128(9, 2)), id="decimals"),
        pytest.param(pa.array([True, False]), id="booleans"),
        pytest.param(pa.array(np.array([1, 2], np.float16)), id="halves"),
        pytest.param(pa.array([1, 2]).dictionary_encode(), id="coded"),
        pytest.param(pa.array([1e300, -1e300]), id="beyond float32"),
    ],
)
def test_numbers_of_every_type_become_finite_floats(column):
    for is_standard in (True, False):
        catalog = one_feature({"kind": "numeric", "name": "c", "standardise": is_standard})
        with np.errstate(over="ignore"):
            assert np.isfinite(ids(catalog, column)).all()


def test_declared_buckets_cut_at_their_boundaries():
    catalog = one_feature({"kind": "numeric", "name": "c", "boundaries": [1.0, 5.0]})
    got = ids(catalog, pa.array([0.9, 1.0, 4.9, 5.0, None, np.nan]))
    assert got == [2, 3, 3, 4, NULL_ROW, NULL_ROW]


def test_quantile_buckets_are_about_equally_full():
    catalog = one_feature({"kind": "numeric", "name": "c", "buckets": 4})
    got = ids(catalog, pa.array(np.random.default_rng(0).normal(size=4_000)))
    assert np.bincount(got).tolist() == pytest.approx([0, 0, 1000, 1000, 1000, 1000], abs=2)


def test_a_cross_tells_every_combination_and_its_order_and_nulls():
    feature = {"kind": "cross", "name": "x", "columns": ["c", "d"]}
    catalog = small_catalog(features=[feature], tables={"x": {"min_count": 1}}, log__user=None)
    c, d = pa.array(["a", "a", None, None, "b"]), pa.array(["b", None, "b", None, "a"])
    got = ids(catalog, c, d=d)
    assert sorted(got) == [2, 3, 4, 5, 6]
    assert ids(catalog, c.dictionary_encode(), d=d) == got


def test_the_domain_is_named_by_its_keys_at_every_level_and_null_where_a_key_is():
    catalog = small_catalog(domain__keys=["region", "scene"], domain__parent=["region"])
    rows = pa.table({"region": ["a", None, "b"], "scene": ["x", "y", None]})
    names = [domain_names(batch_of(rows), keys) for keys in catalog.domain.levels]
    assert names[0].to_pylist() == ["pooled"] * 3
    assert names[1].to_pylist() == ["region=a", None, "region=b"]
    assert names[2].to_pylist() == ["region=a/scene=x", None, None]


def test_no_rows_have_the_same_columns_and_types_as_some_rows():
    assert features.no_rows(CATALOG).schema == encode(batch_of(ROWS)).schema
    empty = pa.RecordBatch.from_pylist([], ROWS.schema)
    assert encode(empty).schema == features.no_rows(CATALOG).schema


def test_a_column_that_holds_no_ids_is_refused():
    with pytest.raises(TypeError, match="holds no ids"):
        hashing.keys_of(pa.array([1.5]))


@given(st.lists(st.text()), st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_keys_do_not_depend_on_how_a_value_is_stored(words, numbers):
    text = pa.array(words, pa.string())
    alone = [int(hashing.key_of_text(word)) for word in words]
    forms = (text, text.cast(pa.large_string()), text.dictionary_encode())
    assert all(hashing.keys_of(form).tolist() == alone for form in forms)
    small = pa.array([n % 100 for n in numbers], pa.int8())
    for kind in (pa.int16(), pa.uint8(), pa.int64()):
        assert (hashing.keys_of(small) == hashing.keys_of(small.cast(kind))).all()
    assert len(set(hashing.keys_of(pa.array(numbers, pa.int64())).tolist())) == len(set(numbers))


@pytest.mark.parametrize(
    ("padding", "lists"),
    [
        pytest.param(0, pa.array([[5, 6, 0, 0], [0, 0, 0, 0], None, [0, 7, 0, 8]]), id="numbers"),
        pytest.param("0", pa.array([[5, 6, 0, 0], [0, 0, 0, 0], None, [0, 7, 0, 8]]), id="as text"),
        pytest.param(
            "-",
            pa.array([["5", "6", "-", "-"], ["-"] * 4, None, ["-", "7", "-", "8"]]),
            id="text",
        ),
        pytest.param(
            -1,
            pa.array([[9], [5, 6, -1], [], None, [7, 8]], pa.large_list(pa.int32())).slice(1),
            id="a slice of a large list",
        ),
    ],
)
def test_padding_is_dropped_before_the_last_values_are_taken(padding, lists):
    feature = {"kind": "list", "name": "f", "column": "c", "last": 2, "padding": padding}
    catalog = one_feature(feature, {"min_count": 1})
    clean = [
        None if v is None else [i for i in v if str(i) != str(padding)] for v in lists.to_pylist()
    ]
    plain = pa.array(clean, pa.list_(lists.type.value_type))
    assert ids(catalog, lists, taught=plain) == ids(catalog, plain, taught=plain)
    assert ids(catalog, lists, taught=lists) == ids(catalog, plain, taught=plain)


@given(
    st.lists(st.none() | st.lists(st.none() | st.integers(0, 3), max_size=6), min_size=1),
    st.integers(0, 3),
)
def test_padding_is_dropped_and_all_else_stays(values, padding):
    feature = {"kind": "list", "name": "f", "column": "c", "last": 3, "padding": padding}
    catalog = one_feature(feature, {"encoding": "identity", "rows": 9})
    result = ids(catalog, pa.array(values, pa.list_(pa.int64())))
    for row, value in zip(result, values, strict=True):
        kept = [None] if value is None else [v for v in value if v != padding][-3:]
        assert row == [NULL_ROW if v is None else v + FIRST_ROW for v in kept]


@pytest.mark.parametrize("has_log", [True, False])
@pytest.mark.parametrize("more", [{}, {"standardise": False}, {"buckets": 2}])
def test_numbers_that_float32_cannot_hold_are_read_as_missing(has_log, more):
    catalog = one_feature({"kind": "numeric", "name": "f", "column": "c", "log": has_log, **more})
    taught = pa.array([1.0, 2.0, 3.0, 4.0])
    odd = pa.array([1.797e308, -1e300, 3.4028234663852886e38, float("inf"), float("nan"), None])
    (missing,) = {*ids(catalog, odd, taught=taught)}
    assert missing == (NULL_ROW if "buckets" in more else 0)
    large = ids(catalog, pa.array([1e30]), taught=taught)
    assert large != [missing]
