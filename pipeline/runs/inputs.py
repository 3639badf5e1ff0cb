"""Describe a run's inputs by content, and the differences between two attempts' inputs."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from iak.pipeline.first_few import first_few
from iak.schemas.base import JsonObject
from iak.schemas.log import Catalog
from iak.schemas.log_snapshot import LogSnapshot
from iak.schemas.manifest import sha256_of
from iak.schemas.record import RunRecord

CATALOGUE, LOG, DATES = "catalogue", "log", "dates"
ABSENT = "absent"
_KEYS_SHOWN = 5
_FILES_SHOWN = 3
_VALUE_CHARACTERS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Inputs of a run, by content."""

    digests: Mapping[str, str]
    """Name -> SHA-256 of the content."""
    catalog: JsonObject
    """The catalogue as it was parsed, to name the keys that differ."""
    snapshot: LogSnapshot
    """The log's snapshot in the record's form, to name the files that differ."""


def inputs_of(catalog: Catalog, snapshot: LogSnapshot, others: Mapping[str, str]) -> Inputs:
    """Return the inputs of a run.

    Args:
        catalog: the log's catalogue.
        snapshot: the part of the log that the run reads, as its record describes it.
        others: further names with their digests.
    """
    parsed = catalog_document(catalog)
    digests = {
        CATALOGUE: sha256_of(parsed),
        **others,
        LOG: snapshot.fingerprint,
        DATES: sha256_of(_dates(snapshot)),
    }
    return Inputs(digests=digests, catalog=parsed, snapshot=snapshot)


def catalog_document(catalog: Catalog) -> JsonObject:
    """Return the catalogue as JSON, without comments and presets.

    Presets are settings, and count where a verb's spec has taken them.
    """
    document: JsonObject = json.loads(catalog.model_dump_json(exclude={"presets"}))
    return document


def describe_changes(before: RunRecord, now: Inputs, *, may_differ: Collection[str]) -> list[str]:
    """Return a line for each input that differs from that of a record.

    Args:
        before: record of the earlier attempt, which names its inputs.
        now: inputs of today.
        may_differ: inputs that may differ.
    """
    names = [*before.inputs, *(name for name in now.digests if name not in before.inputs)]
    changed = [
        n for n in names if before.inputs.get(n) != now.digests.get(n) and n not in may_differ
    ]
    return [_sentence(name, before, now) for name in changed]


def _sentence(name: str, before: RunRecord, now: Inputs) -> str:
    """Return a sentence about one input that differs: both digests, and the differing part."""
    details = {
        CATALOGUE: lambda: describe_keys(before.catalog, now.catalog),
        LOG: lambda: _describe_log(before, now),
        DATES: lambda: describe_keys(_dates(before.snapshot), _dates(now.snapshot)),
    }
    then, here = (_short(digests.get(name)) for digests in (before.inputs, now.digests))
    detail = details[name]() if name in details else ""
    return f"{name} changed from {then} to {here}" + (f": {detail}" if detail else "")


def _describe_log(before: RunRecord, now: Inputs) -> str:
    """Return a text with the files of the log that differ.

    A file's fingerprint covers the columns that the catalogue reads (fingerprints.py). Where the
    columns differ, two fingerprints cannot be compared.
    """
    if _columns_of(before.catalog) == _columns_of(now.catalog):
        return describe_files(before.snapshot, now.snapshot)
    files = describe_files(before.snapshot, now.snapshot, kinds=("added", "removed"))
    columns = "it is known by the columns that the catalogue reads"
    return f"{files}, {columns}" if files else columns


def _columns_of(catalog: JsonObject) -> str:
    """Return a digest of the columns whose content the fingerprints of files cover."""
    # Imported here: it loads pyarrow, which a reader of records does not need.
    from iak.pipeline.data.fingerprints import content_columns

    try:
        return content_columns(Catalog.model_validate(catalog)).digest
    except ValueError:  # a catalogue of a version that had other keys
        return ""


def _short(digest: str | None) -> str:
    return digest[:12] if digest else ABSENT


def describe_keys(then: JsonObject, now: JsonObject) -> str:
    """Return a text with the dotted keys that differ between two documents, and both values."""
    old, new = (dict(flattened(document)) for document in (then, now))
    names = [name for name in (old | new) if old.get(name) != new.get(name)]
    each = [f"{name} was {_value(old, name)}, is {_value(new, name)}" for name in names]
    return first_few(each, _KEYS_SHOWN, between="; ")


def _value(document: JsonObject, name: str) -> str:
    if name not in document:
        return ABSENT
    text = repr(document[name])
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[: _VALUE_CHARACTERS - 3]}..."


def flattened(document: JsonObject, outer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a tree with its dotted name.

    Entries of a list of tables (features, tasks) are yielded under their names instead of their
    positions. The list of these names is yielded too, so that another order is seen.
    """
    for key, value in document.items():
        name = f"{outer}{key}"
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            entries = {_title(entry): entry for entry in value}
            yield from flattened(entries, f"{name}.")
            yield name, list(entries)
        else:
            yield name, value


def _title(entry: JsonObject) -> str:
    return str(entry.get("name") or entry.get("label"))


def describe_files(
    then: LogSnapshot,
    now: LogSnapshot,
    *,
    kinds: Collection[str] = ("changed", "added", "removed"),
) -> str:
    """Return a text with the files that differ between two snapshots, some of each kind."""
    old, new = (
        {file.path: file.fingerprint for file in snapshot.files} for snapshot in (then, now)
    )
    differences = {
        "changed": [path for path in old if path in new and old[path] != new[path]],
        "added": [path for path in new if path not in old],
        "removed": [path for path in old if path not in new],
    }
    parts = [
        f"{len(paths):,} {'file' if len(paths) == 1 else 'files'} {what} "
        f"({first_few(paths, _FILES_SHOWN)})"
        for what, paths in differences.items()
        if paths and what in kinds
    ]
    return ", ".join(parts)


def _dates(snapshot: LogSnapshot) -> JsonObject:
    """Return the dates that decide a run's rows and labels. Both may depend on today."""
    return {
        "as_of": snapshot.as_of,
        "splits": {
            name: [str(day) if day else None for day in (split.first, split.last)]
            for name, split in snapshot.splits.items()
        },
    }
