"""Guess a column or a key of folders that counts days or weeks, where a log has no dates.

Rows of a log stand in the order of their time, so such a number never falls from row to row. Where
rows were shuffled, only a day that can be neither of the week nor of the month counts: it begins at
0 and goes beyond 6, or goes beyond 31. Splits follow the number: the last ones are tested on. A
number that may be that of a day since 1970 is read as one, so that rows have days: labels of
earlier days are then known on later ones.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import splits
from iak.pipeline.data.guess_events import has_no_name
from iak.pipeline.data.guess_labels import words_of
from iak.pipeline.data.log_sample import Floats, LogSample, kind_of

_NUMBERED = r"^(?:.*\D)?(\d{1,9})$"
"""The name of a folder that ends in a number: `7`, or `day_7`."""
_DAYS = words_of("day days")
"""Words of a column that counts days, where rows have no order."""
_LAST_OF_WEEK, _LAST_OF_MONTH = 6, 31
"""Last number of a day of the week that is counted from 0, and last one of a month."""
_PERIODS = words_of("day days d dt date week weeks month period step round time ts hour pt")
"""Words of a column that counts periods."""
_FEWEST, _MOST = 3, 400
"""Fewest and most periods."""
_FEWEST_UNNAMED = 7
"""Fewest periods of a column without a name."""
_LAST_DAY = 24_837
"""2037-12-31: numbers up to it may be days since 1970, or since the log's start."""
_ROWS_OF_A_PERIOD = 20
"""Fewest mean rows of a period."""
_RUN = 0.5
"""Least share of the numbers between the first and the last period that occur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderGuess:
    """A column or a key of folders that counts periods."""

    column: str
    is_folder: bool
    rows_by_value: dict[str, int]
    """Period as text -> its sampled rows, the first period first."""
    numbers: Floats
    """Number of each sampled row's period."""
    why: str

    @property
    def days(self) -> dict[str, date] | None:
        """Return the day that each period stands for; None where a catalogue cannot say it."""
        days = {text: splits.numbered_day(text) for text in self.rows_by_value}
        known = {text: day for text, day in days.items() if day}
        is_possible = len(known) == len(days) and self.numbers.max() <= _LAST_DAY
        return known if is_possible else None


def guess_order(sample: LogSample, *, skipped: Collection[str] = ()) -> OrderGuess | None:
    """Return the column that counts the periods of a log without dates; None without one.

    Args:
        sample: sampled rows, in the order of the files.
        skipped: columns that are known to be something else; keys of folders are not skipped.
    """
    others = {*skipped, *sample.uneven} - {*sample.partition_keys}
    names = [n for n in sample.rows.schema.names if n not in others]
    # A folder's number has an order of its own; that of a column is seen in the order of rows.
    for name in sorted(names, key=lambda name: name not in sample.partition_keys):
        guess = _order_of(sample, name)
        if guess:
            return guess
    return None


def _order_of(sample: LogSample, name: str) -> OrderGuess | None:
    """Return a column with its periods; None where it counts none."""
    is_named, is_folder = bool(words_of(name) & _PERIODS), name in sample.partition_keys
    column = sample.rows.column(name)
    if not (is_named or has_no_name(name)) or column.null_count:
        return None
    written = _numbers_of_folders(column) if is_folder else {}
    if kind_of(column.type) != ("text" if is_folder else "whole") or (is_folder and not written):
        return None
    numbers = _numbers(column, written)
    values, counts = np.unique(numbers, return_counts=True)
    fewest = _FEWEST if is_named else _FEWEST_UNNAMED
    is_run = len(values) >= _RUN * (values[-1] - values[0] + 1) if len(values) else False
    if not fewest <= len(values) <= _MOST or not is_run or counts.mean() < _ROWS_OF_A_PERIOD:
        return None
    if is_folder:
        where = "folders or files are numbered by it"
    elif not (np.diff(numbers) < 0).any():
        where = "it never falls from row to row"
    elif words_of(name) & _DAYS and _are_no_calendar_days(values):
        where = "its numbers are no days of a week or a month"
    else:
        return None
    texts = {number: text for text, number in written.items()}
    by_value = {
        texts.get(int(value), str(value)): int(count)
        for value, count in zip(values, counts, strict=True)
    }
    why = f"it counts {len(values)} periods from {values[0]} to {values[-1]}: {where}"
    return OrderGuess(
        column=name,
        is_folder=is_folder,
        rows_by_value=by_value,
        numbers=numbers.astype(np.float64),
        why=why,
    )


def _numbers_of_folders(column: pa.ChunkedArray) -> dict[str, int]:
    """Return the number at the end of each folder's name; none where a name lacks it, or two agree.

    Names that differ before the number, as `day_1` and `week_1`, are not numbered alike.
    """
    names = pc.unique(column.combine_chunks().cast(pa.string())).to_pylist()
    found = {name: match for name in names if (match := re.fullmatch(_NUMBERED, name))}
    numbers = {name: int(match[1]) for name, match in found.items()}
    before = {name[: match.start(1)] for name, match in found.items()}
    is_numbered = len(found) == len(names) == len({*numbers.values()}) and len(before) <= 1
    return numbers if is_numbered else {}


def _numbers(column: pa.ChunkedArray, written: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Return the number of each row: a column's value, or that of a folder's name."""
    values = column.combine_chunks()
    if not written:
        return np.asarray(values.cast("int64").to_numpy(zero_copy_only=False))
    coded = values.cast(pa.string()).dictionary_encode()
    of_names = np.array([written[name] for name in coded.dictionary.to_pylist()], np.int64)
    numbers: npt.NDArray[np.int64] = of_names[coded.indices.to_numpy(zero_copy_only=False)]
    return numbers


def _are_no_calendar_days(values: npt.NDArray[np.int64]) -> bool:
    """Return whether ascending numbers can be neither days of a week nor days of a month."""
    first, last = int(values[0]), int(values[-1])
    return (first == 0 and last > _LAST_OF_WEEK) or (first <= 1 and last > _LAST_OF_MONTH)
