"""Run in a folder that lies on an object store: in a local copy that is stored as it changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar

from iak.pipeline.base.frozen_base import MAPPED
from iak.pipeline.data.content import DIGESTS
from iak.pipeline.files import is_part
from iak.pipeline.lock import LOCK, OWNER
from iak.pipeline.storage.workplace import read_copy, written_copy
from iak.schemas.job import WorkerJobSpec
from iak.schemas.paths import bucket_uri

S = TypeVar("S", bound=WorkerJobSpec)
ACTIVATIONS = "activations"
"""Folder of the activation cache, beside the base."""
_OF_THIS_MACHINE = ("ray", ACTIVATIONS, MAPPED)
"""Folders of a run folder that other machines make for themselves."""


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
    if any(is_part(Path(part)) for part in parts) or parts[0] in _OF_THIS_MACHINE:
        return False
    return parts[-1] not in (LOCK, OWNER) and not parts[-1].startswith(DIGESTS)


def readable(folder: Path) -> Path:
    """Return a folder that can be read: itself, or a local copy of what is on an object store."""
    uri = bucket_uri(folder)
    return folder if uri is None else read_copy(uri)
