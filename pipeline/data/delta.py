"""Resolve a Delta table to its data files, with the library deltalake."""

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs

from iak.pipeline.data import partitions
from iak.pipeline.data.lakehouse import (
    Names,
    Positions,
    Table,
    TableFile,
    TableFolder,
    TableSnapshot,
    below,
    field_id,
    not_installed,
    plain,
)
from iak.pipeline.errors import BadLog, BadRequest


def resolve(folder: TableFolder, version: int | None) -> TableSnapshot:
    """Return the files of a version of a table.

    Args:
        folder: the table's folder.
        version: version of the table; None for the newest.

    Raises:
        BadRequest: deltalake is not installed, or the table has no such version.
        BadLog: the table cannot be read as data files, names and deleted positions.
    """
    try:
        import deltalake
        from deltalake.exceptions import DeltaError
    except ImportError as error:
        raise not_installed(folder, "deltalake") from error
    try:
        table = deltalake.DeltaTable(folder.uri, version=version)
        actions = pa.table(table.get_add_actions())
        vectors = pa.RecordBatchReader.from_stream(table.deletion_vectors()).read_all()
        schema = _schema(table.schema().to_json())
        mode = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    except (DeltaError, OSError, ValueError) as error:
        raise _unreadable(folder, version, deltalake.__version__, error) from error
    return TableSnapshot(
        table=Table(
            format="delta",
            version=table.version(),
            metadata=f"_delta_log/{table.version():020}.json",
        ),
        files=_files(folder, actions, _deleted(vectors)),
        columns=tuple(schema),
        names_in=lambda stored: _names(stored, schema, mode),
    )


def _unreadable(
    folder: TableFolder, version: int | None, library: str, error: Exception
) -> BadLog | BadRequest:
    message = str(error).partition("\n")[0]  # deltalake 1.6.6 adds a backtrace of its own
    if version is not None and "version" in message:
        return BadRequest(
            f"the Delta table {folder.uri} has no version {version} to read: {message}. Leave "
            "log.version out for the newest"
        )
    return BadLog(
        f"the Delta table {folder.uri} cannot be read with deltalake {library}: {message}. "
        "An object store is opened by deltalake's own settings (AWS_... and the like in the "
        "environment). For a feature that it does not read, export a plain Parquet copy"
    )


def _files(
    folder: TableFolder, actions: pa.Table, deleted: dict[str, Positions]
) -> tuple[TableFile, ...]:
    partition = actions.column("partition") if "partition" in actions.column_names else None
    keys = [] if partition is None else [field.name for field in partition.type]
    values = {key: pc.struct_field(partition, key) for key in keys}
    files = []
    for index, escaped in enumerate(actions.column("path").to_pylist()):
        path = below(unquote(escaped), folder, root=folder.uri)
        known = {key: values[key][index] for key in keys}
        files.append(
            TableFile(
                path=path,
                partition={key: _text(value) for key, value in known.items()},
                constants=known,
                deleted=deleted.pop(_absolute(folder, path), np.empty(0, np.int64)),
            )
        )
    if deleted:
        raise BadLog(
            f"the Delta table {folder.uri} deletes rows of {min(deleted)}, which is none of its "
            "files. Export a plain Parquet copy"
        )
    return tuple(files)


def _text(value: pa.Scalar) -> str | None:
    text: str | None = partitions.text_of(pa.array([value.as_py()], value.type))[0].as_py()
    return text


def _schema(text: str) -> dict[str, Mapping[str, Any]]:
    """Return the metadata of each column."""
    return {field["name"]: field["metadata"] for field in json.loads(text)["fields"]}


def _names(stored: pa.Schema, schema: Mapping[str, Mapping[str, Any]], mode: str) -> Names | None:
    """Return the table's columns in a file; None where the file has the table's own names.

    Args:
        stored: the file's schema.
        schema: column of the table -> its metadata.
        mode: mode of column mapping: `none`, `id` or `name`.
    """
    if mode == "none":
        return None
    if mode == "id":
        by_id = {field_id(field): field.name for field in stored}
        own = {name: by_id.get(m.get("delta.columnMapping.id")) for name, m in schema.items()}
    else:
        own = {name: m.get("delta.columnMapping.physicalName") for name, m in schema.items()}
    return tuple(
        (name, of_file) for name, of_file in own.items() if of_file and of_file in stored.names
    )


def _deleted(vectors: pa.Table) -> dict[str, Positions]:
    """Return the deleted positions of each file that has any."""
    deleted = {}
    for uri, kept in zip(vectors.column(0).to_pylist(), vectors.column(1), strict=True):
        mask = kept.values.to_numpy(zero_copy_only=False)  # of the rows that stay
        deleted[plain(unquote(uri)).rpartition("://")[2]] = np.flatnonzero(~mask)
    return deleted


def _absolute(folder: TableFolder, path: str) -> str:
    """Return a file's absolute path as deletion vectors name it, without scheme."""
    if "://" in path:
        return plain(path).rpartition("://")[2]
    if isinstance(folder.filesystem, pa.fs.LocalFileSystem):
        return f"{os.path.realpath(folder.root)}/{path}"  # deltalake 1.6.6 follows links
    whole = urlsplit(folder.uri)
    return f"{whole.netloc}{whole.path.rstrip('/')}/{path}"
