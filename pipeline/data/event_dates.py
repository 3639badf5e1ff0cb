"""Read the dates of a log, from the names of its folders or from event times.

Event times are checked on the way: a wrong unit, or a column that disagrees with the folders, would
make labels ripen at the wrong time without any error.
"""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import dates, logs, parquet, partitions, splits
from iak.pipeline.data.catalog_files import catalog_files
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.dates import LogDates
from iak.pipeline.data.notice import EXAMPLES, notice
from iak.pipeline.data.snapshot import LogFile, Snapshot, Unreadable
from iak.pipeline.errors import BadLog, PipelineError
from iak.schemas.log import Catalog

_UNIT_FILES = 32
"""Most files whose event times are checked before a job starts, where it need not read them all."""
DaysByFile = Mapping[str, Mapping[date, int]]
"""A file's path -> its rows by date, for a log whose folders name no day."""
NO_DAYS: DaysByFile = {}
_FIRST_PLAUSIBLE = date(1990, 1, 1)
"""No event of a log happened before this date."""
_FOLDER_MAY_DIFFER = timedelta(days=366)
"""Most days between an event and its folder, which may be named for the day of the export."""


def read_dates(
    uri: str, catalog: Catalog, today: date | None = None, *, version: int | None = None
) -> tuple[LogDates, DaysByFile]:
    """Read the log's dates, and choose those that windows are counted from.

    Args:
        uri: folder of the log.
        catalog: its catalogue.
        today: the last date that a row can have; None where no clock bounds the log.
        version: version of a table that the job has pinned; None takes the catalogue's.

    Returns:
        The dates; none where the log has neither a date key nor an event time that a split needs.
        And the rows by date of each file, where folders name no day.

    Raises:
        BadLog: event times are in another unit than the declared one, or folders are days as
            yymmdd.
    """
    version = catalog.log.version if version is None else version
    if catalog.log.date_key:
        return _folder_dates(uri, catalog, catalog.log.date_key, today, version), NO_DAYS
    if not (catalog.log.event_time and catalog.needs_event_time):
        return LogDates(), NO_DAYS
    by_file = _event_dates(uri, catalog, version)
    total: Counter[date] = Counter()
    for rows in by_file.values():
        total.update(rows)
    return dates.sort_out(list(total), rows_of=lambda _: total, today=today), by_file


def _folder_dates(
    uri: str, catalog: Catalog, key: str, today: date | None, version: int | None
) -> LogDates:
    """Read dates from the names of folders. Rows are counted only where a date is in doubt."""
    log = catalog.log
    values = logs.partition_values(
        uri, log.partition_keys, key, folder_names=log.folder_names, version=version
    )
    if not log.date_unit and (problem := splits.short_days(values)):
        raise BadLog(f"partition {key}: {problem}")
    known = {name: day for name in values if (day := splits.day_of(name, log))}

    def rows_of(days: Container[date]) -> Mapping[date, int]:
        counts: Counter[date] = Counter()
        wanted = {name for name, day in known.items() if day in days}
        for name, rows in _rows_by_folder(uri, catalog, key, wanted, version):
            counts[known[name]] += rows
        return counts

    unread = Counter({name or "null": 0 for name in values if name not in known})
    if known and unread:
        for name, rows in _rows_by_folder(uri, catalog, key, values - set(known), version):
            unread[name or "null"] += rows
    return dates.sort_out(
        list(known.values()),
        rows_of=rows_of,
        today=today,
        unread=unread,
        period="day" if log.date_unit else splits.period_of(known),
    )


def _rows_by_folder(
    uri: str,
    catalog: Catalog,
    key: str,
    wanted: Container[str | None],
    version: int | None,
) -> Iterator[tuple[str | None, int]]:
    """Yield values of a partition key with the rows of a file below, from the footers alone.

    Args:
        uri: folder of the log.
        catalog: its catalogue.
        key: the partition key.
        wanted: values whose files are counted.
        version: version of a table.
    """
    snapshot = logs.take_snapshot(
        uri,
        partition_keys=catalog.log.partition_keys,
        folder_names=catalog.log.folder_names,
        admits=lambda partition: key not in partition or partition[key] in wanted,
        version=version,
    )
    files: tuple[LogFile | Unreadable, ...] = (*snapshot.files, *snapshot.unreadable)
    for file in files:
        if key in dict(file.partition):
            yield dict(file.partition)[key], file.rows or 0


def _event_dates(uri: str, catalog: Catalog, version: int | None) -> DaysByFile:
    """Count the rows of each file by date, also where only its schema makes it unreadable."""
    snapshot = catalog_files(uri, catalog, version=version)
    _refuse_coarser_unit(snapshot, catalog)
    by_file = {file.path: _days_of(snapshot, file, catalog) for file in snapshot.files}
    for broken in snapshot.unreadable:
        days = _days_of_unreadable(snapshot, broken, catalog)
        if days is not None:
            by_file[broken.path] = days
    _refuse_mixed_units(by_file, catalog)
    return by_file


def _refuse_mixed_units(by_file: DaysByFile, catalog: Catalog) -> None:
    """Refuse a log of which some files have only dates before 1990, and others do not.

    A time in seconds that is read as milliseconds lies in January 1970.

    Raises:
        BadLog: the message names a file of either kind.
    """
    if catalog.log.event_time_unit == "d":  # there is no coarser unit
        return
    dated = {path: days for path, days in by_file.items() if days}
    old = [path for path, days in dated.items() if max(days) < _FIRST_PLAUSIBLE]
    if old and len(old) < len(dated):
        new = next(path for path in dated if path not in set(old))
        raise BadLog(
            f"{catalog.log.event_time} says {max(dated[old[0]])} in {old[0]} ({len(old):,} of "
            f"{len(dated):,} files) and {max(dated[new])} in {new}. Do their units differ? "
            f'event_time_unit is "{catalog.log.event_time_unit}" for all; write them in one unit'
        )


def _refuse_coarser_unit(snapshot: Snapshot, catalog: Catalog) -> None:
    """Refuse event times that make sense in a coarser unit only, by the first rows of some files.

    Raises:
        BadLog: the message names the values and the setting.
    """
    lowest, highest = np.inf, -np.inf
    step = -(-len(snapshot.files) // _UNIT_FILES) or 1
    for file in snapshot.files[::step]:
        if pa.types.is_temporal(dict(file.columns)[catalog.log.event_time or ""]):
            return  # an Arrow type carries its unit
        seconds = next(_event_seconds(snapshot, file, catalog), np.empty(0))
        known = seconds[np.isfinite(seconds) & (seconds > 0)]
        if len(known):
            lowest, highest = min(lowest, float(known.min())), max(highest, float(known.max()))
    if np.isfinite(lowest):
        splits.refuse_coarser_unit(lowest, highest, catalog.log)


def _days_of_unreadable(
    snapshot: Snapshot, broken: Unreadable, catalog: Catalog
) -> dict[date, int] | None:
    """Count the rows by date of a file that breaks the catalogue.

    Return None where its event times are unknown.
    """
    # Of a table, the names of columns in a broken file are not known.
    if broken.group_rows is None or snapshot.table is not None:
        return None
    file = LogFile(
        path=broken.path,
        partition=broken.partition,
        group_rows=broken.group_rows,
        size_bytes=broken.size_bytes,
        listed="",
    )
    try:
        has_times = catalog.log.event_time in snapshot.open(file).schema_arrow.names
        return _days_of(snapshot, file, catalog) if has_times else None
    except (PipelineError, pa.ArrowException):
        return None  # the column of times may be what breaks the catalogue


def _days_of(snapshot: Snapshot, file: LogFile, catalog: Catalog) -> dict[date, int]:
    counts: Counter[date] = Counter()
    for seconds in _event_seconds(snapshot, file, catalog):
        counts.update(splits.days_of(seconds, catalog.log))
    return dict(counts)


def _event_seconds(
    snapshot: Snapshot, file: LogFile, catalog: Catalog
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the event times of each row group in Unix seconds; an error names the file."""
    for rows in parquet.read_column(snapshot, file, catalog.log.event_time or "", catalog):
        try:
            seconds = splits.event_seconds(rows, catalog.log)
        except BadLog as error:
            raise BadLog(f"{file.path}: {error}") from error
        yield seconds


def refuse_time_unit(snapshot: Snapshot, catalog: Catalog) -> None:
    """Refuse event times that do not fit the declared unit or their folders' days.

    Labels would ripen at the wrong time without any error. Only the first row group of some files
    is checked here; each other row is checked when it is read. Where dates are cut from event
    times, all rows have been checked before.

    Raises:
        BadLog: the message names the file, the values and the setting.
    """
    log = catalog.log
    if not (log.event_time and catalog.needs_event_time and log.date_key):
        return
    step = -(-len(snapshot.files) // _UNIT_FILES) or 1
    for file in snapshot.files[::step]:
        day = splits.day_of(splits.partition_of(file, log.date_key), log)
        seconds = next(_event_seconds(snapshot, file, catalog), None)
        known = seconds[np.isfinite(seconds)] if seconds is not None else ()
        if day is None or not len(known):
            continue
        happened = splits.date_of_seconds(float(np.median(known)), log.time_zone)
        if abs(happened - day) > _FOLDER_MAY_DIFFER:
            raise BadLog(
                f"{file.path}: {log.event_time} says {happened}, its folder {day}. Set "
                f'event_time_unit under [log], which is "{log.event_time_unit}"; or leave '
                "event_time out, so that labels ripen by their folder's day"
            )


def dates_without_key(snapshot: Snapshot) -> Finding | None:
    """Return a finding where folders are dates without a key: `2026-10-01`, or `2026/10/01`.

    No partition key reads them, so the log looks as if it had no dates.
    """
    dated = {f.path: name for f in snapshot.files if (name := _bare_date(f.path.split("/")[:-1]))}
    if not dated or 2 * len(dated) < len(snapshot.files):
        return None
    folder = next(iter(dated.values()))
    return Finding(
        level="warn",
        what=f"folders such as {folder} are dates without a key, which are not read",
        column="-",
        count=len(dated),
        unit="files",
        examples=tuple(dated)[:EXAMPLES],
        remedy='Write folder_names = "value", partition_keys = ["dt"] (or ["year/month/day"]) and '
        "the same date_key under [log]; or name a column of times as event_time",
    )


def _bare_date(folders: Sequence[str]) -> str | None:
    """Return the folders of a path that make a date without a key; None where none do."""
    for count in (1, 3, 2):
        for first in range(len(folders) - count + 1):
            parts = folders[first : first + count]
            is_named = len(parts[0]) == 4 if count > 1 else len(parts[0]) >= 8
            if is_named and splits.parse_date(partitions.joined_value(parts)):
                return "/".join(parts)
    return None


def date_findings(
    days: LogDates, catalog: Catalog, snapshot: Snapshot, as_of: date | None
) -> list[Finding]:
    """Return the warnings about a log's dates, and about an `as_of` that lies beyond today.

    Args:
        days: the dates of the log.
        catalog: its catalogue.
        snapshot: its files, whose folders may be dates that no key reads.
        as_of: the job's setting; None takes the catalogue's.
    """
    column = catalog.log.date_key or catalog.log.event_time or "-"
    findings = days.findings(snapshot.uri, column)
    if not days.counted and (bare := dates_without_key(snapshot)):
        findings.append(bare)
    wanted = as_of or catalog.as_of
    if wanted and wanted != days.collected_by(wanted):
        findings.append(
            notice(
                f"as_of {wanted} lies beyond today; {days.today} is taken",
                column="-",
                count=0,
                remedy="No label was collected later than today",
            )
        )
    return findings
