"""A Delta table's files, without their deleted rows, are the table, at every version of it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow.fs import LocalFileSystem

from iak.pipeline.data import delta
from iak.pipeline.data.lakehouse import find_table
from iak.pipeline.errors import BadLog, BadRequest
from tests.lakehouse import delete_delta_rows, delta_rows, delta_table

REGIONS = ("hangzhou", "a b/c", None)


def rows_of(count, first=0):
    return pa.table(
        {
            "event_id": pa.array(range(first, first + count), pa.int64()),
            "region": pa.array([REGIONS[i % 3] for i in range(count)], pa.string()),
        }
    )


def resolved(folder, version=None):
    place = find_table(str(folder), LocalFileSystem(), str(folder))
    assert place is not None
    return delta.resolve(place, version)


def rows_left(folder, snapshot):
    """(id, region) of every row of the snapshot's files that is not deleted, sorted."""
    rows = []
    for file in snapshot.files:
        ids = pq.ParquetFile(folder / file.path).read(["event_id"]).column(0).to_pylist()
        deleted = set(file.deleted.tolist())
        assert file.deleted.tolist() == sorted(deleted), "ascending, each once"
        region = file.constants["region"].as_py()
        rows += [(i, region) for at, i in enumerate(ids) if at not in deleted]
    return sorted(rows, key=str)


def rows_of_table(folder, version):
    table = delta_rows(folder, version)
    columns = (table.column(name).to_pylist() for name in ("event_id", "region"))
    return sorted(zip(*columns, strict=True), key=str)


STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "overwrite", "delete"]), st.integers(1, 9)), max_size=4
)


@settings(max_examples=8)
@given(steps=STEPS)
@example(steps=[("delete", 2), ("append", 9), ("delete", 4)])
def test_files_without_their_deleted_rows_are_what_deltalake_reads_at_any_version(
    tmp_path_factory, steps
):
    folder = tmp_path_factory.mktemp("table")
    delta_table(folder, rows_of(7), ["region"])
    for number, (step, count) in enumerate(steps, start=1):
        if step == "delete":
            file = resolved(folder).files[count % len(resolved(folder).files)]
            rows = pq.read_metadata(folder / file.path).num_rows
            gone = {*file.deleted.tolist(), *range(count % 2, rows, 2)}
            delete_delta_rows(folder, {file.path: sorted(gone)})
        else:
            delta_table(folder, rows_of(count, first=100 * number), ["region"], mode=step)
    for version in range(len(steps) + 1):
        snapshot = resolved(folder, version)
        assert snapshot.table.version == version
        assert (folder / snapshot.table.metadata).is_file()
        assert rows_left(folder, snapshot) == rows_of_table(folder, version)
    assert resolved(folder).table.version == len(steps), "the newest, where none is asked for"


@pytest.fixture
def table(tmp_path):
    """One version of a table of three partitions; one of them has no name, another odd letters."""
    delta_table(tmp_path, rows_of(7), ["region"])
    return tmp_path


def test_what_the_metadata_knows_of_a_file_is_text_and_a_typed_constant(table):
    snapshot = resolved(table)
    assert snapshot.columns == ("event_id", "region")
    known = {
        (file.partition["region"], file.constants["region"].as_py()) for file in snapshot.files
    }
    assert known == {(region, region) for region in REGIONS}
    assert all((table / file.path).is_file() for file in snapshot.files), "no name is escaped"


def test_names_of_columns_stand_as_they_are_where_the_table_maps_none(table):
    assert resolved(table).names_in(pa.schema({"event_id": pa.int64()})) is None


def test_names_of_a_mapped_table_are_those_of_columns_that_a_file_has(tmp_path):
    mapped = {"delta.columnMapping.mode": "name"}
    delta_table(tmp_path, rows_of(3), ["region"], configuration=mapped)
    snapshot = resolved(tmp_path)
    stored = pq.read_schema(tmp_path / snapshot.files[0].path)
    assert snapshot.names_in(stored) == (("event_id", stored.names[0]),)
    assert stored.names[0] != "event_id"
    assert snapshot.names_in(pa.schema({"other": pa.int64()})) == ()


@pytest.mark.parametrize("version", [1, 99])
def test_a_version_that_there_is_not_is_a_bad_request(table, version):
    with pytest.raises(BadRequest, match=f"has no version {version} to read"):
        resolved(table, version)


def test_metadata_that_cannot_be_read_is_a_bad_log(table):
    for path in (table / "_delta_log").glob("*.json"):
        path.write_text("{")
    with pytest.raises(BadLog, match="cannot be read with deltalake"):
        resolved(table)
