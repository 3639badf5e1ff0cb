"""(where, which partitions) -> Snapshot: the exact files, row groups and fingerprints of a run.

Folders are pruned by their partition values before anything is opened; footers are the only bytes
read. A file that cannot be read is quarantined here, by name, and not met at step 40,000. Where the
folder is a table of a lakehouse, the table's metadata names the files instead of the folders.
"""

import hashlib
import json
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import xxhash

from iak.pipeline.data import delta, iceberg, lakehouse, partitions, stores
from iak.pipeline.data.content import FileContent, version_of
from iak.pipeline.data.lakehouse import Table, TableFile, TableSnapshot
from iak.pipeline.errors import BadLog, BadRequest

T = TypeVar("T")
Partition = Mapping[str, str | None]
Known = tuple[tuple[str, str | None], ...]
"""Partition keys with their values, outermost first."""
Columns = tuple[tuple[str, pa.DataType], ...]
"""Names with their Arrow types."""
FileName = tuple[int, int]
"""Device and inode: what is the same for all paths of a local file."""
_MAGIC = b"PAR1"
_ENCRYPTED = b"PARE"
_MISSING = "missing columns: "
_LINK = "a link to"
OUTSIDE = "it lies outside the folders"
"""How the reason begins for which a file in no partition's folder is not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """How a data file of a table becomes rows of the table."""

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
        """SHA-256 over what makes the file's rows others than its bytes say."""
        constants = [(name, str(value.type), str(value)) for name, value in self.constants]
        digest = hashlib.sha256(json.dumps([self.columns, constants]).encode())
        digest.update(_unpacked(self.deleted).tobytes())
        return digest.hexdigest()


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
    listed: str
    """SHA-256 of what a listing shows: size and footer; of a table also partition, projection."""
    footer: str = ""
    """XXH3 of its footer, in hexadecimal; it must be the same when the file is opened. Empty where
    nobody asked."""
    columns: Columns = ()
    """Columns of its rows, as its footer says; of a table, under the table's names. Empty where
    nobody asked the footer."""
    inside: tuple[str, ...] = ()
    """Partition keys that are columns of the file as well. The file's values count, row by row."""
    projection: Projection | None = None
    """How its rows become a table's; None in a plain folder."""
    content: FileContent | None = None
    """What the columns hold that a job reads; None where nobody asked."""

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self.group_rows)

    @property
    def fingerprint(self) -> str:
        """Return SHA-256 of the content and of how it is read.

        Where nobody asked for the content, of what the listing shows.
        """
        if self.content is None:
            return self.listed
        types = [(name, str(kind)) for name, kind in self.columns]
        how = [types, self.inside, self.partition, self.stored_rows]
        table = self.projection.digest if self.projection else None
        told = [self.content.features, self.content.others, how, table]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @property
    def exact_partition(self) -> dict[str, str | None]:
        """Partition keys whose value is the same for all rows of the file."""
        return {key: value for key, value in self.partition if key not in self.inside}

    @property
    def stored_rows(self) -> tuple[int, ...]:
        """Rows of each row group as the file has them, the deleted ones included."""
        return (self.projection and self.projection.stored_rows) or self.group_rows

    @property
    def constants(self) -> dict[str, pa.Scalar]:
        """Columns that are not in the file, and the value that all its rows have."""
        return dict(self.projection.constants) if self.projection else {}

    def stored_names(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the names that columns have in the file; those that it lacks are left out."""
        wanted = [column for column in columns if column not in self.constants]
        names = self.projection.columns if self.projection else None
        if names is None:
            there = dict(self.columns)
            return {column: column for column in wanted if column in there or not there}
        own = _by_name(names)
        return {column: own[column] for column in wanted if column in own}

    def kept(self, group: int) -> npt.NDArray[np.bool_] | None:
        """Return which rows of a row group are not deleted; None where none is."""
        if not self.projection or self.stored_rows[group] == self.group_rows[group]:
            return None
        first = sum(self.stored_rows[:group])
        positions = _unpacked(self.projection.deleted)
        low, high = np.searchsorted(positions, (first, first + self.stored_rows[group]))
        mask = np.ones(self.stored_rows[group], np.bool_)
        mask[positions[low:high] - first] = False
        return mask

    def kept_rows(self) -> npt.NDArray[np.bool_]:
        """Return which rows of the whole file are not deleted."""
        mask = np.ones(sum(self.stored_rows), np.bool_)
        if self.projection:
            mask[_unpacked(self.projection.deleted)] = False
        return mask


@lru_cache(maxsize=64)
def _by_name(names: lakehouse.Names) -> dict[str, str]:
    return dict(names)


def _packed(positions: lakehouse.Positions) -> bytes:
    return zlib.compress(np.diff(positions, prepend=0).tobytes()) if len(positions) else b""


@lru_cache(maxsize=64)
def _unpacked(deleted: bytes) -> lakehouse.Positions:
    if not deleted:
        return np.empty(0, np.int64)
    return np.cumsum(np.frombuffer(zlib.decompress(deleted), np.int64))


@lru_cache(maxsize=256)
def _shared(names: lakehouse.Names | None) -> lakehouse.Names | None:
    """Return the same names as one object, so that files share it, pickled as well."""
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A file that is no whole Parquet file, or whose schema breaks the contract."""

    path: str
    reason: str
    partition: Known = ()
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
    """A file or folder below the log's folder that is no part of the log."""

    path: str
    reason: str


Judged = LogFile | Unreadable | Ignored
Admits = Callable[[Partition], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a run will read: fixed before it starts."""

    uri: str
    """Folder of the log."""
    files: tuple[LogFile, ...]
    unreadable: tuple[Unreadable, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    table: Table | None = None
    """The table whose files these are; None for a plain folder."""

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
        """Return the Parquet file, as `open_file` opens it."""
        return self.open_file(file).parquet

    def open_file(self, file: LogFile) -> "OpenFile":
        """Open a file for reading row groups; text comes as dictionaries, as it lies there.

        Raises:
            BadLog: the file went away or changed after the snapshot was taken.
        """
        filesystem, path = self.place_of(file.path)
        try:
            handle = filesystem.open_input_file(path)
            _, footer = footer_of(handle)
            metadata = pq.read_metadata(pa.BufferReader(footer))
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
        is_same = file.footer in ("", footer_digest(footer))
        is_same &= handle.size() == file.size_bytes and _group_rows(metadata) == file.stored_rows
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

    def place_of(self, path: str) -> tuple[pa.fs.FileSystem, str]:
        """Return the file system and path of one of its files."""
        filesystem, root = open_folder(self.uri)
        return lakehouse.locate(path) if "://" in path else (filesystem, f"{root}/{path}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A file that is being read."""

    parquet: pq.ParquetFile
    handle: pa.NativeFile
    """The same file's bytes."""


@lru_cache(maxsize=16)
def open_folder(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """The file system and path of a folder given as path or URI.

    Raises:
        BadRequest: the scheme is unknown or the path is malformed.
    """
    return stores.open_uri(uri)


def take_snapshot(
    uri: str,
    *,
    partition_keys: tuple[str, ...],
    admits: Admits = lambda _: True,
    schema_problem: Callable[[pa.Schema], str | None] = lambda _: None,
    version: int | None = None,
) -> Snapshot:
    """List and fingerprint the files whose partition is admitted.

    Args:
        uri: folder of the log, as path or URI; of a table, or the data folder of one.
        partition_keys: hive keys, outermost first; empty for a flat folder.
        admits: called with the partition values known so far (outer keys first); False prunes.
        schema_problem: a file's schema -> why it must be quarantined, or None.
        version: of a Delta table, or snapshot id of an Iceberg table; None for the newest.

    Raises:
        BadRequest: the folder does not exist, or a table lacks the version or a partition key.
        BadLog: a table format that cannot be read.
    """
    uri = _whole(uri)
    place = _place(uri)
    if place is None:
        _refuse_version(uri, version)
        judge = _Judge(uri=uri, keys=partition_keys, schema_problem=schema_problem)
        return _plain_snapshot(judge, admits)
    table = _resolved(place, version)
    judge = _Judge(uri=place.uri, keys=partition_keys, schema_problem=schema_problem, table=table)
    return _table_snapshot(judge, table, admits)


def table_version(uri: str, version: int | None) -> int | None:
    """Return the version that a job pins before it looks at a log more than once.

    Args:
        uri: folder of the log.
        version: the one asked for; None for the newest.

    Returns:
        The newest version of a table where none is asked for; None for a plain folder.
    """
    place = _place(_whole(uri))
    if place is None:
        _refuse_version(uri, version)
        return None
    return version if version is not None else _resolved(place, None).table.version


def is_table(uri: str) -> bool:
    """Tell whether a log's folder is a table, whose columns its metadata names, not its folders."""
    return _place(_whole(uri)) is not None


def _whole(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).absolute())  # workers run in other folders


def _place(uri: str) -> lakehouse.Place | None:
    filesystem, root = open_folder(uri)
    if stores.kind_of(filesystem, root, uri) != pa.fs.FileType.Directory:
        raise BadRequest(
            f"no folder at {uri}; expected the log's Parquet there. "
            "Check data_root= and the catalogue's log.path"
        )
    return lakehouse.find_table(uri, filesystem, root)


def _refuse_version(uri: str, version: int | None) -> None:
    if version is not None:
        raise BadRequest(
            f"log.version is {version}, but {uri} is a plain folder, which has no versions: "
            "neither _delta_log/ nor metadata/*.metadata.json lies there. Leave log.version out"
        )


def _resolved(place: lakehouse.Place, version: int | None) -> TableSnapshot:
    if place.format == "delta":
        return delta.resolve(place, version)
    return iceberg.resolve(place, version)


def _plain_snapshot(judge: "_Judge", admits: Admits) -> Snapshot:
    """Return the snapshot of a plain folder of files."""
    filesystem, root = open_folder(judge.uri)
    strangers: list[tuple[str, str]] = []
    pruned: list[Partition] = []

    def admitted(partition: Partition) -> bool:
        if admits(partition):
            return True
        pruned.append(partition)
        return False

    found = _walk(filesystem, root, (), judge.keys, admitted, strangers)
    names: dict[FileName, str] = {}
    paths, repeated = _once(filesystem, root, found, names)
    judged = _in_parallel(judge.file_of_folder, paths)
    if pruned:
        judged += _files_of_other_folders(judge, judged, admits, names)
    files = [f for f in judged if isinstance(f, LogFile)]
    return Snapshot(
        uri=judge.uri,
        files=tuple(sorted(files, key=lambda f: f.path)),
        unreadable=tuple(f for f in judged if isinstance(f, Unreadable)),
        ignored=(
            *(f for f in judged if isinstance(f, Ignored)),
            *(Ignored(path=f"{judge.relative(p)}/", reason=reason) for p, reason in strangers),
            *(Ignored(path=judge.relative(p), reason=reason) for p, reason in repeated),
        ),
    )


def _once(
    filesystem: pa.fs.FileSystem,
    root: str,
    found: Iterable[tuple[str, Known]],
    names: dict[FileName, str],
) -> tuple[list[tuple[str, Known]], list[tuple[str, str]]]:
    """Keep one path of each file: the same rows must not count twice.

    A link to a place inside the log is left out, whatever it is called: its target is read where it
    lies. Of several names of one file (hard links, or links to a place outside) the first counts.

    Args:
        filesystem: of the log.
        root: its folder.
        found: paths of files.
        names: the path of each file that was kept before; those kept now are added.

    Returns:
        The paths that are read, and those left out with the reason.
    """
    if not isinstance(filesystem, pa.fs.LocalFileSystem):
        return list(found), []
    inside = f"{os.path.realpath(root)}/"
    kept: list[tuple[str, Known]] = []
    repeated: list[tuple[str, str]] = []
    for path, known in sorted(found, key=lambda file: file[0]):
        real = os.path.realpath(path)
        if real.startswith(inside) and real != inside + path[len(root) :].lstrip("/"):
            repeated.append((path, f"{_LINK} {real.removeprefix(inside)}, whose rows count there"))
            continue
        try:
            told = os.stat(path)  # noqa: PTH116 - a path as pyarrow has it
        except OSError:
            kept.append((path, known))  # it is judged where it is opened
            continue
        name = (told.st_dev, told.st_ino)
        if name in names:
            repeated.append((path, f"{_LINK} {names[name]}, whose rows count there"))
            continue
        names[name] = path[len(root) :].lstrip("/")
        kept.append((path, known))
    return kept, repeated


def _files_of_other_folders(
    judge: "_Judge", judged: Sequence[Judged], admits: Admits, names: dict[FileName, str]
) -> list[LogFile]:
    """Return files with admitted rows from folders whose names are not admitted.

    Where files have the partition's column inside, their values count and not the folder's name,
    so a folder that was pruned by its name may hold rows of the split. Whether the log is such a
    log is judged by the files that were admitted (where there is none, by the first that can be
    read). In any other log, pruned folders stay unopened.
    """
    filesystem, root = open_folder(judge.uri)
    known = [f for f in judged if isinstance(f, LogFile)]
    if not known:
        every = sorted(_walk(filesystem, root, (), judge.keys, lambda _: True, []))
        readable = (f for f in map(judge.file_of_folder, every) if isinstance(f, LogFile))
        known = list(islice(readable, 1))
    inside = {key for file in known for key in file.inside}
    if not inside:
        return []

    def may_hold(partition: Partition) -> bool:
        return admits({key: value for key, value in partition.items() if key not in inside})

    seen = {f.path for f in judged}
    found, _ = _once(filesystem, root, _walk(filesystem, root, (), judge.keys, may_hold, []), names)
    more = ((path, known) for path, known in found if judge.relative(path) not in seen)
    files = [f for f in _in_parallel(judge.file_of_folder, more) if isinstance(f, LogFile)]
    return [f for f in files if f.inside and _holds_admitted_rows(judge.uri, f, admits)]


def _holds_admitted_rows(uri: str, file: LogFile, admits: Admits) -> bool:
    """Tell whether any row of a file is admitted by its values of the partition keys."""
    try:
        values = values_inside(Snapshot(uri=uri, files=(file,)), file)
    except BadLog:
        return True  # the job meets it, and names it
    return any(admits(file.exact_partition | found) for found, _ in values)


def values_inside(snapshot: Snapshot, file: LogFile) -> list[tuple[dict[str, str | None], int]]:
    """Return every combination of the partition values that lie inside a file, with its rows.

    Raises:
        BadLog: the file cannot be decoded.
    """
    parquet = snapshot.open(file)
    folder = dict(file.partition)
    names = file.stored_names(file.inside)
    try:
        table = parquet.read(list(names.values()), use_threads=False)
        columns = {
            key: partitions.resolve(table.column(own).combine_chunks(), folder.get(key))
            for key, own in names.items()
        }
        texts = pa.table({key: column.cast(pa.string()) for key, column in columns.items()})
        texts = texts.filter(pa.array(file.kept_rows()))
    except (pa.ArrowException, OSError) as error:
        raise BadLog(f"{file.path} cannot be decoded: {error}. Write the file again") from error
    counted = texts.group_by(list(names)).aggregate([([], "count_all")])
    rows: list[int] = counted.column("count_all").to_pylist()
    values: list[dict[str, str | None]] = counted.select(list(names)).to_pylist()
    return list(zip(values, rows, strict=True))


def _table_snapshot(judge: "_Judge", table: TableSnapshot, admits: Admits) -> Snapshot:
    """Return the snapshot of a table: its metadata names files and partition values."""
    of_files = {key for file in table.files for key in file.partition}
    unknown = [key for key in judge.keys if key not in of_files | set(table.columns)]
    if unknown and table.files:
        raise BadRequest(
            f"log.partition_keys names {', '.join(unknown)}, but the {table.table.format} table "
            f"{judge.uri} has the columns {', '.join(table.columns)}"
        )

    def admitted(file: TableFile) -> bool:
        return admits({k: file.partition[k] for k in judge.keys if k in file.partition})

    judged = _in_parallel(judge.file_of_table, filter(admitted, table.files))
    return Snapshot(
        uri=judge.uri,
        files=tuple(f for f in judged if isinstance(f, LogFile)),
        unreadable=tuple(f for f in judged if isinstance(f, Unreadable)),
        table=table.table,
    )


def _in_parallel(judge: Callable[[T], Judged], found: Iterable[T]) -> list[Judged]:
    with ThreadPoolExecutor(max_workers=16) as pool:
        return sorted(pool.map(judge, found), key=lambda f: f.path)


def partition_values(
    uri: str, partition_keys: tuple[str, ...], key: str, *, version: int | None = None
) -> set[str | None]:
    """Every value of one partition key: from folder names, or from a table's metadata.

    A table that is not partitioned by the key has it as a column, which is read.
    """
    filesystem, root = open_folder(uri)
    if stores.kind_of(filesystem, root, uri) != pa.fs.FileType.Directory:
        return set()
    if place := _place(_whole(uri)):
        return _values_of_table(place, partition_keys, key, version)
    outer = partition_keys[: partition_keys.index(key) + 1]
    values: set[str | None] = set()
    for path, known in _walk(filesystem, root, (), outer, lambda _: True, []):
        value = dict(known).get(key)
        if len(known) == len(outer) and value not in values and not _stranger(filesystem, path):
            values.add(value)
    return values


def _values_of_table(
    place: lakehouse.Place, keys: tuple[str, ...], key: str, version: int | None
) -> set[str | None]:
    """Read what the metadata leaves open: files that have the column, or may have no row left."""
    table = _resolved(place, version)
    judge = _Judge(uri=place.uri, keys=keys, schema_problem=lambda _: None, table=table)
    is_told = [key in f.partition and not len(f.deleted) for f in table.files]
    values = {f.partition[key] for f, told in zip(table.files, is_told, strict=True) if told}
    others = [f for f, told in zip(table.files, is_told, strict=True) if not told]
    for file in _in_parallel(judge.file_of_table, others):
        if isinstance(file, LogFile) and file.rows:
            snapshot = Snapshot(uri=place.uri, files=(file,))
            is_inside = key in file.inside
            rows = [v for v, _ in values_inside(snapshot, file)] if is_inside else []
            values |= {row[key] for row in rows or [file.exact_partition]}
    return values


def _walk(
    filesystem: pa.fs.FileSystem,
    folder: str,
    known: Known,
    keys: tuple[str, ...],
    admits: Admits,
    strangers: list[tuple[str, str]],
) -> Iterator[tuple[str, Known]]:
    """Paths of the files below `folder`, hidden ones excepted, and their partition values.

    A file that lies above the innermost partition folders has fewer values than there are keys.
    Folders that belong to no partition are appended to `strangers`, each with the reason.
    """
    if len(known) == len(keys):
        for info in filesystem.get_file_info(pa.fs.FileSelector(folder, recursive=True)):
            below = info.path[len(folder) :].lstrip("/")
            _refuse_table_below(folder, below)
            if info.type == pa.fs.FileType.File and not _is_hidden(below):
                yield info.path, known
        return
    for info in filesystem.get_file_info(pa.fs.FileSelector(folder)):
        if _is_hidden(info.base_name):
            continue
        if info.type == pa.fs.FileType.File:
            yield info.path, known
            continue
        key, is_partition, value = info.base_name.partition("=")
        if not is_partition or key != keys[len(known)]:
            strangers.append((info.path, f"no folder {keys[len(known)]}=..."))
            continue
        deeper = (*known, (key, partitions.value_of(value)))
        if admits(dict(deeper)):
            yield from _walk(filesystem, info.path, deeper, keys, admits, strangers)


def _is_hidden(path: str) -> bool:
    """Whether a part of a path is a writer's own: `_SUCCESS`, `.part.crc`, `_temporary/`."""
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _refuse_table_below(folder: str, path: str) -> None:
    """Refuse a table further down, whose files would be read as if they were its rows."""
    outer, _, name = path.rpartition("/")
    if name.startswith(".hoodie_partition_metadata"):
        lakehouse.refuse_hudi(folder, name)
    is_iceberg = name.endswith(".metadata.json") and outer.endswith("metadata")
    if (name in ("_delta_log", ".hoodie") or is_iceberg) and not _is_hidden(outer):
        table = f"{folder}/{outer.removesuffix('metadata') if is_iceberg else outer}".rstrip("/")
        raise BadLog(
            f"{table} is a table of its own ({name} lies in it), and its Parquet files are not its "
            "rows. Set log.path to that folder"
        )


def _stranger(filesystem: pa.fs.FileSystem, path: str) -> str | None:
    """Return why a file is no data, judged by its name or its first bytes; None where it is."""
    if path.endswith((".parquet", ".parq")):
        return None
    with filesystem.open_input_file(path) as file:
        start = file.read(len(_MAGIC))
    if start == _MAGIC:
        return None
    if start == _ENCRYPTED:
        return "an encrypted Parquet file"
    return f"no Parquet: it begins with {start!r}, not PAR1" if start else "an empty file"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """Opens footers and says which files are the log's."""

    uri: str
    keys: tuple[str, ...]
    schema_problem: Callable[[pa.Schema], str | None]
    table: TableSnapshot | None = None

    def relative(self, path: str) -> str:
        """Return a path below the log's folder."""
        return path[len(open_folder(self.uri)[1]) :].lstrip("/")

    def file_of_folder(self, found: tuple[str, Known]) -> Judged:
        """Judge a file that was found in a folder."""
        path, partition = found
        relative = self.relative(path)
        try:
            reason = _stranger(open_folder(self.uri)[0], path)
        except OSError as error:
            return self._unreadable(relative, f"no whole Parquet file: {error}", partition)
        if reason:
            return Ignored(path=relative, reason=reason)
        if len(partition) < len(self.keys):
            wanted = "/".join(f"{key}=..." for key in self.keys)
            return self._unreadable(relative, f"{OUTSIDE} {wanted}", partition)
        return self._open(relative, partition, None)

    def _unreadable(self, path: str, reason: str, partition: Known) -> Unreadable:
        size = _size(*Snapshot(uri=self.uri, files=()).place_of(path))
        return Unreadable(path=path, reason=reason, partition=partition, size_bytes=size)

    def file_of_table(self, file: TableFile) -> Judged:
        """Judge a file that a table's metadata names."""
        known = tuple((key, file.partition[key]) for key in self.keys if key in file.partition)
        return self._open(file.path, known, file)

    def _open(self, path: str, partition: Known, file: TableFile | None) -> LogFile | Unreadable:
        try:
            size, footer = read_footer(*Snapshot(uri=self.uri, files=()).place_of(path))
            metadata = pq.read_metadata(pa.BufferReader(footer))
            schema = metadata.schema.to_arrow_schema()
            stored = _group_rows(metadata)
            projection = self._projection(schema, stored, file)
            rows = _rows_of(projection, schema)
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
                reason=problem,
                partition=partition,
                size_bytes=size,
                group_rows=kept,
                columns=_columns_of(rows.remove_metadata()),
            )
        digest = hashlib.sha256(size.to_bytes(8, "little") + footer)
        if projection:
            digest.update(json.dumps(partition).encode() + projection.digest.encode())
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
        """Return how a file becomes rows of the table.

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
            deleted=_packed(file.deleted),
            stored_rows=stored if len(file.deleted) else (),
        )


def _rows_of(projection: Projection | None, schema: pa.Schema) -> pa.Schema:
    """Return the schema of a file's rows as the catalogue names their columns."""
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
    gone = np.diff(np.searchsorted(_unpacked(projection.deleted), ends))
    return tuple(int(rows - lost) for rows, lost in zip(stored, gone, strict=True))


def _refuse_paimon(uri: str, path: str, schema: pa.Schema) -> None:
    """Refuse the files of a primary-key table, of which a row has one for every change."""
    own = [name for name in ("_VALUE_KIND", "_SEQUENCE_NUMBER") if name in schema.names]
    if len(own) == 2:
        lakehouse.refuse_paimon(uri, f"{path} with the columns {' and '.join(own)}")


def _size(filesystem: pa.fs.FileSystem, path: str) -> int:
    """Bytes of a file that could not be opened, 0 where it went away."""
    return int(filesystem.get_file_info(path).size or 0)


@lru_cache(maxsize=1024)
def _columns_of(schema: pa.Schema) -> Columns:
    """Return the columns of a schema, as one object for all the files that share it.

    A log has many files and few schemas: so its snapshot travels to workers as a few of them.
    """
    return tuple((field.name, field.type) for field in schema)


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


def read_footer(filesystem: pa.fs.FileSystem, path: str) -> tuple[int, bytes]:
    """Return the size and footer of a file, as `footer_of` does."""
    with filesystem.open_input_file(path) as file:
        return footer_of(file)


def footer_of(file: pa.NativeFile) -> tuple[int, bytes]:
    """Return the file's size, and its footer framed so that pyarrow reads it as an empty file's.

    Raises:
        ValueError: the file does not end as Parquet does.
    """
    size: int = file.size()
    if size < 12:
        raise ValueError(f"{size} bytes are too few for Parquet")
    tail = bytes(file.read_at(8, size - 8))
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length + 12 > size:
        raise ValueError("it does not end with a Parquet footer; was the upload cut short?")
    return size, _MAGIC + bytes(file.read_at(length, size - 8 - length)) + tail


def footer_digest(footer: bytes) -> str:
    """Return the digest by which a footer is known again when its file is opened."""
    return xxhash.xxh3_128(footer).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProblem:
    """One reason for which files are not read."""

    reason: str
    files: int
    of: int
    """Data files that were found in all."""
    rows: int
    """Rows lost, as far as footers tell."""
    examples: tuple[str, ...]
    """Paths of up to three of the files."""
    is_ignored: bool
    """The files are no part of the log; else they are, and cannot be read."""

    @property
    def message(self) -> str:
        """Say it in a line: `25 of 50 files lack price (1,000 rows)`."""
        if self.is_ignored:
            return f"{self.files} ignored: {self.reason}"
        lost = f" ({self.rows:,} rows)" if self.rows else ""
        if self.reason.startswith(_MISSING) and ";" not in self.reason:
            missing = self.reason.removeprefix(_MISSING)
            return f"{self.files} of {self.of} files lack {missing}{lost}"
        return f"{self.files} of {self.of} files: {self.reason}{lost}"


def file_problems(snapshot: Snapshot) -> tuple[FileProblem, ...]:
    """Return why files are not read, most files first, unreadable ones before ignored ones."""
    found: list[FileProblem] = []
    for is_ignored, files in ((False, snapshot.unreadable), (True, snapshot.ignored)):
        by_reason: dict[str, list[Unreadable | Ignored]] = defaultdict(list)
        for file in files:  # sizes and offsets in a reason are no reason of their own
            by_reason[re.sub(r"\d[\d,.]*", "#", file.reason)].append(file)
        found += [
            FileProblem(
                reason=same[0].reason,
                files=len(same),
                of=len(snapshot.files) + len(snapshot.unreadable),
                rows=sum(f.rows or 0 for f in same if isinstance(f, Unreadable)),
                examples=tuple(f.path for f in same[:3]),
                is_ignored=is_ignored,
            )
            for same in sorted(by_reason.values(), key=len, reverse=True)
        ]
    return tuple(found)


def null_words(snapshot: Snapshot) -> dict[str, int]:
    """Return partition keys with a folder named `null`, and the rows in it.

    Iceberg names the null value's folder so. Where the column is not inside the files, nothing
    tells whether it is the null value or the word, and it is read as the word.
    """
    rows: dict[str, int] = defaultdict(int)
    for file in snapshot.files if snapshot.table is None else ():
        for key, value in file.exact_partition.items():
            if value == partitions.NULL_WORD:
                rows[key] += file.rows
    return dict(rows)


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as the run record keeps it."""
    table = snapshot.table
    return {
        "uri": snapshot.uri,
        "table": asdict(table) if table else None,
        "fingerprint": snapshot.fingerprint,
        "rows": snapshot.rows,
        "files": [
            {"path": f.path, "rows": f.rows, "bytes": f.size_bytes, "fingerprint": f.fingerprint}
            | ({"features": f.content.features, "others": f.content.others} if f.content else {})
            | ({"deleted_rows": lost} if (lost := sum(f.stored_rows) - f.rows) else {})
            for f in snapshot.files
        ],
        "quarantined_files": [
            {"path": u.path, "reason": u.reason, "rows": u.rows, "bytes": u.size_bytes}
            for u in snapshot.unreadable
        ],
        "ignored_files": [{"path": i.path, "reason": i.reason} for i in snapshot.ignored],
    }
