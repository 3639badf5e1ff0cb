"""Find the table format that a folder belongs to, and define the types of a resolved table.

In a table format, the Parquet files of the folder are not simply the rows: replaced files stay on
disk, columns are renamed, rows are deleted by position. The format's own library says which files
make up the table, under which column names and without which rows (`delta.py`, `iceberg.py`). The
log's reader then reads those files. A format that cannot be resolved so is refused by name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs

from iak.pipeline.data.partitions import joined_value
from iak.pipeline.errors import BadLog, BadRequest

Format = Literal["delta", "iceberg"]
Positions = npt.NDArray[np.int64]
Names = tuple[tuple[str, str], ...]
"""Columns of the table that a file has: the name in the table, and the name in the file."""
_METADATA = ".metadata.json"
_HUDI = "a Hudi table"
_PAIMON = "a Paimon table"
_REFUSED = {_HUDI: (".hoodie",), _PAIMON: ("snapshot", "schema", "manifest")}
"""Formats that are not read, with the folders that identify them."""
_REMEDIES = {
    _HUDI: "Older versions of its rows lie beside the newest. Export a plain Parquet copy (Spark: "
    "read the table, write it as Parquet) and point log.path at that",
    _PAIMON: "Updated rows lie in it in every version. Export a plain Parquet copy (Spark or "
    "Flink: read the table, or its read-optimised view `name$ro`, write it as Parquet) and point "
    "log.path at that",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFolder:
    """The folder of a table."""

    format: Format
    uri: str
    """Folder of the table, as path or URI; the folder above the log's where the metadata is."""
    filesystem: pa.fs.FileSystem
    root: str
    """The same folder as the file system names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The table and the version of it that a run reads."""

    format: Format
    version: int | None
    """Version of a Delta table, snapshot id of an Iceberg table; None where it has none yet."""
    metadata: str
    """File that describes the version, below the table's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFile:
    """A data file of the table."""

    path: str
    """Below the table's folder; a URI where the file lies elsewhere."""
    partition: Mapping[str, str | None]
    """Values of all its rows, from the metadata: column or partition field -> value as text."""
    constants: Mapping[str, pa.Scalar]
    """Value of all its rows in a column of the table, where the file lacks the column."""
    deleted: Positions
    """Rows of the file that are not the table's, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSnapshot:
    """A version of a table, resolved."""

    table: Table
    files: tuple[TableFile, ...]
    columns: tuple[str, ...]
    """Columns of the table."""
    names_in: Callable[[pa.Schema], Names | None]
    """A file's schema -> the table's columns in it; None where names are as they stand."""


def with_joined_keys(table: TableSnapshot, keys: Sequence[str]) -> TableSnapshot:
    """Return a table whose files have a value of each key that joins partition columns.

    The key `year/month/day` joins the columns year, month and day, as it does folders of these
    names.

    Args:
        table: the table.
        keys: partition keys of the catalogue.
    """
    joined = {key: key.split("/") for key in keys if "/" in key}

    def of_file(file: TableFile) -> Mapping[str, str | None]:
        values = {
            key: joined_value([file.partition[part] for part in parts])
            for key, parts in joined.items()
            if set(parts) <= file.partition.keys()
        }
        return {**file.partition, **values}

    files = tuple(replace(file, partition=of_file(file)) for file in table.files)
    return replace(table, files=files) if joined else table


def find_table(uri: str, filesystem: pa.fs.FileSystem, root: str) -> TableFolder | None:
    """Return the table that a folder is, or is the data folder of; None for a plain folder.

    Raises:
        BadLog: a table format that cannot be read, or a folder inside a table.
    """
    above = root.rpartition("/")[0]
    marked = _marks(filesystem, root)
    around = _marks(filesystem, above) if above else frozenset[str]()
    for what, marks in _REFUSED.items():
        for folder, present in ((root, marked), (above, around)):
            if present.issuperset(marks):
                _refuse(folder, what, ", ".join(f"{mark}/" for mark in marks))
    if "_delta_log" in marked:
        return TableFolder(format="delta", uri=uri, filesystem=filesystem, root=root)
    if "_delta_log" in around:
        raise BadLog(
            f"{uri} is a folder inside the Delta table {above}. Some of its files may no longer "
            "belong to the table. Set log.path to the table's own folder, and select this part "
            "in [splits] by where="
        )
    if "metadata" in marked and metadata_files(filesystem, root):
        return TableFolder(format="iceberg", uri=uri, filesystem=filesystem, root=root)
    if "metadata" in around and metadata_files(filesystem, above):
        return TableFolder(format="iceberg", uri=_parent(uri), filesystem=filesystem, root=above)
    return None


def refuse_hudi(folder: str, mark: str) -> NoReturn:
    """Refuse a partition of a Hudi table.

    Args:
        folder: the partition's folder.
        mark: the file that only this format writes.

    Raises:
        BadLog: always.
    """
    _refuse(folder, _HUDI, mark)


def refuse_paimon(folder: str, mark: str) -> NoReturn:
    """Refuse files of a Paimon table.

    Args:
        folder: the table's folder.
        mark: the file and its columns that only this format writes.

    Raises:
        BadLog: always.
    """
    _refuse(folder, _PAIMON, mark)


def _refuse(folder: str, what: str, marks: str) -> NoReturn:
    raise BadLog(
        f"{folder} is {what}, or a part of one (there is {marks}), and its Parquet files are not "
        f"its rows. {_REMEDIES[what]}"
    )


def _marks(filesystem: pa.fs.FileSystem, folder: str) -> frozenset[str]:
    """Return the folders of table formats that lie in this one."""
    names = ("_delta_log", "metadata", *chain(*_REFUSED.values()))
    try:
        infos = filesystem.get_file_info([f"{folder}/{name}" for name in names])
    except OSError:  # the user may not read the folder above the log
        return frozenset()
    return frozenset(i.base_name for i in infos if i.type == pa.fs.FileType.Directory)


def metadata_files(filesystem: pa.fs.FileSystem, folder: str) -> list[str]:
    """Return the names of an Iceberg table's metadata files."""
    try:
        infos = filesystem.get_file_info(pa.fs.FileSelector(f"{folder}/metadata"))
    except OSError:
        return []
    return sorted(i.base_name for i in infos if i.base_name.endswith(_METADATA))


def _parent(uri: str) -> str:
    head, mark, query = uri.partition("?")
    return head.rstrip("/").rpartition("/")[0] + mark + query


def locate(location: str) -> tuple[pa.fs.FileSystem, str]:
    """Return the file system and path of a file.

    Args:
        location: path or URI, not escaped.

    Raises:
        BadLog: the scheme is unknown.
    """
    scheme, is_uri, rest = location.partition("://")
    if not is_uri or scheme == "file":
        return pa.fs.LocalFileSystem(), rest if is_uri else location
    scheme = "s3" if scheme in ("s3a", "s3n") else scheme
    host, _, path = rest.partition("/")
    try:
        filesystem, top = pa.fs.FileSystem.from_uri(f"{scheme}://{host}")
    except (pa.ArrowInvalid, OSError) as error:
        raise BadLog(
            f"{location} is not a location that pyarrow.fs understands: {error}. Give a path, or "
            "a URI such as s3://bucket/folder"
        ) from error
    return filesystem, f"{top.rstrip('/')}/{path}"


def below(path: str, folder: TableFolder, *, root: str) -> str:
    """Return a file's path below the table's folder, or its URI where it lies elsewhere.

    Args:
        path: path of the file as the metadata have it, not escaped.
        folder: the table's folder as it is now.
        root: the table's folder as the metadata have it.
    """
    whole = plain(path)
    for start in (plain(root), plain(folder.uri.partition("?")[0])):
        if whole.startswith(f"{start}/"):
            return whole[len(start) + 1 :]
    return f"file://{whole}" if whole.startswith("/") else whole


def plain(location: str) -> str:
    """Return a location with one spelling of its scheme, none for a local one."""
    location = re.sub(r"^file:/*(?=/)", "", location)
    return re.sub(r"^s3[an]://", "s3://", location).rstrip("/")


def not_installed(folder: TableFolder, library: str) -> BadRequest:
    """Return the error that names the extra to install."""
    return BadRequest(
        f"{folder.uri} is a table of format {folder.format}, read with {library}, which is not "
        f"installed. Install it: pip install 'iak[{folder.format}]'"
    )


def field_id(field: pa.Field) -> int | None:
    """Return the id that a Parquet column carries, None where it has none."""
    text = (field.metadata or {}).get(b"PARQUET:field_id")
    return None if text is None else int(text)
