"""Keep a folder on an object store: whole in every version, with one writer.

    versions/000007-000002.json   all files of the folder: path -> object, size; sealed
    files/SHA256-MARK             the bytes of a file
    leases/, clocks/              who may write (lease.py)
    page.html, ...                plain copies of pages, for browsers

A version is written last, under a name that must be free, so that a reader finds the files of one
moment or those of another one, never a mixture. Its name begins with the writer's lease. A new
writer's first version copies the newest one, so that a writer which stalled can add nothing: its
lease is older. What a reader downloads is compared with its SHA-256.

The newest two versions are kept. A reader whose version is removed in the midst takes the newest.
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
from iak.pipeline.files import putting_file
from iak.pipeline.sealed import check_seal, parsed, seal, spelled
from iak.pipeline.storage.lease import CLOCKS, LEASES, Lease
from iak.pipeline.storage.store import Store, at_once
from iak.schemas.stored import FileInVersion, FolderVersion

VERSIONS, FILES = "versions", "files"
_OWN = (VERSIONS, FILES, LEASES, CLOCKS)
PAGES = (".html",)
"""Ends of the names of files that also lie under their own name, for browsers."""
_KEPT = 2
"""Newest versions that are kept: a reader may still read the one before the newest."""
_IN_MEMORY = 16 * 2**20
"""Size up to which a file is read once, so that one which grows meanwhile is uploaded as read."""
_ATTEMPTS = 5
"""Times that a reader begins anew because its version was replaced while it read."""
T = TypeVar("T")
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
            except FileNotFoundError:  # newer ones have replaced it meanwhile
                continue
        raise self._moves()

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
        """Return what a function makes of the newest version, or of a newer one that replaces it.

        Args:
            read: reads objects of a version. It is called again where they went meanwhile.

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
        raise self._moves()

    def fetch_version(
        self, version: FolderVersion, to: Path, *, is_wanted: IsKept = lambda _: True
    ) -> None:
        """Give a local folder the files of a version, every byte verified.

        Files that are there and right stay as they are. Others that are wanted, and that the
        version does not have, are removed.

        Args:
            version: the version.
            to: local folder, made where it is missing.
            is_wanted: which files.

        Raises:
            FileNotFoundError: an object is missing, as when the version was removed meanwhile.
            Corrupt: an object has other bytes.
        """
        to.mkdir(parents=True, exist_ok=True)
        wanted = {path: entry for path, entry in version.files.items() if is_wanted(path)}
        for path in files_below(to, is_wanted):
            if path not in wanted:
                _remove(to / path, below=to)
        for _ in at_once(
            self.store, lambda item: self._bring(to / item[0], item[1]), wanted.items()
        ):
            pass

    def _bring(self, path: Path, entry: FileInVersion) -> None:
        """Download a file, unless it is there already."""
        if _sha256_of(path, entry.bytes) == entry.sha256:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        key = f"{FILES}/{entry.key}"
        # It can be downloaded again, and is verified: no need to wait for the disk.
        with putting_file(path, is_durable=False) as part:
            self.store.download(key, part)
            found = _sha256_of(part, None)
            if found != entry.sha256:
                raise self._damaged(self.store.where(key), f"its bytes have SHA-256 {found}")

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

    def _moves(self) -> Corrupt:
        return Corrupt(
            f"{self.store.uri} was replaced {_ATTEMPTS} times while it was read. Run the command "
            "again, once its writer has ended"
        )


class FolderWriter:
    """A folder on a store, for its one writer."""

    def __init__(self, lease: Lease, *, is_kept: IsKept = lambda _: True) -> None:
        """Fence off earlier writers, by a first version that copies the newest one.

        Args:
            lease: the right to write the folder.
            is_kept: which local files belong to it.
        """
        self.folder, self._lease, self._is_kept = StoredFolder(lease.store), lease, is_kept
        self._seen: dict[str, tuple[tuple[int, int, int], FileInVersion]] = {}
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
        entries = at_once(self.folder.store, lambda p: (p, self._stored(local / p, keys)), paths)
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
        self._prune(kept=1)
        return sum(entry.bytes for path, entry in before.items() if path not in files)

    def _stored(self, path: Path, keys: Mapping[str, FileInVersion]) -> FileInVersion | None:
        """Return a local file's entry, uploaded where it is new; None where it is gone."""
        try:
            # By the open file: one that replaces it meanwhile is another file.
            with path.open("rb") as file:
                while True:
                    state = _state_of(file)
                    seen = self._seen.get(str(path))
                    if seen is not None and seen[0] == state and seen[1].sha256 in keys:
                        return keys[seen[1].sha256]
                    entry = self._uploaded(file, state[1], keys)
                    if _state_of(file) == state:  # else it grew, as a file of events does
                        self._seen[str(path)] = (state, entry)
                        return entry
                    file.seek(0)
        except FileNotFoundError:
            return None

    def _uploaded(
        self, file: BufferedReader, size: int, keys: Mapping[str, FileInVersion]
    ) -> FileInVersion:
        """Return the entry of an open file's bytes, which are uploaded where no object has them."""
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
        # Another writer may have taken over since the last check. Then readers pass this over.
        self._lease.check()
        return FolderVersion.model_validate(document)

    def _prune(self, kept: int = _KEPT) -> None:
        """Remove all but the newest versions, and the objects that only those name."""
        folder, names = self.folder, self.folder.version_names()
        old = [folder.read_version(name) for name in names[:-kept]]
        if not old:
            return
        used = self._keys_of(names[-kept:])
        gone = {entry.key for version in old if version for entry in version.files.values()} - used
        # The version first: a reader that still has it begins anew where an object is missing.
        folder.store.remove_files([f"{VERSIONS}/{name}" for name in names[:-kept]])
        folder.store.remove_files([f"{FILES}/{key}" for key in sorted(gone)])

    def _remove_orphans(self) -> None:
        """Remove objects of earlier leases that no version names: their writer died too early.

        Those of later leases stay. If this process stalls here, they are what serves.
        """
        self._prune()
        kept = self._keys_of(self.folder.version_names())
        left = self.folder.store.names(FILES) - kept
        orphans = sorted(key for key in left if _lease_of(key) < self._lease.number)
        self.folder.store.remove_files([f"{FILES}/{key}" for key in orphans])

    def _keys_of(self, names: Iterable[str]) -> set[str]:
        versions = [self.folder.read_version(name) for name in names]
        return {entry.key for version in versions if version for entry in version.files.values()}

    def _copy_pages(self, local: Path, before: Mapping[str, FileInVersion]) -> None:
        """Write changed pages under their own names as well; readers of versions need none."""
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
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            inside = path.relative_to(folder).as_posix()
            if is_kept(inside) and path.is_file() and not path.is_symlink():
                yield inside


def _lease_of(key: str) -> int:
    """Return the lease under which an object was uploaded."""
    return int(key.partition("-")[2][:6], 16)


def _remove(path: Path, *, below: Path) -> None:
    """Remove a file, and the folders above it that it leaves empty: a file may take their name."""
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == below or any(folder.iterdir()):
            return
        folder.rmdir()


def _state_of(file: BufferedReader) -> tuple[int, int, int]:
    """Return inode, size and time of an open file, which together change with its content."""
    stat = os.fstat(file.fileno())
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _sha256_of(path: Path, size: int | None) -> str | None:
    """Return a local file's SHA-256; None where it is missing or has not that many bytes."""
    try:
        if size is not None and path.stat().st_size != size:
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
