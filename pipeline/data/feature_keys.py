"""Give each encoded row a 128-bit key of its features.

A row's values v_j are summed with fixed random 64-bit coefficients a_j, in two lanes l with
different coefficients:

    key_l = sum over j of a_jl v_j   mod 2^64,   l = 0, 1

Two rows that differ have the same key with a probability of at most 2^-2(64 - t), where 2^t is the
largest power of two that divides all their differences (t < 24 for numbers, and small for ids). The
activation cache finds a row by this key.

Source: Lemire, Kaser 2014, "Strongly universal string hashing is fast", section 3 (multilinear).
Shapes: n rows.
"""

import functools
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import hashing
from iak.pipeline.data.features import INPUTS
from iak.pipeline.data.hashing import Keys

LANES = 2
FeatureKeys = npt.NDArray[np.uint64]
"""n x LANES."""
_ROWS = 8_192
"""Rows summed at a time, so that intermediate arrays stay in the processor's cache."""


def feature_keys(rows: pa.RecordBatch) -> FeatureKeys:
    """Return the key of each encoded row, over everything that a base reads of it, n x LANES.

    The key depends on nothing else: not on the file, the row group, the order or the labels.

    Args:
        rows: encoded rows. Keys are comparable only under one encoding.
    """
    names = [n for n in rows.schema.names if n.startswith(INPUTS)]
    keys = np.zeros((LANES, len(rows)), np.uint64)
    for start in range(0, len(rows), _ROWS):
        part = rows.slice(start, _ROWS)
        for number, name in enumerate(names):
            _add(keys[:, start : start + _ROWS], part.column(name), number)
    return np.ascontiguousarray(keys.T)


def _add(keys: FeatureKeys, column: pa.Array, number: int) -> None:
    """Add one column to the keys of its rows, in place.

    Args:
        keys: LANES x n.
        column: ids, lists of ids, or numbers of the n rows.
        number: position of the column among those of the row, which chooses its coefficients.
    """
    if not pa.types.is_list(column.type):
        values = _as_words(column)
        for lane in range(LANES):
            keys[lane] += values * _coefficients(number, lane, 1)[0]
        return
    # An item is weighed by its position in its list, so that lists of another order differ.
    ends = column.offsets.to_numpy().astype(np.int64)
    lengths = np.diff(ends)
    values = _as_words(column.values.slice(int(ends[0]), int(ends[-1] - ends[0])))
    positions = np.arange(len(values)) - np.repeat(ends[:-1] - ends[0], lengths)
    longest = int(lengths.max(initial=0))
    for lane in range(LANES):
        coefficients = _coefficients(number, lane, _power_above(longest + 1))
        # The sum of a list is a difference of two running sums; both wrap around alike mod 2^64.
        sums = np.zeros(len(values) + 1, np.uint64)
        np.cumsum(values * coefficients[1:][positions], out=sums[1:])
        keys[lane] += sums[ends[1:] - ends[0]] - sums[ends[:-1] - ends[0]]
        # The length counts too: a list with zeros at its end must differ from a shorter one.
        keys[lane] += lengths.astype(np.uint64) * coefficients[0]


def _as_words(column: pa.Array) -> Keys:
    """Return ids as they are, and numbers as the integers of their bits."""
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype == np.float32:
        return cast("Keys", values.view(np.uint32).astype(np.uint64))
    if values.dtype == np.float64:
        return cast("Keys", values.view(np.uint64))
    return cast("Keys", values.astype(np.int64, copy=False).view(np.uint64))


def _power_above(count: int) -> int:
    """Return the smallest power of two that is not below a count.

    Few sizes of `_coefficients` are then asked for, and all of them are cached.
    """
    return 1 << max(count - 1, 0).bit_length()


@functools.lru_cache(maxsize=4096)
def _coefficients(number: int, lane: int, count: int) -> Keys:
    """Return the fixed random coefficients of a column, the first `count` of one sequence."""
    stream = hashing.key_of_text(f"feature {number} lane {lane}")
    with np.errstate(over="ignore"):
        return hashing.mix(hashing.mix(np.arange(count, dtype=np.uint64)) + stream)
