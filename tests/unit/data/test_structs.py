"""The fields of a struct are columns, from the listing to the content that is hashed."""

import pyarrow as pa
import pytest

from iak.pipeline.data import parquet
from iak.pipeline.data.check import check_log
from iak.pipeline.data.content import KeptContents
from iak.pipeline.data.fingerprints import with_contents
from iak.pipeline.data.pieces import spread_pieces
from iak.pipeline.data.structs import parents, with_field_columns, with_fields
from tests.builders import draw_rows, partition, small_catalog, snapshot_of, write_file

ROWS = pa.table(
    {
        "user": [{"id": 1, "home": {"city": "a"}}, None, {"id": None, "home": None}],
        "user.id": [7, 8, 9],
        "many": [[{"id": 1}], [], None],
    }
)


@pytest.mark.parametrize("rows", [ROWS, ROWS.to_batches()[0]])
def test_fields_follow_the_columns_and_a_column_comes_before_a_field_of_its_name(rows):
    flat = with_field_columns(rows)
    assert flat.schema.names == ["user", "user.id", "many", "user.home", "user.home.city"]
    assert flat.column("user.id").to_pylist() == [7, 8, 9]
    assert flat.column("user.home.city").to_pylist() == ["a", None, None]
    assert with_fields(rows.schema).names == flat.schema.names
    assert with_fields(rows.schema).field("user.home.city").type == pa.string()


def test_rows_without_structs_stay_as_they_are():
    plain = ROWS.select(["user.id", "many"])
    assert with_field_columns(plain) is plain
    assert with_fields(plain.schema).names == plain.schema.names


def test_the_structs_of_fields_are_named():
    columns = [(field.name, field.type) for field in ROWS.schema]
    assert parents(["user.home.city", "many"], columns) == ["user"]
    assert parents(["many"], columns) == []


CATALOG = small_catalog(
    features=[
        {"kind": "categorical", "name": "user"},
        {"kind": "categorical", "name": "city", "column": "ctx.home.city"},
    ],
    log__user="ctx.user",
    log__path="",
    log__leak_columns=[],
    tables={},
)


def nested_log(root, first_city="a"):
    """A log whose users are fields of a struct."""
    rows = draw_rows(40)
    users = rows.column("user_id").to_pylist()
    ctx = [
        {"user": user, "home": {"city": first_city if n == 0 else "b"}}
        for n, user in enumerate(users)
    ]
    rows = rows.drop_columns("user_id").append_column("ctx", pa.array(ctx))
    rows = rows.append_column("user", pa.array([f"u{n % 4}" for n in range(40)]))
    write_file(root / partition("ningbo", "2026-10-01") / "a.parquet", rows)
    return snapshot_of(root, CATALOG)


def test_a_field_is_a_column_of_a_catalogue(tmp_path):
    snapshot = nested_log(tmp_path)
    assert not snapshot.unreadable
    selection = parquet.select_all(snapshot, CATALOG)
    (piece,) = spread_pieces(selection, rows=100)
    rows = parquet.read_piece(selection, piece, CATALOG).rows
    assert rows.column("ctx.home.city").to_pylist() == ["a"] + ["b"] * 39
    report = check_log(CATALOG, str(tmp_path), sample_rows=100)
    assert not [f for f in report.findings if "no file has" in f.what]


def test_a_field_that_changes_changes_the_content(tmp_path):
    one = with_contents(nested_log(tmp_path, "a"), CATALOG, KeptContents(None))
    other = with_contents(nested_log(tmp_path, "z"), CATALOG, KeptContents(None))
    assert one.files[0].content.features != other.files[0].content.features


def test_a_field_that_no_file_has_is_named_with_the_nearest(tmp_path):
    rows = draw_rows(5).append_column("ctx", pa.array([{"city": "a"}] * 5))
    write_file(tmp_path / partition("ningbo", "2026-10-01") / "a.parquet", rows)
    city = {"kind": "categorical", "name": "c", "column": "ctx.cty"}
    catalog = small_catalog(features=[city], tables={}, log__path="")
    report = check_log(catalog, str(tmp_path), sample_rows=100)
    assert any("Did you mean 'ctx.city'" in f.remedy for f in report.findings)
