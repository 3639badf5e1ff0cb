"""Refuse names that a catalogue uses and a log does not have, with the nearest names that exist."""

import json
from collections.abc import Collection, Iterator

import pyarrow.fs

from iak.pipeline.data import logs, partitions
from iak.pipeline.data.nearest import listed, nearest
from iak.pipeline.data.snapshot import Snapshot, open_folder
from iak.pipeline.errors import BadRequest
from iak.pipeline.first_few import first_few
from iak.schemas.log import Catalog


def settings_with_columns(catalog: Catalog) -> Iterator[tuple[str, str]]:
    """Yield each setting of the catalogue that names a column, with the name."""
    log = catalog.log
    for feature in catalog.features:
        for column in feature.columns:
            yield f"feature '{feature.name}'", column
    for task in catalog.tasks:
        yield f"label of task '{task.title}'", task.label
    for setting, columns in (
        ("domain.keys", catalog.domain.keys),
        ("domain.parent", catalog.domain.parent),
        ("log.leak_columns", log.leak_columns),
        ("log.user", [log.user]),
        ("log.row_id", [log.row_id]),
        ("log.slice_by", [log.slice_by]),
        ("log.event_time", [log.event_time] if catalog.needs_event_time else []),
        *((f"splits.{name}.where", split.where) for name, split in catalog.splits.items()),
    ):
        yield from ((setting, column) for column in columns if column)


def unknown_columns(
    catalog: Catalog, columns: Collection[str], *, uri: str | None = None
) -> list[tuple[str, str, str]]:
    """Return the columns that the catalogue needs or rules out, and that no file has.

    Args:
        catalog: the log's catalogue.
        columns: columns inside the files.
        uri: folder of the log. A column that is a key of its folders is then named as such; None
            does not look.

    Returns:
        For each column the setting that names it, the column, and a sentence with the nearest ones.
    """
    known = {*columns, *catalog.log.partition_keys}
    unknown = [
        (setting, column)
        for setting, column in dict.fromkeys(settings_with_columns(catalog))
        if column not in known and column not in catalog.optional_columns
    ]
    declared = partitions.folders_of(catalog.log.partition_keys)
    folders = _folder_keys(uri, declared) if uri and unknown else ()
    is_key = (
        f" Folders of the log are named so: write partition_keys = {json.dumps(folders)} under "
        "[log]."
    )
    return [
        (setting, column, is_key if column in folders else nearest(column, known))
        for setting, column in unknown
    ]


def refuse_unknown_columns(snapshot: Snapshot, catalog: Catalog) -> None:
    """Refuse a catalogue that names columns which no file of the log has.

    The columns of files with a bad schema count as well: a misspelt name makes every schema bad.

    Raises:
        BadRequest: the message names the settings, the nearest columns, and all there are.
    """
    columns = columns_of(snapshot)
    if columns and (unknown := unknown_columns(catalog, columns, uri=snapshot.uri)):
        listing = "\n".join(
            f"  {setting} names the column '{column}', which no file has.{near}"
            for setting, column, near in unknown
        )
        raise BadRequest(
            f"the catalogue of log '{catalog.log.name}' names columns that are not there:\n"
            f"{listing}\n  The files have: {listed(columns)}"
        )


def columns_of(snapshot: Snapshot) -> frozenset[str]:
    """Return the columns inside the files, whether the contract lets them be read or not."""
    schemas = {file.columns for file in snapshot.files} | {u.columns for u in snapshot.unreadable}
    return frozenset(name for columns in schemas for name, _ in columns)


def refuse_unknown_partition_keys(uri: str, catalog: Catalog) -> None:
    """Refuse partition keys that the log's folders do not have.

    One path of folders is followed down, so that it costs as many listings as there are keys. A
    table is not checked: its metadata name its keys, whatever its folders are called.

    Raises:
        BadRequest: the message names the keys that the folders have, in their order.
    """
    if logs.is_table(uri) or catalog.log.folder_names == "value":
        return
    declared = partitions.folders_of(catalog.log.partition_keys)
    actual = _folder_keys(uri, declared)
    if declared and not actual:
        _refuse_values_alone(uri)
    if not declared or not actual or declared == actual[: len(declared)]:
        return
    lines = [
        f"log.partition_keys names '{key}', which no folder has.{nearest(key, actual)}"
        for key in declared
        if key not in actual
    ] or [f"log.partition_keys are {json.dumps(declared)}, in this order"]
    listing = "\n".join(f"  {line}" for line in lines)
    folders = "/".join(f"{key}=..." for key in actual)
    raise BadRequest(
        f"the folders below {uri} are named {folders}:\n{listing}\n"
        f"  Write partition_keys = {json.dumps(actual)}"
    )


def _refuse_values_alone(uri: str) -> None:
    """Refuse folders without keys.

    Raises:
        BadRequest: no folder of the log has a key, and there are folders.
    """
    filesystem, root = open_folder(uri)
    entries = filesystem.get_file_info(pyarrow.fs.FileSelector(root, allow_not_found=True))
    folders = sorted(
        info.base_name
        for info in entries
        if info.type == pyarrow.fs.FileType.Directory and info.base_name[0] not in "._"
    )
    if folders:
        raise BadRequest(
            f"the folders below {uri} have no key: {first_few(folders, 3)}. Where these are values "
            'of partition_keys, write folder_names = "value" under [log]'
        )


def _folder_keys(uri: str, declared: tuple[str, ...]) -> tuple[str, ...]:
    """Return the keys of nested `key=value` folders, outermost first.

    At each depth a folder of the declared key is entered where there is one.
    """
    filesystem, folder = open_folder(uri)
    keys: list[str] = []
    while True:
        wanted = declared[len(keys)] if len(keys) < len(declared) else None
        entries = filesystem.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
        folders = {
            info.path: info.base_name.partition("=")[0]
            for info in entries
            if info.type == pyarrow.fs.FileType.Directory and "=" in info.base_name
        }
        if not folders:
            return tuple(keys)
        folder = min(folders, key=lambda path: (folders[path] != wanted, path))
        keys.append(folders[folder])
