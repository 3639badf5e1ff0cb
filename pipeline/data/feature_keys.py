"""Name encoded rows by what a base reads of them: a 128-bit key a row.

A row's values v_j are summed with fixed random 64-bit coefficients a_j, twice with others:

    key_l = sum over j of a_jl v_j   mod 2^64,   l = 0, 1

Two rows that differ have the same key with a probability of at most 2^-2(64 - t), where 2^t is the
largest power of two that divides all their differences (t < 24 for numbers, and small for ids).

Source: Lemire, Kaser 2014, "Strongly universal string hashing is fast", section 3 (multilinear).
Shapes: n rows.
"""

import functools
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import hashing
from iak.pipeline.data.hashing import Keys

LANES = 2
FeatureKeys = npt.NDArray[np.uint64]
"""n x LANES."""
_ROWS = 8_192
"""Rows summed at a time: they stay in the processor's cache."""


def feature_keys(rows: pa.RecordBatch) -> FeatureKeys:
    """Return the key of each encoded row, over its ids (`f.*`) and numbers (`n.*`).

    A row keeps its key wherever it lies: in another file, row group or order, with other labels.

    Args:
        rows: as features.encode gives them, under one encoding.
    """
    names = [n for n in rows.schema.names if n.startswith(("f.", "n."))]
    keys = np.zeros((LANES, len(rows)), np.uint64)
    for start in range(0, len(rows), _ROWS):
        part = rows.slice(start, _ROWS)
        for number, name in enumerate(names):
            _add(keys[:, start : start + _ROWS], part.column(name), number)
    return np.ascontiguousarray(keys.T)


def _add(keys: FeatureKeys, column: pa.Array, number: int) -> None:
    """Add one column to the keys of its rows."""
    if not pa.types.is_list(column.type):
        values = _as_words(column)
        for lane in range(LANES):
            keys[lane] += values * _coefficients(number, lane, 1)[0]
        return
    ends = column.offsets.to_numpy().astype(np.int64)
    lengths = np.diff(ends)
    values = _as_words(column.values.slice(int(ends[0]), int(ends[-1] - ends[0])))
    positions = np.arange(len(values)) - np.repeat(ends[:-1] - ends[0], lengths)
    longest = int(lengths.max(initial=0))
    for lane in range(LANES):
        coefficients = _coefficients(number, lane, _power_above(longest + 1))
        sums = np.zeros(len(values) + 1, np.uint64)
        np.cumsum(values * coefficients[1:][positions], out=sums[1:])
        keys[lane] += sums[ends[1:] - ends[0]] - sums[ends[:-1] - ends[0]]
        keys[lane] += lengths.astype(np.uint64) * coefficients[0]


def _as_words(column: pa.Array) -> Keys:
    """Return ids as they are, numbers by their bits."""
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype == np.float32:
        return cast("Keys", values.view(np.uint32).astype(np.uint64))
    if values.dtype == np.float64:
        return cast("Keys", values.view(np.uint64))
    return cast("Keys", values.astype(np.int64, copy=False).view(np.uint64))


def _power_above(count: int) -> int:
    """Return the smallest power of two that is not below a count: few sizes are ever asked for."""
    return 1 << max(count - 1, 0).bit_length()


@functools.lru_cache(maxsize=4096)
def _coefficients(number: int, lane: int, count: int) -> Keys:
    """Return the fixed random coefficients of a column; a longer row of them begins alike."""
    stream = hashing.key_of_text(f"feature {number} lane {lane}")
    with np.errstate(over="ignore"):
        return hashing.mix(hashing.mix(np.arange(count, dtype=np.uint64)) + stream)
