"""Identify a log file by its content: two digests of each row group, stored until the file changes.

    features   the column chunks that only features read
    others     those of labels, ids, times and domains

A label that is corrected changes the second digest alone. Digests are XXH3 of 128 bits over the
stored bytes: they detect accidents, and not somebody who wants to deceive. A file on an object
store that gives versions (ETag) is not read for its content: the ETag stands for both digests.
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
"""Name of the file in which jobs store contents, beside the base."""
_PIECE_BYTES = 2**19
"""Bytes read and hashed at a time, so that they stay in the processor's cache."""
_PAGE_HEADER_BYTES = 64 * 1024
"""More than the header of a page takes; it may hold values as statistics."""
_SETTLED_NS = 3 * 10**9
"""Age of a change after which any later change has another time: file systems count time in steps
of up to two seconds."""
_BUSY_S = 10.0
"""Seconds that a writer of the stored digests waits for another writer."""
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
    """Content of each row group; empty where `version` stands for the content."""
    version: str = ""
    """ETag of the object; empty where the store gives none."""

    @property
    def features(self) -> str:
        """Return the digest over the feature columns of all row groups."""
        return self.version or _joined(group.features.digest for group in self.groups)

    @property
    def others(self) -> str:
        """Return the digest over labels, ids, times and domains of all row groups."""
        return self.version or _joined(group.others.digest for group in self.groups)

    def check(self, handle: pa.NativeFile, path: str, group: int) -> None:
        """Compare the bytes that a row group has now with this content.

        Args:
            handle: the open file.
            path: path of the file, for the message.
            group: index of the row group.

        Raises:
            BadLog: the bytes have changed since the file was listed.
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
                    f"{group} have another content now. Leave a log's files alone while a "
                    "run reads them; start the run again"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentColumns:
    """The columns of a log whose content counts, by the digest they go into."""

    features: frozenset[str]
    others: frozenset[str]

    @property
    def digest(self) -> str:
        """Return a digest of both sets of names, 32 hexadecimal characters."""
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
    """Return whether the first page of a file has no checksum. Writers write all of them or none.

    Args:
        handle: the open file.
        footer_bytes: its footer, without length and magic bytes.
        file_bytes: its size.

    Raises:
        ValueError: footer or page header are not whole structures.
    """
    groups = footer.chunks_of(footer_bytes, file_bytes=file_bytes)
    chunk = next((c for group in groups for c in group if c.start and c.length), None)
    if chunk is None:
        return False
    start = handle.read_at(min(_PAGE_HEADER_BYTES, chunk.length), chunk.start)
    return not footer.has_checksum(bytes(start))


def _ranges(chunks: Sequence[footer.Chunk], wanted: frozenset[str]) -> tuple[Range, ...]:
    """Return the byte ranges of some columns of one row group; neighbours are joined."""
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
        for offset in range(start, start + length, _PIECE_BYTES):
            digest.update(handle.read_at(min(_PIECE_BYTES, start + length - offset), offset))
    return digest.hexdigest()


def _joined(digests: Iterable[str]) -> str:
    return xxhash.xxh3_128("".join(digests).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Properties that a file system shows of a file, and that change when it is written again."""

    size: int
    written: str
    """Times of the last write and of the last change, and the inode where there is one."""
    is_settled: bool = field(compare=False)
    """Whether the last change is so old that a later one must have another time."""


def stamp_of(filesystem: pa.fs.FileSystem, path: str) -> Stamp:
    """Return a file's stamp.

    On a local disk it has the time of change and the inode: `cp -p` and `rsync -t` set the time of
    writing back, and nothing sets the other two.

    Raises:
        OSError: the file is not there.
    """
    if isinstance(filesystem, pa.fs.LocalFileSystem):
        status = os.stat(path)  # noqa: PTH116 - a path as pyarrow has it
        times = f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_dev}:{status.st_ino}"
        changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
        return Stamp(size=status.st_size, written=times, is_settled=_is_settled(changed_ns))
    info = filesystem.get_file_info(path)
    return Stamp(
        size=info.size or 0, written=str(info.mtime_ns), is_settled=_is_settled(info.mtime_ns or 0)
    )


def _is_settled(changed_ns: int) -> bool:
    return time.time_ns() - changed_ns > _SETTLED_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file whose content is looked up."""

    path: str
    """Path with the log's folder, so that one SQLite file serves several logs."""
    stamp: Stamp
    columns: ContentColumns


class KeptContents:
    """Contents of files that were read before, stored in a SQLite file.

    An entry that is damaged, or that cannot be read or written, counts as absent: the file is then
    read again.
    """

    def __init__(self, path: Path | None) -> None:
        """Use a SQLite file, which is created with the first entry.

        Args:
            path: path of the file; its folder exists. None stores nothing.
        """
        self.path = path
        self.problem = ""
        """Why the last attempt to use the file failed; empty where it did not."""

    def find(self, wanted: Iterable[Wanted]) -> dict[str, FileContent]:
        """Return the stored contents, by path, of those files that have not changed since."""
        if self.path is None or not self.path.exists():
            return {}
        contents: dict[str, FileContent] = {}
        try:
            with closing(self._connected()) as store:
                for file in wanted:
                    row = store.execute(_SELECT, (file.path, file.columns.digest)).fetchone()
                    # The digest covers the file's stamp, so an entry of an older file is skipped.
                    if row is not None and _digest_of_row(file, row[0]) == row[1]:
                        contents[file.path] = content_of(row[0])
        except sqlite3.Error as error:
            self._give_up(error)
        return contents

    def keep(self, contents: Iterable[tuple[Wanted, FileContent]]) -> None:
        """Store contents; an older entry of the same file is replaced.

        A file that changed a moment ago is left out: a further change might not show in its stamp.
        """
        settled = (pair for pair in contents if pair[0].stamp.is_settled)
        lines = [_line(file, document_of(content)) for file, content in settled]
        if self.path is None or not lines:
            return
        try:
            with closing(self._connected()) as store, store:
                store.execute(_CREATE)
                store.executemany(_INSERT, lines)
            self.problem = ""
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _connected(self) -> sqlite3.Connection:
        assert self.path is not None
        return sqlite3.connect(self.path, timeout=_BUSY_S)

    def _give_up(self, error: Exception) -> None:
        """Note the problem. A file that is not a database is removed, to be created again."""
        self.problem = f"{self.path}: {error}"
        # OperationalError says that the file is locked or not permitted, not that it is damaged.
        is_damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        )
        if is_damaged and self.path is not None:
            try:
                self.path.unlink(missing_ok=True)
            except OSError:
                return


def document_of(content: FileContent) -> str:
    """Return the content as text, for the store."""
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
    """Return the digest of a stored content together with the file's stamp."""
    text = json.dumps([file.path, file.stamp.size, file.stamp.written, document])
    return xxhash.xxh3_128(text.encode()).hexdigest()
