"""Write the domain of each row as columns: its name at a level, and the values of its keys."""

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.ids import Ids, known, whole_numbers
from iak.schemas.domain import ESCAPES, POOLED, escaped


def domain_names(rows: pa.RecordBatch, keys: tuple[str, ...]) -> pa.DictionaryArray:
    """Return each row's `Domain.name` at the level of these keys; null where a key is null."""
    if not keys:
        return _repeated(pa.array([POOLED]), len(rows))
    coded = [_as_dictionary(rows.column(key)) for key in keys]
    if all(len(column.dictionary) == 1 and not column.null_count for column in coded):
        name = _joined(keys, coded, np.zeros(1, np.int64))
        if len(rows) and not name.null_count:  # usual: all rows are of one partition
            return _repeated(name, len(rows))
    combinations = _combined(coded).dictionary_encode()
    names = _joined(keys, coded, combinations.dictionary.to_numpy())
    named = pa.DictionaryArray.from_arrays(combinations.indices, names)
    # Two combinations may have one name where a dictionary repeats a word; then encode again.
    if names.null_count or len(names.unique()) < len(names):
        named = named.dictionary_decode().dictionary_encode()
    return cast("pa.DictionaryArray", named)


def key_values(column: pa.Array) -> pa.DictionaryArray:
    """Return a key's values as text, each word once."""
    coded = _as_dictionary(column)
    words = coded.dictionary.cast(pa.string())
    if len(words) == 1 and not coded.null_count:  # usual: all rows are of one partition
        return _repeated(words, len(coded))
    return pa.DictionaryArray.from_arrays(coded.indices.cast(pa.int32()), words)


def _as_dictionary(column: pa.Array) -> pa.DictionaryArray:
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


def _combined(coded: list[pa.DictionaryArray]) -> pa.Array:
    """Return a number for each row's combination of words; null where a column is null.

    The number has the first column's code as its highest digit (a mixed radix system).
    """
    combined, missing = np.zeros(len(coded[0]), np.int64), np.zeros(len(coded[0]), np.bool_)
    for column in coded:
        combined = combined * len(column.dictionary) + whole_numbers(column.indices)
        if column.null_count:
            missing |= ~known(column)
    return pa.array(combined, mask=missing if missing.any() else None)


def _repeated(word: pa.Array, count: int) -> pa.DictionaryArray:
    zeros = pa.array(np.zeros(count, np.int32))
    return pa.DictionaryArray.from_arrays(zeros, word, safe=False)


def _joined(keys: tuple[str, ...], coded: list[pa.DictionaryArray], numbers: Ids) -> pa.Array:
    """Return the names of combinations that `_combined` numbered.

    Args:
        keys: key of each column.
        coded: the columns.
        numbers: numbers of the combinations.
    """
    parts: list[Any] = []
    for key, column in zip(reversed(keys), reversed(coded), strict=True):
        count = max(len(column.dictionary), 1)
        numbers, codes = np.divmod(numbers, count)
        text = column.dictionary.take(pa.array(codes)).cast(pa.string())
        for character, code in ESCAPES:
            text = pc.replace_substring(text, character, code)
        parts = [pa.scalar(f"{escaped(key)}="), text, *([pa.scalar("/"), *parts] if parts else [])]
    return pc.binary_join_element_wise(*parts, pa.scalar(""))
