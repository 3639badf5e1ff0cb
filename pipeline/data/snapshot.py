"""Name the exact files that a run reads, and open them.

A `Snapshot` is fixed before a run starts (`logs.take_snapshot`). It holds each file with its row
groups, its partition values and a fingerprint of its content. A file that changed since then is
refused when it is opened.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from iak.pipeline.data import lakehouse, stores
from iak.pipeline.data.content import FileContent, version_of
from iak.pipeline.data.footer import footer_digest, footer_of, group_rows_of, text_columns
from iak.pipeline.data.lakehouse import Table
from iak.pipeline.data.normal import ColumnKind
from iak.pipeline.errors import BadLog

Partition = Mapping[str, str | None]
"""Partition key -> its value as text."""
PartitionPairs = tuple[tuple[str, str | None], ...]
"""Partition keys with their values, outermost first."""
Columns = tuple[tuple[str, pa.DataType], ...]
"""Names with their Arrow types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """The mapping from a table's data file to rows of the table."""

    columns: lakehouse.Names | None
    """The table's columns that the file has, with their names in it; None where names agree."""
    constants: tuple[tuple[str, pa.Scalar], ...] = ()
    """The table's columns that the file lacks and whose value in all its rows is known."""
    deleted: bytes = b""
    """Deleted rows of the file: differences of their ascending positions, compressed."""
    stored_rows: tuple[int, ...] = ()
    """Rows of each row group as the file has them, the deleted ones included."""

    @property
    def digest(self) -> str:
        """Return SHA-256 over all that changes the rows and not the file's bytes."""
        constants = [(name, str(value.type), str(value)) for name, value in self.constants]
        digest = hashlib.sha256(json.dumps([self.columns, constants]).encode())
        digest.update(unpacked(self.deleted).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """One readable Parquet file of the log."""

    path: str
    """Path below the log's folder, `region=a/dt=2026-10-01/part-00000.parquet`."""
    partition: PartitionPairs
    """Hive keys and values, outermost first."""
    group_rows: tuple[int, ...]
    """Rows of each row group."""
    size_bytes: int
    listed: str
    """SHA-256 of size and footer; of a table's file also of partition and projection."""
    footer: str = ""
    """XXH3 of its footer, in hexadecimal; it must be the same when the file is opened. Empty where
    it was not computed."""
    columns: Columns = ()
    """Columns of its rows, as its footer says; of a table, under the table's names. Empty where the
    footer was not read."""
    inside: tuple[str, ...] = ()
    """Partition keys that are columns of the file as well. The file's values count, row by row."""
    projection: Projection | None = None
    """Mapping of its rows to those of a table; None in a plain folder."""
    content: FileContent | None = None
    """Digests of the columns that a job reads; None where they were not computed."""

    @property
    def rows(self) -> int:
        """Return the rows of the file."""
        return sum(self.group_rows)

    @property
    def fingerprint(self) -> str:
        """Return SHA-256 of the content and of how it is read.

        Where the content was not read, return SHA-256 of what the listing shows.
        """
        if self.content is None:
            return self.listed
        types = [(name, str(kind)) for name, kind in self.columns]
        how = [types, self.inside, self.partition, self.stored_rows]
        table = self.projection.digest if self.projection else None
        document = [self.content.features, self.content.others, how, table]
        return hashlib.sha256(json.dumps(document).encode()).hexdigest()

    @property
    def exact_partition(self) -> dict[str, str | None]:
        """Return the partition keys whose value is the same for all rows of the file."""
        return {key: value for key, value in self.partition if key not in self.inside}

    @property
    def stored_rows(self) -> tuple[int, ...]:
        """Return the rows of each row group as the file has them, the deleted ones included."""
        return (self.projection and self.projection.stored_rows) or self.group_rows

    @property
    def constants(self) -> dict[str, pa.Scalar]:
        """Return the columns that are not in the file, with the value that all its rows have."""
        return dict(self.projection.constants) if self.projection else {}

    def stored_names(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the names that columns have in the file; those that it lacks are left out."""
        wanted = [column for column in columns if column not in self.constants]
        names = self.projection.columns if self.projection else None
        if names is None:
            present = dict(self.columns)
            return {column: column for column in wanted if column in present or not present}
        own = _by_name(names)
        return {column: own[column] for column in wanted if column in own}

    def kept(self, group: int) -> npt.NDArray[np.bool_] | None:
        """Return a mask of a row group's rows that are not deleted; None where none is deleted."""
        if not self.projection or self.stored_rows[group] == self.group_rows[group]:
            return None
        first = sum(self.stored_rows[:group])
        positions = unpacked(self.projection.deleted)
        low, high = np.searchsorted(positions, (first, first + self.stored_rows[group]))
        mask = np.ones(self.stored_rows[group], np.bool_)
        mask[positions[low:high] - first] = False
        return mask

    def kept_rows(self) -> npt.NDArray[np.bool_]:
        """Return a mask of the whole file's rows that are not deleted."""
        mask = np.ones(sum(self.stored_rows), np.bool_)
        if self.projection:
            mask[unpacked(self.projection.deleted)] = False
        return mask


@lru_cache(maxsize=64)
def _by_name(names: lakehouse.Names) -> dict[str, str]:
    return dict(names)


def packed(positions: lakehouse.Positions) -> bytes:
    """Return ascending positions in few bytes: a snapshot travels to every worker."""
    return zlib.compress(np.diff(positions, prepend=0).tobytes()) if len(positions) else b""


@lru_cache(maxsize=64)
def unpacked(deleted: bytes) -> lakehouse.Positions:
    """Return the positions that `packed` wrote."""
    if not deleted:
        return np.empty(0, np.int64)
    return np.cumsum(np.frombuffer(zlib.decompress(deleted), np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A file that is not a whole Parquet file, or whose schema breaks the contract."""

    path: str
    reason: str
    expected: tuple[ColumnKind, ...] = ()
    """Kinds of column that the catalogue expects and the file's columns are not."""
    missing: tuple[str, ...] = ()
    """Columns that the file lacks, where that is all that is wrong with it."""
    partition: PartitionPairs = ()
    """Hive keys and values as far as the folders name them, outermost first."""
    size_bytes: int = 0
    group_rows: tuple[int, ...] | None = None
    """Rows of each row group; None where the footer cannot be read."""
    columns: Columns = ()
    """Columns of its rows, where its footer could be read."""

    @property
    def rows(self) -> int | None:
        """Return the rows that its footer counts, None where it cannot be read."""
        return None if self.group_rows is None else sum(self.group_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """A file or folder below the log's folder that is not part of the log."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A file that is being read."""

    parquet: pq.ParquetFile
    handle: pa.NativeFile
    """The same file's bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The exact files that a run reads, fixed before it starts."""

    uri: str
    """Folder of the log."""
    files: tuple[LogFile, ...]
    unreadable: tuple[Unreadable, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    table: Table | None = None
    """The table whose files these are; None for a plain folder."""

    @property
    def rows(self) -> int:
        """Return the rows of all files, before splits select among them."""
        return sum(f.rows for f in self.files)

    @property
    def fingerprint(self) -> str:
        """Return SHA-256 over paths and fingerprints of the files."""
        listing = json.dumps([(f.path, f.fingerprint) for f in self.files])
        return hashlib.sha256(listing.encode()).hexdigest()

    def open(self, file: LogFile) -> pq.ParquetFile:
        """Return the Parquet file, as `open_file` opens it.

        Raises:
            BadLog: the file is gone or changed after the snapshot was taken.
        """
        return self.open_file(file).parquet

    def open_file(self, file: LogFile) -> OpenFile:
        """Open a file for reading row groups. Text columns come as dictionaries.

        Raises:
            BadLog: the file is gone or changed after the snapshot was taken.
        """
        filesystem, path = self.locate(file.path)
        try:
            handle = filesystem.open_input_file(path)
            _, footer = footer_of(handle)
            metadata = pq.read_metadata(pa.BufferReader(footer))
            parquet = pq.ParquetFile(
                handle,
                metadata=metadata,
                # Text is stored as dictionaries: each distinct word is then looked at once.
                read_dictionary=text_columns(metadata),
                page_checksum_verification=True,
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadLog(
                f"{file.path} cannot be opened, though it was whole when the run listed it: "
                f"{error}. Leave a log's files alone while a run reads them; start the run again"
            ) from error
        is_same = file.footer in ("", footer_digest(footer))
        is_same &= handle.size() == file.size_bytes and group_rows_of(metadata) == file.stored_rows
        if not is_same:
            raise BadLog(
                f"{file.path} changed after the run listed it ({file.size_bytes:,} bytes then, "
                f"{handle.size():,} now, or another footer). Leave a log's files alone while a run "
                "reads them; start the run again"
            )
        if file.content is not None and file.content.version not in ("", version_of(handle)):
            raise BadLog(
                f"{file.path} is another version ({version_of(handle)}) than the run listed "
                f"({file.content.version}). Leave a log's files alone while a run reads them; "
                "start the run again"
            )
        return OpenFile(parquet=parquet, handle=handle)

    def locate(self, path: str) -> tuple[pa.fs.FileSystem, str]:
        """Return the file system of one of its files, and the file's path there.

        Args:
            path: path of a `LogFile`; a table may name a file elsewhere by its URI.
        """
        filesystem, root = open_folder(self.uri)
        return lakehouse.locate(path) if "://" in path else (filesystem, f"{root}/{path}")


def open_folder(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """Return the file system and path of a folder given as path or URI.

    A client of a store is made once. It is made again when the environment names another store or
    other credentials.

    Raises:
        BadRequest: the scheme is unknown or the path is malformed.
    """
    return _open_folder(uri, stores.settings_in_environment() if "://" in uri else ())


@lru_cache(maxsize=16)
def _open_folder(uri: str, settings: stores.Settings) -> tuple[pa.fs.FileSystem, str]:
    del settings  # only a part of the cache's key: the client reads the environment
    return stores.open_uri(uri)
