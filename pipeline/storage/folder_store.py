"""Keep files in a folder of a file system: each is synced to the disk and renamed into place.

    DIR/.lock, .lock.json       the lock of the one writer (lock.py)

The lock only saves a second writer from work in vain. A writer that stalled cannot overwrite a
newer commit, because a commit's name must be free. link() guarantees that, also on file systems
whose locks do not work.
"""

import errno
import hashlib
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.files import (
    is_part,
    link_or_copy,
    not_permitted,
    put_file,
    put_new_file,
    putting_file,
    remove_folder,
)
from iak.pipeline.lock import one_writer

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of a file system without hard links: vfat, some of FUSE."""


@dataclass(frozen=True, slots=True)
class FolderStore:
    """Files in a folder (`store.py` says what each operation does)."""

    max_requests: ClassVar[int] = 1
    root: Path

    @property
    def uri(self) -> str:
        """Return the path of the folder."""
        return str(self.root)

    def where(self, key: str) -> str:
        """Return the path of a file."""
        return str(self.root / key)

    def read(self, key: str) -> bytes:
        """Return a file's bytes."""
        try:
            return (self.root / key).read_bytes()
        except PermissionError as error:
            raise not_permitted(self.root / key, error) from error
        except NotADirectoryError as error:
            raise FileNotFoundError(error.errno, error.strerror, str(self.root / key)) from error

    def create(self, key: str, content: bytes) -> None:
        """Write a file under a name that must be free."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            put_new_file(path, content)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise BadRequest(
                f"{self.root} lies on a file system that makes no hard links ({error.strerror}), "
                "so that two promotions at once could overwrite each other. Nothing was changed. "
                "Put the registry on a local disk, NFS or another file system that makes them"
            ) from error

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files, one after the other, each whole and synced."""
        for key, content in files.items():
            path = self.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            put_file(path, content)

    def upload(self, key: str, file: BinaryIO) -> None:
        """Copy a local file, whole and synced."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with putting_file(path) as part, part.open("wb") as target:
            shutil.copyfileobj(file, target)

    def download(self, key: str, path: Path) -> None:
        """Copy a file to a local path."""
        shutil.copyfile(self.root / key, path)

    def written_at(self, key: str) -> float:
        """Return when a file was put in place."""
        return (self.root / key).stat().st_mtime

    def remove_files(self, keys: Collection[str]) -> None:
        """Remove files."""
        for key in keys:
            (self.root / key).unlink(missing_ok=True)

    def fetch(self, files: Iterable[tuple[str, str, Path]]) -> None:
        """Link files, or copy them where that cannot be."""
        for key, sha256, target in files:
            check_digest(self.where(key), self._read_stored(key), sha256)
            link_or_copy(self.root / key, target)

    def _read_stored(self, key: str) -> bytes:
        try:
            return self.read(key)
        except OSError as error:
            raise not_stored(self.where(key), f"it cannot be read: {error.strerror}") from error

    def names(self, below: str = "") -> set[str]:
        """Return names below a folder; parts that were never put in place have none."""
        folder = self.root / below
        if not folder.is_dir():
            return set()
        return {path.name for path in folder.iterdir() if not path.name.startswith(".")}

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file; parts that were never put in place have none."""
        files = (path for path in self.root.rglob("*") if path.is_file() and not is_part(path))
        return {path.relative_to(self.root).as_posix(): path.stat().st_size for path in files}

    def remove(self, folder: str) -> None:
        """Remove a folder: readers see all of it, or nothing."""
        remove_folder(self.root / folder)

    def remove_unfinished(self) -> int:
        """Remove part files of writers that died.

        The caller has the lock, so no writer of a part file is alive.
        """
        parts = [path for path in self.root.rglob(".*") if is_part(path)]
        for path in parts:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return len(parts)

    def one_writer(self) -> AbstractContextManager[None]:
        """Take the folder's lock, after its present owner."""
        return one_writer(self.root, waits=True)

    def check_creates_once(self) -> None:
        """Do nothing: `create` itself fails on a file system without links, and changes nothing."""


def check_digest(where: str, content: bytes, sha256: str) -> None:
    """Check that bytes are the ones that were stored.

    Args:
        where: path or URI of the file, for the message.
        content: its bytes.
        sha256: the digest in the entry.

    Raises:
        Corrupt: their digest is another.
    """
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise not_stored(where, f"it has SHA-256 {actual}, its entry says {sha256}")


def not_stored(where: str, what: str) -> Corrupt:
    """Return the error for a stored file that is damaged or missing.

    Args:
        where: path or URI of the file.
        what: the problem, as a clause.
    """
    return Corrupt(
        f"{where} is not what was stored: {what}. Promote the run that made it again, which stores "
        "it again, or restore the file from a copy of the registry"
    )
