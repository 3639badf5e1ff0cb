"""Ids of one table are of one kind, over files, features and bases."""

import pyarrow as pa
import pytest

from iak.pipeline.data import kinds, vocabulary
from iak.pipeline.data.kinds import TEXT, WHOLE, id_kind, kinds_of, mixtures, refuse_change
from iak.pipeline.errors import BadLog, WrongBase
from tests.builders import (
    batch_of,
    draw_rows,
    raw_rows,
    small_catalog,
    snapshot_of,
    write_file,
)

CATALOG = small_catalog()
SHARED = small_catalog(
    features=[
        {"kind": "categorical", "name": "item", "column": "item_id", "table": "item"},
        {"kind": "list", "name": "hist", "table": "item"},
    ],
    tables={},
)


@pytest.mark.parametrize(
    ("actual", "kind"),
    [
        (pa.int8(), WHOLE),
        (pa.uint64(), WHOLE),
        (pa.bool_(), WHOLE),
        (pa.string(), TEXT),
        (pa.large_string(), TEXT),
        (pa.string_view(), TEXT),
        (pa.dictionary(pa.int32(), pa.string()), TEXT),
        (pa.dictionary(pa.int32(), pa.int64()), WHOLE),
        (pa.list_(pa.int64()), WHOLE),
        (pa.large_list(pa.string()), TEXT),
        (pa.list_(pa.int32(), 4), WHOLE),
        (pa.null(), None),
        (pa.list_(pa.null()), None),
    ],
)
def test_the_kind_follows_from_the_type_of_the_ids(actual, kind):
    assert id_kind(actual) == kind


def as_text(rows, column):
    index = rows.schema.get_field_index(column)
    values = [None if v is None else str(v) for v in rows.column(column).to_pylist()]
    return rows.set_column(index, column, pa.array(values, pa.string()))


def written(tmp_path, *tables, catalog=CATALOG):
    for number, table in enumerate(tables):
        write_file(tmp_path / f"region=ningbo/dt=2026-10-0{number + 1}/a.parquet", table)
    return snapshot_of(tmp_path, catalog)


def test_a_column_of_two_kinds_is_named_with_the_files_of_each(tmp_path):
    whole = draw_rows(5)
    snapshot = written(tmp_path, whole, as_text(whole, "item_id"), as_text(whole, "item_id"))
    (mixture,) = mixtures(snapshot, CATALOG)
    assert mixture.name == "item_id"
    assert {kind: len(files) for kind, files in mixture.parts.items()} == {WHOLE: 1, TEXT: 2}
    assert "text in 2 files (region=ningbo/dt=2026-10-02/a.parquet, ...)" in str(mixture)
    with pytest.raises(BadLog, match=r"ids of item_id are whole numbers in 1 file"):
        kinds.refuse_mixtures(snapshot, CATALOG)


def test_a_table_that_two_kinds_read_is_named_with_its_columns(tmp_path):
    snapshot = written(tmp_path, as_text(draw_rows(5), "item_id"), catalog=SHARED)
    (mixture,) = mixtures(snapshot, SHARED)
    assert (mixture.name, mixture.column) == ("table item", "item_id, hist")
    assert set(mixture.parts) == {f"{TEXT} in item_id", f"{WHOLE} in hist"}


def test_a_sound_log_has_no_mixture(tmp_path):
    snapshot = written(tmp_path, draw_rows(5), draw_rows(5, first=5))
    assert list(mixtures(snapshot, CATALOG)) == []
    kinds.refuse_mixtures(snapshot, CATALOG)


def test_kinds_are_learned_by_table_and_of_crosses_by_column():
    rows = draw_rows(30).append_column("region", pa.array(["ningbo"] * 30))
    learned = kinds_of(batch_of(rows), CATALOG)
    assert learned["user_id"] == TEXT
    assert learned["item"] == WHOLE
    assert learned["user_scene"] == f"{TEXT} x {TEXT}"
    assert "price" not in learned


def test_a_column_of_nulls_says_nothing():
    rows = draw_rows(6).append_column("region", pa.array(["ningbo"] * 6))
    index = rows.schema.get_field_index("item_id")
    rows = rows.set_column(index, "item_id", pa.nulls(6, pa.int64()))
    index = rows.schema.get_field_index("hist")
    rows = rows.set_column(index, "hist", pa.nulls(6, pa.list_(pa.int64())))
    assert "item" not in kinds_of(batch_of(rows), CATALOG)


def with_empty_lists(rows):
    """The rows as a writer stores them whose lists are all empty."""
    index = rows.schema.get_field_index("hist")
    return rows.set_column(index, "hist", pa.array([[]] * len(rows), pa.list_(pa.null())))


def test_lists_that_are_all_empty_are_of_any_kind(tmp_path):
    empty = with_empty_lists(draw_rows(6, first=6))
    snapshot = written(tmp_path, draw_rows(6), empty)
    kinds.refuse_mixtures(snapshot, CATALOG)
    encoding = vocabulary.fit(raw_rows(tmp_path, CATALOG), CATALOG)
    assert encoding.kinds["item"] == WHOLE


def with_floats(rows, column):
    """The rows with whole numbers of a column as floats."""
    index = rows.schema.get_field_index(column)
    kind = pa.list_(pa.float64()) if column == "hist" else pa.float64()
    return rows.set_column(index, column, rows.column(index).cast(kind))


@pytest.mark.parametrize("column", ["item_id", "hist"])
def test_floats_beside_exact_ids_are_unreadable_and_floats_alone_are_not(tmp_path, column):
    floats = [with_floats(draw_rows(6, first=6 * part), column) for part in range(2)]
    alone = written(tmp_path / "alone", *floats)
    assert kinds.without_odd_floats(alone, CATALOG) is alone
    beside = written(tmp_path / "beside", draw_rows(6), floats[1])
    kept = kinds.without_odd_floats(beside, CATALOG)
    (file,) = kept.unreadable
    assert [f.path for f in (*kept.files, file)] == [f.path for f in beside.files]
    assert file.reason.startswith(f"{column}: ")
    assert file.reason.endswith(", expected id as in other files")
    assert (file.rows, file.expected) == (6, ("id",))


def test_a_file_of_nulls_says_nothing_of_floats(tmp_path):
    rows = draw_rows(6, first=6)
    nulls = rows.set_column(rows.schema.get_field_index("item_id"), "item_id", pa.nulls(6))
    snapshot = written(tmp_path, with_floats(draw_rows(6), "item_id"), nulls)
    assert kinds.without_odd_floats(snapshot, CATALOG) is snapshot


def test_a_base_that_learned_another_kind_is_refused(tmp_path):
    snapshot = written(tmp_path, draw_rows(5))
    kinds.refuse_other_kinds(snapshot, CATALOG, {"item": WHOLE, "region": TEXT})
    with pytest.raises(WrongBase, match="table item: the log has whole numbers, the base learned"):
        kinds.refuse_other_kinds(snapshot, CATALOG, {"item": TEXT})


def test_every_changed_table_is_named_and_unknown_ones_pass():
    with pytest.raises(WrongBase) as error:
        refuse_change({"a": WHOLE, "b": TEXT, "new": TEXT}, {"a": TEXT, "b": WHOLE})
    assert str(error.value).count("the base learned") == 2
    refuse_change({"a": WHOLE}, {})
