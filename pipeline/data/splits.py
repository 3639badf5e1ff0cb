"""A split's conditions, resolved against a log: which partitions, which rows, how many of each.

Partitions are judged before a file is opened; conditions on columns and hash slices are judged by
reading just the columns they name. What comes out counts every selected row, so that workers agree
on their shares without talking.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data import hashing
from pipeline.data.logs import LogFile, Partition, Snapshot
from pipeline.errors import BadLog, BadRequest
from schemas.log import Catalog, SplitSpec

SLICE_SALT = 0x51_1CE
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A split of one log, with day counts turned into dates."""

    name: str
    first: date | None
    last: date | None
    where: Mapping[str, tuple[str, ...]]
    slice: tuple[float, float]

    @property
    def is_sliced(self) -> bool:
        """Whether a row's hash decides."""
        return self.slice != (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows of one split in one snapshot, counted by row group."""

    split: Split
    snapshot: Snapshot
    groups: tuple[tuple[int, int, int], ...]
    """(index of the file, index of its row group, selected rows), for groups with any."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the files that hold selected rows, and the rows selected of each group."""
        files = {index: self.snapshot.files[index] for index, _, _ in self.groups}
        held = [(files[i].path, files[i].fingerprint, group, n) for i, group, n in self.groups]
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()

    @property
    def rows(self) -> int:
        """Selected rows."""
        return sum(count for _, _, count in self.groups)


def resolve(name: str, spec: SplitSpec, *, dates: Sequence[date]) -> Split:
    """The split with its window as dates.

    Args:
        name: the split's name.
        spec: its declaration.
        dates: every date of the log, for windows counted in days.
    """
    first, last = spec.dates or (None, None)
    if spec.days:
        if not dates:
            raise BadLog(f"split '{name}' counts days, but the log has no dated row")
        start, end = min(dates), max(dates)
        first, last = (
            start + timedelta(days=day) if day >= 0 else end + timedelta(days=day + 1)
            for day in spec.days
        )
        if first > last:
            raise BadRequest(
                f"split '{name}': days {spec.days} of a log from {start} to {end} give the window "
                f"{first} to {last}, which is empty. The log is too short for this catalogue"
            )
    return Split(name=name, first=first, last=last, where=dict(spec.where), slice=spec.slice)


def admits(split: Split, partition: Partition, *, date_key: str | None) -> bool:
    """Whether a partition may hold rows of the split, as far as its known values tell."""
    for key, value in partition.items():
        if key == date_key and split.first and split.last:
            day = parse_date(value)
            if day is None or not split.first <= day <= split.last:
                return False
        if key in split.where and value not in split.where[key]:
            return False
    return True


def parse_date(value: str | None) -> date | None:
    """The date of a partition value, None when it is none."""
    try:
        return date.fromisoformat(value or "")
    except ValueError:
        return None


def columns_read(
    split: Split, catalog: Catalog, *, inside: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Columns inside a file that decide whether a row belongs to the split.

    Args:
        split: the split.
        catalog: the log's catalogue.
        inside: partition keys that are columns of the file as well.
    """
    log = catalog.log
    columns = [key for key in inside if key in split.where]
    columns += [key for key in inside if key == log.date_key and split.first]
    columns += [c for c in split.where if c not in log.partition_keys]
    if split.first and not log.date_key and log.event_time:
        columns.append(log.event_time)
    if split.is_sliced and (log.slice_by or log.row_id):
        columns.append(log.slice_by or log.row_id or "")
    unknown = set(log.partition_keys) - set(inside)
    return tuple(c for c in dict.fromkeys(columns) if c not in unknown)


def mask(
    split: Split, rows: pa.RecordBatch, identity: hashing.Keys, catalog: Catalog
) -> Mask | None:
    """Which rows belong to the split; None when all of the admitted partition do."""
    log = catalog.log
    verdicts: list[Mask] = []
    for column, values in split.where.items():
        if column not in log.partition_keys or column in rows.schema.names:
            verdicts.append(_is_in(rows.column(column), values))
    if split.first and split.last and log.date_key in rows.schema.names:
        verdicts.append(_is_dated(rows.column(log.date_key), split.first, split.last))
    if split.first and split.last and not log.date_key and log.event_time:
        days = seconds_of(rows.column(log.event_time))
        low, high = window_seconds(split.first, split.last, log.time_zone)
        verdicts.append((days >= low) & (days < high))
    if split.is_sliced:
        keys = hashing.keys_of(rows.column(log.slice_by)) if log.slice_by else identity
        place = hashing.unit_interval(keys, salt=SLICE_SALT)
        verdicts.append((place >= split.slice[0]) & (place < split.slice[1]))
    return np.logical_and.reduce(verdicts) if verdicts else None


def _is_dated(column: pa.DictionaryArray, first: date, last: date) -> Mask:
    """Whether rows' values of the date key, which lie inside their file, are in a window."""
    days = [parse_date(word) for word in column.dictionary.to_pylist()]
    within = [day is not None and first <= day <= last for day in days]
    return np.array([*within, False])[hashing.places_in_dictionary(column)]


def _is_in(column: pa.Array, values: tuple[str, ...]) -> Mask:
    text = column.cast(pa.string()) if not pa.types.is_string(column.type) else column
    found: Mask = pc.is_in(text, value_set=pa.array(values, pa.string())).to_numpy(
        zero_copy_only=False
    )
    return found


def seconds_of(column: pa.Array) -> npt.NDArray[np.float64]:
    """Event times as Unix seconds; a null is minus infinity, and so in no window."""
    if pa.types.is_timestamp(column.type):
        whole = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        column = pc.divide(whole.cast(pa.float64(), safe=False), 1e6)
    values: npt.NDArray[np.float64] = (
        column.cast(pa.float64(), safe=False).fill_null(-np.inf).to_numpy(zero_copy_only=False)
    )
    return values


def window_seconds(first: date, last: date, time_zone: str) -> tuple[float, float]:
    """Unix seconds at which `first` begins and `last` ends, in that zone."""
    zone = ZoneInfo(time_zone)
    start = datetime(first.year, first.month, first.day, tzinfo=zone)
    after = last + timedelta(days=1)
    end = datetime(after.year, after.month, after.day, tzinfo=zone)
    return start.timestamp(), end.timestamp()


def date_of_seconds(seconds: float, time_zone: str) -> date:
    """The calendar date of a moment.

    Raises:
        BadLog: the moment lies outside the calendar.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).astimezone(ZoneInfo(time_zone)).date()
    except (ValueError, OverflowError) as error:
        raise BadLog(
            f"an event time of {seconds:.0f} seconds is in no calendar year; expected Unix seconds "
            "or an Arrow timestamp. Convert milliseconds when the log is written"
        ) from error


def partition_of(file: LogFile, key: str) -> str | None:
    """A file's value of a partition key."""
    return dict(file.partition).get(key)
