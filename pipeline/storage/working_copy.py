"""Work in a local copy of a folder that lies on an object store.

    <user's cache>/iak/scratch/
        runs/NAME-HASH/     the copy that this machine writes, one for each URI
        caches/NAME-HASH/   what this machine has of a cache, one for each URI
        copies/HASH/        copies that are only read, one for each content

Nothing here is the only copy. While a run works, its folder is stored again every few seconds in
which it changed. So another machine can resume the run from its last checkpoint on the store.
"""

import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import platformdirs

from iak.pipeline.errors import BadRequest, Overtaken, PipelineError
from iak.pipeline.storage.download_cache import KEPT_S
from iak.pipeline.storage.lease import take_lease
from iak.pipeline.storage.store import open_store
from iak.pipeline.storage.stored_folder import FolderWriter, IsKept, StoredFolder
from iak.schemas.paths import BUCKET, bucket_uri
from iak.schemas.stored import FolderVersion

BEAT_S = 20.0
"""Seconds between two signs of life, each of which also stores what changed.

A lease lasts six times as long (`LEASE_S`)."""
_log = logging.getLogger(__name__)


class WorkingCopy:
    """The local copy of a stored folder, for its one writer."""

    def __init__(self, folder: Path, writer: FolderWriter) -> None:
        """Use a local copy that equals the writer's newest version."""
        self.folder, self._writer = folder, writer
        self._pushing = threading.Lock()

    def push(self) -> None:
        """Store the folder as it is now.

        Raises:
            Overtaken: another writer has taken over.
            Unreachable: the store does not answer.
        """
        with self._pushing:
            self._writer.push(self.folder)


@contextmanager
def written_copy(uri: str, *, waits: bool, is_kept: IsKept) -> Iterator[WorkingCopy]:
    """Become the one writer of a stored folder during the block, by a local copy.

    The folder is stored when the block ends, also where it raises.

    Args:
        uri: `s3://bucket/prefix` of the folder; it is made where it is missing.
        waits: wait for another writer, instead of leaving at once.
        is_kept: which files belong to the stored folder, by their path below it.

    Raises:
        Busy: another process writes there.
        Overtaken: this process gave no sign of life for too long, and another one has taken over.
        Unreachable: the store does not answer.
    """
    lease = take_lease(open_store(uri), waits=waits)
    try:
        writer = FolderWriter(lease, is_kept=is_kept)
        local = local_folder(uri, "runs")
        writer.folder.fetch_version(writer.version, local, is_wanted=is_kept)
        copy = WorkingCopy(local, writer)
        with _stored_regularly(copy, lease.renew):
            yield copy
    except BaseException:
        with suppress(PipelineError):  # the error that ended the block is the one to report
            lease.release()
        raise
    lease.release()


@contextmanager
def _stored_regularly(copy: WorkingCopy, renew: Callable[[], None]) -> Iterator[None]:
    """Renew a lease and store the folder every few seconds, and once more when the block ends."""
    has_ended = threading.Event()

    def store_until_the_end() -> None:
        while not has_ended.wait(BEAT_S):
            try:
                renew()
                copy.push()
            except Overtaken as error:
                _log.warning("%s", error)
                return
            except (PipelineError, OSError) as error:
                _log.warning("%s is not stored now, which is tried again: %s", copy.folder, error)

    thread = threading.Thread(target=store_until_the_end, name="storing", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        _join(has_ended, thread)
        try:
            copy.push()
        except (PipelineError, OSError) as error:
            _log.warning("%s was not stored at its end: %s", copy.folder, error)
        raise
    _join(has_ended, thread)
    copy.push()


def _join(has_ended: threading.Event, thread: threading.Thread) -> None:
    """End a thread that stores, so that it neither renews the lease nor stores after this."""
    has_ended.set()
    thread.join()


def read_copy(uri: str, *, below: Sequence[str] = ()) -> Path:
    """Return a local copy of a stored folder, or of a folder inside one, every byte verified.

    Args:
        uri: `s3://bucket/prefix`.
        below: folders and files inside it that are enough, where it has any of them; all of it when
            empty.

    Raises:
        BadRequest: nothing is stored there.
        Corrupt: an object is missing or has other bytes.
    """
    stored = _stored_folder_of(uri)
    if stored is None:
        raise BadRequest(
            f"{uri} holds no folder that this project stored, nor does any folder above it. Check "
            "the URI, or make it by the command whose run_dir= it is"
        )
    folder, inside = stored

    def read(version: FolderVersion) -> Path:
        wanted = _wanted(version, inside, below)
        content = (f"{path} {version.files[path].sha256}" for path in sorted(wanted))
        local = _copies() / _digest(*content)
        folder.fetch_version(version, local, is_wanted=frozenset(wanted).__contains__)
        os.utime(local)  # `_remove_unused` reads the last use from it
        return local / inside

    copy = folder.reading(read)
    _remove_unused()
    return copy


def _wanted(version: FolderVersion, inside: str, below: Sequence[str]) -> list[str]:
    """Return the files of a version that a reader needs, by path."""
    files = [path for path in version.files if path.startswith(inside)]
    names = [f"{inside}{name}" for name in below]
    prefixes = tuple(f"{name}/" for name in names)
    chosen = [path for path in files if path in names or path.startswith(prefixes)]
    return chosen or files


def _stored_folder_of(uri: str) -> tuple[StoredFolder, str] | None:
    """Return the stored folder that a URI names or lies in, and the path inside, ending in `/`.

    None where no folder is stored on the way.
    """
    bucket, _, prefix = uri.removeprefix(BUCKET).partition("/")
    parts = [part for part in prefix.split("/") if part]
    for length in range(len(parts), 0, -1):
        folder = StoredFolder(open_store(f"{BUCKET}{'/'.join([bucket, *parts[:length]])}"))
        if folder.version_names():
            return folder, "".join(f"{part}/" for part in parts[length:])
    return None


def readable_folder(folder: Path, *, below: Sequence[str] = ()) -> Path:
    """Return a folder that can be read on this machine: itself, or a copy of a stored one.

    Args:
        folder: a path, or the `s3://bucket/prefix` that a path stands for.
        below: files and folders inside it that are enough, as in `read_copy`.

    Raises:
        BadRequest: nothing is stored there.
        Corrupt: an object is missing or has other bytes.
    """
    uri = bucket_uri(folder)
    return folder if uri is None else read_copy(uri, below=below)


def folder_exists(folder: Path) -> bool:
    """Return whether a folder exists, on this machine or on an object store."""
    uri = bucket_uri(folder)
    return folder.is_dir() if uri is None else _stored_folder_of(uri) is not None


def remove_stored(uri: str, *, is_kept: IsKept = lambda _: False) -> int:
    """Remove a stored folder's files, in all of its versions; return how many bytes they had.

    Args:
        uri: `s3://bucket/prefix` of the folder.
        is_kept: which files stay.

    Raises:
        Busy: a process writes there.
    """
    lease = take_lease(open_store(uri), waits=False)
    try:
        return FolderWriter(lease).remove(is_kept)
    finally:
        lease.release()


def local_folder(uri: str, kind: str) -> Path:
    """Return the folder of this machine that stands for one on an object store.

    Args:
        uri: `s3://bucket/prefix`.
        kind: name of the folder that it lies in: `runs`, `caches`.
    """
    return scratch() / kind / f"{PurePosixPath(uri).name}-{_digest(uri)}"


def scratch() -> Path:
    """Return where local copies lie: `iak/scratch` below XDG_CACHE_HOME or ~/.cache."""
    return platformdirs.user_cache_path("iak").resolve() / "scratch"


def _copies() -> Path:
    return scratch() / "copies"


def _remove_unused() -> None:
    """Remove copies that nobody read for a month."""
    oldest = time.time() - KEPT_S
    for copy in _copies().iterdir():
        with suppress(OSError):  # another process removed it
            if copy.stat().st_mtime < oldest:
                shutil.rmtree(copy)


def _digest(*texts: str) -> str:
    """Return a short name for texts."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]
