"""Open a log for a job: its dates, its snapshot, and the selected rows of each split.

Whatever would stop a job later is refused here: unknown columns, unreadable files, splits without
rows, ids of two kinds, wrong time units, repeated rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from iak.pipeline.data import (
    contract,
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
from iak.pipeline.data.catalog_files import catalog_files
from iak.pipeline.data.content import KeptContents
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.dates import LogDates
from iak.pipeline.data.event_dates import date_findings, read_dates, refuse_time_unit
from iak.pipeline.data.fingerprints import with_contents
from iak.pipeline.data.pieces import pieces_of
from iak.pipeline.data.skipped import Skipped
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.split_messages import (
    conditions_message,
    problems_message,
    shown_problems,
    windows_message,
)
from iak.pipeline.data.splits import Selection, Split
from iak.pipeline.errors import BadLog, BadRequest, PipelineError
from iak.schemas.log import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """A job's view of a log: its files, the rows of each split, and its dates."""

    catalog: Catalog
    snapshot: Snapshot
    selections: dict[str, Selection]
    dates: LogDates
    as_of: date | None
    """Last date whose labels were collected; None for a log without dates."""
    skipped: Skipped
    """The part of the log that cannot be read."""
    findings: tuple[Finding, ...] = ()
    """Warnings about dates and row ids."""

    def raw_rows(self, split: str) -> Iterator[tuple[pa.RecordBatch, hashing.Keys]]:
        """Yield all raw rows of a split with their keys, one piece at a time."""
        selection = self.selections[split]
        chosen = pieces_of(selection, rank=0, world=1)
        for raw in parquet.read_ahead(selection, chosen, self.catalog):
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
    """Open a log and fix the rows that a job will read.

    Args:
        catalog: the log's catalogue.
        data_root: folder or URI below which `log.path` lies.
        wanted: splits that the job reads; each must be declared.
        as_of: last date whose labels were collected; None takes the catalogue's, or the log's
            newest date.
        today: the last date that a row can have; None where no clock bounds the log.
        kept: digests of files that were read before; None hashes all files.

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
    refuse_unreadable(snapshot, windows_message(chosen, days))
    lost = skipped.find_skipped(snapshot, chosen, log=catalog.log, days_of=days_by_file.get)
    selections = parquet.select_each(snapshot, chosen, catalog)
    repeated = repeats.count_repeats(selections.values(), catalog)
    repeats.refuse_repeats(repeated, catalog.log, snapshot.uri)
    _refuse_empty(selections, days, lost, catalog)
    repeats_finding = repeated.finding(catalog.log, snapshot.uri) if repeated else None
    return LogView(
        catalog=catalog,
        snapshot=snapshot,
        selections=selections,
        dates=days,
        as_of=days.collected_by(as_of or catalog.as_of),
        skipped=lost,
        findings=(
            *date_findings(days, catalog, snapshot, as_of),
            *([repeats_finding] if repeats_finding else []),
        ),
    )


def _listed(
    uri: str, catalog: Catalog, chosen: Sequence[Split], days: LogDates, version: int | None
) -> Snapshot:
    """List the files of some splits, and refuse problems that their footers show."""
    snapshot = _snapshot(uri, catalog, chosen, version)
    _refuse_unknown_columns(snapshot, catalog, version)
    if not snapshot.files:
        conditions = conditions_message(chosen, snapshot, catalog)
        refuse_unreadable(snapshot, f"{windows_message(chosen, days)}{conditions}")
    kinds.refuse_mixtures(snapshot, catalog)
    refuse_odd_partitions(snapshot, catalog)
    refuse_time_unit(snapshot, catalog)
    return snapshot


def select_also(view: LogView, wanted: Sequence[str]) -> dict[str, Selection]:
    """Return the selections of some splits, whether the job reads them or not.

    Args:
        view: view of the job on the log.
        wanted: names of splits; those that are not declared or cannot be cut from this log are left
            out.
    """
    selections = {name: view.selections[name] for name in wanted if name in view.selections}
    others = []
    for name in wanted:
        if name in view.catalog.splits and name not in selections:
            with suppress(PipelineError):
                spec = view.catalog.splits[name]
                others.append(splits.resolve(name, spec, dates=view.dates.counted))
    if not others:
        return selections
    table = view.snapshot.table
    version = table.version if table else None
    snapshot = _snapshot(view.snapshot.uri, view.catalog, others, version)
    return selections | parquet.select_each(snapshot, others, view.catalog)


def _snapshot(uri: str, catalog: Catalog, chosen: Sequence[Split], version: int | None) -> Snapshot:
    """List the files that may hold rows of these splits."""
    log = catalog.log
    return catalog_files(
        uri,
        catalog,
        version=version,
        admits=lambda partition: any(splits.admits(s, partition, log=log) for s in chosen),
    )


def _refuse_undeclared(catalog: Catalog, wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in catalog.splits]
    if missing:
        raise BadRequest(
            f"the catalogue of log '{catalog.log.name}' declares no split {missing}; "
            f"it has {sorted(catalog.splits)}. Add [splits.{missing[0]}]"
        )


def _refuse_unknown_columns(snapshot: Snapshot, catalog: Catalog, version: int | None) -> None:
    """Refuse columns that no file has."""
    # Files of other splits may have what these files lack, so look at all of them before refusing.
    if names.unknown_columns(catalog, names.columns_of(snapshot)):
        whole = catalog_files(snapshot.uri, catalog, version=version)
        names.refuse_unknown_columns(whole, catalog)


def refuse_odd_partitions(snapshot: Snapshot, catalog: Catalog) -> None:
    """Refuse folder names that are not numbers although features read them as numbers.

    Raises:
        BadLog: the message names the key and a value.
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
    """Refuse a log without a date, with the reason why its files or times cannot be read."""
    snapshot = catalog_files(uri, catalog, version=version)
    names.refuse_unknown_columns(snapshot, catalog)
    problem = f"splits {counting} count days, and the log has no dated row"
    refuse_unreadable(snapshot, problem)
    source = catalog.log.date_key or catalog.log.event_time
    raise BadLog(
        f"{uri}: {problem}: {source} is null in all {snapshot.rows:,} rows of "
        f"{len(snapshot.files):,} files. Fill it, or cut the splits by where and slice"
    )


def _refuse_undated(
    uri: str, catalog: Catalog, days: LogDates, wanted: Sequence[str], version: int | None
) -> None:
    """Refuse to count days of a log whose folders name no date, with the names they have."""
    counting = [name for name, spec in catalog.splits.items() if name in wanted and spec.days]
    if not counting or days.counted:
        return
    if not days.unread:
        _refuse_undated_rows(uri, catalog, version, counting)
    key, expected = catalog.log.date_key, "YYYY-MM-DD"
    if catalog.log.date_unit:
        expected = "NUMBER, as date_unit says"
    elif all(map(splits.numbered_day, days.unread)):
        expected += ', or date_unit = "d" where these are numbers of days'
    raise BadLog(
        f"splits {counting} count days, but no folder of '{key}' names a date: "
        f"{', '.join(f'{key}={name}' for name in sorted(days.unread)[:3])}. Expected "
        f"{key}={expected}; name another log.date_key, or cut dates from log.event_time"
    )


def refuse_unreadable(snapshot: Snapshot, windows: str) -> None:
    """Refuse a log without a single readable file. A few unreadable ones are quarantined instead.

    Args:
        snapshot: snapshot that the job would read.
        windows: the windows of its splits beside the days that the log has, for the message.

    Raises:
        BadLog: no file is readable.
    """
    if not snapshot.files:
        problems = problems_message(snapshot)
        reason = f"no file of these splits can be read: {problems}"
        expected = [kind for problem in shown_problems(snapshot) for kind in problem.expected]
        advice = f"{contract.type_advice(expected)} ".lstrip()
        nothing = "there is no file at all for these splits. "
        raise BadLog(
            f"{snapshot.uri}: {reason if problems else nothing}"
            f"{windows}. {advice}Check data_root=, log.partition_keys and the columns that the "
            "catalogue names"
        )


def _refuse_empty(
    selections: Mapping[str, Selection], days: LogDates, lost: Skipped, catalog: Catalog
) -> None:
    """Refuse splits without a row, with each one's window and the days of the log."""
    empty = [selection for selection in selections.values() if not selection.rows]
    if not empty:
        return
    snapshot = empty[0].snapshot
    windows = windows_message([selection.split for selection in empty], days)
    windows += conditions_message([selection.split for selection in empty], snapshot, catalog)
    names = [selection.split.name for selection in empty]
    losses = "".join(
        f". {loss.amount}" for loss in lost.windows if not set(names).isdisjoint(loss.splits)
    )
    raise BadLog(
        f"splits {names} select no row of {snapshot.uri} "
        f"({snapshot.rows:,} rows in {len(snapshot.files)} files). {windows}{losses}. "
        f"{problems_message(snapshot)}Check the catalogue's [splits]"
    )
