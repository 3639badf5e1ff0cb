"""Read documents by the number of their format, which every document carries.

A reader knows one number, the current one. An older document is migrated, one number at a time, or
refused with the command that makes it again. A newer document is refused: a later version wrote it.
The oldest documents carry no number and count as format 0.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from iak.pipeline.errors import OtherFormat
from iak.schemas.base import JsonObject

M = TypeVar("M", bound=BaseModel)
Migration = Callable[[JsonObject], JsonObject]


def current_document(
    document: object,
    *,
    kind: str,
    current: int,
    where: Path | str,
    remedy: str,
    migrations: Mapping[int, Migration] | None = None,
) -> JsonObject:
    """Return `document` in its current format.

    Args:
        document: the document as JSON values. Its `format` is a whole number, absent in the oldest.
        kind: kind of document, for the message: `run record`, `bundle manifest`.
        current: number that this version writes.
        where: the file it was read from.
        remedy: command that makes a current document, as a sentence without its full stop.
        migrations: a format -> the step from it to the next one.

    Raises:
        OtherFormat: it is newer, or older and a step is missing.
        ValueError: it is not a JSON object.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"it holds a {type(document).__name__}, expected an object")  # noqa: TRY004
    version = document.get("format", 0)
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise OtherFormat(
            f"{where} is a {kind} of format {version!r}, which is not a number. {remedy}"
        )
    if version > current:
        raise OtherFormat(
            f"{where} is a {kind} of format {version}, written by a newer version; this one reads "
            f"format {current}. Read it with the version that wrote it"
        )
    migrated = dict(document)
    for number in range(version, current):
        step = (migrations or {}).get(number)
        if step is None:
            raise OtherFormat(
                f"{where} is a {kind} of format {version}, written by an older version; this one "
                f"reads format {current}. {remedy}"
            )
        migrated = step(migrated) | {"format": number + 1}
    return migrated


def first_format(model: type[M], document: object, *, kind: str, where: Path, remedy: str) -> M:
    """Return a document of a kind that has had only one format, with or without its number.

    Args:
        model: class that the document is validated as.
        document: the document as JSON values.
        kind: kind of document, for messages.
        where: the file it was read from.
        remedy: command that makes a current document, as a sentence without its full stop.

    Raises:
        OtherFormat: a newer version wrote it.
        ValueError: it is no such document.
    """
    steps = {0: unchanged}
    current = current_document(
        document, kind=kind, current=1, where=where, remedy=remedy, migrations=steps
    )
    return model.model_validate(current)


def unchanged(document: JsonObject) -> JsonObject:
    """Migrate a document whose fields stayed the same. Only the number is new."""
    return dict(document)
