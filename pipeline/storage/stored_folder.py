"""Keep a folder on an object store: as a series of whole versions, with one writer.

    versions/000007-000002.json   all files of the folder: path -> object, size; sealed
    files/SHA256-MARK             the bytes of a file
    leases/, clocks/              who may write (lease.py)
    page.html, ...                plain copies of pages, for browsers

A version is written after all files that it names, under a name that must be free. So a reader
gets the files of one version, never a mixture of two. Its name begins with the number of the
writer's lease. A new writer begins with a version that copies the newest one. So a version of a
writer that stalled is never the newest: its lease is older. Every file that is downloaded is
compared with its SHA-256.

The newest two versions stay. A reader whose version is removed while it reads takes the newest one.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.files import putting_file, sha256_of_file
from iak.pipeline.sealed import check_seal, parsed, seal, spelled
from iak.pipeline.storage.lease import CLOCKS, LEASES, Lease
from iak.pipeline.storage.store import Store, map_concurrently
from iak.schemas.stored import FileInVersion, FolderVersion

VERSIONS, FILES = "versions", "files"
_OWN = (VERSIONS, FILES, LEASES, CLOCKS)
PAGES = (".html",)
"""Ends of the names of files that also lie under their own name, for browsers."""
_KEPT = 2
"""Newest versions that stay. A reader may still be at the one before the newest."""
_IN_MEMORY = 16 * 2**20
"""Size up to which a file is read once, so that the bytes which were hashed are uploaded."""
_ATTEMPTS = 5
"""Times that a reader begins at most, where its version is removed while it reads."""
T = TypeVar("T")
FileState = tuple[int, int, int]
"""Inode, size and time of a file, which together change with its content."""
IsKept = Callable[[str], bool]
"""Whether a file belongs to the stored folder, by its path below it."""


@dataclass(frozen=True, slots=True)
class StoredFolder:
    """A folder on a store, to read."""

    store: Store

    def head(self) -> FolderVersion | None:
        """Return the newest version; None where nothing was ever stored.

        Raises:
            Corrupt: its document was changed.
        """
        for _ in range(_ATTEMPTS):
            names = self.version_names()
            if not names:
                return None
            try:
                return self._read(names[-1])
            except FileNotFoundError:  # its writer has removed it, after newer ones
                continue
        raise self._replaced_too_often()

    def fetch(self, to: Path) -> FolderVersion:
        """Give a local folder the files of the newest version; see `fetch_version`.

        Raises:
            BadRequest: nothing is stored there.
            Corrupt: an object is missing or has other bytes.
        """

        def read(version: FolderVersion) -> FolderVersion:
            self.fetch_version(version, to)
            return version

        return self.reading(read)

    def reading(self, read: Callable[[FolderVersion], T]) -> T:
        """Return the result of a function that reads the newest version.

        Args:
            read: reads objects of a version. It is called again, with a newer version, where an
                object was removed while it read.

        Raises:
            BadRequest: nothing is stored there.
            Corrupt: an object is missing although its version is the newest.
        """
        for _ in range(_ATTEMPTS):
            version = self.head()
            if version is None:
                raise BadRequest(
                    f"{self.store.uri} holds no folder that this project stored. Check the URI, or "
                    "make it by the command whose run_dir= it is"
                )
            try:
                return read(version)
            except FileNotFoundError as error:
                if self.head() == version:
                    raise self._damaged(str(error.args[-1]), "it is missing") from error
        raise self._replaced_too_often()

    def fetch_version(
        self, version: FolderVersion, to: Path, *, is_wanted: IsKept = lambda _: True
    ) -> None:
        """Give a local folder the files of a version, every byte verified.

        Local files with the right bytes stay as they are. Local files that `is_wanted` names, and
        the version does not have, are removed.

        Args:
            version: the version.
            to: local folder, made where it is missing.
            is_wanted: which files, by their path.

        Raises:
            FileNotFoundError: an object is missing, as when the version was removed meanwhile.
            Corrupt: an object has other bytes.
        """
        to.mkdir(parents=True, exist_ok=True)
        wanted = {path: entry for path, entry in version.files.items() if is_wanted(path)}
        for path in files_below(to, is_wanted):
            if path not in wanted:
                _remove(to / path, below=to)
        for _ in map_concurrently(
            self.store, lambda item: self._download(to / item[0], item[1]), wanted.items()
        ):
            pass

    def _download(self, path: Path, entry: FileInVersion) -> None:
        """Download a file, unless it is here already."""
        if _sha256_of(path, entry.bytes) == entry.sha256:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        key = f"{FILES}/{entry.key}"
        # Not synced to the disk: it is verified at every use, and can be downloaded again.
        with putting_file(path, is_durable=False) as part:
            self.store.download(key, part)
            actual = _sha256_of(part, None)
            if actual != entry.sha256:
                raise self._damaged(self.store.where(key), f"its bytes have SHA-256 {actual}")

    def version_names(self) -> list[str]:
        """Return the names of all versions, oldest first."""
        return sorted(name for name in self.store.names(VERSIONS) if name.endswith(".json"))

    def _read(self, name: str) -> FolderVersion:
        where = self.store.where(f"{VERSIONS}/{name}")
        data = self.store.read(f"{VERSIONS}/{name}")
        try:
            document = parsed(data)
            check_seal(document, data)
            return FolderVersion.model_validate(document)
        except (ValueError, ValidationError) as error:
            raise self._damaged(where, str(error)) from error

    def read_version(self, name: str) -> FolderVersion | None:
        """Return a version; None where it was removed meanwhile."""
        try:
            return self._read(name)
        except FileNotFoundError:
            return None

    def _damaged(self, where: str, what: str) -> Corrupt:
        return Corrupt(
            f"{where} is not what was stored: {what}. Restore it from a copy of the bucket, or "
            f"remove {self.store.uri} and make it again"
        )

    def _replaced_too_often(self) -> Corrupt:
        return Corrupt(
            f"{self.store.uri} was replaced {_ATTEMPTS} times while it was read. Run the command "
            "again, once its writer has ended"
        )


class FolderWriter:
    """A folder on a store, for its one writer."""

    def __init__(self, lease: Lease, *, is_kept: IsKept = lambda _: True) -> None:
        """Shut earlier writers out, by a first version that copies the newest one.

        Args:
            lease: the right to write the folder.
            is_kept: which local files belong to it.
        """
        self.folder, self._lease, self._is_kept = StoredFolder(lease.store), lease, is_kept
        self._uploads: dict[str, tuple[FileState, FileInVersion]] = {}
        """State of each local file at its last upload, and its entry."""
        head = self.folder.head()
        self._number = -1
        self.version = self._commit(head.files if head else {})
        self._remove_orphans()

    def push(self, local: Path) -> FolderVersion:
        """Store a local folder as the newest version; nothing is written where nothing changed.

        Args:
            local: the folder. Files that are put in place whole may change meanwhile.

        Raises:
            Overtaken: another writer has taken over.
        """
        self._lease.check()
        keys = {entry.sha256: entry for entry in self.version.files.values()}
        paths = list(files_below(local, self._is_kept))
        entries = map_concurrently(
            self.folder.store, lambda p: (p, self._entry_of(local / p, keys)), paths
        )
        files = {path: entry for path, entry in entries if entry is not None}
        if files != self.version.files:
            before = self.version.files
            self.version = self._commit(files)
            self._prune()
            self._copy_pages(local, before)
        return self.version

    def remove(self, is_kept: IsKept) -> int:
        """Store a version without some files, forget all earlier ones, and return the bytes gone.

        Args:
            is_kept: which files stay.
        """
        self._lease.check()
        before = self.version.files
        files = {path: entry for path, entry in before.items() if is_kept(path)}
        self.version = self._commit(files)
        self._prune(newest=1)
        return sum(entry.bytes for path, entry in before.items() if path not in files)

    def _entry_of(self, path: Path, keys: Mapping[str, FileInVersion]) -> FileInVersion | None:
        """Return a local file's entry, after an upload where it is new; None where it is gone."""
        try:
            # State and bytes come from one open file, also where another one replaces it meanwhile.
            with path.open("rb") as file:
                while True:
                    state = _state_of(file)
                    last_state, last = self._uploads.get(str(path), (None, None))
                    if last is not None and last_state == state and last.sha256 in keys:
                        return keys[last.sha256]  # unchanged since then: not even hashed
                    entry = self._upload(file, state[1], keys)
                    if _state_of(file) == state:
                        self._uploads[str(path)] = (state, entry)
                        return entry
                    file.seek(0)  # it grew while it was read, as a file of events does
        except FileNotFoundError:
            return None

    def _upload(
        self, file: BufferedReader, size: int, keys: Mapping[str, FileInVersion]
    ) -> FileInVersion:
        """Upload an open file's bytes, unless an object has them already; return their entry."""
        content = file.read() if size <= _IN_MEMORY else None
        if content is None:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            sha256 = hashlib.sha256(content).hexdigest()
        if sha256 in keys:
            return keys[sha256]
        key = f"{sha256}-{self._lease.number:06x}{secrets.token_hex(5)}"
        if content is None:
            file.seek(0)
            self.folder.store.upload(f"{FILES}/{key}", file)
        else:
            size = len(content)
            self.folder.store.put({f"{FILES}/{key}": content})
        return FileInVersion(key=key, bytes=size)

    def _commit(self, files: Mapping[str, FileInVersion]) -> FolderVersion:
        """Write a version, after everything that it names."""
        self._number += 1
        lease = self._lease.number
        document = seal(
            {
                "kind": "iak-folder",
                "format": 1,
                "lease": lease,
                "number": self._number,
                "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "files": {path: entry.model_dump() for path, entry in files.items()},
            }
        )
        name = f"{lease:06d}-{self._number:06d}.json"
        self.folder.store.create(f"{VERSIONS}/{name}", spelled(document))
        # Another writer may have taken over since the last check. Then readers ignore this version.
        self._lease.check()
        return FolderVersion.model_validate(document)

    def _prune(self, newest: int = _KEPT) -> None:
        """Remove all but the newest versions, and the objects that only removed ones name."""
        folder, names = self.folder, self.folder.version_names()
        old = [folder.read_version(name) for name in names[:-newest]]
        if not old:
            return
        used = self._keys_of(names[-newest:])
        unused = {e.key for version in old if version for e in version.files.values()} - used
        # Versions before objects: a reader that misses an object then finds a newer version.
        folder.store.remove_files([f"{VERSIONS}/{name}" for name in names[:-newest]])
        folder.store.remove_files([f"{FILES}/{key}" for key in sorted(unused)])

    def _remove_orphans(self) -> None:
        """Remove objects of earlier leases that no version names: their writer died before.

        Objects of later leases stay. If this process stalls here, another writer's version has
        them.
        """
        self._prune()
        used = self._keys_of(self.folder.version_names())
        unused = self.folder.store.names(FILES) - used
        orphans = sorted(key for key in unused if _lease_of(key) < self._lease.number)
        self.folder.store.remove_files([f"{FILES}/{key}" for key in orphans])

    def _keys_of(self, names: Iterable[str]) -> set[str]:
        """Return the keys of all objects that some versions name."""
        versions = [self.folder.read_version(name) for name in names]
        return {entry.key for version in versions if version for entry in version.files.values()}

    def _copy_pages(self, local: Path, before: Mapping[str, FileInVersion]) -> None:
        """Write changed pages under their own names too, where a browser finds them."""
        pages, old = _pages(self.version.files), _pages(before)
        changed = [path for path, entry in pages.items() if old.get(path) != entry]
        self.folder.store.put({path: (local / path).read_bytes() for path in changed})
        self.folder.store.remove_files(old.keys() - pages.keys())


def _pages(files: Mapping[str, FileInVersion]) -> dict[str, FileInVersion]:
    return {
        path: entry
        for path, entry in files.items()
        if path.endswith(PAGES) and path.partition("/")[0] not in _OWN
    }


def files_below(folder: Path, is_kept: IsKept) -> Iterator[str]:
    """Yield the path of every plain file below a local folder, by name, with `/` between parts."""
    for parent, folders, names in os.walk(folder):
        folders.sort()  # os.walk enters them in this order
        for name in sorted(names):
            path = Path(parent, name)
            inside = path.relative_to(folder).as_posix()
            if is_kept(inside) and path.is_file() and not path.is_symlink():
                yield inside


def _lease_of(key: str) -> int:
    """Return the lease under which an object was uploaded."""
    return int(key.partition("-")[2][:6], 16)


def _remove(path: Path, *, below: Path) -> None:
    """Remove a file, and the folders above it that are empty then: a file may need their name."""
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == below or any(folder.iterdir()):
            return
        folder.rmdir()


def _state_of(file: BufferedReader) -> FileState:
    """Return the state of an open file."""
    stat = os.fstat(file.fileno())
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _sha256_of(path: Path, size: int | None) -> str | None:
    """Return a local file's SHA-256; None where it is missing or has not that many bytes."""
    try:
        if size is not None and path.stat().st_size != size:
            return None
        return sha256_of_file(path)
    except OSError:
        return None
