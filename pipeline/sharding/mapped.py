"""Files of rows that a machine's workers map instead of holding: written once, by one of them.

    mapped/<base>/<layout>/            named for the base's fingerprint and the tables' layout
        int8-16  fp32-4  ...             rows of one precision and width, read only
        index.json                       written last: bytes and a digest of every block (xxh3_128)
    mapped/<base>/.<layout>.lock       shared by the processes that map it; its time is the last use

A folder appears under its name when every file in it is whole and on disk. The rows it is made of
are verified against the base's manifest while they are read. A process that maps it later compares
the sizes and a sample of blocks, or every block where that is asked for. Pages are read only and
lie in memory once, however many workers map them. What nobody has mapped for a while is removed.
"""

import errno
import fcntl
import logging
import mmap
import os
import random
import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from pydantic import ValidationError
from torch import Tensor
from xxhash import xxh3_128

from iak.pipeline.errors import Corrupt
from iak.pipeline.files import not_permitted, put_file, put_folder, sync_file
from iak.pipeline.formats import current_document
from iak.pipeline.sealed import check_seal, parsed, seal, spelled
from iak.schemas.mapped import MAPPED_FORMAT, MappedFile, MappedIndex

INDEX = "index.json"
BLOCK_BYTES = 4 * 2**20
SAMPLED = 16
"""Blocks of a file that are compared when it is mapped."""
Append = Callable[[memoryview], object]
_OF_BASE, _OF_LAYOUT = re.compile(r"[0-9a-f]{16}"), re.compile(r"\.([0-9a-f]{12})\.lock")
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFolder:
    """Where a base's tables are mapped, and how they are looked after."""

    path: Path
    """Named for the base, on a disk of this machine."""
    base_fingerprint: str
    is_verified: bool = False
    """Compare every block when they are mapped, instead of a sample."""
    days: float = 14.0
    """Days after which folders beside it that nobody maps are removed."""


class Mapped:
    """Files that are mapped; their folder is in use for as long as this object lives."""

    def __init__(self, lock: IO[bytes]) -> None:
        """Hold the shared lock of a folder; `files` are still to come."""
        self.files: dict[str, Tensor] = {}
        """Bytes by name of file."""
        self._lock = lock

    def __del__(self) -> None:
        """Let the folder go."""
        self._lock.close()


def map_files(
    where: MapFolder, layout: str, sizes: Mapping[str, int], write: Callable[[str, Append], object]
) -> Mapped:
    """Map files of rows, and write them first if they are not there.

    A worker that finds another one writing waits for it; one that dies while it writes leaves
    nothing behind that is ever read.

    Args:
        where: the base's folder.
        layout: name of the folder in it, for what the files hold.
        sizes: bytes by name of file, none of them zero.
        write: hands a file's rows to the function it is given, from first to last.

    Raises:
        Corrupt: what is there is not what was written.
        OtherFormat: a newer version wrote it.
        NotPermitted: this user may not read, or not write, the folder.
    """
    folder = where.path / layout
    try:
        where.path.mkdir(parents=True, exist_ok=True)
        mapped = Mapped(_lock_whole(folder, where, sizes, write))
        index = _read_index(folder, where, sizes)
        for name, told in index.files.items():
            _compare(folder / name, told, index.block_bytes, in_full=where.is_verified)
        mapped.files |= {name: _map(folder / name) for name in sizes}
    except PermissionError as error:
        raise not_permitted(Path(error.filename or folder), error) from error
    return mapped


def _lock_whole(
    folder: Path,
    where: MapFolder,
    sizes: Mapping[str, int],
    write: Callable[[str, Append], object],
) -> IO[bytes]:
    """Return a shared lock on a folder that is there, made if need be."""
    path = folder.with_name(f".{folder.name}.lock")
    while True:
        lock = _open_locked(path, fcntl.LOCK_SH)
        if _is_there(folder / INDEX):
            _touch(path)
            return lock
        lock.close()
        with _open_locked(path, fcntl.LOCK_EX):
            if not _is_there(folder / INDEX):  # none, or one that an older version wrote
                _make(folder, where, sizes, write)


def _is_there(path: Path) -> bool:
    """Return whether a path exists; one that may not be looked at raises PermissionError."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _open_locked(path: Path, how: int, *, is_made: bool = True) -> IO[bytes]:
    """Open a lock file and lock it, waiting if need be; a removed one is no lock.

    Args:
        path: of the lock.
        how: as flock takes it.
        is_made: make it where it is missing.

    Raises:
        BlockingIOError: it is held, and `how` does not wait.
    """
    while True:
        try:
            file: IO[bytes] = path.open("ab" if is_made else "r+b")
        except PermissionError:  # of a colleague, who lets this user read
            file = path.open("rb")
        try:
            fcntl.flock(file, how)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                file.close()
                raise
            _log.warning("%s cannot be locked (%s); nothing keeps others from it", path, error)
        try:
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()


def _touch(path: Path) -> None:
    """Note that a folder is used, by its lock; a colleague's may not let itself be touched."""
    try:
        os.utime(path)
    except PermissionError as error:
        _log.debug("the last use of %s is not noted: %s", path, error)


def _make(
    folder: Path,
    where: MapFolder,
    sizes: Mapping[str, int],
    write: Callable[[str, Append], object],
) -> None:
    """Write the files and their index, and put them in place."""
    part = _part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        files: dict[str, MappedFile] = {}
        for name in sizes:
            with (part / name).open("wb") as file:
                blocks = _Blocks(file)
                write(name, blocks.append)
            files[name] = blocks.told()
            sync_file(part / name)
            mode = (part / name).stat().st_mode
            (part / name).chmod(mode & 0o444)  # nobody writes to what others have mapped
        unsealed = MappedIndex(
            base_fingerprint=where.base_fingerprint,
            block_bytes=BLOCK_BYTES,
            files=files,
            sha256="0" * 64,
        )
        put_file(part / INDEX, spelled(seal(unsealed.model_dump(mode="json"))))
        put_folder(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part_of(folder: Path) -> Path:
    """Return where a folder is built and taken apart, by who holds its lock alone."""
    return folder.with_name(f".{folder.name}.part")


class _Blocks:
    """A file that is written from first to last, and the digest of each of its blocks."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.bytes = file, 0
        self.digests: list[str] = []
        self.block, self.in_block = xxh3_128(), 0

    def append(self, rows: memoryview) -> None:
        """Write rows, and take them into the digests."""
        if not rows.nbytes:
            return
        data = rows.cast("B")
        self.file.write(data)
        self.bytes += len(data)
        while len(data):
            piece = data[: BLOCK_BYTES - self.in_block]
            self.block.update(piece)
            self.in_block += len(piece)
            data = data[len(piece) :]
            if self.in_block == BLOCK_BYTES:
                self._end_block()

    def _end_block(self) -> None:
        self.digests.append(self.block.hexdigest())
        self.block, self.in_block = xxh3_128(), 0

    def told(self) -> MappedFile:
        """Return what the index says of the file, once it is written."""
        if self.in_block:
            self._end_block()
        return MappedFile(bytes=self.bytes, blocks=self.digests)


def _read_index(folder: Path, where: MapFolder, sizes: Mapping[str, int]) -> MappedIndex:
    """Return the index of a folder, compared with what is asked for."""
    path = folder / INDEX
    try:
        data = path.read_bytes()
        document = parsed(data)
        check_seal(document, data)
        current = current_document(
            document,
            kind="index of mapped tables",
            current=MAPPED_FORMAT,
            where=path,
            mend=f"Remove {folder}: the next run writes it again",
        )
        index = MappedIndex.model_validate(current)
    except (ValueError, ValidationError) as error:
        raise _corrupt(folder, INDEX, str(error)) from error
    if index.base_fingerprint != where.base_fingerprint:
        raise _corrupt(
            folder,
            INDEX,
            f"it tells of base {index.base_fingerprint}, expected {where.base_fingerprint}",
        )
    told = {name: file.bytes for name, file in index.files.items()}
    if told != dict(sizes):
        raise _corrupt(folder, INDEX, f"it tells of files {told}, expected {dict(sizes)}")
    return index


def _compare(path: Path, told: MappedFile, block_bytes: int, *, in_full: bool) -> None:
    """Compare a file with the index: its size, and some of its blocks or all."""
    found = path.stat().st_size if path.is_file() else 0
    if found != told.bytes:
        raise _corrupt(path.parent, path.name, f"it has {found} bytes, expected {told.bytes}")
    numbers = range(len(told.blocks))
    # Each process draws its own sample, so that many of them see many blocks.
    draw = random.SystemRandom()
    chosen = numbers if in_full else sorted(draw.sample(numbers, min(SAMPLED, len(numbers))))
    with path.open("rb") as file:
        for number in chosen:
            file.seek(number * block_bytes)
            digest = xxh3_128(file.read(block_bytes)).hexdigest()
            if digest != told.blocks[number]:
                raise _corrupt(
                    path.parent,
                    path.name,
                    f"bytes from {number * block_bytes} on have digest {digest}, expected "
                    f"{told.blocks[number]}",
                )


def _corrupt(folder: Path, name: str, what: str) -> Corrupt:
    return Corrupt(
        f"{folder / name} is not what was written: {what}. Remove {folder}: the next run writes it "
        "again"
    )


def _map(path: Path) -> Tensor:
    """A file's bytes, as pages that are shared and read only."""
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(pages, dtype=torch.uint8)


# ---------------------------------------------------------------- what nobody uses any more


def remove_unused(root: Path, *, days: float) -> list[Path]:
    """Remove folders of mapped tables that no process maps, and none has for so many days.

    Args:
        root: folder of the bases' folders; what else lies there is left alone.
        days: since the last process mapped one.

    Returns:
        The folders that were removed.
    """
    removed: list[Path] = []
    try:
        places = [place for place in sorted(root.iterdir()) if _OF_BASE.fullmatch(place.name)]
    except OSError as error:
        _log.debug("%s cannot be listed: %s", root, error)
        return removed
    for place in places:
        if place.is_symlink():
            continue
        try:
            for lock in sorted(place.iterdir()):
                named = _OF_LAYOUT.fullmatch(lock.name)
                if named and _is_removed(place / named[1], lock, days):
                    removed.append(place / named[1])
            place.rmdir()
        except OSError as error:  # not empty, a colleague's, or just removed by another worker
            _log.debug("%s stays: %s", place, error)
    return removed


def _is_removed(folder: Path, lock: Path, days: float) -> bool:
    """Remove a folder where it is old and nobody maps it; return whether there was one."""
    try:
        held = _open_locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, is_made=False)
    except BlockingIOError:
        return False
    with held:
        unused_days = (time.time() - lock.stat().st_mtime) / 86_400
        if unused_days < days:
            return False
        part = _part_of(folder)
        shutil.rmtree(part, ignore_errors=True)
        was_there = _is_there(folder)
        if was_there:
            folder.rename(part)  # at once: a half-removed folder is never mapped
            shutil.rmtree(part)
            _log.warning(
                "removed %s: no process has mapped these tables for %.0f days "
                "(tables.mapped_days=%g)",
                folder,
                unused_days,
                days,
            )
        lock.unlink()
        return was_there
