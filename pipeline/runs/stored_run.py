"""Run in a folder that lies on an object store: in a local copy that is stored as it changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar

from iak.pipeline.files import is_part, remove_folder
from iak.pipeline.lock import LOCK, OWNER
from iak.pipeline.storage.working_copy import local_folder, remove_stored, written_copy
from iak.schemas.job import CacheSpec, WorkerJobSpec
from iak.schemas.paths import bucket_uri

S = TypeVar("S", bound=WorkerJobSpec)
ACTIVATIONS = "activations"
"""Folder of the activation cache, beside the base."""
OF_THIS_MACHINE = ("ray", ACTIVATIONS, "mapped")
"""Folders of a run folder that other machines make for themselves. Only the names: to import them
from where they are written would load torch."""
DIGESTS = "digests.sqlite"
"""Beginning of the names of the log's digests, which other machines compute for themselves."""


@contextmanager
def local_run(spec: S) -> Iterator[S]:
    """Yield a job's settings with a run folder of this machine.

    A run folder on an object store is copied here first, so that a run which was interrupted on
    another machine goes on. It is stored while the run works, and when the block ends.

    Args:
        spec: settings; they stay as they are where the run folder is a path.

    Raises:
        Busy: another process, perhaps of another machine, works in it.
        Overtaken: this process gave no sign of life, and another one has taken over.
    """
    uri = bucket_uri(spec.run_dir)
    if uri is None:
        yield spec
        return
    with written_copy(uri, waits=spec.if_busy == "wait", is_kept=is_stored) as place:
        yield spec.model_copy(update={"run_dir": place.folder})


def is_stored(path: str) -> bool:
    """Return whether a file of a run folder is stored, by its path below the folder.

    Locks, part files, Ray's own files and caches of this machine are not.
    """
    parts = PurePosixPath(path).parts
    if any(is_part(Path(part)) for part in parts) or parts[0] in OF_THIS_MACHINE:
        return False
    return parts[-1] not in (LOCK, OWNER) and not parts[-1].startswith(DIGESTS)


def remove_run(run_dir: Path) -> None:
    """Remove a run folder, so that no later attempt goes on with what it holds."""
    uri = bucket_uri(run_dir)
    if uri is None:
        remove_folder(run_dir)
    else:
        remove_stored(uri)


def local_cache(cache: CacheSpec) -> Path | None:
    """Return the folder of this machine for a cache; None where the settings name no place."""
    return local_folder(cache.uri, "caches") if cache.uri else cache.folder
