"""Run in a folder on an object store, by a local copy that is uploaded as it changes."""

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
"""Folders of a run folder that each machine makes for itself. The names are repeated here, because
the modules that write them load torch."""
DIGESTS = "digests.sqlite"
"""Beginning of the names of the files of digests, which each machine computes for itself."""


@contextmanager
def local_run(spec: S) -> Iterator[S]:
    """Yield a job's settings with a run folder of this machine.

    A run folder on an object store is downloaded first, so that a run which was interrupted on
    another machine is resumed here. It is uploaded while the run works, and when the block ends.

    Args:
        spec: settings; they stay as they are where the run folder is a path.

    Raises:
        Busy: another process, perhaps of another machine, works in it.
        Overtaken: this process did not renew its lease in time, and another one has taken over.
    """
    uri = bucket_uri(spec.run_dir)
    if uri is None:
        yield spec
        return
    with written_copy(uri, waits=spec.if_busy == "wait", is_kept=is_stored) as copy:
        yield spec.model_copy(update={"run_dir": copy.folder})


def is_stored(path: str) -> bool:
    """Return whether a file of a run folder is uploaded, by its path below the folder.

    Locks, files that are half written, Ray's own files and caches of this machine are not.
    """
    parts = PurePosixPath(path).parts
    if any(is_part(Path(part)) for part in parts) or parts[0] in OF_THIS_MACHINE:
        return False
    return parts[-1] not in (LOCK, OWNER) and not parts[-1].startswith(DIGESTS)


def remove_run(run_dir: Path) -> None:
    """Remove a run folder, so that no later attempt resumes from it."""
    uri = bucket_uri(run_dir)
    if uri is None:
        remove_folder(run_dir)
    else:
        remove_stored(uri)


def local_cache(cache: CacheSpec) -> Path | None:
    """Return this machine's folder of a cache; None where neither a folder nor a URI is named."""
    return local_folder(cache.uri, "caches") if cache.uri else cache.folder
