"""List the files below a log's folder, with the partition values that their folders name.

A folder whose partition values are not admitted is not entered. The only files that are opened are
those without a Parquet name, to read their first bytes.
"""

import os
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pyarrow.fs

from iak.pipeline.data import lakehouse, partitions
from iak.pipeline.data.snapshot import Partition, PartitionPairs
from iak.pipeline.errors import BadLog
from iak.schemas.log import FolderNames

Admits = Callable[[Partition], bool]
"""Partition values known so far, outer keys first -> whether rows below may be wanted."""
ListedFile = tuple[str, PartitionPairs]
"""A path as the file system has it, with the partition values of its folders."""
FileId = tuple[int, int]
"""Device and inode: what is the same for all paths of a local file."""
_MAGIC = b"PAR1"
_ENCRYPTED = b"PARE"
_LINK = "a link to"


def list_files(
    filesystem: pa.fs.FileSystem,
    folder: str,
    known: PartitionPairs,
    keys: tuple[str, ...],
    admits: Admits,
    other_folders: list[tuple[str, str]],
    parts: tuple[str | None, ...] = (),
    *,
    folder_names: FolderNames = "key=value",
) -> Iterator[ListedFile]:
    """Yield the files below `folder`, hidden ones excepted, with their partition values.

    A file that lies above the innermost partition folders has fewer values than there are keys.

    Args:
        filesystem: file system of the log.
        folder: folder in which listing starts.
        known: partition values of `folder` itself; empty for the log's folder.
        keys: all partition keys, outermost first.
        admits: called with the values known so far; a folder is not entered where it says False.
        other_folders: folders that belong to no partition are appended, each with the reason.
        parts: values of the folders above that a key of several folders has had so far.
        folder_names: how folders are named.

    Raises:
        BadLog: a table lies below the folder, whose files are not its rows.
    """
    if len(known) == len(keys):
        yield from ((path, known) for path in _files_below(filesystem, folder))
        return
    wanted = keys[len(known)]
    names = partitions.folders_of([wanted])
    is_innermost = len(known) + 1 == len(keys) and len(parts) + 1 == len(names)
    for info in filesystem.get_file_info(pa.fs.FileSelector(folder)):
        if _is_hidden(info.base_name):
            continue
        is_file = info.type == pa.fs.FileType.File
        if is_file and not (is_innermost and folder_names == "value"):
            yield info.path, known
            continue
        name = partitions.value_of_file(info.base_name) if is_file else info.base_name
        value = partitions.named_value(name, names[len(parts)], folder_names)
        if value is None:
            other_folders.append((info.path, f"no folder {names[len(parts)]}=..."))
            continue
        more, deeper = (*parts, partitions.value_of(value)), known
        if len(more) == len(names):
            more, deeper = (), (*known, (wanted, partitions.joined_value(more)))
        if not admits(dict(deeper)):
            continue
        if is_file:
            yield info.path, deeper
        else:
            yield from list_files(
                filesystem, info.path, deeper, keys, admits, other_folders, more,
                folder_names=folder_names,
            )  # fmt: skip


def _files_below(filesystem: pa.fs.FileSystem, folder: str) -> Iterator[str]:
    """Yield every file below a folder, hidden ones excepted.

    Raises:
        BadLog: a table lies below the folder.
    """
    for info in filesystem.get_file_info(pa.fs.FileSelector(folder, recursive=True)):
        below = info.path[len(folder) :].lstrip("/")
        _refuse_table_below(folder, below)
        if info.type == pa.fs.FileType.File and not _is_hidden(below):
            yield info.path


def _is_hidden(path: str) -> bool:
    """Return whether a part of a path is a writer's own: `_SUCCESS`, `.part.crc`, `_temporary`."""
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _refuse_table_below(folder: str, path: str) -> None:
    """Refuse a table further down, whose files would be read as if they were its rows.

    Raises:
        BadLog: the path belongs to a table format.
    """
    outer, _, name = path.rpartition("/")
    if name.startswith(".hoodie_partition_metadata"):
        lakehouse.refuse_hudi(folder, name)
    is_iceberg = name.endswith(".metadata.json") and outer.endswith("metadata")
    if (name in ("_delta_log", ".hoodie") or is_iceberg) and not _is_hidden(outer):
        table = f"{folder}/{outer.removesuffix('metadata') if is_iceberg else outer}".rstrip("/")
        raise BadLog(
            f"{table} is a table of its own ({name} lies in it), and its Parquet files are not its "
            "rows. Set log.path to that folder"
        )


def without_repeats(
    filesystem: pa.fs.FileSystem,
    root: str,
    files: Iterable[ListedFile],
    paths: dict[FileId, str],
) -> tuple[list[ListedFile], list[tuple[str, str]]]:
    """Keep one path of each file, so that no row counts twice.

    A link to a file inside the log is left out, whatever it is called: its target is read under its
    own path. Of several paths of one file (hard links, or links to a file outside) the first in
    order is kept.

    Args:
        filesystem: file system of the log; only a local one has links.
        root: the log's folder.
        files: listed files.
        paths: the path of each file that was kept before; those kept now are added.

    Returns:
        The files that are read, and the paths left out, each with the reason.
    """
    if not isinstance(filesystem, pa.fs.LocalFileSystem):
        return list(files), []
    inside = f"{os.path.realpath(root)}/"
    kept: list[ListedFile] = []
    repeated: list[tuple[str, str]] = []
    for path, partition in sorted(files, key=lambda file: file[0]):
        real = os.path.realpath(path)
        if real.startswith(inside) and real != inside + path[len(root) :].lstrip("/"):
            repeated.append((path, f"{_LINK} {real.removeprefix(inside)}, whose rows count there"))
            continue
        try:
            status = os.stat(path)  # noqa: PTH116 - a path as pyarrow has it
        except OSError:
            kept.append((path, partition))  # opening it later names the problem
            continue
        file_id = (status.st_dev, status.st_ino)
        if file_id in paths:
            repeated.append((path, f"{_LINK} {paths[file_id]}, whose rows count there"))
            continue
        paths[file_id] = path[len(root) :].lstrip("/")
        kept.append((path, partition))
    return kept, repeated


def not_parquet(filesystem: pa.fs.FileSystem, path: str) -> str | None:
    """Return the reason why a file is not Parquet, by name or first bytes; None where it is.

    Raises:
        OSError: the file cannot be opened.
    """
    if path.endswith((".parquet", ".parq")):
        return None
    with filesystem.open_input_file(path) as file:
        start = file.read(len(_MAGIC))
    if start == _MAGIC:
        return None
    if start == _ENCRYPTED:
        return "an encrypted Parquet file"
    return f"no Parquet: it begins with {start!r}, not PAR1" if start else "an empty file"
