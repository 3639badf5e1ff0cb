"""Resolve the conditions of a split against a log: which partitions, and which rows of them.

Partitions are checked before a file is opened. Conditions on columns and hash slices are checked by
reading only the columns that they name. A `Selection` counts the selected rows of each row group,
so that workers agree on their shares without communication.

This module also reads event times and dates, on which conditions and labels depend.
"""

import calendar
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import hashing
from iak.pipeline.data.snapshot import LogFile, Partition, Snapshot
from iak.pipeline.errors import BadLog, BadRequest
from iak.schemas.log import Catalog, LogSpec, SplitSpec, TimeUnit

SLICE_SALT = 0x51_1CE
"""Makes the hash that cuts slices independent of the other hashes of an id."""
_DAY_S = 86_400
PER_SECOND: Mapping[TimeUnit, float] = {
    "d": 1 / _DAY_S, "s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9,
}  # fmt: skip
_UNIT_NAMES = {
    "d": "days", "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds",
}  # fmt: skip
_PLAUSIBLE_S = (631_152_000.0, 4_102_444_800.0)
"""1990 and 2100, in Unix seconds: events of a log happened between them."""
Period = Literal["day", "week", "month"]
"""How much time a partition value names."""
_MONTH = re.compile(r"((?:19|20)\d{2})-?(0[1-9]|1[0-2])")
"""A month, as 2026-02 or 202602."""
_SHORT_DAY = re.compile(r"\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
"""A day, as 261005. It is not read: 201012 is December 2010 as well as 12 October 2020."""
_WEEK = re.compile(r"\d{4}-?W\d{2}")
"""A week, as 2026-W08."""
_HOUR = re.compile(r"(\d{8}|\d{4}-\d{2}-\d{2}-)(?:[01]\d|2[0-3])")
"""An hour of a day, as 2026020307 or 2026-02-03-07."""
_NAMED_DAY = re.compile(r"[^\W\d_].*[_-](\d{8}|\d{4}-\d{2}-\d{2})")
"""A day after a name, as events_20261001."""
_DAY_NUMBER = re.compile(r"(?:.*[^\W\d_][_-]?)?(\d{1,5})")
"""The number of a day, as 3, day_3 or d3."""
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
        """Return whether the split takes only a slice of the rows, by their hash."""
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
        """Return SHA-256 over the files with selected rows, and the rows selected of each group."""
        files = {index: self.snapshot.files[index] for index, _, _ in self.groups}
        groups = [(files[i].path, files[i].fingerprint, group, n) for i, group, n in self.groups]
        return hashlib.sha256(json.dumps(groups).encode()).hexdigest()

    @property
    def rows(self) -> int:
        """Return the number of selected rows."""
        return sum(count for _, _, count in self.groups)


def resolve(name: str, spec: SplitSpec, *, dates: Sequence[date]) -> Split:
    """Return the split with its window as dates.

    Args:
        name: the split's name.
        spec: its declaration.
        dates: the dates of the log that windows are counted from, without stray ones and those
            beyond today.

    Raises:
        BadLog: it counts days, and the log has no date.
        BadRequest: its window is empty.
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
                f"split '{name}': days {list(spec.days)} of a log whose first day is {start} and "
                f"last day {end} give the window {first} to {last}, which is empty. The log is too "
                "short for this catalogue"
            )
    return Split(name=name, first=first, last=last, where=dict(spec.where), slice=spec.slice)


def admits(split: Split, partition: Partition, *, log: LogSpec) -> bool:
    """Return whether a partition with these known values may hold rows of the split.

    Args:
        split: the split.
        partition: values known so far; a key that is absent admits every value.
        log: the catalogue's log, whose date key holds the date.
    """
    for key, value in partition.items():
        if key == log.date_key and split.first and split.last:
            day = day_of(value, log)
            if day is None or not split.first <= day <= split.last:
                return False
        if key in split.where and value not in split.where[key]:
            return False
    return True


def day_of(value: str | None, log: LogSpec) -> date | None:
    """Return the day of a value of a log's date key; None when it names none."""
    return numbered_day(value) if log.date_unit else parse_date(value)


def numbered_day(value: str | None) -> date | None:
    """Return the day whose number since 1970-01-01 a value ends in; None when it ends in none."""
    number = _DAY_NUMBER.fullmatch((value or "").strip())
    return date(1970, 1, 1) + timedelta(days=int(number[1])) if number else None


def parse_date(value: str | None) -> date | None:
    """Return the date of a partition value, None when it names none.

    Every ISO 8601 spelling of a date counts. So does a midnight (`2026-10-01 00:00:00`), which
    writers produce for a date column with the type timestamp. Another time of day is not a date.
    A name may stand before a day: events_20261001. An hour, 2026100105, belongs to its day. A week
    or a month stands for its last day, when all its rows have happened: a label is then never taken
    for older than it is.
    """
    text = (value or "").strip()
    if named := _NAMED_DAY.fullmatch(text):
        text = named[1]
    if hour := _HOUR.fullmatch(text):
        text = hour[1].removesuffix("-")
    if month := _MONTH.fullmatch(text):
        year, number = map(int, month.groups())
        return date(year, number, calendar.monthrange(year, number)[1])
    if re.fullmatch(r"\d{8}..", text):
        return None  # Python 3.11 reads 20261001ab as a date, without its last two characters
    try:
        day = date.fromisoformat(text)
        return day + timedelta(days=6) if _WEEK.fullmatch(text) else day
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.date() if moment.time() == time.min else None


def period_of(values: Iterable[str | None]) -> Period:
    """Return the longest period that one of these partition values names."""
    texts = [(value or "").strip() for value in values]
    if any(map(_MONTH.fullmatch, texts)):
        return "month"
    return "week" if any(map(_WEEK.fullmatch, texts)) else "day"


def short_days(values: Iterable[str | None]) -> str:
    """Return why partition values cannot be read as dates, where they are days as yymmdd.

    Of a single value nobody can tell a day from a month. Of all values a day shows that no month
    has; where there is none, they are months.

    Args:
        values: all values of one partition key.

    Returns:
        The reason with what to do, or an empty text.
    """
    texts = sorted({text for value in values if (text := (value or "").strip())})
    days = [t for t in texts if _SHORT_DAY.fullmatch(t) and not _MONTH.fullmatch(t)]
    if not days or not all(_SHORT_DAY.fullmatch(text) or _MONTH.fullmatch(text) for text in texts):
        return ""
    seen = days[0]
    return (
        f"{seen} is a day as yymmdd, which is not read, since others would be months (201012 is "
        f"December 2010). Name the folders YYYYMMDD, here 20{seen}"
    )


def columns_read(
    split: Split, catalog: Catalog, *, inside: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the columns inside a file that decide whether a row belongs to the split.

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
    split: Split, rows: pa.RecordBatch, slice_keys: hashing.Keys, catalog: Catalog
) -> Mask | None:
    """Return a mask of the rows of an admitted partition that belong to the split; None for all.

    Args:
        split: the split.
        rows: rows with at least the columns of `columns_read`.
        slice_keys: key of each row, by which slices are cut.
        catalog: the log's catalogue.
    """
    log = catalog.log
    verdicts: list[Mask] = []
    for column, values in split.where.items():
        if column not in log.partition_keys or column in rows.schema.names:
            verdicts.append(_is_in(rows.column(column), values))
    if split.first and split.last and log.date_key in rows.schema.names:
        verdicts.append(_is_dated(rows.column(log.date_key), split.first, split.last, log))
    if split.first and split.last and not log.date_key and log.event_time:
        seconds = event_seconds(rows.column(log.event_time), log)
        low, high = window_seconds(split.first, split.last, log.time_zone)
        verdicts.append((seconds >= low) & (seconds < high))
    if split.is_sliced:
        points = hashing.unit_interval(slice_keys, salt=SLICE_SALT)
        verdicts.append((points >= split.slice[0]) & (points < split.slice[1]))
    return np.logical_and.reduce(verdicts) if verdicts else None


def _is_dated(column: pa.DictionaryArray, first: date, last: date, log: LogSpec) -> Mask:
    """Return the rows whose date lies in a window, where the date key is inside the file."""
    # Each distinct value is parsed once. The last entry stands for null.
    days = [day_of(word, log) for word in column.dictionary.to_pylist()]
    within = [day is not None and first <= day <= last for day in days]
    return np.array([*within, False])[hashing.dictionary_indices(column)]


def _is_in(column: pa.Array, values: tuple[str, ...]) -> Mask:
    text = column.cast(pa.string()) if not pa.types.is_string(column.type) else column
    is_in: Mask = pc.is_in(text, value_set=pa.array(values, pa.string())).to_numpy(
        zero_copy_only=False
    )
    return is_in


def event_seconds(column: pa.Array, log: LogSpec) -> npt.NDArray[np.float64]:
    """Return the event times of a log's column as Unix seconds, as `seconds_of` does.

    Raises:
        BadLog: the numbers make sense only in another unit than the declared one.
    """
    seconds = seconds_of(column, unit=log.event_time_unit, time_zone=log.time_zone)
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        refuse_other_unit(seconds, log)
    return seconds


def seconds_of(
    column: pa.Array, *, unit: TimeUnit = "s", time_zone: str = "UTC"
) -> npt.NDArray[np.float64]:
    """Return event times as Unix seconds. A null is minus infinity, and so lies in no window.

    Args:
        column: numbers in `unit`, or timestamps, which have a unit of their own, or dates, which
            stand for their midnight as a timestamp without a zone does.
        unit: unit that the numbers count.
        time_zone: zone whose wall clock a timestamp without a zone shows. Of a wall time that a
            clock change repeats, the first instant is taken; of one that it skips, the first
            instant after. So the date of a wall time is always the date that it shows.
    """
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        instants = column.cast(pa.timestamp("us", column.type.tz), safe=False)
        if column.type.tz is None and time_zone != "UTC":
            instants = pc.assume_timezone(
                instants, time_zone, ambiguous="earliest", nonexistent="latest"
            )
        column, unit = instants.cast(pa.int64()), "us"
    if unit == "ns" and pa.types.is_integer(column.type):
        # A double cannot represent the nanoseconds since 1970 of a day in this century.
        column, unit = pc.divide(column, 1000), "us"
    numbers = column.cast(pa.float64(), safe=False)
    if unit == "d":
        numbers = pc.multiply(numbers, float(_DAY_S))  # 1 / 86,400 is no double
    elif unit != "s":
        numbers = pc.divide(numbers, PER_SECOND[unit])
    values: npt.NDArray[np.float64] = numbers.fill_null(-np.inf).to_numpy(zero_copy_only=False)
    return values


def refuse_other_unit(seconds: npt.NDArray[np.float64], log: LogSpec) -> None:
    """Refuse event times that lie between 1990 and 2100 in a finer unit than the declared one.

    The median decides, so that a few wild values do not. Times counted from the log's own start are
    small in every unit, and pass.

    Raises:
        BadLog: the message names the value, both units and the setting.
    """
    low, high = _PLAUSIBLE_S
    if not len(seconds) or seconds.max() <= high:  # a NaN compares as False and goes on
        return
    known = seconds[np.isfinite(seconds) & (seconds > 0)]
    middle = float(np.median(known)) if len(known) else 0.0
    raw = middle * PER_SECOND[log.event_time_unit]
    for unit, per_second in PER_SECOND.items():
        if middle > high and low <= raw / per_second <= high:
            day = date_of_seconds(raw / per_second, log.time_zone)
            raise BadLog(
                f"{log.event_time} holds values about {raw:,.0f}. In {_UNIT_NAMES[unit]} that is "
                f"{day}; in {_UNIT_NAMES[log.event_time_unit]}, the unit that the catalogue "
                f"declares, it is not between 1990 and 2100. Set event_time_unit = "
                f'"{unit}" under [log]; where only some files are so, write all in one unit'
            )


def refuse_coarser_unit(lowest: float, highest: float, log: LogSpec) -> None:
    """Refuse event times that lie between 1990 and 2100 in a coarser unit than the declared one.

    Args:
        lowest: the earliest of the sampled event times, in seconds by the declared unit. Times
            that are counted from the log's own start begin near 0, and pass.
        highest: the latest of them.
        log: the catalogue's log.

    Raises:
        BadLog: the message names the values, both units and the setting.
    """
    low, high = _PLAUSIBLE_S
    declared = PER_SECOND[log.event_time_unit]
    for unit, per_second in PER_SECOND.items():
        scale = declared / per_second
        if scale > 1 and low <= lowest * scale and highest * scale <= high:
            day = date_of_seconds(lowest * scale, log.time_zone)
            raise BadLog(
                f"{log.event_time} holds values from {lowest * declared:,.0f}. In "
                f"{_UNIT_NAMES[unit]} that is {day}; in {_UNIT_NAMES[log.event_time_unit]}, the "
                f"unit that the catalogue declares, it is "
                f'{date_of_seconds(lowest, log.time_zone)}. Set event_time_unit = "{unit}" '
                "under [log]"
            )


def window_seconds(first: date, last: date, time_zone: str) -> tuple[float, float]:
    """Return the Unix seconds at which `first` begins and `last` ends, in that zone."""
    zone = ZoneInfo(time_zone)
    start = datetime(first.year, first.month, first.day, tzinfo=zone)
    after = last + timedelta(days=1)
    end = datetime(after.year, after.month, after.day, tzinfo=zone)
    return start.timestamp(), end.timestamp()


def date_of_seconds(seconds: float, time_zone: str) -> date:
    """Return the calendar date of a moment.

    Args:
        seconds: Unix seconds.
        time_zone: zone in which dates are cut.

    Raises:
        BadLog: the moment lies outside the calendar.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).astimezone(ZoneInfo(time_zone)).date()
    except (ValueError, OverflowError) as error:
        raise BadLog(
            f"an event time of {seconds:.0f} seconds is in no calendar year; expected Unix time in "
            'the unit that [log] event_time_unit names (milliseconds are "ms"), or an Arrow '
            "timestamp"
        ) from error


def days_of(seconds: npt.NDArray[np.float64], log: LogSpec) -> dict[date, int]:
    """Return the number of moments on each calendar date, in the log's zone.

    Args:
        seconds: Unix seconds; those that are not finite, or before 1970, are left out. So is 0,
            which stands for an unknown time; where days are numbered it is the first day.
        log: the catalogue's log.

    Raises:
        BadLog: a moment lies outside the calendar.
    """
    is_known = seconds >= 0 if log.event_time_unit == "d" else seconds > 0
    known = seconds[np.isfinite(seconds) & is_known]
    if not len(known):
        return {}
    date_of_seconds(float(known.max()), log.time_zone)  # refuses what the calendar does not hold
    instants = pa.array((known * 1e6).astype(np.int64)).cast(pa.timestamp("us", log.time_zone))
    wall = pc.local_timestamp(instants).cast(pa.int64()).to_numpy()
    days, counts = np.unique(wall // 86_400_000_000, return_counts=True)
    epoch = date(1970, 1, 1).toordinal()
    pairs = zip(days.tolist(), counts.tolist(), strict=True)
    return {date.fromordinal(epoch + day): count for day, count in pairs}


def partition_of(file: LogFile, key: str) -> str | None:
    """Return a file's value of a partition key; None where it is null or unknown."""
    return dict(file.partition).get(key)
