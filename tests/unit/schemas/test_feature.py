"""Features say which columns and which table they read, and when two mean the same."""

import pytest
from pydantic import TypeAdapter, ValidationError

from iak.schemas.feature import FeatureSpec, TableSpec, meaning_of, table_of

ADAPTER = TypeAdapter(FeatureSpec)


def feature(kind, name="f", **fields):
    return ADAPTER.validate_python({"kind": kind, "name": name, **fields})


@pytest.mark.parametrize(
    ("spec", "columns", "table"),
    [
        (feature("categorical"), ("f",), "f"),
        (feature("categorical", column="c", table="t"), ("c",), "t"),
        (feature("list", column="hist", table="item"), ("hist",), "item"),
        (feature("cross", columns=["a", "b"]), ("a", "b"), "f"),
        (feature("numeric", column="price"), ("price",), None),
        (feature("numeric", buckets=4), ("f",), "f"),
        (feature("numeric", boundaries=[1, 2]), ("f",), "f"),
    ],
)
def test_columns_and_table_of_every_kind(spec, columns, table):
    assert spec.columns == columns
    assert table_of(spec) == table


def test_whether_a_file_may_lack_the_column_is_no_part_of_the_meaning():
    needed, optional = feature("categorical"), feature("categorical", optional=True)
    assert meaning_of(needed) == meaning_of(optional)


def test_a_padding_that_is_not_declared_leaves_the_meaning_of_older_bases():
    assert "padding" not in meaning_of(feature("list"))
    assert meaning_of(feature("list", padding=0))["padding"] == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (feature("list", last=3), feature("list", last=4)),
        (feature("list", padding=0), feature("list", padding=-1)),
        (feature("numeric", log=True), feature("numeric")),
        (feature("numeric", buckets=3), feature("numeric", buckets=4)),
        (feature("cross", columns=["a", "b"]), feature("cross", columns=["b", "a"])),
        (feature("categorical", table="t"), feature("categorical")),
    ],
)
def test_a_setting_that_changes_ids_changes_the_meaning(one, other):
    assert meaning_of(one) != meaning_of(other)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("numeric", {"buckets": 3, "boundaries": [1]}, "buckets or boundaries, not both"),
        ("numeric", {"boundaries": [1, 1]}, "must rise"),
        ("numeric", {"boundaries": [2, 1]}, "must rise"),
        ("numeric", {"buckets": 1}, "greater than or equal to 2"),
        ("cross", {"columns": ["a"]}, "at least 2"),
        ("cross", {"columns": ["a", "a"]}, "named twice"),
        ("list", {"last": 0}, "greater than 0"),
        ("categorical", {"name": "9lives"}, "pattern"),
    ],
)
def test_a_feature_that_says_nothing_is_refused(kind, fields, message):
    with pytest.raises(ValidationError, match=message):
        feature(kind, **fields)


@pytest.mark.parametrize("encoding", ["hash", "identity"])
def test_a_table_without_a_vocabulary_says_its_rows(encoding):
    with pytest.raises(ValidationError, match="needs rows = N"):
        TableSpec(encoding=encoding)
    assert TableSpec(encoding=encoding, rows=3).rows == 3


def test_a_table_has_a_row_beside_those_of_null_and_unseen():
    with pytest.raises(ValidationError, match="rows"):
        TableSpec(encoding="hash", rows=2)
