"""Write, read and lock the folders of nights. `night.json` is sealed and written at every phase.

nights/
    index.html                      the index over all nights
    2026-10-28-0123456789abcdef/    date and id
        night.json                  the record
        tune/                       run folder of its tuning
        scratch/                    the same from scratch, every so many nights
        refresh/                    a base that was trained further; later nights freeze it
        page.html                   the morning page
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from iak.pipeline.lock import one_writer
from iak.pipeline.report.nights import night_folders, write_night
from iak.pipeline.runs.stored_run import is_stored
from iak.pipeline.storage.working_copy import folder_exists, readable_folder, written_copy
from iak.schemas.night import NightRecord
from iak.schemas.paths import bucket_uri

TUNE = "tune"
"""Run folder of a night's tuning, below the night's folder."""
SCRATCH = "scratch"
"""Run folder of the kernels that a night also tunes from scratch."""
REFRESH = "refresh"
"""Run folder of a base that a night trains further; later nights read the base from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nights:
    """The records of all nights of a folder."""

    records: Sequence[NightRecord]
    """Oldest first."""
    problems: Sequence[str]
    """A sentence for each record that cannot be read."""


def night_folder(nights: Path, record: NightRecord) -> Path:
    """Return the folder of a night."""
    return nights / f"{record.night}-{record.id}"


def changed(nights: Path, record: NightRecord, **fields: object) -> NightRecord:
    """Write a night's record with some fields changed, and return it."""
    folder = night_folder(nights, record)
    folder.mkdir(parents=True, exist_ok=True)
    return write_night(record.model_copy(update=fields), folder)


@dataclass(frozen=True, slots=True)
class LockedNights:
    """The folder of nights while one night has its lock."""

    folder: Path
    """The folder on this machine; a local copy where nights lie on an object store."""
    push: Callable[[], None] = lambda: None
    """Uploads what changed in a local copy; does nothing otherwise."""


@contextmanager
def locked_nights(nights: Path, *, waits: bool) -> Iterator[LockedNights]:
    """Lock the folder of nights while the block lasts, so that one night runs at a time.

    Args:
        nights: the folder, or `s3://bucket/prefix`.
        waits: wait until another night ends; otherwise raise Busy at once.

    Raises:
        Busy: another night runs, perhaps on another machine.
        Overtaken: this process did not renew its lease in time, and another night has taken over.
    """
    uri = bucket_uri(nights)
    if uri is None:
        with one_writer(nights, waits=waits):
            yield LockedNights(nights)
        return
    with written_copy(uri, waits=waits, is_kept=_is_uploaded) as copy:
        yield LockedNights(copy.folder, copy.push)


def _is_uploaded(path: str) -> bool:
    """Return whether a file is uploaded with the nights. Run folders are uploaded by their runs."""
    parts = PurePosixPath(path).parts
    return is_stored(path) and parts[1:2] not in [(name,) for name in (TUNE, SCRATCH, REFRESH)]


def read_nights(nights: Path) -> Nights:
    """Return the records of all nights; none where there is no such folder yet."""
    folders = list(night_folders(readable_folder(nights))) if folder_exists(nights) else []
    records = [folder.record for folder in folders if folder.record is not None]
    return Nights(
        records=sorted(records, key=lambda record: (record.night, record.started_at)),
        problems=[folder.problem for folder in folders if folder.record is None],
    )
