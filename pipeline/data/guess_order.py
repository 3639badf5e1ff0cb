"""Guess a column that counts days or weeks, where a log has no dates.

Rows of a log stand in the order of their time, so such a number never falls from row to row. Splits
follow it: the last numbers are tested on.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from iak.pipeline.data.guess_events import has_no_name
from iak.pipeline.data.guess_labels import words_of
from iak.pipeline.data.log_sample import LogSample, kind_of

_PERIODS = words_of("day days d dt date week weeks month period step round time ts hour pt")
"""Words of a column that counts periods."""
_FEWEST, _MOST = 3, 400
"""Fewest and most periods."""
_FEWEST_UNNAMED = 7
"""Fewest periods of a column without a name."""
_ROWS_OF_A_PERIOD = 20
"""Fewest mean rows of a period."""
_RUN = 0.5
"""Least share of the numbers between the first and the last period that occur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderGuess:
    """A column that counts periods."""

    column: str
    rows_by_value: dict[str, int]
    """Period as text -> its sampled rows, the first period first."""
    why: str


def guess_order(sample: LogSample, *, skipped: Collection[str] = ()) -> OrderGuess | None:
    """Return the column that counts the periods of a log without dates; None without one.

    Args:
        sample: sampled rows, in the order of the files.
        skipped: columns that are known to be something else.
    """
    names = [n for n in sample.rows.schema.names if n not in skipped and n not in sample.uneven]
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
    texts = column.combine_chunks()
    if is_folder and not pc.all(pc.match_substring_regex(texts, r"^\d{1,9}$")).as_py():
        return None
    if kind_of(column.type) != ("text" if is_folder else "whole"):
        return None
    numbers = texts.cast("int64").to_numpy(zero_copy_only=False)
    values, counts = np.unique(numbers, return_counts=True)
    fewest = _FEWEST if is_named else _FEWEST_UNNAMED
    is_run = len(values) >= _RUN * (values[-1] - values[0] + 1) if len(values) else False
    if not fewest <= len(values) <= _MOST or not is_run:
        return None
    if counts.mean() < _ROWS_OF_A_PERIOD or (not is_folder and (np.diff(numbers) < 0).any()):
        return None
    written = {int(text): text for text in pc.unique(texts).to_pylist()} if is_folder else {}
    by_value = {
        written.get(int(value), str(value)): int(count)
        for value, count in zip(values, counts, strict=True)
    }
    where = "folders are numbered by it" if is_folder else "it never falls from row to row"
    why = f"it counts {len(values)} periods from {values[0]} to {values[-1]}: {where}"
    return OrderGuess(column=name, rows_by_value=by_value, why=why)
