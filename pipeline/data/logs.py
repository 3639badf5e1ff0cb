"""(where, which partitions) -> Snapshot: the exact files, row groups and fingerprints of a run.

Folders are pruned by their partition values before anything is opened; footers are the only bytes
read. A file that cannot be read is quarantined here, by name, and not met at step 40,000.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from pipeline.errors import BadLog, BadRequest

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
Partition = Mapping[str, str | None]
Known = tuple[tuple[str, str | None], ...]
"""Partition keys with their values, outermost first."""
Columns = tuple[tuple[str, pa.DataType], ...]
"""Names with their Arrow types."""
_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """One readable Parquet file of the log."""

    path: str
    """Path below the log's folder, `region=a/dt=2026-10-01/part-00000.parquet`."""
    partition: Known
    """Hive keys and values, outermost first."""
    group_rows: tuple[int, ...]
    """Rows of each row group."""
    size_bytes: int
    fingerprint: str
    """SHA-256 of size and footer; the footer names every page's place and statistics."""
    columns: Columns = ()
    """Columns inside the file, as its footer says."""

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self.group_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A file that is no whole Parquet file, or whose schema breaks the contract."""

    path: str
    reason: str
    columns: Columns = ()
    """Columns inside the file, where its footer could be read."""
    partition: Known = ()
    """Hive keys and values as far as the folders name them, outermost first."""
    size_bytes: int = 0
    group_rows: tuple[int, ...] | None = None
    """Rows of each row group; None where the footer cannot be read."""

    @property
    def rows(self) -> int | None:
        """Return the rows that its footer counts, None where it cannot be read."""
        return None if self.group_rows is None else sum(self.group_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a run will read: fixed before it starts."""

    uri: str
    """Folder of the log."""
    files: tuple[LogFile, ...]
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of all files, before splits select among them."""
        return sum(f.rows for f in self.files)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over paths and fingerprints of the files."""
        listing = json.dumps([(f.path, f.fingerprint) for f in self.files])
        return hashlib.sha256(listing.encode()).hexdigest()

    def open(self, file: LogFile) -> pq.ParquetFile:
        """The Parquet file, for reading row groups; text comes as dictionaries, as it lies there.

        Raises:
            BadLog: the file went away or changed after the snapshot was taken.
        """
        filesystem, root = open_folder(self.uri)
        try:
            handle = filesystem.open_input_file(f"{root}/{file.path}")
            metadata = pq.read_metadata(handle)
            parquet = pq.ParquetFile(
                handle,
                metadata=metadata,
                read_dictionary=_text_columns(metadata),
                page_checksum_verification=True,
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadLog(
                f"{file.path} cannot be opened, though it was whole when the run listed it: "
                f"{error}. Leave a log's files alone while a run reads them; start the run again"
            ) from error
        if handle.size() != file.size_bytes or _group_rows(metadata) != file.group_rows:
            raise BadLog(
                f"{file.path} changed after the run listed it ({file.size_bytes:,} bytes then, "
                f"{handle.size():,} now). Leave a log's files alone while a run reads them; start "
                "the run again"
            )
        return parquet


@lru_cache(maxsize=16)
def open_folder(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """The file system and path of a folder given as path or URI.

    Raises:
        BadRequest: the scheme is unknown or the path is malformed.
    """
    try:
        if "://" in uri:
            filesystem, path = pa.fs.FileSystem.from_uri(uri)
        else:
            filesystem, path = pa.fs.LocalFileSystem(), uri
    except (pa.ArrowInvalid, OSError) as error:
        raise BadRequest(
            f"data_root '{uri}' is no folder pyarrow.fs understands: {error}. "
            "Give a path, or a URI such as s3://bucket/folder"
        ) from error
    return filesystem, path.rstrip("/")


def take_snapshot(
    uri: str,
    *,
    partition_keys: tuple[str, ...],
    admits: Callable[[Partition], bool] = lambda _: True,
    schema_problem: Callable[[pa.Schema], str | None] = lambda _: None,
) -> Snapshot:
    """List and fingerprint the files whose partition is admitted.

    Args:
        uri: folder of the log, as path or URI.
        partition_keys: hive keys, outermost first; empty for a flat folder.
        admits: called with the partition values known so far (outer keys first); False prunes.
        schema_problem: a file's schema -> why it must be quarantined, or None.

    Raises:
        BadRequest: the folder does not exist.
    """
    uri = uri if "://" in uri else str(Path(uri).absolute())  # workers run in other folders
    filesystem, root = open_folder(uri)
    if filesystem.get_file_info(root).type != pa.fs.FileType.Directory:
        raise BadRequest(
            f"no folder at {uri}; expected the log's Parquet there. "
            "Check data_root= and the catalogue's log.path"
        )
    found = sorted(_walk(filesystem, root, (), partition_keys, admits), key=lambda x: x[0])

    def judge(place: tuple[str, Known]) -> LogFile | Unreadable:
        path, partition = place
        relative = path[len(root) :].lstrip("/")
        if len(partition) < len(partition_keys):
            wanted = "/".join(f"{key}=..." for key in partition_keys)
            return Unreadable(
                path=relative,
                reason=f"it lies outside the folders {wanted}",
                partition=partition,
                size_bytes=_size(filesystem, path),
            )
        return _open(filesystem, path, relative, partition, schema_problem)

    with ThreadPoolExecutor(max_workers=16) as pool:
        opened = list(pool.map(judge, found))
    return Snapshot(
        uri=uri,
        files=tuple(f for f in opened if isinstance(f, LogFile)),
        unreadable=tuple(f for f in opened if isinstance(f, Unreadable)),
    )


def partition_values(uri: str, partition_keys: tuple[str, ...], key: str) -> set[str | None]:
    """Every value of one partition key, from folder names alone."""
    filesystem, root = open_folder(uri)
    if filesystem.get_file_info(root).type != pa.fs.FileType.Directory:
        return set()
    outer = partition_keys[: partition_keys.index(key) + 1]
    folders = _walk(filesystem, root, (), outer, lambda _: True)
    return {dict(known)[key] for _, known in folders if len(known) == len(outer)}


def _walk(
    filesystem: pa.fs.FileSystem,
    folder: str,
    known: Known,
    keys: tuple[str, ...],
    admits: Callable[[Partition], bool],
) -> Iterator[tuple[str, Known]]:
    """Paths of the data files below `folder` and their partition values.

    A file that lies above the innermost partition folders has fewer values than there are keys.
    """
    if len(known) == len(keys):
        for info in filesystem.get_file_info(pa.fs.FileSelector(folder, recursive=True)):
            if info.type == pa.fs.FileType.File and _is_data(info.path[len(folder) :]):
                yield info.path, known
        return
    for info in filesystem.get_file_info(pa.fs.FileSelector(folder)):
        if info.type == pa.fs.FileType.File and _is_data(info.base_name):
            yield info.path, known
        key, is_partition, value = info.base_name.partition("=")
        if info.type != pa.fs.FileType.Directory or not is_partition or key != keys[len(known)]:
            continue
        text = None if value == NULL_PARTITION else unquote(value)
        deeper = (*known, (key, text))
        if admits(dict(deeper)):
            yield from _walk(filesystem, info.path, deeper, keys, admits)


def _is_data(path: str) -> bool:
    """Whether a path is a data file's: no part of it is hidden, as a writer's own files are."""
    is_hidden = any(part.startswith((".", "_")) for part in path.split("/"))
    return path.endswith((".parquet", ".parq")) and not is_hidden


def _open(
    filesystem: pa.fs.FileSystem,
    path: str,
    relative: str,
    partition: Known,
    schema_problem: Callable[[pa.Schema], str | None],
) -> LogFile | Unreadable:
    try:
        size, footer = _footer(filesystem, path)
        metadata = pq.read_metadata(pa.BufferReader(footer))
        schema = metadata.schema.to_arrow_schema()
        problem = schema_problem(schema)
        groups = _group_rows(metadata)
    except (pa.ArrowException, OSError, ValueError) as error:
        return Unreadable(
            path=relative,
            reason=f"no whole Parquet file: {error}",
            partition=partition,
            size_bytes=_size(filesystem, path),
        )
    columns = _columns_of(schema.remove_metadata())
    if problem:
        return Unreadable(
            path=relative,
            reason=problem,
            columns=columns,
            partition=partition,
            size_bytes=size,
            group_rows=groups,
        )
    digest = hashlib.sha256(size.to_bytes(8, "little") + footer).hexdigest()
    return LogFile(
        path=relative,
        partition=partition,
        group_rows=groups,
        size_bytes=size,
        fingerprint=digest,
        columns=columns,
    )


@lru_cache(maxsize=1024)
def _columns_of(schema: pa.Schema) -> Columns:
    """Return the columns of a schema, as one object for all the files that share it.

    A log has many files and few schemas: so its snapshot travels to workers as a few of them.
    """
    return tuple((field.name, field.type) for field in schema)


def _size(filesystem: pa.fs.FileSystem, path: str) -> int:
    """Bytes of a file that could not be opened, 0 where it went away."""
    return int(filesystem.get_file_info(path).size or 0)


def _group_rows(metadata: pq.FileMetaData) -> tuple[int, ...]:
    """Rows of each row group.

    Column chunks are not asked where they lie: on a footer with flipped bits pyarrow's accessor
    ends the process. What is wrong with them shows when they are read.
    """
    rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
        raise ValueError(f"its row groups hold {rows} rows, its footer says {metadata.num_rows}")
    return rows


def _text_columns(metadata: pq.FileMetaData) -> list[str]:
    leaves = (metadata.schema.column(place) for place in range(metadata.num_columns))
    return [leaf.path for leaf in leaves if leaf.logical_type.type == "STRING"]


def _footer(filesystem: pa.fs.FileSystem, path: str) -> tuple[int, bytes]:
    """Size of the file, and its footer framed so that pyarrow reads it as an empty file's."""
    with filesystem.open_input_file(path) as file:
        size: int = file.size()
        if size < 12:
            raise ValueError(f"{size} bytes are too few for Parquet")
        file.seek(size - 8)
        tail = file.read(8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != _MAGIC or length + 12 > size:
            raise ValueError("it does not end with a Parquet footer; was the upload cut short?")
        file.seek(size - 8 - length)
        return size, _MAGIC + bytes(file.read(length)) + tail


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as the run record keeps it."""
    return {
        "uri": snapshot.uri,
        "fingerprint": snapshot.fingerprint,
        "rows": snapshot.rows,
        "files": [
            {"path": f.path, "rows": f.rows, "bytes": f.size_bytes, "fingerprint": f.fingerprint}
            for f in snapshot.files
        ],
        "quarantined_files": [
            {"path": u.path, "reason": u.reason, "rows": u.rows, "bytes": u.size_bytes}
            for u in snapshot.unreadable
        ],
    }
