"""Describe the newest days of a log, partition by partition: files, rows, content, marker, age.

A partition's day is what the log's writer delivers at once: the files of one day below one
combination of the other partition keys. nightly/partitions.py decides which of them are complete.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs

from iak.pipeline.data import event_dates, logs, parquet, partitions, splits, stores
from iak.pipeline.data.catalog_files import catalog_files
from iak.pipeline.data.content import KeptContents
from iak.pipeline.data.dates import LogDates
from iak.pipeline.data.fingerprints import with_contents
from iak.pipeline.data.snapshot import LogFile, Snapshot, Unreadable, open_folder
from iak.pipeline.data.splits import Selection, Split
from iak.schemas.domain import Domain
from iak.schemas.log import Catalog

Pairs = tuple[tuple[str, str], ...]
"""Partition keys besides those of time with their values, outermost first."""
RowsByDay = Mapping[Domain, Mapping[tuple[Pairs, date], int]]
"""A domain of any level -> its rows of each partition's day."""
_Group = tuple[int, date, tuple[str | None, ...]]
"""Index of a file, a day, and the values of the domain's keys. Rows are counted by these three."""
_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFiles:
    """One day of one partition, as its files and folders show it."""

    day: date
    partition: Pairs
    files: int
    """Number of files, including those that cannot be read."""
    unreadable: tuple[str, ...]
    """Why a file cannot be read, for each such file."""
    rows: int
    content: str
    """SHA-256 over the content of its files. It does not depend on their names or order."""
    has_marker: bool
    """Whether each file's folder, or one above it up to that of the day, has the marker file."""
    newest: datetime
    """When its newest file was written; 1970 on a store that does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestDays:
    """The newest days of a log."""

    partitions: tuple[PartitionFiles, ...]
    """By day, then by partition."""
    rows: RowsByDay
    selection: Selection
    """Its rows."""


def log_dates(catalog: Catalog, data_root: str, *, today: date | None) -> LogDates:
    """Return the dates of a log, from folder names where its folders name days.

    Args:
        catalog: the log's catalogue.
        data_root: folder or URI below which `log.path` lies.
        today: the last date that a row can have; None where no clock bounds the log.
    """
    uri = stores.below(data_root, catalog.log.path)
    return event_dates.read_dates(uri, catalog, today)[0]


def newest_unmarked(catalog: Catalog, data_root: str, marker: str) -> datetime | None:
    """Return when the newest file of a log was written, where no folder of it has a marker.

    Args:
        catalog: the log's catalogue.
        data_root: folder or URI below which `log.path` lies.
        marker: name of the file that a writer puts into a finished partition.

    Returns:
        The time; None where some folder has the marker, or where there is no file.
    """
    filesystem, root = open_folder(stores.below(data_root, catalog.log.path))
    every = pa.fs.FileSelector(root, recursive=True, allow_not_found=True)
    files = [f for f in filesystem.get_file_info(every) if f.type == pa.fs.FileType.File]
    if any(file.base_name == marker for file in files):
        return None
    return max((file.mtime for file in files if file.mtime), default=None)


def list_partitions(
    catalog: Catalog, data_root: str, *, days: tuple[date, date], marker: str
) -> tuple[PartitionFiles, ...]:
    """Describe every partition of some days from the footers of its files, without their rows.

    The `content` then covers size and footer of each file.

    Args:
        catalog: the log's catalogue; a split of it must be dated where folders name no day.
        data_root: folder or URI below which `log.path` lies.
        days: the first and the last day, both included.
        marker: name of the file that the writer puts into a finished partition.

    Raises:
        BadRequest: there is no such folder.
    """
    selection = select_days(catalog, data_root, days)
    return _partitions(selection, _count(selection, catalog, keys=()), catalog, marker)


def read_newest_days(
    catalog: Catalog,
    data_root: str,
    *,
    days: tuple[date, date],
    marker: str,
    kept: KeptContents,
) -> NewestDays:
    """Describe every partition of some days, and count its rows by domain.

    Args:
        catalog: the log's catalogue; a split of it must be dated where folders name no day.
        data_root: folder or URI below which `log.path` lies.
        days: the first and the last day, both included.
        marker: name of the file that the writer puts into a finished partition.
        kept: digests of files that were read before, which are not read again.

    Raises:
        BadRequest: there is no such folder.
        BadLog: a file changed while it was listed.
    """
    window = _window(days)
    snapshot = with_contents(_listed(catalog, data_root, window), catalog, kept)
    selection = parquet.select(snapshot, window, catalog)
    counts = _count(selection, catalog, keys=catalog.domain.all_keys)
    return NewestDays(
        partitions=_partitions(selection, counts, catalog, marker),
        rows=_rows_by_day(counts, snapshot.files, catalog),
        selection=selection,
    )


def _listed(catalog: Catalog, data_root: str, window: Split) -> Snapshot:
    """List the files that may have rows of some days."""
    uri = stores.below(data_root, catalog.log.path)
    return catalog_files(
        uri,
        catalog,
        version=logs.table_version(uri, catalog.log.version),
        admits=lambda values: splits.admits(window, values, log=catalog.log),
    )


def select_days(
    catalog: Catalog, data_root: str, days: tuple[date, date], domain: Domain | None = None
) -> Selection:
    """Return the selection of the rows of some days, from the footers of the files.

    Args:
        catalog: the log's catalogue.
        data_root: folder or URI below which `log.path` lies.
        days: the first and the last day, both included.
        domain: the domain whose rows are selected; None selects all.
    """
    where = {key: (value,) for key, value in domain.pairs} if domain else {}
    window = replace(_window(days), where=where)
    return parquet.select(_listed(catalog, data_root, window), window, catalog)


def _window(days: tuple[date, date]) -> Split:
    return Split(name="days", first=days[0], last=days[1], where={}, slice=(0.0, 1.0))


def partition_of(file: LogFile | Unreadable, catalog: Catalog) -> Pairs:
    """Return the partition of a file: the keys besides those of time that have one value in it."""
    log = catalog.log
    values = file.exact_partition if isinstance(file, LogFile) else dict(file.partition)
    keys = [key for key in log.partition_keys if key not in (log.date_key, *log.time_keys)]
    return tuple((key, values[key] or "") for key in keys if key in values)


def _partitions(
    selection: Selection, rows: Mapping[_Group, int], catalog: Catalog, marker: str
) -> tuple[PartitionFiles, ...]:
    """Gather the files of each partition's days."""
    snapshot = selection.snapshot
    files_of: dict[tuple[date, Pairs], set[LogFile | Unreadable]] = defaultdict(set)
    counts: Counter[tuple[date, Pairs]] = Counter()
    for (index, day, _), count in rows.items():
        key = day, partition_of(snapshot.files[index], catalog)
        files_of[key].add(snapshot.files[index])
        counts[key] += count
    # No row of an unreadable file is counted, so only its folder can tell its day.
    for file in snapshot.unreadable:
        named = splits.day_of(dict(file.partition).get(catalog.log.date_key or ""), catalog.log)
        if named is not None:
            files_of[named, partition_of(file, catalog)].add(file)
    folders = _Folders(snapshot, catalog, marker)
    return tuple(
        PartitionFiles(
            day=day,
            partition=pairs,
            files=len(files),
            unreadable=tuple(sorted(f.reason for f in files if isinstance(f, Unreadable))),
            rows=counts[day, pairs],
            content=_content(f.fingerprint for f in files if isinstance(f, LogFile)),
            has_marker=all(folders.has_marker(file.path) for file in files),
            newest=max(folders.written_at(file.path) for file in files),
        )
        for (day, pairs), files in sorted(files_of.items())
    )


def _content(fingerprints: Iterable[str]) -> str:
    """Return SHA-256 over the contents of files, whatever their names and order."""
    return hashlib.sha256(json.dumps(sorted(fingerprints)).encode()).hexdigest()


class _Folders:
    """Looks up markers and times in the folders of a log, each folder once."""

    def __init__(self, snapshot: Snapshot, catalog: Catalog, marker: str) -> None:
        self._snapshot, self._log, self._marker = snapshot, catalog.log, marker
        self._known: dict[str, bool] = {}

    def has_marker(self, path: str) -> bool:
        """Return whether a file's folder, or one above it up to its day's, has the marker."""
        *folders, _ = path.split("/")
        # A marker above the day's folder would be that of all days. Without dates in folders, the
        # root's counts.
        first = self._depth_of_day(folders)
        above = ["/".join(folders[:depth]) for depth in range(first, len(folders) + 1)]
        return any(self._holds_marker(folder) for folder in above)

    def _depth_of_day(self, folders: Sequence[str]) -> int:
        """Return how many folders of a path there are down to its day's; 0 where none names it."""
        log = self._log
        if log.date_key and log.folder_names == "value":
            until = log.partition_keys.index(log.date_key) + 1
            return len(partitions.folders_of(log.partition_keys[:until]))
        *_, day = partitions.folders_of([log.date_key or ""])
        return next((i + 1 for i, f in enumerate(folders) if f.startswith(f"{day}=")), 0)

    def _holds_marker(self, folder: str) -> bool:
        if folder not in self._known:
            below = f"{folder}/{self._marker}".lstrip("/")
            filesystem, path = self._snapshot.locate(below)
            self._known[folder] = filesystem.get_file_info(path).type == pa.fs.FileType.File
        return self._known[folder]

    def written_at(self, path: str) -> datetime:
        """Return when a file was written; a store that does not say it gives 1970."""
        filesystem, located = self._snapshot.locate(path)
        written: datetime | None = filesystem.get_file_info(located).mtime
        return written or datetime.fromtimestamp(0, UTC)


def _rows_by_day(
    rows: Mapping[_Group, int], files: Sequence[LogFile], catalog: Catalog
) -> RowsByDay:
    """Sum the rows of every domain of every level, by partition and day."""
    counts: dict[Domain, Counter[tuple[Pairs, date]]] = defaultdict(Counter)
    keys = catalog.domain.all_keys
    for (index, day, values), count in rows.items():
        if None in values:  # a row without one of the keys belongs to no domain
            continue
        by_key = {key: value or "" for key, value in zip(keys, values, strict=True)}
        partition = partition_of(files[index], catalog)
        for level in catalog.domain.levels:
            counts[Domain(tuple((key, by_key[key]) for key in level))][partition, day] += count
    return counts


def _count(selection: Selection, catalog: Catalog, *, keys: Sequence[str]) -> dict[_Group, int]:
    """Count rows by file, day and the values of some columns.

    A file whose folders name the day and all these columns is counted by its footer alone.
    """
    counts: Counter[_Group] = Counter()
    log = catalog.log
    for index, group, rows in selection.groups:
        exact = selection.snapshot.files[index].exact_partition
        day = splits.day_of(exact.get(log.date_key or ""), log)
        if day is not None and set(keys) <= set(exact):
            counts[index, day, tuple(exact[key] for key in keys)] += rows
            continue
        dated = log.date_key or log.event_time
        wanted = tuple(dict.fromkeys((*keys, *([dated] if dated else []))))
        columns = parquet.selected_columns(selection, index, group, wanted, catalog)
        days = days_of_rows(columns, catalog)
        texts = [_texts(columns.column(key)) for key in keys]
        table = pa.Table.from_arrays([days, *texts], [str(i) for i in range(len(keys) + 1)])
        # Arrow groups rows by columns of any type, and without a loop over rows in Python.
        counted = table.group_by(table.column_names).aggregate([([], "count_all")])
        for line in counted.to_pylist():
            ordinal, *values = (line[name] for name in table.column_names)
            if ordinal is not None:
                key = index, date.fromordinal(ordinal), tuple(values)
                counts[key] += line["count_all"]
    return dict(counts)


def _texts(column: pa.Array) -> pa.Array:
    """Return a key's values as text."""
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return plain.cast(pa.string())


def days_of_rows(columns: pa.RecordBatch, catalog: Catalog) -> pa.Array:
    """Return each row's day as `date.toordinal` counts it; null where a row has no day."""
    log = catalog.log
    if log.date_key:
        names = columns.column(log.date_key).dictionary_encode()
        days = [splits.day_of(name, log) for name in names.dictionary.to_pylist()]
        ordinals = pa.array([day and day.toordinal() for day in days], pa.int64())
        return ordinals.take(names.indices)
    # The day is the one of the wall clock in the log's zone, not of UTC.
    seconds = splits.event_seconds(columns.column(log.event_time), log)
    micros = pa.array(np.where(np.isfinite(seconds), seconds * 1e6, 0).astype(np.int64))
    wall = pc.local_timestamp(micros.cast(pa.timestamp("us", log.time_zone))).cast(pa.int64())
    ordinals = wall.to_numpy() // _DAY_US + date(1970, 1, 1).toordinal()
    return pa.array(ordinals, mask=~np.isfinite(seconds))
