"""A catalogue and a place -> the log as a job sees it: dates, snapshot, selected rows by split."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from pipeline.data import contract, hashing, kinds, logs, names, reader, splits
from pipeline.data.logs import Partition, Snapshot
from pipeline.data.splits import Selection
from pipeline.errors import BadLog, BadRequest
from schemas.log import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """What a job reads of a log."""

    catalog: Catalog
    snapshot: Snapshot
    selections: dict[str, Selection]
    as_of: date | None

    def raw_rows(self, split: str) -> Iterator[tuple[pa.RecordBatch, hashing.Keys]]:
        """Every raw row of a split, a piece at a time."""
        selection = self.selections[split]
        for piece in reader.pieces_of(selection, rank=0, world=1):
            raw = reader.read_piece(selection, piece, self.catalog)
            yield raw.rows, raw.identity


def open_log(
    catalog: Catalog, data_root: str, *, wanted: Sequence[str], as_of: date | None = None
) -> LogView:
    """Fix what a job will read.

    Args:
        catalog: the log's catalogue.
        data_root: folder or URI under which `log.path` lies.
        wanted: splits the job reads; each must be declared.
        as_of: last date whose labels were collected, where the job says so.

    Raises:
        BadRequest: a split is not declared, or the folder does not exist.
        BadLog: no file is readable, or a wanted split has no row.
    """
    uri = f"{data_root.rstrip('/')}/{catalog.log.path}"
    missing = [name for name in wanted if name not in catalog.splits]
    if missing:
        raise BadRequest(
            f"the catalogue of log '{catalog.log.name}' declares no split {missing}; "
            f"it has {sorted(catalog.splits)}. Add [splits.{missing[0]}]"
        )
    names.refuse_unknown_partition_keys(uri, catalog)
    dates = log_dates(uri, catalog)
    specs = {name: spec for name, spec in catalog.splits.items() if name in wanted}
    chosen = {name: splits.resolve(name, spec, dates=dates) for name, spec in specs.items()}

    def admits(partition: Partition) -> bool:
        key = catalog.log.date_key
        return any(splits.admits(s, partition, date_key=key) for s in chosen.values())

    snapshot = logs.take_snapshot(
        uri,
        partition_keys=catalog.log.partition_keys,
        admits=admits,
        schema_problem=lambda schema: contract.schema_problem(schema, catalog),
    )
    _refuse_unknown_columns(snapshot, catalog)
    refuse_unreadable(snapshot)
    kinds.refuse_mixtures(snapshot, catalog)
    refuse_odd_partitions(snapshot, catalog)
    selections: dict[str, Selection] = {
        split.name: reader.select(snapshot, split, catalog) for split in chosen.values()
    }
    empty = [name for name, s in selections.items() if not s.rows]
    if empty:
        windows = {s.name: f"{s.first} to {s.last}" for s in chosen.values() if s.name in empty}
        raise BadLog(
            f"splits {empty} select no row of {uri} ({snapshot.rows:,} rows in "
            f"{len(snapshot.files)} files). {windows or ''} Check the catalogue's [splits]"
        )
    newest = max(dates) if dates else None
    return LogView(
        catalog=catalog,
        snapshot=snapshot,
        selections=selections,
        as_of=as_of or catalog.as_of or newest,
    )


def _refuse_unknown_columns(snapshot: Snapshot, catalog: Catalog) -> None:
    """Refuse columns that no file has; what these splits' files lack, others may have."""
    if names.unknown_columns(catalog, names.columns_there(snapshot)):
        whole = logs.take_snapshot(
            snapshot.uri,
            partition_keys=catalog.log.partition_keys,
            schema_problem=lambda schema: contract.schema_problem(schema, catalog),
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


def refuse_unreadable(snapshot: Snapshot) -> None:
    """Refuse a log without a single readable file; a few unreadable ones are quarantined."""
    if not snapshot.files:
        reasons = Counter(u.reason for u in snapshot.unreadable).most_common(3)
        told = "; ".join(f"{reason} ({count} files)" for reason, count in reasons)
        raise BadLog(
            f"no readable Parquet file below {snapshot.uri}: {told or 'no file at all'}. "
            "Check data_root=, log.partition_keys and the columns that the catalogue names"
        )


def log_dates(uri: str, catalog: Catalog) -> list[date]:
    """Every date of the log: from partition names, else the first and last event time."""
    log = catalog.log
    if log.date_key:
        values = logs.partition_values(uri, log.partition_keys, log.date_key)
        return sorted(d for d in map(splits.parse_date, values) if d)
    if log.event_time and catalog.needs_event_time:
        return _eventlog_dates(uri, catalog)
    return []


def _eventlog_dates(uri: str, catalog: Catalog) -> list[date]:
    """Dates of the first and the last event of every row group."""
    log = catalog.log
    snapshot = logs.take_snapshot(
        uri,
        partition_keys=log.partition_keys,
        schema_problem=lambda schema: contract.schema_problem(schema, catalog),
    )
    found: set[date] = set()
    for file in snapshot.files:
        for rows in reader.read_column(snapshot, file, log.event_time or ""):
            seconds = splits.seconds_of(rows)
            seconds = seconds[np.isfinite(seconds) & (seconds > 0)]
            ends = (seconds.min(), seconds.max()) if len(seconds) else ()
            found |= {splits.date_of_seconds(float(end), log.time_zone) for end in ends}
    return sorted(found)
