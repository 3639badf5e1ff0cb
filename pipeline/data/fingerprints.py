"""Give each file of a snapshot its content: as stored by an earlier run, or read and hashed now."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa

from iak.pipeline.data import structs
from iak.pipeline.data.content import (
    ContentColumns,
    FileContent,
    KeptContents,
    Wanted,
    lacks_checksums,
    read_content,
    stamp_of,
    version_of,
)
from iak.pipeline.data.footer import footer_digest, footer_of, read_footer, unframed
from iak.pipeline.data.snapshot import LogFile, Snapshot, Unreadable
from iak.pipeline.errors import BadLog
from iak.schemas.log import Catalog

_log = logging.getLogger(__name__)


def with_contents(snapshot: Snapshot, catalog: Catalog, kept: KeptContents) -> Snapshot:
    """Return the snapshot with the content of each file; one that cannot be read is quarantined.

    Args:
        snapshot: the listed files.
        catalog: the log's catalogue, which names the columns that jobs read.
        kept: contents of earlier runs; those that are read now are added.

    Raises:
        BadLog: a file changed since it was listed.
    """
    columns = content_columns(catalog)
    wanted = [_wanted(snapshot, file, columns) for file in snapshot.files]
    contents = kept.find(wanted)
    new = [(f, w) for f, w in zip(snapshot.files, wanted, strict=True) if w.path not in contents]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        read = pool.map(lambda pair: _read(snapshot, *pair), new)
        results = list(zip((w for _, w in new), read, strict=True))
    damaged = tuple(result for _, result in results if isinstance(result, Unreadable))
    read_now = [(w, result) for w, result in results if isinstance(result, FileContent)]
    kept.keep((w, content) for w, content in read_now if content.groups)
    if kept.problem:
        _log.warning(
            "content digests of log files cannot be kept at %s. Every run reads all files for them",
            kept.problem,
        )
    contents |= {w.path: content for w, content in read_now}
    files = tuple(
        replace(f, content=contents[w.path])
        for f, w in zip(snapshot.files, wanted, strict=True)
        if w.path in contents
    )
    return replace(snapshot, files=files, unreadable=(*snapshot.unreadable, *damaged))


def content_columns(catalog: Catalog) -> ContentColumns:
    """Return the columns whose content counts: all that a job reads, partition keys included."""
    log = catalog.log
    every = {*catalog.columns, *log.partition_keys}
    every |= {column for column in (log.event_time, log.date_key) if column}
    features = frozenset(catalog.feature_columns)
    return ContentColumns(features=features, others=frozenset(every) - features)


def files_without_checksums(snapshot: Snapshot) -> list[LogFile]:
    """Return the files whose pages carry no checksum: damage in them may be read as values."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        lacking = pool.map(lambda file: _lacks_checksums(snapshot, file), snapshot.files)
        return [file for file, lacks in zip(snapshot.files, lacking, strict=True) if lacks]


def _lacks_checksums(snapshot: Snapshot, file: LogFile) -> bool:
    filesystem, path = snapshot.locate(file.path)
    try:
        size, framed = read_footer(filesystem, path)
        with filesystem.open_input_file(path) as handle:
            return lacks_checksums(handle, unframed(framed), file_bytes=size)
    except (pa.ArrowException, OSError, ValueError):
        return False  # another finding names the damage


def _wanted(snapshot: Snapshot, file: LogFile, columns: ContentColumns) -> Wanted:
    filesystem, path = snapshot.locate(file.path)
    try:
        stamp = stamp_of(filesystem, path)
    except OSError as error:
        raise BadLog(f"{file.path} went away while the log was listed: {error}") from error
    whole = file.path if "://" in file.path else f"{snapshot.uri}/{file.path}"
    return Wanted(path=whole, stamp=stamp, columns=_stored(file, columns))


def _stored(file: LogFile, columns: ContentColumns) -> ContentColumns:
    """Return the same columns under the names that they have in the file."""

    def names(wanted: frozenset[str]) -> frozenset[str]:
        own = file.stored_names(sorted(wanted)).values()
        return frozenset((*own, *structs.parents(own, file.columns)))

    return ContentColumns(features=names(columns.features), others=names(columns.others))


def _read(snapshot: Snapshot, file: LogFile, wanted: Wanted) -> FileContent | Unreadable:
    """Hash the columns of a file, unless its store gives it a version."""
    filesystem, path = snapshot.locate(file.path)
    try:
        with filesystem.open_input_file(path) as handle:
            if version := version_of(handle):
                return FileContent(version=version)
            size, framed = footer_of(handle)
            content = read_content(handle, unframed(framed), wanted.columns, file_bytes=size)
    except (pa.ArrowException, OSError, ValueError) as error:
        return Unreadable(
            path=file.path,
            reason=f"no whole Parquet file: {error}",
            partition=file.partition,
            size_bytes=file.size_bytes,
            group_rows=file.group_rows,
            columns=file.columns,
        )
    if footer_digest(framed) != file.footer or stamp_of(filesystem, path) != wanted.stamp:
        raise BadLog(
            f"{file.path} changed while the log was listed. Leave a log's files alone while a run "
            "reads them; start the run again"
        )
    return content
