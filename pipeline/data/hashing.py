"""Hash ids and rows to 64-bit keys that do not depend on order, machine or process.

Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators" (the mix of
splitmix64); Fowler, Noll, Vo (FNV-1a) for bytes.
"""

from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Keys = npt.NDArray[np.uint64]

_FNV_START = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_BLOCK = 16_384
"""Keys mixed at a time, so that intermediate arrays stay in the processor's cache."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(keys: Keys) -> Keys:
    """Return each key mixed by the finaliser of splitmix64, a bijection of 64-bit words."""
    if len(keys) <= _BLOCK:
        return _mixed(keys)
    mixed = np.empty(len(keys), np.uint64)
    for start in range(0, len(keys), _BLOCK):
        mixed[start : start + _BLOCK] = _mixed(keys[start : start + _BLOCK])
    return mixed


def _mixed(keys: Keys) -> Keys:
    with np.errstate(over="ignore"):
        x = keys + _GOLDEN
        high = x >> np.uint64(30)  # the one array that the later shifts write to as well
        x ^= high
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= np.right_shift(x, np.uint64(27), out=high)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= np.right_shift(x, np.uint64(31), out=high)
    return x


def combine(first: Keys, second: Keys) -> Keys:
    """Return one key for each ordered pair of keys."""
    with np.errstate(over="ignore"):
        return mix(mix(first) * np.uint64(31) + second)


def key_of_text(text: str) -> np.uint64:
    """Return the key of one string, the same as `keys_of` gives it in a column."""
    return np.uint64(keys_of(pa.array([text], pa.string()))[0])


def keys_of(values: pa.Array) -> Keys:
    """Return one key for each value: of integers by value, of text by its UTF-8 bytes.

    The width of an integer does not matter. Nulls get an arbitrary key; callers mask them.

    Raises:
        TypeError: the column holds something that is not an id (floats, times, structs).
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_boolean(values.type) or pa.types.is_integer(values.type):
        wide = values.cast(pa.int64(), safe=False).fill_null(0)
        return mix(wide.to_numpy(zero_copy_only=False).view(np.uint64))
    distinct = coded(values)
    keys = np.append(keys_of_words(distinct.dictionary), np.uint64(0))
    return keys[dictionary_indices(distinct)]


def coded(values: pa.Array) -> pa.DictionaryArray:
    """Return the values as a dictionary, so that each distinct word is hashed once.

    Raises:
        TypeError: the column holds something that is not an id (floats, times, structs).
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    is_coded = pa.types.is_dictionary(values.type)
    words = values.type.value_type if is_coded else values.type
    is_text = pa.types.is_string(words) or pa.types.is_large_string(words)
    if not (is_text or pa.types.is_integer(words) or pa.types.is_boolean(words)):
        raise TypeError(f"a column of type {values.type} holds no ids; expected integers or text")
    return values if is_coded else values.dictionary_encode()


def dictionary_indices(values: pa.DictionaryArray) -> npt.NDArray[np.int64]:
    """Return each value's index in the dictionary; a null has the index after the last word."""
    indices = values.indices.cast(pa.int64(), safe=False).fill_null(len(values.dictionary))
    return cast("npt.NDArray[np.int64]", indices.to_numpy(zero_copy_only=False))


def keys_of_words(words: pa.Array) -> Keys:
    """Return the keys of a dictionary's words: FNV-1a over the bytes of each.

    All words are hashed at once, one byte of each at a time.
    """
    if pa.types.is_boolean(words.type) or pa.types.is_integer(words.type):
        return keys_of(words)
    words = words.cast(pa.large_string()).fill_null("")
    buffers = words.buffers()
    ends = np.frombuffer(buffers[1], np.int64)[words.offset : words.offset + len(words) + 1]
    data = np.frombuffer(buffers[2] or b"\0", np.uint8)
    lengths = np.diff(ends)
    # Longest words first: those that still have a byte are then a prefix of the array.
    order = np.argsort(-lengths, kind="stable")
    starts, lengths = ends[:-1][order], lengths[order]
    sorted_keys = np.full(len(words), _FNV_START)
    longest = int(lengths[0]) if len(lengths) else 0
    with_byte = np.searchsorted(-lengths, -np.arange(longest), side="left")
    with np.errstate(over="ignore"):
        for position, count in enumerate(with_byte):
            sorted_keys[:count] ^= data[starts[:count] + position]
            sorted_keys[:count] *= _FNV_PRIME
    keys = np.empty(len(words), np.uint64)
    keys[order] = sorted_keys
    return mix(keys)


def keys_of_positions(file_key: np.uint64, first: int, count: int) -> Keys:
    """Return the keys of consecutive rows of a file.

    Args:
        file_key: key of the file's path.
        first: position of the first row in the file.
        count: number of rows.
    """
    positions = np.arange(first, first + count, dtype=np.uint64)
    return combine(np.full(count, file_key), positions)


def unit_interval(keys: Keys, *, salt: int) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each key; another salt gives independent numbers."""
    salted = combine(keys, np.full(len(keys), np.uint64(salt)))
    # A double has 53 bits of precision: the upper 53 bits of the key.
    return (salted >> np.uint64(11)).astype(np.float64) * 2.0**-53
