"""Read the footer of each listed file, and decide whether a job can read the file.

A file becomes a `LogFile`, or `Unreadable` with the reason, or `Ignored` where it is not part of
the log. So a damaged file is named before the run starts, and not when training reaches it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from iak.pipeline.data import lakehouse, listing, partitions, structs
from iak.pipeline.data.breaches import SchemaProblem
from iak.pipeline.data.footer import footer_digest, group_rows_of, read_footer
from iak.pipeline.data.lakehouse import TableFile, TableSnapshot
from iak.pipeline.data.listing import ListedFile
from iak.pipeline.data.snapshot import (
    Columns,
    Ignored,
    LogFile,
    PartitionPairs,
    Projection,
    Snapshot,
    Unreadable,
    open_folder,
    packed,
    unpacked,
)
from iak.schemas.log import FolderNames

T = TypeVar("T")
ClassifiedFile = LogFile | Unreadable | Ignored
OUTSIDE = "it lies outside the folders"
"""Start of the reason why a file outside the partition folders is not read."""
_THREADS = 16
"""Footers that are read at once; reading waits for the store, not for the processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileClassifier:
    """Reads footers, and decides which files a job can read."""

    uri: str
    """Folder of the log."""
    keys: tuple[str, ...]
    """Partition keys, outermost first."""
    folder_names: FolderNames = "key=value"
    """How the folders are named."""
    schema_problem: Callable[[pa.Schema], SchemaProblem | None]
    """A file's schema -> why it must be quarantined, or None."""
    table: TableSnapshot | None = None
    """The table whose files are classified; None for a plain folder."""

    def relative(self, path: str) -> str:
        """Return a path below the log's folder."""
        return path[len(open_folder(self.uri)[1]) :].lstrip("/")

    def classify_listed(self, file: ListedFile) -> ClassifiedFile:
        """Classify a file that a listing of the folder shows."""
        path, partition = file
        relative = self.relative(path)
        try:
            reason = listing.not_parquet(open_folder(self.uri)[0], path)
        except OSError as error:
            return self._unreadable(relative, f"no whole Parquet file: {error}", partition)
        if reason:
            return Ignored(path=relative, reason=reason)
        if len(partition) < len(self.keys):
            sign = "..." if self.folder_names == "value" else "=..."
            wanted = "/".join(f"{name}{sign}" for name in partitions.folders_of(self.keys))
            return self._unreadable(relative, f"{OUTSIDE} {wanted}", partition)
        return self._open(relative, partition, None)

    def classify_of_table(self, file: TableFile) -> ClassifiedFile:
        """Classify a file that a table's metadata names."""
        known = tuple((key, file.partition[key]) for key in self.keys if key in file.partition)
        return self._open(file.path, known, file)

    def _unreadable(self, path: str, reason: str, partition: PartitionPairs) -> Unreadable:
        size = _size(*Snapshot(uri=self.uri, files=()).locate(path))
        return Unreadable(path=path, reason=reason, partition=partition, size_bytes=size)

    def _open(
        self, path: str, partition: PartitionPairs, file: TableFile | None
    ) -> LogFile | Unreadable:
        """Read a file's footer and describe its rows.

        Args:
            path: below the log's folder, or a URI.
            partition: values that all rows of the file have.
            file: the table's metadata of the file; None in a plain folder.
        """
        try:
            size, footer = read_footer(*Snapshot(uri=self.uri, files=()).locate(path))
            metadata = pq.read_metadata(pa.BufferReader(footer))
            schema = structs.with_fields(metadata.schema.to_arrow_schema())
            stored = group_rows_of(metadata)
            projection = self._projection(schema, stored, file)
            rows = _schema_of_rows(projection, schema)
            problem = self.schema_problem(rows)
        except (pa.ArrowException, OSError, ValueError) as error:
            gone = (
                "it is not there, though the table names it. Was the version vacuumed or expired?"
            )
            is_gone = isinstance(error, FileNotFoundError) and file is not None
            reason = gone if is_gone else f"no whole Parquet file: {error}"
            return self._unreadable(path, reason, partition)
        if file is None:
            _refuse_paimon(self.uri, path, schema)
        kept = _kept_rows(projection, stored)
        if problem:
            return Unreadable(
                path=path,
                reason=problem.what,
                expected=problem.expected,
                missing=problem.missing,
                partition=partition,
                size_bytes=size,
                group_rows=kept,
                columns=_columns_of(rows.remove_metadata()),
            )
        digest = hashlib.sha256(size.to_bytes(8, "little") + footer)
        if projection:
            digest.update(json.dumps(partition).encode() + projection.digest.encode())
        # Keys whose value the file itself may hold: in a table, those that its metadata leaves out.
        asked = [k for k in self.keys if file is None or k not in file.partition]
        inside = [k for k in asked if k in rows.names]
        absent = [(k, None) for k in asked if file is not None and k not in inside]
        return LogFile(
            path=path,
            partition=(*partition, *absent),
            group_rows=kept,
            size_bytes=size,
            listed=digest.hexdigest(),
            footer=footer_digest(footer),
            columns=_columns_of(rows.remove_metadata()),
            inside=tuple(k for k in inside if partitions.is_comparable(rows.field(k).type)),
            projection=projection,
        )

    def _projection(
        self, schema: pa.Schema, stored: tuple[int, ...], file: TableFile | None
    ) -> Projection | None:
        """Return how a file becomes rows of the table; None in a plain folder.

        Raises:
            ValueError: the metadata deletes rows that the file does not have.
        """
        if self.table is None or file is None:
            return None
        names = _shared(self.table.names_in(schema))
        own = set(schema.names) if names is None else {name for name, _ in names}
        constants = [(n, v) for n, v in sorted(file.constants.items()) if n not in own]
        if len(file.deleted) and file.deleted[-1] >= sum(stored):
            raise ValueError(f"row {file.deleted[-1]} of its {sum(stored)} is deleted")
        return Projection(
            columns=names,
            constants=tuple((n, v) for n, v in constants if n not in self.keys),
            deleted=packed(file.deleted),
            stored_rows=stored if len(file.deleted) else (),
        )


def classify_all(
    classify: Callable[[T], ClassifiedFile], files: Iterable[T]
) -> list[ClassifiedFile]:
    """Classify files in several threads; the result is sorted by path."""
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        return sorted(pool.map(classify, files), key=lambda f: f.path)


def _schema_of_rows(projection: Projection | None, schema: pa.Schema) -> pa.Schema:
    """Return the schema of a file's rows, under the names that the catalogue uses."""
    if projection is None:
        return schema
    names = projection.columns
    if names is None:
        names = tuple((name, name) for name in schema.names)
    fields = [pa.field(name, schema.field(own).type) for name, own in names]
    return pa.schema([*fields, *(pa.field(name, v.type) for name, v in projection.constants)])


def _kept_rows(projection: Projection | None, stored: tuple[int, ...]) -> tuple[int, ...]:
    """Return the rows of each row group that are not deleted."""
    if projection is None or not projection.deleted:
        return stored
    ends = np.cumsum((0, *stored))
    gone = np.diff(np.searchsorted(unpacked(projection.deleted), ends))
    return tuple(int(rows - lost) for rows, lost in zip(stored, gone, strict=True))


def _refuse_paimon(uri: str, path: str, schema: pa.Schema) -> None:
    """Refuse the files of a primary-key table, which have a row for each change of a row.

    Raises:
        BadLog: the schema has the format's own columns.
    """
    own = [name for name in ("_VALUE_KIND", "_SEQUENCE_NUMBER") if name in schema.names]
    if len(own) == 2:
        lakehouse.refuse_paimon(uri, f"{path} with the columns {' and '.join(own)}")


def _size(filesystem: pa.fs.FileSystem, path: str) -> int:
    """Return the bytes of a file that could not be opened, 0 where it is gone."""
    return int(filesystem.get_file_info(path).size or 0)


# A log has many files and few schemas. The files share one object for each schema, so that pickling
# the snapshot for the workers writes each schema once.
@lru_cache(maxsize=1024)
def _columns_of(schema: pa.Schema) -> Columns:
    """Return the columns of a schema, the same object for equal schemas."""
    return tuple((field.name, field.type) for field in schema)


@lru_cache(maxsize=256)
def _shared(names: lakehouse.Names | None) -> lakehouse.Names | None:
    """Return equal names as the same object."""
    return names
