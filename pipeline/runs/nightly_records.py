"""The folders of nights: one each, with a sealed `night.json` that is written at every phase.

nights/
    index.html                      the index over all nights
    2026-10-28-0123456789abcdef/    date and id
        night.json                  the record
        tune/                       run folder of its tuning
        scratch/                    the same from scratch, every so many nights
        refresh/                    a base that was trained further; later nights freeze it
        page.html                   the morning page
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from iak.pipeline.report.nights import night_folders, write_night
from iak.schemas.night import NightRecord

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
    """Records that cannot be read, and why."""


def night_folder(nights: Path, record: NightRecord) -> Path:
    """Return the folder of a night."""
    return nights / f"{record.night}-{record.id}"


def changed(nights: Path, record: NightRecord, **fields: object) -> NightRecord:
    """Write a night's record with some fields changed, and return it."""
    folder = night_folder(nights, record)
    folder.mkdir(parents=True, exist_ok=True)
    return write_night(record.model_copy(update=fields), folder)


def read_nights(nights: Path) -> Nights:
    """Return the records of all nights."""
    folders = list(night_folders(nights))
    records = [folder.record for folder in folders if folder.record is not None]
    return Nights(
        records=sorted(records, key=lambda record: (record.night, record.started_at)),
        problems=[folder.problem for folder in folders if folder.record is None],
    )


def now() -> datetime:
    """Return the present moment, in whole seconds of UTC."""
    return datetime.now(UTC).replace(microsecond=0)
