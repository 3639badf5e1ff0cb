"""Map files of table rows into memory, shared by all workers of a machine. One worker writes them.

    mapped/<base>/<layout>/            named for the base's fingerprint and the tables' layout
        int8-16  fp32-4  ...             rows of one precision and width, read only
        index.json                       written last: bytes and a digest of every block (xxh3_128)
    mapped/<base>/.<layout>.lock       shared by the processes that map it; its time is the last use

A folder appears under its name when every file in it is complete and on disk. The process that
writes it verifies the rows against the base's manifest. A process that maps it later compares the
sizes and a sample of blocks, or every block where the settings say so. Pages are read only, and are
in memory once for any number of workers. Folders that no process has mapped for some days are
removed.
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
"""Blocks of a file that are compared each time it is mapped."""
Append = Callable[[memoryview], object]
_OF_BASE, _OF_LAYOUT = re.compile(r"[0-9a-f]{16}"), re.compile(r"\.([0-9a-f]{12})\.lock")
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFolder:
    """The folder of a base's mapped tables, and how it is verified and removed."""

    path: Path
    """Named for the base, on a disk of this machine."""
    base_fingerprint: str
    is_verified: bool = False
    """Compare every block when files are mapped, instead of a sample."""
    days: float = 14.0
    """Days without use after which a folder of mapped tables is removed, also of other bases."""


class Mapped:
    """Mapped files. Their folder is locked against removal while this object exists."""

    def __init__(self, lock: IO[bytes]) -> None:
        """Take over the shared lock of a folder; `files` are filled in later."""
        self.files: dict[str, Tensor] = {}
        """Bytes by name of file."""
        self._lock = lock

    def __del__(self) -> None:
        """Release the lock."""
        self._lock.close()


def map_files(
    where: MapFolder, layout: str, sizes: Mapping[str, int], write: Callable[[str, Append], object]
) -> Mapped:
    """Map files of rows, and write them first where they do not exist.

    A worker waits while another one writes. Nothing that an interrupted worker wrote is ever read.

    Args:
        where: the base's folder.
        layout: name of the folder in it; it identifies what the files contain.
        sizes: name of each file -> its bytes, none of them zero.
        write: is called with a file's name and a function, and passes that function the file's
            rows from first to last.

    Raises:
        Corrupt: a file is not what was written.
        OtherFormat: a newer version wrote it.
        NotPermitted: this user may not read, or not write, the folder.
    """
    folder = where.path / layout
    try:
        where.path.mkdir(parents=True, exist_ok=True)
        mapped = Mapped(_lock_whole(folder, where, sizes, write))
        index = _read_index(folder, where, sizes)
        for name, entry in index.files.items():
            _compare(folder / name, entry, index.block_bytes, in_full=where.is_verified)
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
    """Return a shared lock on a complete folder, and write the folder first where there is none."""
    path = folder.with_name(f".{folder.name}.lock")
    # A loop, because flock cannot turn an exclusive lock into a shared one at once: between the two
    # another process may remove the folder.
    while True:
        lock = _open_locked(path, fcntl.LOCK_SH)  # waits for a process that writes
        if _is_there(folder / INDEX):
            _touch(path)
            return lock
        lock.close()
        try:
            # Never wait for the exclusive lock: another process may have written the folder since,
            # and then has it mapped for hours, perhaps waiting for this one in a collective call.
            alone = _open_locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Two processes that look at the same moment keep each other from writing. Pauses of
            # random lengths let one of them go first.
            time.sleep(random.uniform(0.001, 0.02))
            continue
        with alone:
            # Look again, since another process may have written it. A folder without an index is
            # that of an older version.
            if not _is_there(folder / INDEX):
                _make(folder, where, sizes, write)


def _is_there(path: Path) -> bool:
    """Return whether a path exists.

    Raises:
        PermissionError: this user may not look.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _open_locked(path: Path, how: int, *, is_made: bool = True) -> IO[bytes]:
    """Open a lock file and lock it, waiting where another process has it.

    Args:
        path: path of the lock.
        how: flags of flock.
        is_made: create the file where it is missing.

    Raises:
        BlockingIOError: another process has the lock, and `how` does not wait.
    """
    while True:
        try:
            file: IO[bytes] = path.open("ab" if is_made else "r+b")
        except PermissionError:  # another user's, who lets this one read
            file = path.open("rb")
        try:
            fcntl.flock(file, how)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                file.close()
                raise
            _log.warning("%s cannot be locked (%s); nothing keeps others from it", path, error)
        # Another process may have removed the file since it was opened: such a lock protects
        # nothing. Then the next turn opens the new file.
        try:
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()


def _touch(path: Path) -> None:
    """Note the last use of a folder in its lock's time, where this user may change it."""
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
    """Write the files and their index, and move the folder to its name."""
    part = _part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        files: dict[str, MappedFile] = {}
        for name in sizes:
            with (part / name).open("wb") as file:
                blocks = _Blocks(file)
                write(name, blocks.append)
            files[name] = blocks.entry()
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
    """Return the path at which a folder is built, and to which it is moved to be removed.

    Only a process with the exclusive lock uses it.
    """
    return folder.with_name(f".{folder.name}.part")


class _Blocks:
    """A file that is written from first to last, with a digest of each of its blocks."""

    def __init__(self, file: IO[bytes]) -> None:
        """Begin with an empty file."""
        self.file, self.bytes = file, 0
        self.digests: list[str] = []
        self.block, self.in_block = xxh3_128(), 0

    def append(self, rows: memoryview) -> None:
        """Write rows, and add them to the digests."""
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
        """Note the digest of a complete block."""
        self.digests.append(self.block.hexdigest())
        self.block, self.in_block = xxh3_128(), 0

    def entry(self) -> MappedFile:
        """Return the file's entry of the index, after all rows are written."""
        if self.in_block:
            self._end_block()
        return MappedFile(bytes=self.bytes, blocks=self.digests)


def _read_index(folder: Path, where: MapFolder, sizes: Mapping[str, int]) -> MappedIndex:
    """Read the index of a folder, and compare it with the base and the sizes of its files."""
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
            remedy=f"Remove {folder}: the next run writes it again",
        )
        index = MappedIndex.model_validate(current)
    except (ValueError, ValidationError) as error:
        raise _corrupt(folder, INDEX, str(error)) from error
    if index.base_fingerprint != where.base_fingerprint:
        raise _corrupt(
            folder,
            INDEX,
            f"it is of base {index.base_fingerprint}, expected {where.base_fingerprint}",
        )
    listed = {name: file.bytes for name, file in index.files.items()}
    if listed != dict(sizes):
        raise _corrupt(folder, INDEX, f"it lists files {listed}, expected {dict(sizes)}")
    return index


def _compare(path: Path, entry: MappedFile, block_bytes: int, *, in_full: bool) -> None:
    """Compare a file with the index: its size, and some of its blocks or all.

    Args:
        path: path of the file.
        entry: entry of the index.
        block_bytes: bytes of each block but the last.
        in_full: whether to compare all blocks.
    """
    size = path.stat().st_size if path.is_file() else 0
    if size != entry.bytes:
        raise _corrupt(path.parent, path.name, f"it has {size} bytes, expected {entry.bytes}")
    numbers = range(len(entry.blocks))
    # Each process draws its own sample, so that many of them see many blocks.
    draw = random.SystemRandom()
    chosen = numbers if in_full else sorted(draw.sample(numbers, min(SAMPLED, len(numbers))))
    with path.open("rb") as file:
        for number in chosen:
            file.seek(number * block_bytes)
            digest = xxh3_128(file.read(block_bytes)).hexdigest()
            if digest != entry.blocks[number]:
                raise _corrupt(
                    path.parent,
                    path.name,
                    f"bytes from {number * block_bytes} on have digest {digest}, expected "
                    f"{entry.blocks[number]}",
                )


def _corrupt(folder: Path, name: str, what: str) -> Corrupt:
    """Return the error for a file that is not what was written."""
    return Corrupt(
        f"{folder / name} is not what was written: {what}. Remove {folder}: the next run writes it "
        "again"
    )


def _map(path: Path) -> Tensor:
    """Map a file's bytes, as pages that are shared and read only."""
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        # torch warns of buffers that are read only. Nothing writes to frozen tables.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(pages, dtype=torch.uint8)


# ---------------------------------------------------------------- unused folders


def remove_unused(root: Path, *, days: float, dry_run: bool = False) -> list[Path]:
    """Remove folders of mapped tables that no process has mapped for some days.

    Args:
        root: folder of the bases' folders. Other files in it are left alone.
        days: days since a process mapped a folder last.
        dry_run: return what would be removed, and change nothing.

    Returns:
        The folders that were removed.
    """
    removed: list[Path] = []
    try:
        folders = [path for path in sorted(root.iterdir()) if _OF_BASE.fullmatch(path.name)]
    except OSError as error:
        _log.debug("%s cannot be listed: %s", root, error)
        return removed
    for folder in folders:
        if folder.is_symlink():
            continue
        try:
            for lock in sorted(folder.iterdir()):
                named = _OF_LAYOUT.fullmatch(lock.name)
                if named and _remove_unused(folder / named[1], lock, days, dry_run=dry_run):
                    removed.append(folder / named[1])
            if not dry_run:
                folder.rmdir()
        except OSError as error:  # not empty, another user's, or just removed by another worker
            _log.debug("%s stays: %s", folder, error)
    return removed


def _remove_unused(folder: Path, lock: Path, days: float, *, dry_run: bool) -> bool:
    """Remove a folder that is old and that no process maps; return whether there was one."""
    try:
        locked = _open_locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, is_made=False)
    except BlockingIOError:
        return False
    with locked:
        unused_days = (time.time() - lock.stat().st_mtime) / 86_400
        if unused_days < days:
            return False
        if dry_run:
            return _is_there(folder)
        part = _part_of(folder)
        shutil.rmtree(part, ignore_errors=True)
        was_there = _is_there(folder)
        if was_there:
            folder.rename(part)  # in one step, so that a half-removed folder is never mapped
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
