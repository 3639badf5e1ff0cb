"""Write and read the records of nights, each in the folder of its night."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from iak.pipeline.errors import Corrupt
from iak.pipeline.files import put_file
from iak.pipeline.sealed import check_seal, parsed, seal, spelled
from iak.schemas.night import NightRecord

RECORD = "night.json"
PAGE = "page.html"
INDEX = "index.html"
HISTORY = 30
"""Nights that a page shows the history of, with its own night."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NightFolder:
    """The folder of one night, and its record or why it has none."""

    path: Path
    record: NightRecord | None
    problem: str = ""


def write_night(record: NightRecord, folder: Path) -> NightRecord:
    """Write the record of a night, and return it with its seal.

    Args:
        record: record of the night, also while it runs.
        folder: folder of the night; it exists.
    """
    document = seal(record.model_dump(mode="json"))
    put_file(folder / RECORD, spelled(document))
    return NightRecord.model_validate(document)


def read_night(folder: Path) -> NightRecord:
    """Return the record of a night.

    Raises:
        Corrupt: it cannot be read, was changed after it was written, or is no record of a night.
    """
    path = folder / RECORD
    try:
        data = path.read_bytes()
        document = parsed(data)
        check_seal(document, data)
        return NightRecord.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the document"
        raise Corrupt(
            f"{path} is no record of a night: {field}: {first['msg']}. Restore it from a copy, or "
            "remove the folder of that night"
        ) from error
    except (OSError, ValueError) as error:
        raise Corrupt(
            f"{path} cannot be read: {error}. Restore it from a copy, or remove the folder of that "
            "night"
        ) from error


def night_folders(nights: Path) -> Iterator[NightFolder]:
    """Yield the folder of every night, by name."""
    for path in sorted(nights.glob(f"*/{RECORD}")):
        try:
            yield NightFolder(path=path.parent, record=read_night(path.parent))
        except Corrupt as error:
            yield NightFolder(path=path.parent, record=None, problem=str(error))


def earlier_nights(folders: Iterable[NightFolder], record: NightRecord) -> list[NightRecord]:
    """Return the nights before one, oldest first: the newest record of each nominal date.

    Args:
        folders: folders of all nights.
        record: the night; only nights of the same service count.
    """
    records = sorted((f.record for f in folders if f.record), key=lambda r: r.started_at)
    by_date = {
        each.night: each
        for each in records
        if each.name == record.name and each.night < record.night
    }
    return [by_date[night] for night in sorted(by_date)][-(HISTORY - 1) :]
