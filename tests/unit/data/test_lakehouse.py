"""A table's snapshot is read as its own library reads it, through the log's reader."""

import pickle
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyarrow.fs import LocalFileSystem
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import BucketTransform, DayTransform, IdentityTransform, VoidTransform
from pyiceberg.typedef import Record
from pyiceberg.types import LongType, NestedField, StringType, TimestampType

from iak.pipeline.data import iceberg, logs, parquet
from iak.pipeline.data.breaches import SchemaProblem
from iak.pipeline.data.event_dates import read_dates
from iak.pipeline.data.file_problems import file_problems
from iak.pipeline.data.lakehouse import TableFolder, below, locate
from iak.pipeline.data.logs import take_snapshot
from iak.pipeline.data.pieces import pieces_of, rows_of_worker
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.splits import Split
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadLog, BadRequest
from iak.schemas.log import Catalog
from iak.schemas.log_snapshot import TableVersion
from tests.builders import DAYS, EVERYTHING, draw_rows, small_catalog, write_file
from tests.lakehouse import (
    FolderCatalog,
    delete_delta_rows,
    delete_iceberg_rows,
    delta_rows,
    delta_table,
    iceberg_table,
    rename_delta_columns,
)

CATALOG = small_catalog()
KEYS = ("region", "dt")
MAPPED = {"delta.columnMapping.mode": "name"}


def log_rows(count: int = 12, first: int = 0) -> pa.Table:
    """Rows of the small log with their partition columns."""
    rows = draw_rows(count, first=first)
    regions = [("hangzhou", "a b", None)[i % 3] for i in range(count)]
    rows = rows.append_column("region", pa.array(regions, pa.string()))
    days = [DAYS[i % 2] for i in range(count)]
    return rows.append_column("dt", pa.array(days, pa.string()))


def read(snapshot: Snapshot, catalog: Catalog = CATALOG, split: Split = EVERYTHING) -> pa.Table:
    """All rows of a split, as jobs read them."""
    selection = parquet.select(snapshot, split, catalog)
    pieces = pieces_of(selection, rank=0, world=1)
    parts = [parquet.read_piece(selection, piece, catalog).rows for piece in pieces]
    assert sum(len(part) for part in parts) == selection.rows
    tables = [pa.Table.from_batches([part]) for part in parts]
    return pa.concat_tables(tables, promote_options="permissive")  # int8 in one, int32 in another


def events(table: pa.Table, columns: Sequence[str] = ("event_id", "region", "dt")) -> list[Any]:
    """Rows by event, text as plain text, for comparing two readers."""
    plain = {
        name: table.column(name).cast(pa.string())
        if pa.types.is_dictionary(table.column(name).type)
        else table.column(name)
        for name in columns
    }
    return sorted(zip(*(c.to_pylist() for c in plain.values()), strict=True))


def on_disk(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.parquet"))


# Both formats


def delta_at(folder: Path) -> list[int]:
    """A table that was overwritten; its versions."""
    delta_table(folder, log_rows(), KEYS)
    delta_table(folder, log_rows(9, first=100), KEYS, mode="overwrite")
    return [0, 1]


def iceberg_at(folder: Path) -> list[int]:
    table = iceberg_table(folder, log_rows(), KEYS)
    first = table.current_snapshot()
    table.overwrite(log_rows(9, first=100))
    last = table.current_snapshot()
    assert first
    assert last
    return [first.snapshot_id, last.snapshot_id]


@pytest.mark.parametrize("write", [delta_at, iceberg_at])
def test_the_newest_version_is_read_or_the_pinned_one_and_never_both(tmp_path, write):
    versions = write(tmp_path / "events")
    assert len(on_disk(tmp_path / "events")) == 12
    for version, rows, ids in (
        (None, 9, range(100, 109)),
        (versions[1], 9, range(100, 109)),
        (versions[0], 12, range(12)),
    ):
        catalog = small_catalog(log__version=version)
        view = open_log(catalog, str(tmp_path), wanted=["pretrain"])
        assert view.snapshot.rows == rows
        assert [e[0] for e in events(read(view.snapshot))] == list(ids)
        record = logs.describe(view.snapshot).table
        assert record.version == (versions[1] if version is None else version)
        assert logs.is_table(str(tmp_path / "events"))
        assert record.format == ("delta" if write is delta_at else "iceberg")
        assert (tmp_path / "events" / record.metadata).exists()
        assert TableVersion.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("write", [delta_at, iceberg_at])
@pytest.mark.parametrize("uri", ["{0}", "file://{0}", "{0}/"])
def test_a_table_is_found_by_path_and_by_uri(tmp_path, write, uri):
    write(tmp_path / "events")
    snapshot = take_snapshot(uri.format(tmp_path / "events"), partition_keys=KEYS)
    assert snapshot.rows == 9
    assert events(read(snapshot)) == events(log_rows(9, first=100))


@pytest.mark.parametrize("write", [delta_at, iceberg_at])
def test_splits_prune_a_table_by_its_exact_partition_values(tmp_path, write):
    write(tmp_path / "events")
    catalog = small_catalog(splits={"tune": {"where": {"region": ["a b"]}, "days": [0, 0]}})
    view = open_log(catalog, str(tmp_path), wanted=["tune"])
    assert len(view.snapshot.files) == 1
    expected = [e for e in events(log_rows(9, first=100)) if e[1] == "a b" and e[2] == DAYS[0]]
    split = Split(name="t", first=None, last=None, where={"region": ("a b",)}, slice=(0.0, 1.0))
    assert events(read(view.snapshot, catalog, split)) == expected
    assert [str(day) for day in read_dates(str(tmp_path / "events"), catalog)[0].counted] == list(
        DAYS[:2]
    )


@pytest.mark.parametrize("write", [delta_at, iceberg_at])
def test_a_table_that_is_not_partitioned_by_a_key_is_read_by_the_column(tmp_path, write):
    rows = log_rows()
    if write is delta_at:
        delta_table(tmp_path / "events", rows, ["region"])
    else:
        iceberg_table(tmp_path / "events", rows, ["region"])
    catalog = small_catalog(splits={"tune": {"days": [1, 1]}})
    assert [str(day) for day in read_dates(str(tmp_path / "events"), catalog)[0].counted] == list(
        DAYS[:2]
    )
    view = open_log(catalog, str(tmp_path), wanted=["tune"])
    assert view.selections["tune"].rows == 6
    piece = pieces_of(view.selections["tune"], rank=0, world=1)[0]
    result = parquet.read_piece(view.selections["tune"], piece, catalog)
    assert set(result.rows.column("dt").to_pylist()) == {DAYS[1]}
    assert not result.counts
    assert events(read(view.snapshot)) == events(rows)


@pytest.mark.parametrize("write", [delta_at, iceberg_at])
def test_an_unknown_version_or_partition_key_is_refused(tmp_path, write):
    write(tmp_path / "events")
    with pytest.raises(BadRequest, match=r"has no (version|snapshot) 77"):
        take_snapshot(str(tmp_path / "events"), partition_keys=KEYS, version=77)
    with pytest.raises(BadRequest, match=r"partition_keys names land.*columns event_id, .*region"):
        take_snapshot(str(tmp_path / "events"), partition_keys=("land",))


def test_a_version_of_a_plain_folder_is_refused(tmp_path):
    write_file(tmp_path / "a.parquet", draw_rows(3))
    with pytest.raises(BadRequest, match=r"log.version is 3, but .* is a plain folder"):
        take_snapshot(str(tmp_path), partition_keys=(), version=3)


@pytest.mark.parametrize(("write", "library"), [(delta_at, "deltalake"), (iceberg_at, "pyiceberg")])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path, monkeypatch, write, library
):
    write(tmp_path / "events")
    monkeypatch.setitem(sys.modules, library, None)
    extra = "delta" if write is delta_at else "iceberg"
    with pytest.raises(BadRequest, match=rf"pip install 'iak\[{extra}\]'"):
        take_snapshot(str(tmp_path / "events"), partition_keys=KEYS)


@pytest.mark.parametrize("write", [delta_at, iceberg_at])
def test_a_data_file_that_is_gone_is_quarantined_by_name(tmp_path, write):
    write(tmp_path / "events")
    lost = take_snapshot(str(tmp_path / "events"), partition_keys=KEYS).files[0]
    (tmp_path / "events" / lost.path).unlink()
    snapshot = take_snapshot(str(tmp_path / "events"), partition_keys=KEYS)
    assert [u.path for u in snapshot.unreadable] == [lost.path]
    assert snapshot.rows == 9 - lost.rows


@pytest.mark.parametrize("write", [delta_at, iceberg_at])
def test_a_table_whose_metadata_cannot_be_read_is_refused(tmp_path, write):
    write(tmp_path / "events")
    names = "_delta_log/*.json" if write is delta_at else "metadata/*.avro"
    for path in (tmp_path / "events").glob(names):
        path.write_text('{"what": ')
    with pytest.raises(BadLog, match="cannot be read with"):
        take_snapshot(str(tmp_path / "events"), partition_keys=KEYS)


# Columns that are named otherwise in the files


@pytest.mark.parametrize("mode", ["name", "id"])
def test_mapped_columns_of_a_delta_table_are_read_by_the_tables_names(tmp_path, mode):
    rows = log_rows()
    delta_table(tmp_path, rows, KEYS, configuration=MAPPED | {"delta.columnMapping.mode": mode})
    names = pq.read_schema(next(tmp_path.rglob("*.parquet"))).names
    assert all(name.startswith("col-") for name in names)
    snapshot = take_snapshot(str(tmp_path), partition_keys=KEYS)
    columns = ("event_id", "price", "click", "region", "dt", "user_id")
    result = read(snapshot).replace_schema_metadata()
    assert repr(events(result, columns)) == repr(events(rows, columns))  # NaN is not NaN


def test_a_renamed_column_of_a_delta_table_is_read_by_its_new_name(tmp_path):
    rows = log_rows()
    old = rows.rename_columns(
        [{"price": "cost", "region": "land"}.get(n, n) for n in rows.schema.names]
    )
    delta_table(tmp_path, old, ["land", "dt"], configuration=MAPPED)
    rename_delta_columns(tmp_path, {"cost": "price", "land": "region"})
    snapshot = take_snapshot(str(tmp_path), partition_keys=KEYS)
    assert len(snapshot.files) == 6
    columns = ("event_id", "price", "region", "dt")
    assert repr(events(read(snapshot), columns)) == repr(events(rows, columns))
    assert [str(day) for day in read_dates(str(tmp_path), CATALOG)[0].counted] == list(DAYS[:2])


def test_a_renamed_column_of_an_iceberg_table_is_read_by_its_new_name(tmp_path):
    rows = log_rows()
    old = rows.rename_columns(
        [{"price": "cost", "region": "land"}.get(n, n) for n in rows.schema.names]
    )
    table = iceberg_table(tmp_path, old, ["land", "dt"])
    with table.update_schema() as update:
        update.rename_column("cost", "price")
        update.rename_column("land", "region")
    table.append(log_rows(6, first=50))
    snapshot = take_snapshot(str(tmp_path), partition_keys=KEYS)
    both = pa.concat_tables([rows, log_rows(6, first=50)])
    columns = ("event_id", "price", "region", "dt")
    assert repr(events(read(snapshot), columns)) == repr(events(both, columns))


def test_a_job_reads_an_iceberg_table_by_todays_names_and_an_older_snapshot_by_its_own(tmp_path):
    """A rename alone makes no snapshot, and a job pins the newest one's id."""
    old = log_rows().rename_columns(
        [{"price": "cost"}.get(name, name) for name in log_rows().schema.names]
    )
    table = iceberg_table(tmp_path / "events", old, KEYS)
    first = table.history()[0].snapshot_id
    with table.update_schema() as update:
        update.rename_column("cost", "price")
    for version in (None, first):
        catalog = small_catalog(log__version=version)
        assert open_log(catalog, str(tmp_path), wanted=["pretrain"]).snapshot.rows == len(old)
    table.append(log_rows(6, first=50))
    view = open_log(small_catalog(), str(tmp_path), wanted=["pretrain"])
    assert view.snapshot.rows == len(old) + 6
    with pytest.raises(
        BadRequest, match=r"(?s)names the column 'price', which no file has.* cost,"
    ):
        open_log(small_catalog(log__version=first), str(tmp_path), wanted=["pretrain"])


def test_a_dropped_column_does_not_come_back_under_a_new_column_of_its_name(tmp_path):
    rows = log_rows()
    table = iceberg_table(tmp_path, rows, KEYS)
    with table.update_schema() as update:
        update.delete_column("age")
    with table.update_schema() as update:
        update.add_column("age", LongType())
    schemas = []
    take_snapshot(
        str(tmp_path), partition_keys=KEYS, schema_problem=lambda s: schemas.append(s.names) or None
    )
    assert schemas
    assert all("age" not in names and "price" in names for names in schemas)


def test_files_without_field_ids_are_read_by_the_tables_name_mapping(tmp_path):
    table = iceberg_table(tmp_path / "t", log_rows(), ())
    plain = write_file(tmp_path / "elsewhere" / "old.parquet", log_rows(5, first=70))
    table.add_files([f"file://{plain}"])
    with table.update_schema() as update:
        update.rename_column("price", "cost")
    snapshot = take_snapshot(str(tmp_path / "t"), partition_keys=())
    assert [f.path for f in snapshot.files if "://" in f.path] == [f"file://{plain}"]
    catalog = small_catalog(
        log__partition_keys=[],
        log__date_key=None,
        features=[{"kind": "numeric", "name": "cost"}, {"kind": "categorical", "name": "user_id"}],
        tables={},
    )
    both = pa.concat_tables([log_rows(), log_rows(5, first=70)])
    result = read(snapshot, catalog)
    assert repr(events(result, ("event_id", "cost"))) == repr(events(both, ("event_id", "price")))


def test_partition_columns_that_are_no_keys_of_the_catalogue_are_columns(tmp_path):
    rows = log_rows().set_column(5, "slot", pa.array([i % 3 for i in range(12)], pa.int32()))
    delta_table(tmp_path, rows, ["slot", "region"])
    catalog = small_catalog(log__partition_keys=[], log__date_key=None)
    snapshot = take_snapshot(
        str(tmp_path),
        partition_keys=(),
        schema_problem=lambda s: (
            None if s.field("slot").type == pa.int32() else SchemaProblem("no slot")
        ),
    )
    slots = [
        s for f in snapshot.files for part in parquet.read_column(snapshot, f, "slot") for s in part
    ]
    assert sorted(slots, key=str) == sorted(rows.column("slot"), key=str)
    result = read(snapshot, catalog)
    columns = ("event_id", "slot", "region")
    assert events(result, columns) == events(rows, columns)
    where = {"slot": ("1",), "region": ("a b", "hangzhou")}
    split = Split(name="s", first=None, last=None, where=where, slice=(0.0, 1.0))
    expected = [e for e in events(rows, columns) if e[1] == 1 and e[2]]
    assert events(read(snapshot, catalog, split), columns) == expected


def test_dates_and_numbers_of_partitions_are_text_as_folders_would_have_it(tmp_path):
    moments = pa.array([1_790_812_800, 1_790_812_800 + 90], pa.timestamp("s")).cast(
        pa.timestamp("us")
    )
    columns = {
        "i": pa.array([1, None], pa.int32()),
        "d": pa.array([20_727, None], pa.int32()).cast(pa.date32()),
        "t": moments,
        "x": [0, 1],
    }
    wanted = {(("i", "1"), ("d", "2026-10-01"), ("t", "2026-10-01 00:00:00"))}
    wanted |= {(("i", None), ("d", None), ("t", "2026-10-01 00:01:30"))}
    delta_table(tmp_path / "delta", pa.table(columns), "idt")
    iceberg_table(tmp_path / "iceberg", pa.table(columns), "idt")
    for name in ("delta", "iceberg"):
        snapshot = take_snapshot(str(tmp_path / name), partition_keys=("i", "d", "t"))
        assert {f.partition for f in snapshot.files} == wanted


def test_a_transformed_partition_is_a_key_by_its_own_name():
    schema = Schema(
        NestedField(1, "at", TimestampType()),
        NestedField(2, "land", StringType()),
        NestedField(3, "region", StringType()),
        NestedField(4, "gone", StringType()),
    )
    spec = PartitionSpec(
        PartitionField(1, 1000, DayTransform(), "at_day"),
        PartitionField(2, 1001, IdentityTransform(), "region"),  # renamed to land since
        PartitionField(1, 1002, BucketTransform(8), "at_bucket"),
        PartitionField(4, 1003, VoidTransform(), "gone"),
        PartitionField(9, 1004, IdentityTransform(), "dropped"),
    )
    file = DataFile.from_args(partition=Record(20_727, "x y", 3, None, "z"))
    texts, exact = iceberg.partition_texts(file, spec, schema)
    assert texts == {"at_day": "2026-10-01", "land": "x y", "at_bucket": "3"}
    assert exact == {"land": "x y"}


def test_a_column_that_later_files_brought_is_missing_in_the_earlier_ones_alone(tmp_path):
    early = log_rows(6).drop_columns(["price"])
    delta_table(tmp_path / "events", early, KEYS)
    delta_table(tmp_path / "events", log_rows(6, first=6), KEYS, mode="append", schema_mode="merge")
    view = open_log(CATALOG, str(tmp_path), wanted=["pretrain"])
    assert view.snapshot.rows == 6
    (problem,) = file_problems(view.snapshot)
    assert problem.message == "6 of 12 files lack price (6 rows)"
    late = small_catalog(splits={"tune": {"where": {"user_id": ["nobody"]}}})
    with pytest.raises(BadLog, match=r"6 of 12 files lack price \(6 rows\)"):
        open_log(late, str(tmp_path), wanted=["tune"])


# Rows deleted by position


def deleted_from(write: Callable[..., Any], folder: Path) -> pa.Table:
    """Delete two rows of one file and all of another; what the library reads then."""
    if write is delta_at:
        delta_table(folder, log_rows(20), ["region"])
        paths = on_disk(folder)
        lost = pq.read_metadata(folder / paths[1]).num_rows
        delete_delta_rows(folder, {paths[0]: [1, 3], paths[1]: range(lost)})
        return delta_rows(folder)
    table = iceberg_table(folder, log_rows(20), ["region"])
    tasks = sorted(table.scan().plan_files(), key=lambda t: t.file.file_path)
    first, second = (t.file.file_path for t in tasks[:2])
    delete_iceberg_rows(table, {first: [1, 3]})
    table = table.catalog.load_table(table.name())
    delete_iceberg_rows(table, {first: [3, 4], second: range(tasks[1].file.record_count)})
    return table.catalog.load_table(table.name()).scan().to_arrow()


@pytest.mark.parametrize("write", [delta_at, iceberg_at])
def test_rows_deleted_by_position_are_not_read(tmp_path, write):
    expected = deleted_from(write, tmp_path / "events")
    snapshot = take_snapshot(str(tmp_path / "events"), partition_keys=("region",))
    assert snapshot.rows == len(expected) < 18
    assert 0 in [f.rows for f in snapshot.files]
    catalog = small_catalog(log__partition_keys=["region"], log__date_key=None)
    columns = ("event_id", "region", "click")
    assert repr(events(read(snapshot, catalog), columns)) == repr(events(expected, columns))
    record = logs.describe(snapshot)
    assert sum(file.deleted_rows for file in record.files) == 20 - len(expected)
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot


@pytest.mark.parametrize("kind", [FileFormat.PARQUET, FileFormat.PUFFIN])
def test_delete_files_and_deletion_vectors_of_iceberg_name_the_same_rows(tmp_path, kind):
    table = iceberg_table(tmp_path, log_rows(20), ["region"])
    path = min(t.file.file_path for t in table.scan().plan_files())
    delete_iceberg_rows(table, {path: [0, 2, 5]}, kind=kind)
    expected = table.catalog.load_table(table.name()).scan().to_arrow()
    snapshot = take_snapshot(str(tmp_path), partition_keys=("region",))
    catalog = small_catalog(log__partition_keys=["region"], log__date_key=None)
    columns = ("event_id", "region")
    assert events(read(snapshot, catalog), columns) == events(expected, columns)
    assert len(expected) == 17


def test_deletes_by_a_file_of_another_format_are_refused_by_name(tmp_path):
    table = iceberg_table(tmp_path, log_rows(), KEYS)
    path = next(iter(table.scan().plan_files())).file.file_path
    delete_iceberg_rows(table, {path: [0]}, kind=FileFormat.ORC)
    with pytest.raises(BadLog, match=r"in a file of format ORC, which is not read"):
        take_snapshot(str(tmp_path), partition_keys=KEYS)


def test_a_mapped_delta_table_may_have_deletion_vectors(tmp_path):
    delta_table(tmp_path, log_rows(20), ["region"], configuration=MAPPED)
    path = on_disk(tmp_path)[0]
    delete_delta_rows(tmp_path, {path: [0, 4]})
    expected = delta_rows(tmp_path)
    snapshot = take_snapshot(str(tmp_path), partition_keys=("region",))
    catalog = small_catalog(log__partition_keys=["region"], log__date_key=None)
    columns = ("event_id", "region")
    assert events(read(snapshot, catalog), columns) == events(expected, columns)
    assert len(expected) == 18


def test_a_version_whose_files_are_gone_is_refused_with_the_reason(tmp_path):
    delta_at(tmp_path / "events")
    table = DeltaTable(str(tmp_path / "events"))
    table.create_checkpoint()
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert open_log(CATALOG, str(tmp_path), wanted=["pretrain"]).snapshot.rows == 9
    with pytest.raises(BadLog, match=r"6 of 6 files: it is not there, .*Was the version vacuumed"):
        open_log(small_catalog(log__version=0), str(tmp_path), wanted=["pretrain"])


def test_deleting_a_row_changes_the_fingerprint_of_its_file_alone(tmp_path):
    delta_table(tmp_path, log_rows(20), ["region"])
    before = take_snapshot(str(tmp_path), partition_keys=("region",))
    delete_delta_rows(tmp_path, {before.files[0].path: [2]})
    after = take_snapshot(str(tmp_path), partition_keys=("region",))
    changed = [
        a.fingerprint != b.fingerprint for a, b in zip(before.files, after.files, strict=True)
    ]
    assert changed == [True, False, False]
    assert before.fingerprint != after.fingerprint


def test_a_deleted_row_that_the_file_does_not_have_is_a_named_error(tmp_path):
    table = iceberg_table(tmp_path, log_rows(9), ["region"])
    path = next(t.file.file_path for t in table.scan().plan_files())
    delete_iceberg_rows(table, {path: [2, 40]})
    snapshot = take_snapshot(str(tmp_path), partition_keys=("region",))
    assert [("row 40 of its 3" in u.reason, u.path in path) for u in snapshot.unreadable] == [
        (True, True)
    ]
    assert snapshot.rows == 6


def test_equality_deletes_are_refused_by_name(tmp_path):
    table = iceberg_table(tmp_path, log_rows(), KEYS)
    path = next(iter(table.scan().plan_files())).file.file_path
    delete_iceberg_rows(table, {path: [0]}, DataFileContent.EQUALITY_DELETES)
    with pytest.raises(BadLog, match=r"deletes rows by equality .*rewrite_data_files"):
        take_snapshot(str(tmp_path), partition_keys=KEYS)


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_each_row_that_is_not_deleted_is_read_once_and_keeps_its_key(tmp_path_factory, data):
    """Over row groups of any size, any deleted rows, any number of workers and any slice."""
    folder = tmp_path_factory.mktemp("table")
    sizes = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=5), label="row groups")
    count = sum(sizes)
    assume(count)
    lost = data.draw(st.sets(st.integers(0, count - 1)), label="deleted")
    delta_table(folder, log_rows(count), ())
    (path,) = on_disk(folder)
    write_file(folder / path, log_rows(count), sizes)
    catalog = small_catalog(log__partition_keys=[], log__date_key=None, log__row_id=None)

    def keys_and_ids(split: Split, world: int = 1) -> list[tuple[int, int]]:
        snapshot = take_snapshot(str(folder), partition_keys=())
        selection = parquet.select(snapshot, split, catalog)
        results = []
        for rank in range(world):
            pieces = pieces_of(selection, rank=rank, world=world)
            assert sum(p.rows for p in pieces) == rows_of_worker(selection, rank=rank, world=world)
            for piece in pieces:
                raw = parquet.read_piece(selection, piece, WITH_ID)
                ids = raw.rows.column("event_id").to_pylist()
                results += zip(reader_keys(raw), ids, strict=True)
        return results

    def reader_keys(raw: parquet.RawRows) -> list[int]:
        return [int(key) for key in raw.identity]

    WITH_ID = small_catalog(
        log__partition_keys=[],
        log__date_key=None,
        log__row_id=None,
        features=[{"kind": "categorical", "name": "event_id"}],
        tables={},
    )
    whole = dict(keys_and_ids(EVERYTHING))
    assert sorted(whole.values()) == list(range(count))
    if lost:
        delete_delta_rows(folder, {path: sorted(lost)})
    expected = {key: event for key, event in whole.items() if event not in lost}
    world = data.draw(st.integers(1, 3), label="workers")
    results = keys_and_ids(EVERYTHING, world)
    assert sorted(results) == sorted(expected.items())
    cut = data.draw(st.floats(0.1, 0.9), label="cut")
    halves = [
        Split(name="h", first=None, last=None, where={}, slice=s) for s in ((0.0, cut), (cut, 1.0))
    ]
    assert sorted(keys_and_ids(halves[0]) + keys_and_ids(halves[1])) == sorted(expected.items())


# Where the metadata lies


@pytest.mark.parametrize(
    ("path", "uri", "root", "expected"),
    [
        ("a/b.parquet", "/t", "/t", "a/b.parquet"),
        ("file:///t/a.parquet", "/t", "/t", "a.parquet"),
        ("file:/t/a.parquet", "/moved/t", "file:///t", "a.parquet"),
        ("/t/a.parquet", "file:///t", "/elsewhere", "a.parquet"),
        ("s3a://bucket/t/a=b%2Bc/x", "s3://bucket/t", "s3://bucket/t/", "a=b%2Bc/x"),
        ("s3://bucket/t/x", "s3://bucket/t?region=eu", "s3://old/t", "x"),
        ("s3://bucket/t2/x", "s3://bucket/t", "s3://bucket/t", "s3://bucket/t2/x"),
        ("/other/x", "/t", "/t", "file:///other/x"),
    ],
)
def test_a_tables_files_are_named_below_its_folder_however_its_metadata_spell_it(
    path, uri, root, expected
):
    folder = TableFolder(format="delta", uri=uri, filesystem=LocalFileSystem(), root=uri)
    assert below(path, folder, root=root) == expected


def test_a_file_elsewhere_is_found_without_decoding_its_name(tmp_path):
    (tmp_path / "a%2Bb").write_bytes(b"x")
    filesystem, path = locate(f"file://{tmp_path}/a%2Bb")
    assert filesystem.open_input_file(path).read() == b"x"
    with pytest.raises(BadLog, match=r"not a location that pyarrow\.fs understands"):
        locate("nope://bucket/x")


def test_an_iceberg_table_is_found_from_its_data_folder_and_after_a_move(tmp_path):
    iceberg_table(tmp_path / "made here" / "t", log_rows(), KEYS)
    shutil.copytree(tmp_path / "made here" / "t", tmp_path / "t")
    there = take_snapshot(str(tmp_path / "made here" / "t"), partition_keys=KEYS)
    shutil.rmtree(tmp_path / "made here")
    here = take_snapshot(str(tmp_path / "t" / "data"), partition_keys=KEYS)
    assert here.uri == str(tmp_path / "t")
    assert here.fingerprint == there.fingerprint
    assert events(read(here)) == events(log_rows())
    catalog = small_catalog(log__path="t/data")
    assert open_log(catalog, str(tmp_path), wanted=["pretrain"]).snapshot.rows == 12


def test_the_newest_metadata_file_counts_and_two_of_them_are_refused(tmp_path):
    table = iceberg_table(tmp_path, log_rows(), KEYS)
    names = sorted(p.name for p in (tmp_path / "metadata").glob("*.metadata.json"))
    assert len(names) == 3
    table.append(log_rows(3, first=90))
    current = table.current_snapshot()
    assert current
    assert take_snapshot(str(tmp_path), partition_keys=KEYS).rows == 15
    stray = f"00003-{'0' * 8}.metadata.json"
    shutil.copy(tmp_path / "metadata" / names[-1], tmp_path / "metadata" / stray)
    with pytest.raises(BadRequest, match=r"2 newest metadata files: .*Set log.version"):
        take_snapshot(str(tmp_path), partition_keys=KEYS)
    pinned = take_snapshot(str(tmp_path), partition_keys=KEYS, version=current.snapshot_id)
    assert pinned.rows == 15


def test_a_table_without_a_snapshot_has_no_files(tmp_path):
    FolderCatalog().create_table("t", log_rows().schema, f"file://{tmp_path}/events")
    with pytest.raises(BadLog, match="no file at all"):
        open_log(CATALOG, str(tmp_path), wanted=["pretrain"])


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("marks", "path", "message"),
    [
        pytest.param([".hoodie"], "", r"is a Hudi table.*Export a plain Parquet copy", id="hudi"),
        pytest.param([".hoodie"], "region=a", "is a Hudi table", id="in hudi"),
        pytest.param(
            ["snapshot", "schema", "manifest"], "", r"is a Paimon table.*name\$ro", id="paimon"
        ),
        pytest.param(
            ["snapshot", "schema", "manifest"], "bucket-0", "is a Paimon table", id="in paimon"
        ),
        pytest.param(["_delta_log"], "region=a", "a folder inside the Delta table", id="in delta"),
        pytest.param(["sales/_delta_log"], "", "sales is a table of its own", id="delta below"),
        pytest.param(["x/y/.hoodie"], "", "x/y is a table of its own", id="hudi below"),
    ],
)
def test_formats_and_places_that_cannot_be_read_are_refused_by_name(tmp_path, marks, path, message):
    make(tmp_path, *marks)
    folder = tmp_path / path
    write_file(folder / "part.parquet", draw_rows(3))
    with pytest.raises(BadLog, match=message):
        take_snapshot(str(folder), partition_keys=())


def test_a_copied_partition_of_a_hudi_table_is_refused_by_its_own_file(tmp_path):
    write_file(tmp_path / "region=a" / "f_0_1.parquet", draw_rows(3))
    (tmp_path / "region=a" / ".hoodie_partition_metadata").write_text("commitTime=1")
    for keys in ((), ("region",)):
        with pytest.raises(BadLog, match=r"Hudi table.*\.hoodie_partition_metadata"):
            take_snapshot(str(tmp_path), partition_keys=keys)


def test_an_iceberg_table_further_down_is_refused(tmp_path):
    iceberg_table(tmp_path / "db" / "t", log_rows(), ())
    with pytest.raises(BadLog, match=r"db/t is a table of its own"):
        take_snapshot(str(tmp_path), partition_keys=())


def test_folders_that_merely_share_a_name_with_a_formats_are_plain(tmp_path):
    make(tmp_path, "snapshot", "schema", "log/metadata")
    write_file(tmp_path / "log" / "part.parquet", draw_rows(3))
    (tmp_path / "log" / "metadata" / "notes.json").write_text("{}")
    snapshot = take_snapshot(str(tmp_path / "log"), partition_keys=())
    assert (snapshot.rows, snapshot.table) == (3, None)
    assert not logs.is_table(str(tmp_path / "log"))


def test_files_of_a_paimon_primary_key_table_are_refused_wherever_they_lie(tmp_path):
    rows = draw_rows(3)
    for name in ("_SEQUENCE_NUMBER", "_VALUE_KIND"):
        rows = rows.append_column(name, pa.array(np.zeros(3, np.int64)))
    write_file(tmp_path / "bucket-0" / "data-1.parquet", rows)
    with pytest.raises(BadLog, match=r"Paimon table.*data-1\.parquet with the columns"):
        take_snapshot(str(tmp_path), partition_keys=())


def test_the_librarys_rows_and_ours_are_the_same_after_a_compaction(tmp_path):
    for first in (0, 12, 24):
        delta_table(tmp_path, log_rows(12, first=first), KEYS, mode="append")
    DeltaTable(str(tmp_path)).optimize.compact()
    assert len(on_disk(tmp_path)) == 4 * 6
    snapshot = take_snapshot(str(tmp_path), partition_keys=KEYS)
    assert len(snapshot.files) == 6
    expected = delta_rows(tmp_path)
    assert pc.count_distinct(expected.column("event_id")).as_py() == snapshot.rows == 36
    assert events(read(snapshot)) == events(expected)


@pytest.mark.parametrize("keys", [("region", "dt"), ("region",)])
def test_a_date_whose_rows_are_all_deleted_is_no_date_of_the_log(tmp_path, keys):
    """A table that is partitioned by its dates, and one that is not."""
    rows = log_rows().sort_by("dt")
    delta_table(tmp_path, rows.slice(0, 6), keys)
    delta_table(tmp_path, rows.slice(6), keys, mode="append")
    last = [
        path
        for path in on_disk(tmp_path)
        if min(pq.read_table(tmp_path / path, columns=["event_id"]).column(0).to_pylist()) % 2
    ]
    assert len(last) == 3
    delete_delta_rows(tmp_path, {path: range(2) for path in last})
    assert [str(day) for day in read_dates(str(tmp_path), CATALOG)[0].counted] == [DAYS[0]]


def test_a_file_that_a_table_names_and_that_is_gone_counts_as_many_rows_as_a_usual_one(tmp_path):
    folder = tmp_path / "events"
    for at, (region, day) in enumerate((r, d) for r in ("hangzhou", "ningbo") for d in DAYS[:2]):
        rows = draw_rows(100, first=100 * at).append_column("region", pa.array([region] * 100))
        delta_table(folder, rows.append_column("dt", pa.array([day] * 100)), KEYS, mode="append")
    next(folder.glob(f"region=ningbo/dt={DAYS[1]}/*.parquet")).unlink()
    catalog = small_catalog(splits={"pretrain": {"days": [0, 1]}})
    (loss,) = open_log(catalog, str(tmp_path), wanted=["pretrain"]).skipped.windows
    assert (loss.lost, loss.rows) == (100, 400)


@pytest.mark.parametrize("version", [None, 7])
def test_what_deltalake_says_is_told_without_its_backtrace(tmp_path, version):
    folder = tmp_path / "events"
    delta_table(folder, log_rows(), KEYS)
    (folder / "_delta_log" / f"{0:020}.json").write_text("{broken")
    with pytest.raises((BadLog, BadRequest), match=r"the Delta table .*: ") as refused:
        take_snapshot(str(folder), partition_keys=KEYS, version=version)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("table", [delta_table, iceberg_table])
def test_a_date_in_three_columns_is_one_key_of_a_table(tmp_path, table):
    parts = {"year": [2026, 2026, 2026], "month": [2, 2, 12], "day": [3, 3, 31]}
    rows = draw_rows(3)
    for name, values in parts.items():
        rows = rows.append_column(name, pa.array(values, pa.int32()))
    table(tmp_path / "cut", rows, tuple(parts))
    uri, keys = str(tmp_path / "cut"), ("year/month/day",)
    snapshot = take_snapshot(
        uri, partition_keys=keys, admits=lambda known: known[keys[0]] != "2026-12-31"
    )
    assert {file.exact_partition[keys[0]] for file in snapshot.files} == {"2026-02-03"}
    assert snapshot.rows == 2
    values = logs.partition_values(uri, keys, keys[0])
    assert values == {"2026-02-03", "2026-12-31"}
    table(tmp_path / "whole", rows)
    with pytest.raises(BadRequest, match=r"add a column with the date"):
        take_snapshot(str(tmp_path / "whole"), partition_keys=keys)
