"""Guess which column of a log has the event's time, and in which way it is written.

A time is an Arrow timestamp or date, a number that counts from 1970 or from the log's own start, or
text or digits in one of the usual formats.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from zoneinfo import available_timezones

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import splits
from iak.pipeline.data.guess_labels import OTHER_TIMES, Guess, is_feedback, words_of
from iak.pipeline.data.log_sample import Floats, LogSample, amounts, kind_of, numbers
from iak.pipeline.data.written import WrittenTime, decoded_text
from iak.schemas.log import ISO, UNIX

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Unit of a time -> how many of it a second has."""
FORMATS = (
    ISO,
    "%Y%m%d",
    "%Y%m%d%H",
    "%y%m%d%H",
    "%Y%m%d%H%M",
    "%Y%m%d%H%M%S",
    "%Y-%m-%d %H",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%m/%d/%Y",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %I:%M:%S %p",
    "%d/%m/%Y",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%a %b %d %H:%M:%S %z %Y",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M:%S",
)
"""Formats in which logs write times; of several that read all values, the first is taken."""
SHORT_DAY = "%y%m%d"
"""Format of days as 261005. Numbers of six digits may be months or ids as well, so it is taken only
where all values are days that no month has, and that lie close to each other."""
_SHORT = r"^\d{6}$"
_NO_MONTH = r"(1[3-9]|[23]\d)$"
"""End of a day that no month has."""
_CLOSE = 0.5
"""Least share of the days from the first to the last that occur, where days have two digits of a
year."""
_FIRST_SECOND, _LAST_SECOND = 631_152_000.0, 2_145_916_800.0
"""1990 and 2038: whole numbers between them may be Unix seconds."""
DAY_S = 86_400
"""Seconds of a day."""
TIME_WORDS = words_of("time ts timestamp date at datetime when unixtime")
_ELAPSED = {"s": 10 * 366 * DAY_S, "ms": 10_000 * 366 * DAY_S}
"""Unit of a time since the log's start -> largest value of ten years."""
_FIRST_ELAPSED = 0.05
"""Largest value, as a share of the last one, from which a time since the log's start begins."""
_SPANS = words_of("since last previous diff gap delta elapsed duration spent per avg mean")
"""Words of a span of time, which is no time of an event."""
_FEWEST_DAYS = 4
"""Days between the first and the last row, below which no column is said to show the day."""
_FEWEST_DAYS_OF_A_YEAR = 5
"""Fewest days, each a month and a day without a year, that show that a column has such days."""
_FEWEST_ROWS_OF_A_VALUE = 20
"""Fewest mean rows of a value that shows a day. With fewer it is an id that is seldom seen."""
_MISSING_TIMES = 0.1
"""Largest share of rows without a time, of a column that is preferred as the event's time."""
_ONE_DAY = 0.99
"""Least share of rows whose value lies on one day alone, where a column shows the day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The values of a column as times."""

    unit: str
    """`timestamp`, `written`, or what a number counts: s, ms, us, ns."""
    seconds: Floats
    """Unix seconds of each row; NaN where there is no time."""
    format: str | None = None
    """How they are written, in text or digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeGuess:
    """The column of the event's time, how it is written, and the zone its dates are cut in."""

    column: str
    unit: str
    """`timestamp`, `written`, or what a number counts: d, s, ms, us, ns."""
    time_zone: str
    why: str
    zone_why: str
    format: str | None = None
    """How it is written, in text or digits."""
    is_elapsed: bool = False
    """Whether it counts from the log's start, which then stands at the beginning of 1970."""

    def seconds_of(self, rows: pa.Table) -> Floats:
        """Return the time of each row in Unix seconds; NaN where there is none."""
        if self.unit == "d":
            days = amounts(rows.column(self.column))
            return np.full(len(rows), np.nan) if days is None else days * DAY_S
        read = elapsed_of if self.is_elapsed else times_of
        times = read(rows.column(self.column))
        return times.seconds if times else np.full(len(rows), np.nan)


def guess_time(sample: LogSample, date_key: Guess | None) -> TimeGuess | None:
    """Guess the column of the event's time by type or size, by name, and by the folders' dates.

    Args:
        sample: sampled rows.
        date_key: the partition key whose values are dates.
    """
    best: tuple[tuple[float, ...], str, Times] | None = None
    rows = sample.rows
    days = _folder_days(rows, date_key)
    for name in rows.schema.names:
        if name in sample.partition_keys or name in sample.uneven:
            continue
        times = times_of(rows.column(name))
        if times is None:
            continue
        words = words_of(name)
        if words & OTHER_TIMES:
            continue
        is_named = bool(words & TIME_WORDS) or any(w.endswith("time") for w in words)
        is_span = bool(words & _SPANS) or is_feedback(name) or not is_named
        if pa.types.is_duration(rows.schema.field(name).type) and is_span:
            continue
        agrees = _agreement(times.seconds, days)[1] if days is not None else 0.0
        is_sure = times.unit in ("timestamp", "written") or is_named or agrees > 0.9
        if not is_sure and not _varies_like_time(times.seconds):
            continue
        is_event = bool(words & {"event", "request", "impression", "log", "click", "ts"})
        # What did not happen in each row, such as a click, has no time in each row.
        is_full = float(np.isnan(times.seconds).mean()) <= _MISSING_TIMES
        rank = (agrees, is_full, is_named, is_event, float(len(np.unique(times.seconds))))
        if best is None or rank > best[0]:
            best = (rank, name, times)
    if best is None:
        return _guess_elapsed(sample)
    _, name, times = best
    zoned = _is_zoned(rows, name, times)
    zone, zone_why = _zone(times.seconds, days, is_zoned=zoned, named=_named_zone(rows, name))
    first, last = (datetime.fromtimestamp(s, UTC).date() for s in _ends(times.seconds))
    return TimeGuess(
        column=name,
        unit=times.unit,
        format=times.format,
        time_zone=zone,
        why=f"{_described(times)}, {first} to {last}",
        zone_why=zone_why,
    )


def _guess_elapsed(sample: LogSample) -> TimeGuess | None:
    """Return a column that is named a time and counts from the log's start; None without one."""
    rows = sample.rows
    for name in rows.schema.names:
        words = words_of(name)
        if name in sample.uneven or not words & TIME_WORDS:
            continue
        if words & (OTHER_TIMES | _SPANS) or is_feedback(name):
            continue
        times = elapsed_of(rows.column(name))
        if times is None:
            continue
        days = _ends(times.seconds)[1] / DAY_S
        return TimeGuess(
            column=name,
            unit=times.unit,
            format=times.format,
            time_zone="UTC",
            why=f"numbers that begin near 0, read as {times.unit} since the log's start over "
            f"{days:.1f} days; its first day stands as 1970-01-01",
            zone_why="days are counted from the start",
            is_elapsed=True,
        )
    return None


def elapsed_of(column: pa.ChunkedArray) -> Times | None:
    """Return numbers as times since the log's start; None where they cannot be such times.

    They begin near zero, and last between two days and ten years.
    """
    values = amounts(column)
    if values is None or np.isnan(values).all() or len(np.unique(values)) <= 50:
        return None
    low, high = _ends(values)
    unit = next((unit for unit, longest in _ELAPSED.items() if high <= longest), None)
    if unit is None or low < 0 or low > _FIRST_ELAPSED * high or _are_clocks(values):
        return None
    if high / UNITS[unit] < 2 * DAY_S:
        return None
    format_ = UNIX if kind_of(column.type) == "text" else None
    return Times(unit=unit, seconds=values / UNITS[unit], format=format_)


def _are_clocks(values: Floats) -> bool:
    """Return whether all numbers are times of day, as 93015 is 09:30:15."""
    known = values[~np.isnan(values)]
    return bool(
        (known < 240_000).all() and (known % 100 < 60).all() and (known % 10_000 < 6_000).all()
    )


def _described(times: Times) -> str:
    if times.unit == "timestamp":
        return "a timestamp"
    if times.format == SHORT_DAY:
        return "every sampled value is a day as yymmdd, and most days between occur"
    if times.unit == "written":
        return "every sampled value is such a time"
    return f"numbers that are Unix times in {times.unit}"


def _ends(seconds: Floats) -> tuple[float, float]:
    return float(np.nanmin(seconds)), float(np.nanmax(seconds))


def _is_zoned(rows: pa.Table, name: str, times: Times) -> bool:
    kind = rows.schema.field(name).type
    if times.unit == "timestamp":
        return bool(pa.types.is_timestamp(kind)) and kind.tz is not None
    return times.unit != "written"


def times_of(column: pa.ChunkedArray) -> Times | None:
    """Return a column's values as times; None where they cannot be times."""
    kind = kind_of(column.type)
    if kind in ("text", "whole") and (written := _written(column)):
        return written
    values = numbers(column) if kind == "time" else amounts(column)
    if values is None:
        return None
    values = np.where(values > 0, values, np.nan)
    if np.isnan(values).all():
        return None
    format_ = UNIX if kind == "text" else None
    low, high = _ends(values)
    if kind == "time":
        is_possible = low > -_LAST_SECOND and high < 4 * _LAST_SECOND
        return Times(unit="timestamp", seconds=values) if is_possible else None
    for unit, per_second in UNITS.items():
        if _FIRST_SECOND * per_second <= low and high <= _LAST_SECOND * per_second:
            return Times(unit=unit, seconds=values / per_second, format=format_)
    return None


def _written(column: pa.ChunkedArray) -> Times | None:
    """Return times in text or digits, where one format reads every value."""
    distinct = pc.unique(column.drop_null())
    few = distinct[:50]  # most columns are no times, which a few values show
    for written in (*FORMATS, SHORT_DAY):
        if written == SHORT_DAY and not _are_short_days(distinct):
            continue
        if len(few) and _all_times(few, written) and _all_times(distinct, written):
            values = column.combine_chunks()
            seconds = splits.seconds_of(WrittenTime(format=written).read(values))
            seconds = np.where(np.isfinite(seconds), seconds, np.nan)
            return Times(unit="written", seconds=seconds, format=written)
    return None


def _are_short_days(values: pa.Array) -> bool:
    """Return whether distinct values are days as yymmdd, of which most between occur."""
    texts = decoded_text(values)
    if not len(texts) or not pc.all(pc.match_substring_regex(texts, _SHORT)).as_py():
        return False
    if not _all_times(values, SHORT_DAY):
        return False
    seconds = splits.seconds_of(WrittenTime(format=SHORT_DAY).read(values))
    days = (seconds.max() - seconds.min()) / DAY_S + 1
    is_no_month = pc.any(pc.match_substring_regex(texts, _NO_MONTH)).as_py()
    return bool(is_no_month and len(texts) > _FEWEST_DAYS and len(texts) >= _CLOSE * days)


def _all_times(values: pa.Array, written: str) -> bool:
    """Return whether a format reads every value as a time between 1990 and 2038."""
    try:
        seconds = splits.seconds_of(WrittenTime(format=written).read(values))
    except pa.ArrowInvalid:
        return False
    low, high = seconds.min(), seconds.max()
    return bool(low >= _FIRST_SECOND and high <= _LAST_SECOND)


def _varies_like_time(seconds: Floats) -> bool:
    """Return whether numbers are spread like times: many values, over an hour to thirty years."""
    low, high = _ends(seconds)
    return len(np.unique(seconds)) > 50 and 3600 < high - low < 30 * 366 * DAY_S


def is_month_and_day(name: str, column: pa.ChunkedArray) -> bool:
    """Return whether a column is named a time and has a month and a day without a year, as 1111."""
    known = column.drop_null()
    if kind_of(column.type) not in ("whole", "text") or not words_of(name) & TIME_WORDS:
        return False
    digits = pc.unique(known.cast(pa.string()))
    pattern = r"^(0?[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])$"
    is_written = pc.all(pc.match_substring_regex(digits, pattern)).as_py()
    return bool(is_written and len(digits) >= _FEWEST_DAYS_OF_A_YEAR)


def day_columns(
    rows: pa.Table,
    names: Iterable[str],
    date_key: Guess | None,
    time: TimeGuess | None,
    numbers: Floats | None = None,
) -> dict[str, str]:
    """Return the columns that tell the day of a row, each with a reason.

    Each of their values lies on one day, or is the event's time once more. So later rows have only
    values that earlier rows never had, and a model learns nothing of them.

    Args:
        rows: sampled rows.
        names: columns that may be features.
        date_key: the partition key whose values are dates.
        time: the column of the event's time.
        numbers: number of each row's day or week, in a log without dates.
    """
    days = _folder_days(rows, date_key) if date_key else numbers
    seconds = time.seconds_of(rows) if time is not None else None
    if days is None and seconds is not None:
        days = np.floor(seconds / DAY_S)
    if days is None or np.nanmax(days) - np.nanmin(days) < _FEWEST_DAYS:
        return {}
    reasons: dict[str, str] = {}
    for name in names:
        column = rows.column(name)
        if kind_of(column.type) in ("text", "whole") and _shows_day(column, days):
            reasons[name] = "each of its values lies on one day, so later rows have other values"
        elif seconds is not None and _repeats_time(column, seconds):
            reasons[name] = "it is the event's time once more"
    return reasons


def _repeats_time(column: pa.ChunkedArray, seconds: Floats) -> bool:
    """Return whether a column's times lie within a day of those of the events."""
    times = times_of(column)
    if times is None:
        return False
    known = ~np.isnan(times.seconds) & ~np.isnan(seconds)
    near = np.abs(times.seconds[known] - seconds[known]) <= DAY_S
    return bool(known.any() and near.mean() >= _ONE_DAY)


def _shows_day(column: pa.ChunkedArray, days: Floats) -> bool:
    coded = column.combine_chunks().dictionary_encode()
    known = ~np.isnan(days) & coded.is_valid().to_numpy(zero_copy_only=False)
    codes = coded.indices.fill_null(0).to_numpy(zero_copy_only=False)[known]
    values, owner, counts = np.unique(codes, return_inverse=True, return_counts=True)
    if len(values) < 3 or len(codes) < _FEWEST_ROWS_OF_A_VALUE * len(values):
        return False
    first, last = np.full(len(values), np.inf), np.full(len(values), -np.inf)
    np.minimum.at(first, owner, days[known])
    np.maximum.at(last, owner, days[known])
    # The column may cut its days in another zone.
    return bool(counts[last - first <= 1].sum() >= _ONE_DAY * len(codes))


def _folder_days(rows: pa.Table, date_key: Guess | None) -> Floats | None:
    """Return the day of each row's folder, as days since 1970; NaN where the folder has no date."""
    if date_key is None:
        return None
    coded = rows.column(date_key.column).combine_chunks().dictionary_encode()
    parsed = [splits.parse_date(v) for v in coded.dictionary.to_pylist()]
    days = [(d - date(1970, 1, 1)).days if d else np.nan for d in parsed]
    codes = coded.indices.fill_null(len(days)).to_numpy(zero_copy_only=False)
    days_of_rows: Floats = np.array([*days, np.nan])[codes]
    return days_of_rows


def _agreement(seconds: Floats, days: Floats) -> tuple[int, float]:
    """Return the offset from UTC, in hours, at which most times fall on their folders' dates.

    Return the share of such times as well. Offsets near zero are tried first, so that UTC wins a
    tie.
    """
    known = ~np.isnan(seconds) & ~np.isnan(days)
    shares = {
        hours: float((np.floor((seconds[known] + 3600 * hours) / DAY_S) == days[known]).mean())
        if known.any()
        else 0.0
        for hours in sorted(range(-12, 15), key=abs)
    }
    best = max(shares, key=lambda hours: round(shares[hours], 3))
    return best, shares[best]


def _named_zone(rows: pa.Table, name: str) -> str | None:
    """Return the zone of a city that a timestamp's type names; None for UTC and offsets."""
    kind = rows.schema.field(name).type
    zone: str = (pa.types.is_timestamp(kind) and kind.tz) or ""
    return zone if "/" in zone and zone in available_timezones() else None


def _zone(
    seconds: Floats, days: Floats | None, *, is_zoned: bool, named: str | None
) -> tuple[str, str]:
    if days is None and named:
        return named, "the zone that the column's type names"
    if days is None:
        return "UTC", "folder dates do not show the zone; name your city's, such as Asia/Shanghai"
    hours, share = _agreement(seconds, days)
    if not is_zoned:
        return "UTC", "times without a zone are read as wall clock here; name your city's zone"
    why = f"{share:.1%} of the times fall on their folders' dates there"
    # POSIX reverses the sign: Etc/GMT-9 is nine hours ahead of UTC.
    zone = "UTC" if hours == 0 else f"Etc/GMT{-hours:+d}"
    return zone, why if hours == 0 else f"{why}; your city's own zone knows summer time"
