"""A catalogue and a place -> the log as a job sees it: dates, snapshot, selected rows by split."""

from collections import Counter
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import (
    contract,
    dates,
    hashing,
    kinds,
    logs,
    names,
    parquet,
    repeats,
    skipped,
    splits,
    stores,
)
from iak.pipeline.data.content import KeptContents
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.dates import LogDates
from iak.pipeline.data.file_problems import file_problems
from iak.pipeline.data.fingerprints import with_contents
from iak.pipeline.data.nearest import nearest
from iak.pipeline.data.notice import notice
from iak.pipeline.data.pieces import pieces_of
from iak.pipeline.data.skipped import Skipped
from iak.pipeline.data.snapshot import LogFile, Snapshot, Unreadable
from iak.pipeline.data.splits import Selection, Split
from iak.pipeline.errors import BadLog, BadRequest, PipelineError
from iak.schemas.log import Catalog

_SHOWN_VALUES = 6
"""Values of a column that a message names."""
_UNIT_FILES = 32
"""Files whose event times are looked at before a job starts, where it need not read them all."""
DaysByFile = Mapping[str, Mapping[date, int]]
"""A file's path -> its rows by date, where it is not its folder that names its day."""
NO_DAYS: DaysByFile = {}
_FIRST_PLAUSIBLE = date(1990, 1, 1)
_FOLDER_MAY_DIFFER = timedelta(days=366)
"""Between an event and the day of its folder: a folder may be named for the day of the export."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """What a job reads of a log."""

    catalog: Catalog
    snapshot: Snapshot
    selections: dict[str, Selection]
    dates: LogDates
    as_of: date | None
    skipped: Skipped
    """What of the log cannot be read."""
    findings: tuple[Finding, ...] = ()
    """What to warn of: dates and row ids."""

    def raw_rows(self, split: str) -> Iterator[tuple[pa.RecordBatch, hashing.Keys]]:
        """Every raw row of a split, a piece at a time."""
        selection = self.selections[split]
        for piece in pieces_of(selection, rank=0, world=1):
            raw = parquet.read_piece(selection, piece, self.catalog)
            yield raw.rows, raw.identity


def open_log(
    catalog: Catalog,
    data_root: str,
    *,
    wanted: Sequence[str],
    as_of: date | None = None,
    today: date | None = None,
    kept: KeptContents | None = None,
) -> LogView:
    """Fix what a job will read.

    Args:
        catalog: the log's catalogue.
        data_root: folder or URI under which `log.path` lies.
        wanted: splits the job reads; each must be declared.
        as_of: last date whose labels were collected, where the job says so.
        today: the date that no row can lie beyond, None where no clock bounds the log.
        kept: digests of files that were read before; all files are hashed where there are none.

    Raises:
        BadRequest: a split is not declared, or the folder does not exist.
        BadLog: no file is readable, a wanted split has no row, event times are in another unit than
            the declared one, or too many row ids repeat.
    """
    uri = stores.below(data_root, catalog.log.path)
    _refuse_undeclared(catalog, wanted)
    names.refuse_unknown_partition_keys(uri, catalog)
    version = logs.table_version(uri, catalog.log.version)
    days, days_by_file = read_dates(uri, catalog, today, version=version)
    _refuse_undated(uri, catalog, days, wanted, version)
    chosen = [
        splits.resolve(name, spec, dates=days.counted)
        for name, spec in catalog.splits.items()
        if name in wanted
    ]
    listed = _listed(uri, catalog, chosen, days, version)
    snapshot = with_contents(listed, catalog, kept or KeptContents(None))
    refuse_unreadable(snapshot, told_windows(chosen, days))
    lost = skipped.find_skipped(snapshot, chosen, log=catalog.log, days_of=days_by_file.get)
    selections = {split.name: parquet.select(snapshot, split, catalog) for split in chosen}
    repeated = repeats.count_repeats(selections.values(), catalog)
    repeats.refuse_repeats(repeated, catalog.log, snapshot.uri)
    _refuse_empty(selections, days, lost, catalog)
    found = repeated.finding(catalog.log, snapshot.uri) if repeated else None
    return LogView(
        catalog=catalog,
        snapshot=snapshot,
        selections=selections,
        dates=days,
        as_of=days.collected_by(as_of or catalog.as_of),
        skipped=lost,
        findings=(
            *date_findings(days, catalog, snapshot.uri, as_of),
            *([found] if found else []),
        ),
    )


def _listed(
    uri: str, catalog: Catalog, chosen: Sequence[Split], days: LogDates, version: int | None
) -> Snapshot:
    """List the files of some splits, and refuse what their footers show to be wrong."""
    snapshot = _snapshot(uri, catalog, chosen, version)
    _refuse_unknown_columns(snapshot, catalog, version)
    if not snapshot.files:
        conditions = told_conditions(chosen, snapshot, catalog)
        refuse_unreadable(snapshot, f"{told_windows(chosen, days)}{conditions}")
    kinds.refuse_mixtures(snapshot, catalog)
    refuse_odd_partitions(snapshot, catalog)
    refuse_time_unit(snapshot, catalog)
    return snapshot


def select_also(view: LogView, wanted: Sequence[str]) -> dict[str, Selection]:
    """Return selections of a view and of further splits, for a look at them beside the job's own.

    Args:
        view: what the job reads.
        wanted: splits; those that are not declared or cannot be cut from this log are left out.
    """
    found = {name: view.selections[name] for name in wanted if name in view.selections}
    others = []
    for name in wanted:
        if name in view.catalog.splits and name not in found:
            with suppress(PipelineError):
                spec = view.catalog.splits[name]
                others.append(splits.resolve(name, spec, dates=view.dates.counted))
    if not others:
        return found
    table = view.snapshot.table
    version = table.version if table else None
    snapshot = _snapshot(view.snapshot.uri, view.catalog, others, version)
    return found | {s.name: parquet.select(snapshot, s, view.catalog) for s in others}


def _snapshot(uri: str, catalog: Catalog, chosen: Sequence[Split], version: int | None) -> Snapshot:
    """The files that may hold rows of these splits."""
    key = catalog.log.date_key
    return logs.take_snapshot(
        uri,
        partition_keys=catalog.log.partition_keys,
        admits=lambda partition: any(splits.admits(s, partition, date_key=key) for s in chosen),
        schema_problem=lambda schema: contract.schema_problem(schema, catalog),
        version=version,
    )


def _refuse_undeclared(catalog: Catalog, wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in catalog.splits]
    if missing:
        raise BadRequest(
            f"the catalogue of log '{catalog.log.name}' declares no split {missing}; "
            f"it has {sorted(catalog.splits)}. Add [splits.{missing[0]}]"
        )


def _refuse_unknown_columns(snapshot: Snapshot, catalog: Catalog, version: int | None) -> None:
    """Refuse columns that no file has; what these splits' files lack, others may have."""
    if names.unknown_columns(catalog, names.columns_of(snapshot)):
        whole = logs.take_snapshot(
            snapshot.uri,
            partition_keys=catalog.log.partition_keys,
            schema_problem=lambda schema: contract.schema_problem(schema, catalog),
            version=version,
        )
        names.refuse_unknown_columns(whole, catalog)


def refuse_odd_partitions(snapshot: Snapshot, catalog: Catalog) -> None:
    """Refuse folder names that features read as numbers and that are none.

    Raises:
        BadLog: naming the key and a value.
    """
    partitions = (dict(file.partition) for file in snapshot.files)
    if problems := contract.partition_problems(partitions, catalog):
        listing = "; ".join(f"{key}={text}" for key, text in problems.items())
        raise BadLog(
            f"folders below {snapshot.uri} say {listing}, and features read these keys as numbers. "
            "Make them categorical, or name the folders by numbers"
        )


def _refuse_undated_rows(
    uri: str, catalog: Catalog, version: int | None, counting: Sequence[str]
) -> None:
    """Refuse a log without a date, with what keeps its files or its event times from being read."""
    snapshot = logs.take_snapshot(
        uri,
        partition_keys=catalog.log.partition_keys,
        schema_problem=lambda schema: contract.schema_problem(schema, catalog),
        version=version,
    )
    names.refuse_unknown_columns(snapshot, catalog)
    told = f"splits {counting} count days, and the log has no dated row"
    refuse_unreadable(snapshot, told)
    source = catalog.log.date_key or catalog.log.event_time
    raise BadLog(
        f"{uri}: {told}: {source} is null in all {snapshot.rows:,} rows of "
        f"{len(snapshot.files):,} files. Fill it, or cut the splits by where and slice"
    )


def _refuse_undated(
    uri: str, catalog: Catalog, days: LogDates, wanted: Sequence[str], version: int | None
) -> None:
    """Refuse to count days of a log whose folders name none, with what they name."""
    counting = [name for name, spec in catalog.splits.items() if name in wanted and spec.days]
    if not counting or days.counted:
        return
    if not days.unread:
        _refuse_undated_rows(uri, catalog, version, counting)
    key = catalog.log.date_key
    raise BadLog(
        f"splits {counting} count days, but no folder of '{key}' names a date: "
        f"{', '.join(f'{key}={name}' for name in sorted(days.unread)[:3])}. Expected "
        f"{key}=YYYY-MM-DD; name another log.date_key, or cut dates from log.event_time"
    )


def refuse_unreadable(snapshot: Snapshot, windows: str) -> None:
    """Refuse a log without a single readable file; a few unreadable ones are quarantined.

    Args:
        snapshot: what the job would read.
        windows: its splits' windows beside the days that the log has.

    Raises:
        BadLog: there is none.
    """
    if not snapshot.files:
        problems = _problems(snapshot)
        seen = f"no file of these splits can be read: {problems}"
        advice = f"{contract.type_advice(problems)} ".lstrip()
        raise BadLog(
            f"{snapshot.uri}: {seen if problems else 'there is no file at all for these splits. '}"
            f"{windows}. {advice}Check data_root=, log.partition_keys and the columns that the "
            "catalogue names"
        )


def _problems(snapshot: Snapshot) -> str:
    """Return the commonest reasons for which files are not read, as a sentence."""
    told = "; ".join(problem.message for problem in file_problems(snapshot)[:4])
    return f"{told}. " if told else ""


def _refuse_empty(
    selections: Mapping[str, Selection], days: LogDates, lost: Skipped, catalog: Catalog
) -> None:
    """Refuse splits without a row, each with its window, and what the log has instead."""
    empty = [selection for selection in selections.values() if not selection.rows]
    if not empty:
        return
    snapshot = empty[0].snapshot
    windows = told_windows([selection.split for selection in empty], days)
    windows += told_conditions([selection.split for selection in empty], snapshot, catalog)
    names = [selection.split.name for selection in empty]
    losses = "".join(
        f". {loss.amount}" for loss in lost.windows if not set(names).isdisjoint(loss.splits)
    )
    raise BadLog(
        f"splits {names} select no row of {snapshot.uri} "
        f"({snapshot.rows:,} rows in {len(snapshot.files)} files). {windows}{losses}. "
        f"{_problems(snapshot)}Check the catalogue's [splits]"
    )


def told_windows(chosen: Sequence[Split], days: LogDates) -> str:
    """Return the windows of some splits beside the days that the log has."""
    by_window: dict[str, list[str]] = {}
    for split in chosen:
        window = f"{split.first} to {split.last}" if split.first else "all days"
        by_window.setdefault(window, []).append(f"'{split.name}'")
    told = [
        f"the window of split{'s' if names[1:] else ''} {', '.join(names)} is {window}"
        for window, names in by_window.items()
    ]
    return "; ".join([*told, days.span] if days.counted else told)


def told_conditions(chosen: Sequence[Split], snapshot: Snapshot, catalog: Catalog) -> str:
    """Return what splits without a row ask of columns beside values that the log has."""
    told = ""
    for column in dict.fromkeys(column for split in chosen for column in split.where):
        wanted = dict.fromkeys(word for split in chosen for word in split.where.get(column, ()))
        seen = _some_values(snapshot, column, catalog)
        if wanted.keys() <= seen.keys():
            continue
        told += f". They ask for {column} = {', '.join(map(repr, wanted))}"
        if seen:
            shown = ", ".join(repr(word) for word in [*seen][:_SHOWN_VALUES])
            told += f", and values of {column} are {shown}{_nearest_of(wanted, seen)}"
    return told


def _nearest_of(wanted: Collection[str], seen: Collection[str]) -> str:
    """Return a sentence with the value that the first unknown one may have meant."""
    unknown = next(word for word in wanted if word not in seen)
    near = nearest(unknown, seen).strip()
    return f" (d{near[1:]})" if near else ""


def _some_values(snapshot: Snapshot, column: str, catalog: Catalog) -> dict[str, None]:
    """Return all values of a partition key, or those of a column in some files, as text."""
    keys = catalog.log.partition_keys
    if column in keys:
        version = snapshot.table.version if snapshot.table else None
        found = logs.partition_values(snapshot.uri, keys, column, version=version)
        return dict.fromkeys(sorted(word for word in found if word is not None))
    step = -(-len(snapshot.files) // _UNIT_FILES) or 1
    seen: dict[str, None] = {}
    for file in snapshot.files[::step]:
        with suppress(PipelineError, pa.ArrowException):
            values = next(parquet.read_column(snapshot, file, column)).unique()
            seen |= dict.fromkeys(filter(None, values.cast(pa.string()).to_pylist()))
    return dict.fromkeys(sorted(seen))


def refuse_time_unit(snapshot: Snapshot, catalog: Catalog) -> None:
    """Refuse event times that do not fit the declared unit or their folders' days.

    Labels would ripen at the wrong time, in silence. Some files are looked at; every other row is
    looked at when it is read. Where dates are cut from event times, all rows have been looked at
    before.

    Raises:
        BadLog: naming the file, the values and the setting.
    """
    log = catalog.log
    if not (log.event_time and catalog.needs_event_time and log.date_key):
        return
    step = -(-len(snapshot.files) // _UNIT_FILES) or 1
    for file in snapshot.files[::step]:
        day = splits.parse_date(splits.partition_of(file, log.date_key))
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


def date_findings(
    days: LogDates, catalog: Catalog, where: str, as_of: date | None
) -> list[Finding]:
    """Return what to warn of about the log's dates, and about an `as_of` that today cuts short."""
    column = catalog.log.date_key or catalog.log.event_time or "-"
    found = days.findings(where, column)
    wanted = as_of or catalog.as_of
    if wanted and wanted != days.collected_by(wanted):
        found.append(
            notice(
                f"as_of {wanted} lies beyond today; {days.today} is taken",
                column="-",
                count=0,
                remedy="No label was collected later than today",
            )
        )
    return found


def read_dates(
    uri: str, catalog: Catalog, today: date | None = None, *, version: int | None = None
) -> tuple[LogDates, DaysByFile]:
    """Read the log's dates, and sort them out.

    Args:
        uri: folder of the log.
        catalog: its catalogue.
        today: the date that no row can lie beyond, None where no clock bounds the log.
        version: of a table, where the job has pinned one.

    Returns:
        The dates: none where the log has neither a date key nor an event time that a split needs.
        And the rows by date of each file, where it is not its folder that names its day.

    Raises:
        BadLog: event times are in another unit than the declared one.
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
    """Dates from the names of folders; rows are counted only where a date is in doubt."""
    found = logs.partition_values(uri, catalog.log.partition_keys, key, version=version)
    known = {name: day for name in found if (day := splits.parse_date(name))}

    def rows_of(days: Container[date]) -> Mapping[date, int]:
        counts: Counter[date] = Counter()
        wanted = {name for name, day in known.items() if day in days}
        for name, rows in _rows_by_folder(uri, catalog, key, wanted, version):
            counts[known[name]] += rows
        return counts

    unread = Counter({name or "null": 0 for name in found if name not in known})
    if known and unread:
        for name, rows in _rows_by_folder(uri, catalog, key, found - set(known), version):
            unread[name or "null"] += rows
    return dates.sort_out(list(known.values()), rows_of=rows_of, today=today, unread=unread)


def _rows_by_folder(
    uri: str,
    catalog: Catalog,
    key: str,
    wanted: Container[str | None],
    version: int | None,
) -> Iterator[tuple[str | None, int]]:
    """Rows of the files below some folders of one partition key, from their footers alone."""
    snapshot = logs.take_snapshot(
        uri,
        partition_keys=catalog.log.partition_keys,
        admits=lambda partition: key not in partition or partition[key] in wanted,
        version=version,
    )
    files: tuple[LogFile | Unreadable, ...] = (*snapshot.files, *snapshot.unreadable)
    for file in files:
        if key in dict(file.partition):
            yield dict(file.partition)[key], file.rows or 0


def _event_dates(uri: str, catalog: Catalog, version: int | None) -> DaysByFile:
    """Rows by date of every file, also of those whose schema alone makes them unreadable."""
    snapshot = logs.take_snapshot(
        uri,
        partition_keys=catalog.log.partition_keys,
        schema_problem=lambda schema: contract.schema_problem(schema, catalog),
        version=version,
    )
    _refuse_coarser_unit(snapshot, catalog)
    found = {file.path: _days_of(snapshot, file, catalog) for file in snapshot.files}
    for broken in snapshot.unreadable:
        days = _days_of_unreadable(snapshot, broken, catalog)
        if days is not None:
            found[broken.path] = days
    _refuse_mixed_units(found, catalog)
    return found


def _refuse_mixed_units(found: DaysByFile, catalog: Catalog) -> None:
    """Refuse files whose event times are all of another age than the others'.

    A number that is seconds in some files and read as milliseconds everywhere lies in January 1970.

    Raises:
        BadLog: naming a file of either kind.
    """
    if catalog.log.event_time_unit == "s":  # there is no coarser unit
        return
    dated = {path: days for path, days in found.items() if days}
    old = [path for path, days in dated.items() if max(days) < _FIRST_PLAUSIBLE]
    if old and len(old) < len(dated):
        new = next(path for path in dated if path not in set(old))
        raise BadLog(
            f"{catalog.log.event_time} says {max(dated[old[0]])} in {old[0]} ({len(old):,} of "
            f"{len(dated):,} files are so) and {max(dated[new])} in {new}. Are they of two units? "
            f'event_time_unit is "{catalog.log.event_time_unit}" for all; write them in one unit'
        )


def _refuse_coarser_unit(snapshot: Snapshot, catalog: Catalog) -> None:
    """Refuse event times that make sense in a coarser unit only, by the first rows of some files.

    Raises:
        BadLog: naming the values and the setting.
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
    """Rows by date of a file that breaks the catalogue; None where its event times are unknown."""
    if broken.group_rows is None or snapshot.table is not None:  # a table's names are not known
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
        return None  # the time itself may be what the catalogue does not expect


def _days_of(snapshot: Snapshot, file: LogFile, catalog: Catalog) -> dict[date, int]:
    counts: Counter[date] = Counter()
    for seconds in _event_seconds(snapshot, file, catalog):
        counts.update(splits.days_of(seconds, catalog.log.time_zone))
    return dict(counts)


def _event_seconds(
    snapshot: Snapshot, file: LogFile, catalog: Catalog
) -> Iterator[npt.NDArray[np.float64]]:
    """Event times of each row group; an error names the file."""
    for rows in parquet.read_column(snapshot, file, catalog.log.event_time or ""):
        try:
            seconds = splits.event_seconds(rows, catalog.log)
        except BadLog as error:
            raise BadLog(f"{file.path}: {error}") from error
        yield seconds
