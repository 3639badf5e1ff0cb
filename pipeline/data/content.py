"""Name a log file by its content: two digests a row group, kept while the file stays as it is.

    features   the column chunks that only features read
    others     those of labels, ids, times and domains

A label that is stated again changes the second digest alone. Digests are XXH3 of 128 bits over the
stored bytes: they notice accidents, not somebody who wants to deceive. A file on an object store
that names its versions (ETag) is not read for it: the ETag stands for both digests.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import xxhash

from iak.pipeline.data import footer
from iak.pipeline.errors import BadLog

DIGESTS = "digests.sqlite"
"""Name of the file in which jobs keep contents, beside the base."""
_PIECE_BYTES = 2**19
"""Bytes that are read and hashed at a time: they stay in the processor's cache."""
_PAGE_HEADER_BYTES = 64 * 1024
"""More than a page's header takes, which holds values of any length as statistics."""
_SETTLED_NS = 3 * 10**9
"""Age of a change beyond which any later one has another time: file systems count in steps of up to
two seconds."""
_BUSY_S = 10.0
"""How long a writer of the kept digests waits for another."""
_CREATE = (
    "CREATE TABLE IF NOT EXISTS contents "
    "(path TEXT, columns TEXT, content TEXT, digest TEXT, PRIMARY KEY (path, columns))"
)
_SELECT = "SELECT content, digest FROM contents WHERE path = ? AND columns = ?"
_INSERT = "INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?)"
Range = tuple[int, int]
"""First byte and number of bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Column chunks of one row group that are hashed together."""

    ranges: tuple[Range, ...]
    digest: str
    """Hexadecimal, 32 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupContent:
    """The content of one row group."""

    features: Part
    others: Part


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """The content of one file of the log."""

    groups: tuple[GroupContent, ...] = ()
    """Of each row group; empty where the store's own version stands for the content."""
    version: str = ""
    """ETag of the object, or empty."""

    @property
    def features(self) -> str:
        """Return the digest over the feature columns of all row groups."""
        return self.version or _joined(group.features.digest for group in self.groups)

    @property
    def others(self) -> str:
        """Return the digest over labels, ids, times and domains of all row groups."""
        return self.version or _joined(group.others.digest for group in self.groups)

    def check(self, handle: pa.NativeFile, path: str, group: int) -> None:
        """Compare a row group's bytes, as they lie there now, with the content.

        Raises:
            BadLog: they are others than when the file was listed.
        """
        if not self.groups:
            return
        expected = self.groups[group]
        for what, part in (
            ("feature columns", expected.features),
            ("columns of labels, ids and times", expected.others),
        ):
            if _digest(handle, part.ranges) != part.digest:
                raise BadLog(
                    f"{path} was rewritten after the run listed it: the {what} of row group "
                    f"{group} have another content than then. Leave a log's files alone while a "
                    "run reads them; start the run again"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentColumns:
    """The columns of a log whose content counts, by the digest they go into."""

    features: frozenset[str]
    others: frozenset[str]

    @property
    def digest(self) -> str:
        """Return a name of the two sets."""
        return hashlib.sha256(
            json.dumps([sorted(self.features), sorted(self.others)]).encode()
        ).hexdigest()[:32]


def version_of(handle: pa.NativeFile) -> str:
    """Return the version that an object store gives a file; empty where it gives none."""
    try:
        metadata = handle.metadata() or {}
    except (pa.ArrowException, OSError, NotImplementedError):
        return ""
    return next((v.decode() for k, v in metadata.items() if k.lower() == b"etag"), "")


def read_content(
    handle: pa.NativeFile, footer_bytes: bytes, names: ContentColumns, *, file_bytes: int
) -> FileContent:
    """Hash the columns of a file.

    Args:
        handle: the open file.
        footer_bytes: its footer, without length and magic bytes.
        names: the columns, under the names that they have in the file.
        file_bytes: its size.

    Raises:
        ValueError: the footer does not say where columns lie.
    """
    groups = []
    for chunks in footer.chunks_of(footer_bytes, file_bytes=file_bytes):
        parts = (_ranges(chunks, wanted) for wanted in (names.features, names.others))
        features, others = (Part(ranges=r, digest=_digest(handle, r)) for r in parts)
        groups.append(GroupContent(features=features, others=others))
    return FileContent(groups=tuple(groups))


def lacks_checksums(handle: pa.NativeFile, footer_bytes: bytes, *, file_bytes: int) -> bool:
    """Return whether the first page of a file has no checksum: writers write all or none.

    Raises:
        ValueError: footer or page header are no whole structures.
    """
    groups = footer.chunks_of(footer_bytes, file_bytes=file_bytes)
    chunk = next((c for group in groups for c in group if c.start and c.length), None)
    if chunk is None:
        return False
    start = handle.read_at(min(_PAGE_HEADER_BYTES, chunk.length), chunk.start)
    return not footer.has_checksum(bytes(start))


def _ranges(chunks: Sequence[footer.Chunk], wanted: frozenset[str]) -> tuple[Range, ...]:
    """Return the bytes of some columns; neighbours are one range."""
    ranges: list[Range] = []
    for chunk in chunks:
        if chunk.column not in wanted:
            continue
        if ranges and sum(ranges[-1]) == chunk.start:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + chunk.length)
        else:
            ranges.append((chunk.start, chunk.length))
    return tuple(ranges)


def _digest(handle: pa.NativeFile, ranges: Iterable[Range]) -> str:
    digest = xxhash.xxh3_128()
    for start, length in ranges:
        for at in range(start, start + length, _PIECE_BYTES):
            digest.update(handle.read_at(min(_PIECE_BYTES, start + length - at), at))
    return digest.hexdigest()


def _joined(digests: Iterable[str]) -> str:
    return xxhash.xxh3_128("".join(digests).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What changes when a file is written again, as far as its file system tells."""

    size: int
    written: str
    """Times of the last writing and of the last change, and the inode where there is one."""
    is_settled: bool = field(compare=False)
    """The last change is so old that a later one must have another time."""


def stamp_of(filesystem: pa.fs.FileSystem, path: str) -> Stamp:
    """Return a file's stamp.

    On a local disk the time of change and the inode are in it: `cp -p` and `rsync -t` set the time
    of writing back, and nothing sets those.

    Raises:
        OSError: the file is not there.
    """
    if isinstance(filesystem, pa.fs.LocalFileSystem):
        found = os.stat(path)  # noqa: PTH116 - a path as pyarrow has it
        times = f"{found.st_mtime_ns} {found.st_ctime_ns} {found.st_dev}:{found.st_ino}"
        changed_ns = max(found.st_mtime_ns, found.st_ctime_ns)
        return Stamp(size=found.st_size, written=times, is_settled=_is_settled(changed_ns))
    info = filesystem.get_file_info(path)
    return Stamp(
        size=info.size or 0, written=str(info.mtime_ns), is_settled=_is_settled(info.mtime_ns or 0)
    )


def _is_settled(changed_ns: int) -> bool:
    return time.time_ns() - changed_ns > _SETTLED_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file whose content is asked for."""

    path: str
    """Whole: with the log's folder."""
    stamp: Stamp
    columns: ContentColumns


class KeptContents:
    """Contents of files that were read before, in a SQLite file; without one, nothing is kept.

    What is damaged there, or cannot be read or written, counts as not kept: files are read again.
    """

    def __init__(self, place: Path | None) -> None:
        """Use a file; it is made when something is kept.

        Args:
            place: of the file; its folder exists. None keeps nothing.
        """
        self.place = place
        self.problem = ""
        """Why nothing can be kept, once it was tried."""

    def find(self, wanted: Iterable[Wanted]) -> dict[str, FileContent]:
        """Return what is kept of files that have not changed since, by path."""
        if self.place is None or not self.place.exists():
            return {}
        found: dict[str, FileContent] = {}
        try:
            with closing(self._connected()) as store:
                for file in wanted:
                    row = store.execute(_SELECT, (file.path, file.columns.digest)).fetchone()
                    if row is not None and _digest_of_row(file, row[0]) == row[1]:
                        found[file.path] = content_of(row[0])
        except sqlite3.Error as error:
            self._give_up(error)
        return found

    def keep(self, found: Iterable[tuple[Wanted, FileContent]]) -> None:
        """Keep contents beside those that are there, the newest of each file."""
        settled = (pair for pair in found if pair[0].stamp.is_settled)
        lines = [_line(file, document_of(content)) for file, content in settled]
        if self.place is None or not lines:
            return
        try:
            with closing(self._connected()) as store, store:
                store.execute(_CREATE)
                store.executemany(_INSERT, lines)
            self.problem = ""
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _connected(self) -> sqlite3.Connection:
        assert self.place is not None
        return sqlite3.connect(self.place, timeout=_BUSY_S)

    def _give_up(self, error: Exception) -> None:
        """Note why; a file that is no database is removed, and made again the next time."""
        self.problem = f"{self.place}: {error}"
        is_damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        )
        if is_damaged and self.place is not None:
            try:
                self.place.unlink(missing_ok=True)
            except OSError:
                return


def document_of(content: FileContent) -> str:
    """Return a content as text."""
    return json.dumps(
        [
            [[part.ranges, part.digest] for part in (group.features, group.others)]
            for group in content.groups
        ]
    )


def content_of(document: str) -> FileContent:
    """Return the content that `document_of` wrote."""
    return FileContent(
        groups=tuple(
            GroupContent(features=_part(features), others=_part(others))
            for features, others in json.loads(document)
        )
    )


def _part(written: tuple[Any, str]) -> Part:
    ranges, digest = written
    return Part(ranges=tuple((start, length) for start, length in ranges), digest=digest)


def _line(file: Wanted, document: str) -> tuple[str, str, str, str]:
    return file.path, file.columns.digest, document, _digest_of_row(file, document)


def _digest_of_row(file: Wanted, document: str) -> str:
    """Return the digest of a content and of the stamp under which it holds."""
    told = json.dumps([file.path, file.stamp.size, file.stamp.written, document])
    return xxhash.xxh3_128(told.encode()).hexdigest()
