"""Tables of lakehouses in a folder, as other writers leave them; deletes by location are by hand.

deltalake and pyiceberg write no deletes by location, though other engines do, so those files are
written here as the formats' specifications say.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.snapshots import Operation, Snapshot, Summary
from pyiceberg.table.update import AddSnapshotUpdate, SetSnapshotRefUpdate
from pyiceberg.typedef import Record
from pyroaring import BitMap

# Delta

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def delta_table(folder: Path, rows: pa.Table, keys: Sequence[str] = (), **more: Any) -> DeltaTable:
    write_deltalake(str(folder), rows, partition_by=list(keys) or None, **more)
    return DeltaTable(str(folder))


def delta_rows(folder: Path, version: int | None = None) -> pa.Table:
    """What deltalake itself reads."""
    return pa.table(DeltaTable(str(folder), version=version).scan())


def delete_delta_rows(folder: Path, deleted: Mapping[str, Sequence[int]]) -> None:
    """Commit deletion vectors: path of a file on disk below the folder -> rows of it.

    Source: Delta's protocol, "Deletion Vector Format" (inline, a portable 64-bit roaring bitmap).
    """
    actions = _actions(folder)
    features = ["deletionVectors"]
    metadata = next(a for a in reversed(actions) if "metaData" in a)
    metadata["metaData"]["configuration"]["delta.enableDeletionVectors"] = "true"
    if "delta.columnMapping.mode" in metadata["metaData"]["configuration"]:
        features.append("columnMapping")
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": features,
        "writerFeatures": features,
    }
    commit: list[dict[str, Any]] = [{"protocol": protocol}, metadata]
    for path, rows in deleted.items():
        add = next(a["add"] for a in actions if "add" in a and unquote(a["add"]["path"]) == path)
        commit.append({"remove": {"path": add["path"], "dataChange": True, "deletionTimestamp": 1}})
        commit.append({"add": add | {"deletionVector": _vector(rows)}})
    _commit(folder, commit)


def rename_delta_columns(folder: Path, names: Mapping[str, str]) -> None:
    """Commit new names for columns of a mapped table; old name -> new name."""
    metadata = next(a for a in reversed(_actions(folder)) if "metaData" in a)
    schema = json.loads(metadata["metaData"]["schemaString"])
    for field in schema["fields"]:
        field["name"] = names.get(field["name"], field["name"])
    keys = [names.get(key, key) for key in metadata["metaData"]["partitionColumns"]]
    metadata["metaData"] |= {"schemaString": json.dumps(schema), "partitionColumns": keys}
    _commit(folder, [metadata])


def _actions(folder: Path) -> list[dict[str, Any]]:
    lines = [p.read_text().splitlines() for p in sorted((folder / "_delta_log").glob("*.json"))]
    return [json.loads(line) for line in chain.from_iterable(lines)]


def _commit(folder: Path, actions: Sequence[Mapping[str, Any]]) -> None:
    name = f"{DeltaTable(str(folder)).version() + 1:020}.json"
    text = "\n".join(json.dumps(action) for action in actions)
    (folder / "_delta_log" / name).write_text(text)


def _vector(rows: Sequence[int]) -> dict[str, Any]:
    body = struct.pack("<iqi", 1681511377, 1, 0) + BitMap(rows).serialize()
    padded = body + b"\0" * (-len(body) % 4)
    text = ""
    for start in range(0, len(padded), 4):
        number = int.from_bytes(padded[start : start + 4], "big")
        text += "".join(_Z85[number // 85**power % 85] for power in (4, 3, 2, 1, 0))
    return {
        "storageType": "i",
        "pathOrInlineDv": text,
        "sizeInBytes": len(body),
        "cardinality": len(rows),
    }


# Iceberg


class FolderCatalog(MetastoreCatalog, NoopCatalog):
    """A catalogue that remembers its tables in memory, enough to write them."""

    def __init__(self) -> None:
        super().__init__("folder")
        self.locations: dict[Any, str] = {}

    def create_table(self, identifier: Any, schema: Any, location: str, **more: Any) -> Table:
        staged = self._create_staged_table(("db", identifier), schema, location, **more)
        self._write_metadata(staged.metadata, staged.io, staged.metadata_location)
        self.locations["db", identifier] = staged.metadata_location
        return self.load_table(("db", identifier))

    def load_table(self, identifier: Any) -> Table:
        location = self.locations[tuple(identifier)]
        io = self._load_file_io(location=location)
        metadata = FromInputFile.table_metadata(io.new_input(location))
        return Table(tuple(identifier), metadata, location, io, self)

    def commit_table(self, table: Table, requirements: Any, updates: Any) -> CommitTableResponse:
        current = self.load_table(table.name())
        staged = self._update_and_stage_table(current, table.name(), requirements, updates)
        self._write_metadata(staged.metadata, staged.io, staged.metadata_location)
        self.locations[table.name()] = staged.metadata_location
        return CommitTableResponse(
            metadata=staged.metadata, metadata_location=staged.metadata_location
        )


def iceberg_table(
    folder: Path, rows: pa.Table, keys: Sequence[str] = (), *, location: str = "", **more: Any
) -> Table:
    """Write rows into a new table, partitioned by these columns as they stand."""
    table = FolderCatalog().create_table(
        folder.name, rows.schema, location or f"file://{folder}", **more
    )
    with table.update_spec() as spec:
        for key in keys:
            spec.add_identity(key)
    table.append(rows)
    return table


def delete_iceberg_rows(
    table: Table,
    deleted: Mapping[str, Sequence[int]],
    content: DataFileContent = DataFileContent.POSITION_DELETES,
    kind: FileFormat = FileFormat.PARQUET,
) -> None:
    """Commit a delete file for each data file: its path as the table names it -> rows of it."""
    parent = table.current_snapshot()
    assert parent is not None
    snapshot_id, number = parent.snapshot_id + 1, table.metadata.next_sequence_number()
    partitions = {t.file.file_path: t.file.partition for t in table.scan().plan_files()}
    location = f"{table.location()}/metadata/deletes-{snapshot_id}.avro"
    writer = _DeletesWriter(
        table.spec(), table.schema(), table.io.new_output(location), snapshot_id, "null"
    )
    with writer:
        for at, (path, rows) in enumerate(deleted.items()):
            writer.add_entry(
                ManifestEntry.from_args(
                    status=ManifestEntryStatus.ADDED,
                    snapshot_id=snapshot_id,
                    sequence_number=None,
                    file_sequence_number=None,
                    data_file=_delete_file(
                        table, f"{number}-{at}", path, rows, partitions[path], content, kind
                    ),
                )
            )
    listing = f"{table.location()}/metadata/snap-{snapshot_id}.avro"
    with write_manifest_list(
        2, table.io.new_output(listing), snapshot_id, parent.snapshot_id, number, "null"
    ) as manifests:
        manifests.add_manifests([writer.to_manifest_file(), *parent.manifests(table.io)])
    snapshot = Snapshot(
        snapshot_id=snapshot_id,
        parent_snapshot_id=parent.snapshot_id,
        sequence_number=number,
        manifest_list=listing,
        summary=Summary(Operation.DELETE),
        schema_id=table.metadata.current_schema_id,
    )
    branch = SetSnapshotRefUpdate(ref_name="main", type="branch", snapshot_id=snapshot_id)
    table._do_commit((AddSnapshotUpdate(snapshot=snapshot), branch), ())


class _DeletesWriter(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


def _delete_file(
    table: Table,
    name: str,
    path: str,
    rows: Sequence[int],
    partition: Record,
    content: DataFileContent,
    kind: FileFormat,
) -> DataFile:
    location = f"{table.location()}/data/deletes-{name}.{kind.value.lower()}"
    schema = pa.schema(
        [
            pa.field("file_path", pa.string(), False, {"PARQUET:field_id": "2147483546"}),
            pa.field("pos", pa.int64(), False, {"PARQUET:field_id": "2147483545"}),
        ]
    )
    columns = {"file_path": [path] * len(rows), "pos": list(rows)}
    with table.io.new_output(location).create() as out:
        if kind == FileFormat.PUFFIN:
            out.write(_puffin(path, rows))
        else:
            pq.write_table(pa.table(columns, schema=schema), out)
    file = DataFile.from_args(
        content=content,
        file_path=location,
        file_format=kind,
        partition=partition,
        record_count=len(rows),
        file_size_in_bytes=len(table.io.new_input(location)),
        equality_ids=[1] if content == DataFileContent.EQUALITY_DELETES else None,
    )
    file.spec_id = table.spec().spec_id
    return file


def _puffin(path: str, rows: Sequence[int]) -> bytes:
    """A Puffin file with one deletion vector.

    Source: the Puffin specification, blob type deletion-vector-v1.
    """
    bitmap = struct.pack("<qi", 1, 0) + BitMap(rows).serialize()
    body = bytes.fromhex("d1d33964") + bitmap
    blob = struct.pack(">i", len(body)) + body + struct.pack(">I", zlib.crc32(body))
    properties = {"referenced-data-file": path, "cardinality": str(len(rows))}
    described = {
        "type": "deletion-vector-v1",
        "fields": [],
        "snapshot-id": -1,
        "sequence-number": -1,
        "offset": 4,
        "length": len(blob),
        "properties": properties,
    }
    footer = json.dumps({"blobs": [described]}).encode()
    ending = struct.pack("<i", len(footer)) + b"\0\0\0\0" + b"PFA1"
    return b"PFA1" + blob + b"PFA1" + footer + ending
