"""Resolve an Iceberg table to its data files, with pyiceberg and without asking a catalogue."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from iak.pipeline.data.lakehouse import (
    Names,
    Positions,
    Table,
    TableFile,
    TableFolder,
    TableSnapshot,
    below,
    field_id,
    locate,
    metadata_files,
    not_installed,
)
from iak.pipeline.errors import BadLog, BadRequest, PipelineError

if TYPE_CHECKING:
    from pyiceberg.io import FileIO, InputFile, OutputFile
    from pyiceberg.manifest import DataFile
    from pyiceberg.partitioning import PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.table import StaticTable


def resolve(folder: TableFolder, version: int | None) -> TableSnapshot:
    """Return the files of a snapshot of a table.

    Args:
        folder: the table's folder.
        version: id of the snapshot; None for the newest.

    Raises:
        BadRequest: pyiceberg is not installed, or the table has no such snapshot.
        BadLog: the table cannot be read as data files, names and deleted positions.
    """
    try:
        import pyiceberg
    except ImportError as error:
        raise not_installed(folder, "pyiceberg") from error
    try:
        name, table = _load(folder, version)
        newest = table.current_snapshot()
        snapshot = newest if version is None else table.snapshot_by_id(version)
        schema = table.schema()
        # Renaming a column makes no snapshot. So the newest rows have today's names, even for a
        # job that has pinned the newest snapshot by its id.
        is_older = snapshot is not None and newest is not None and snapshot != newest
        if snapshot and is_older and snapshot.schema_id is not None:
            schema = table.schemas()[snapshot.schema_id]
        files = tuple(_files(folder, table, version, schema)) if snapshot else ()
        mapping = table.name_mapping()
    except PipelineError:
        raise
    except Exception as error:  # bytes of a damaged manifest raise any error in pyiceberg 0.12
        raise BadLog(
            f"the Iceberg table {folder.uri} cannot be read with pyiceberg "
            f"{pyiceberg.__version__}: {error}. Is a file of its metadata missing? For a feature "
            "that it does not read, export a plain Parquet copy"
        ) from error
    by_name = {name: field.field_id for field in (mapping or ()) for name in field.names}
    return TableSnapshot(
        table=Table(
            format="iceberg",
            version=snapshot.snapshot_id if snapshot else None,
            metadata=f"metadata/{name}",
        ),
        files=files,
        columns=tuple(field.name for field in schema.fields),
        names_in=lambda stored: _names(stored, schema, by_name),
    )


def _load(folder: TableFolder, version: int | None) -> tuple[str, "StaticTable"]:
    """Return the table as its newest metadata file has it, and the name of that file.

    A commit that lost a race leaves a metadata file of the winner's number. Two newest files are
    refused, unless only one of them has the snapshot that is asked for.
    """
    from pyiceberg.catalog.noop import NoopCatalog
    from pyiceberg.serializers import FromInputFile
    from pyiceberg.table import StaticTable

    names = metadata_files(folder.filesystem, folder.root)
    newest = max(map(_number, names))
    tables = {}
    for name in (n for n in names if _number(n) == newest):
        file = _folder_io(folder, "").new_input(f"metadata/{name}")
        metadata = FromInputFile.table_metadata(file)
        tables[name] = StaticTable(
            identifier=("table", name),
            metadata=metadata,
            metadata_location=f"{metadata.location}/metadata/{name}",
            io=_folder_io(folder, metadata.location),
            catalog=NoopCatalog("none"),
        )
    having = {n: t for n, t in tables.items() if version and t.snapshot_by_id(version)}
    if version is not None and not having:
        snapshots = [str(s.snapshot_id) for t in tables.values() for s in t.snapshots()]
        raise BadRequest(
            f"the Iceberg table {folder.uri} has no snapshot {version}; it has "
            f"{', '.join(dict.fromkeys(snapshots)) or 'none'}. Leave log.version out for the newest"
        )
    if version is None and len(tables) > 1:
        raise BadRequest(
            f"the Iceberg table {folder.uri} has {len(tables)} newest metadata files: "
            f"{', '.join(tables)}. Only its catalogue knows which is the table. Set log.version to "
            "the snapshot id that the catalogue names"
        )
    return next(iter((having or tables).items()))


def _number(name: str) -> int:
    """Return the number of a metadata file: `v3.metadata.json` or `00003-UUID.metadata.json`."""
    number = re.match(r"v?(\d+)[-.]", name)
    return int(number[1]) if number else -1


def _folder_io(folder: TableFolder, table_location: str) -> "FileIO":
    """Return pyiceberg's access to files, for a table that may have been moved or copied.

    Args:
        folder: the table's folder as it is now.
        table_location: the table's folder as its metadata have it; empty for paths below `folder`.
    """
    from pyiceberg.io import FileIO
    from pyiceberg.io.pyarrow import PyArrowFile

    class FolderIO(FileIO):
        def new_input(self, location: str) -> "InputFile":
            filesystem, path = _locate(folder, location, root=table_location)
            return PyArrowFile(location, path, filesystem)

        def new_output(self, location: str) -> "OutputFile":
            raise NotImplementedError(f"a log is never written: {location}")

        def delete(self, location: "str | InputFile | OutputFile") -> None:
            raise NotImplementedError(f"a log is never written: {location}")

    return FolderIO()


def _locate(folder: TableFolder, path: str, *, root: str) -> tuple[pa.fs.FileSystem, str]:
    """Return the file system and path of a file that the metadata names."""
    own = below(path, folder, root=root) if root else path
    return locate(own) if "://" in own else (folder.filesystem, f"{folder.root}/{own}")


def _files(
    folder: TableFolder, table: "StaticTable", version: int | None, schema: "Schema"
) -> Iterator[TableFile]:
    """Yield the data files of a snapshot, with the positions that delete files name."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    _refuse_equality_deletes(folder, table, version)
    types = {field.name: field.type for field in schema_to_pyarrow(schema)}
    defaults = {
        field.name: _scalar(field.initial_default, types[field.name])
        for field in schema.fields
        if field.initial_default is not None
    }
    read: dict[str, dict[str, Positions]] = {}
    for task in table.scan(snapshot_id=version).plan_files():
        file = task.file
        if file.file_format.value.upper() != "PARQUET":
            raise BadLog(
                f"{file.file_path} of the Iceberg table {folder.uri} is {file.file_format.value}, "
                "not Parquet. Rewrite the table with write.format.default=parquet, or export a copy"
            )
        for delete in task.delete_files:
            if delete.file_path not in read:
                read[delete.file_path] = _deletes(folder, table, delete)
        named = [read[delete.file_path].get(file.file_path) for delete in task.delete_files]
        positions = [p for p in named if p is not None]
        texts, exact = partition_texts(file, table.specs()[file.spec_id], schema)
        yield TableFile(
            path=below(file.file_path, folder, root=table.location()),
            partition=texts,
            constants=defaults | {n: _scalar(v, types[n]) for n, v in exact.items()},
            deleted=np.unique(np.concatenate([np.empty(0, np.int64), *positions])),
        )


def _refuse_equality_deletes(
    folder: TableFolder, table: "StaticTable", version: int | None
) -> None:
    from pyiceberg.manifest import DataFileContent, ManifestContent

    snapshot = table.scan(snapshot_id=version).snapshot()
    for manifest in snapshot.manifests(table.io) if snapshot else ():
        if manifest.content != ManifestContent.DELETES:
            continue
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            if entry.data_file.content == DataFileContent.EQUALITY_DELETES:
                raise BadLog(
                    f"the Iceberg table {folder.uri} deletes rows by equality "
                    f"({entry.data_file.file_path}), which pyiceberg does not read. Compact the "
                    "table (Spark: CALL system.rewrite_data_files), or export a plain Parquet copy"
                )


def _deletes(folder: TableFolder, table: "StaticTable", file: "DataFile") -> dict[str, Positions]:
    """Return the deleted positions that a delete file names, by data file."""
    from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
    from pyiceberg.table.puffin import PuffinFile

    filesystem, path = _locate(folder, file.file_path, root=table.location())
    kind = file.file_format.value.upper()
    with filesystem.open_input_file(path) as source:
        if kind == "PUFFIN":
            vectors = deletion_vectors_from_puffin_file(PuffinFile(source.read()))
            return {v.referenced_data_file: v.to_vector().to_numpy() for v in vectors}
        if kind != "PARQUET":
            raise BadLog(
                f"{file.file_path} deletes rows of the Iceberg table {folder.uri} in a file of "
                f"format {kind}, which is not read. Compact the table, or export a plain copy"
            )
        rows = pq.read_table(source, columns=["file_path", "pos"], page_checksum_verification=True)
    paths = rows.column("file_path").combine_chunks().dictionary_encode()
    codes, positions = paths.indices.to_numpy(), rows.column("pos").to_numpy()
    return {name: positions[codes == at] for at, name in enumerate(paths.dictionary.to_pylist())}


def partition_texts(
    file: "DataFile", spec: "PartitionSpec", schema: "Schema"
) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Return the values that a file's partition gives to all its rows.

    Returns:
        Values as text, by name of the partition field; where the field is an untransformed column,
        by name of the column as well, since that may have been renamed. And the values of those
        columns with their own type.
    """
    from pyiceberg.transforms import IdentityTransform, VoidTransform
    from pyiceberg.types import TimestampType, TimestamptzType

    texts: dict[str, str | None] = {}
    exact: dict[str, Any] = {}
    sources = {field.field_id: field for field in schema.fields}
    columns = {field.name for field in schema.fields}
    for index, part in enumerate(spec.fields):
        source = sources.get(part.source_id)
        if source is None or isinstance(part.transform, VoidTransform):
            continue
        value, text = file.partition[index], None
        if value is not None:
            text = part.transform.to_human_string(source.field_type, value)
        if part.name not in columns:
            texts[part.name] = text
        if isinstance(part.transform, IdentityTransform):
            is_time = isinstance(source.field_type, TimestampType | TimestamptzType)
            if text and is_time and value % 1_000_000 == 0:
                text = text[:19].replace("T", " ")
            texts[source.name], exact[source.name] = text, value
    return texts, exact


def _scalar(value: object, kind: pa.DataType) -> pa.Scalar:
    """Return an Iceberg value in an Arrow type. Iceberg has dates and times as whole numbers."""
    if isinstance(value, int) and pa.types.is_temporal(kind):
        return pa.scalar(value, pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)
    return pa.scalar(value, kind)


def _names(stored: pa.Schema, schema: "Schema", by_name: Mapping[str, int | None]) -> Names:
    """Return the table's columns in a file, by field id; by name in files written without ids."""
    own = {field_id(field): field.name for field in stored}
    if set(own) == {None}:
        own = {by_name.get(name): name for name in stored.names}
        if not by_name:
            return tuple((f.name, f.name) for f in schema.fields if f.name in stored.names)
    return tuple((f.name, own[f.field_id]) for f in schema.fields if f.field_id in own)
