"""Map the values of a column to rows of an embedding table.

Each distinct value is looked up once: a text through the dictionary it came in, a small whole
number through a memo (`Memo`) that later row groups use again. Arithmetic goes block by block, so
that its intermediate arrays stay in the processor's cache.

Letter: V values.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import hashing
from iak.schemas.feature import FIRST_ROW, NULL_ROW, UNSEEN_ROW, TableSpec

T = TypeVar("T", bound=np.generic)
Ids = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.integer[Any]]
Outputs = Sequence[Ids]
"""Arrays that rows of a table are written to: the first values to the first array until it is full,
and so on."""
Fill = Callable[[Outputs], None]
SMALL_IDS = 1 << 21
"""Whole numbers below this size are remembered with their rows: at most 32 MiB for a table."""
MAX_STARTS_BITS = 22
"""Most first bits of a key by which its start in a vocabulary is remembered: 32 MiB for a table."""
_HALF_WORD = np.uint64(32)
_BLOCK = 32_768
_MAX_DICT_WORDS = 512
"""Words of a dictionary up to which a `dict` is faster than hashing all of them again."""
_MAX_REMEMBERED_WORDS = 65_536
_NOTHING = np.zeros(0, np.int64)


@dataclass(slots=True)
class Memo:
    """Rows that were looked up before.

    Several threads may fill it at once: they write the same values.
    """

    numbers: dict[str, Ids] = field(default_factory=dict)
    """Table -> row of each small number, 0 where it has not occurred."""
    starts: dict[str, Ids] = field(default_factory=dict)
    """Table with a vocabulary -> where each range of keys begins in it."""
    words: dict[str, dict[str | int | None, int]] = field(default_factory=dict)
    """Table -> row of each word of its short dictionaries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The mapping from values to rows of one table."""

    name: str
    spec: TableSpec
    vocabulary: hashing.Keys | None
    """Sorted keys of its ids, where the table has a vocabulary."""
    memo: Memo

    def fill(self, values_V: pa.Array, outputs: Outputs) -> None:
        """Write the row of each value; the row of a null is `NULL_ROW`.

        Args:
            values_V: integers, booleans, or text as it is or as a dictionary.
            outputs: arrays with V entries together.
        """
        if pa.types.is_integer(values_V.type) or pa.types.is_boolean(values_V.type):
            self._fill_numbers(values_V, outputs)
        else:
            coded = hashing.coded(values_V)
            fill_picked(self._rows_of_words(coded.dictionary), coded.indices, outputs)

    def rows_of_keys(self, keys_V: hashing.Keys) -> Ids:
        """Return the row of each key."""
        if self.vocabulary is not None:
            return _look_up(keys_V, self.vocabulary, self._starts(self.vocabulary))
        return (keys_V % np.uint64(self._ids)).astype(np.int64) + FIRST_ROW

    def _starts(self, vocabulary: hashing.Keys) -> Ids:
        """Return, for each value of a key's first bits, where such keys begin in the vocabulary."""
        starts = self.memo.starts.get(self.name)
        if starts is None:
            bits = min(max(len(vocabulary).bit_length(), 1), MAX_STARTS_BITS)
            firsts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
            starts = self.memo.starts[self.name] = np.searchsorted(vocabulary, firsts)
        return starts

    @property
    def _ids(self) -> int:
        """Return the declared rows without the null row and the unseen row."""
        return (self.spec.rows or 0) - FIRST_ROW

    def _fill_numbers(self, values_V: pa.Array, outputs: Outputs) -> None:
        is_counted = self.spec.encoding == "identity"
        _by_blocks(whole_numbers(values_V), self._count if is_counted else self._remember, outputs)
        if values_V.null_count:
            for rows, is_known in _split_over(known(values_V), outputs):
                rows[~is_known] = NULL_ROW

    def _count(self, numbers: Numbers, rows: Ids) -> None:
        """Write the rows of numbers of an identity table, which are the numbers themselves.

        A number too large for int64 has turned negative; like any negative number it is unseen.
        """
        if numbers.min() >= 0 and numbers.max() < self._ids:
            np.add(numbers, FIRST_ROW, out=rows, dtype=np.int64)
            return
        wide = numbers.astype(np.int64)
        inside = (wide >= 0) & (wide < self._ids)
        rows[:] = np.where(inside, wide + FIRST_ROW, UNSEEN_ROW)

    def _remember(self, numbers: Numbers, rows: Ids) -> None:
        """Write the rows of numbers from the memo; look them up where it lacks one.

        The memo is indexed by the number. A negative number counts from its end, as in NumPy.
        """
        memo = self.memo.numbers.get(self.name, _NOTHING)
        half = len(memo) // 2
        if -half <= numbers.min() and numbers.max() < half:
            # `wrap` writes into `out` directly; the default mode checks indices through a buffer.
            memo.take(numbers, out=rows, mode="wrap")
            if rows.min():  # no entry is 0, so all of them are known
                return
        self._look_up_and_remember(numbers.astype(np.int64), rows)

    def _look_up_and_remember(self, numbers: Ids, rows: Ids) -> None:
        """Write the rows of numbers, and remember those of small ones."""
        is_small = (numbers >= -SMALL_IDS) & (numbers < SMALL_IDS)
        if not is_small.any():
            rows[:] = self._look_up_numbers(numbers)
            return
        new = np.unique(numbers[is_small])
        memo = self._grown_memo(max(-int(new[0]), int(new[-1]) + 1))
        memo[new] = self._look_up_numbers(new)
        rows[is_small] = memo[numbers[is_small]]
        rows[~is_small] = self._look_up_numbers(numbers[~is_small])

    def _grown_memo(self, size: int) -> Ids:
        """Return the memo, enlarged if needed to hold the numbers from -size to size."""
        memo = self.memo.numbers.get(self.name, _NOTHING)
        if len(memo) < 2 * size:
            # Negative numbers index from the end, so the second half stays at the end.
            half = len(memo) // 2
            grown = np.zeros(2 << (size - 1).bit_length(), np.int64)
            grown[:half], grown[len(grown) - half :] = memo[:half], memo[half:]
            memo = self.memo.numbers[self.name] = grown
        return memo

    def _look_up_numbers(self, numbers: Ids) -> Ids:
        return self.rows_of_keys(hashing.mix(numbers.view(np.uint64)))

    def _rows_of_words(self, words: pa.Array) -> Ids:
        """Return the row of each word of a dictionary, and remember the words of a short one."""
        if len(words) > _MAX_DICT_WORDS:
            return self._look_up_words(words)
        known_rows = self.memo.words.setdefault(self.name, {})
        asked = words.to_pylist()
        try:
            return np.fromiter(map(known_rows.__getitem__, asked), np.int64, len(asked))
        except KeyError:
            rows = self._look_up_words(words)
        if len(known_rows) > _MAX_REMEMBERED_WORDS:
            known_rows.clear()
        known_rows.update(zip(asked, rows.tolist(), strict=True))
        return rows

    def _look_up_words(self, words: pa.Array) -> Ids:
        if self.spec.encoding == "identity":
            rows = np.empty(len(words), np.int64)
            self._fill_numbers(words.cast(pa.int64(), safe=False), [rows])
        else:
            rows = self.rows_of_keys(hashing.keys_of_words(words))
        return np.where(known(words), rows, NULL_ROW) if words.null_count else rows


def known(values: pa.Array) -> npt.NDArray[np.bool_]:
    """Return True for each value that is not null."""
    return cast("npt.NDArray[np.bool_]", values.is_valid().to_numpy(zero_copy_only=False))


def decoded(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column as one array of plain values, not of codes of a dictionary."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def whole_numbers(values: pa.Array) -> Numbers:
    """Return integers in their own width, and booleans as int8; a null is 0."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    whole = values.fill_null(0) if values.null_count else values
    return cast("Numbers", whole.to_numpy())


def fill_with(rows_V: Ids, outputs: Outputs) -> None:
    """Write rows that are known already."""
    for output, part in _split_over(rows_V, outputs):
        output[:] = part


def _split_over(values_V: npt.NDArray[T], outputs: Outputs) -> Iterator[tuple[Ids, npt.NDArray[T]]]:
    """Yield each output array, with the values that belong there."""
    start = 0
    for rows in outputs:
        yield rows, values_V[start : start + len(rows)]
        start += len(rows)


def _by_blocks(numbers_V: Numbers, fill: Callable[[Numbers, Ids], None], outputs: Outputs) -> None:
    for rows, numbers in _split_over(numbers_V, outputs):
        for start in range(0, len(rows), _BLOCK):
            fill(numbers[start : start + _BLOCK], rows[start : start + _BLOCK])


def fill_picked(rows: Ids, indices_V: pa.Array, outputs: Outputs) -> None:
    """Write the row of each dictionary index; `NULL_ROW` for a null.

    Args:
        rows: row of each word of the dictionary.
        indices_V: index of each value's word.
        outputs: arrays with V entries together.

    Raises:
        IndexError: an index lies outside the dictionary.
    """
    if indices_V.null_count:
        indices_V = indices_V.cast(pa.int64()).fill_null(len(rows))
        rows = np.append(rows, NULL_ROW)

    def pick(indices: Numbers, picked: Ids) -> None:
        # Checked here, because `wrap` would read another word's row in silence.
        if indices.min() < 0 or indices.max() >= len(rows):
            raise IndexError(f"codes {indices.min()} to {indices.max()} of {len(rows)} words")
        rows.take(indices, out=picked, mode="wrap")

    _by_blocks(indices_V.to_numpy(), pick, outputs)


def _look_up(keys_V: hashing.Keys, vocabulary: hashing.Keys, starts: Ids) -> Ids:
    """Return the rows of keys in a sorted vocabulary.

    Keys are hashes and so spread evenly: each lies near the start that its first bits give. This
    takes a few steps, where a binary search reads memory all over the vocabulary.

    Args:
        keys_V: keys to look up.
        vocabulary: sorted keys.
        starts: first position of the keys with each value of the first bits.
    """
    if not len(vocabulary):
        return np.full(len(keys_V), UNSEEN_ROW, np.int64)
    last = len(vocabulary) - 1
    bits = len(starts).bit_length() - 1
    positions_V = starts.take(keys_V >> np.uint64(64 - bits))
    follow = len(vocabulary) >> bits
    if follow:
        # Of a large vocabulary several keys follow a start. The 32 bits after the first ones say
        # how far on a key is to be expected among them.
        next_V = (keys_V << np.uint64(bits)) >> _HALF_WORD
        positions_V += ((next_V * np.uint64(follow)) >> _HALF_WORD).astype(np.int64)
    positions_V = np.minimum(positions_V, last)
    nearest_V = vocabulary.take(positions_V)
    # Step forward where the key found is smaller. A key beyond the last one stays unseen.
    behind = np.flatnonzero(nearest_V < keys_V)
    while len(behind):
        positions_V[behind] += 1
        behind = behind[positions_V[behind] <= last]
        nearest_V[behind] = vocabulary.take(positions_V[behind])
        behind = behind[nearest_V[behind] < keys_V[behind]]
    if follow:
        _step_back(keys_V, vocabulary, positions_V, nearest_V)
    return np.where(nearest_V == keys_V, positions_V + FIRST_ROW, UNSEEN_ROW)


def _step_back(
    keys_V: hashing.Keys, vocabulary: hashing.Keys, positions_V: Ids, nearest_V: hashing.Keys
) -> None:
    """Step back where the key found is larger. A key before the first one stays unseen."""
    ahead = np.flatnonzero(nearest_V > keys_V)
    while len(ahead):
        positions_V[ahead] -= 1
        ahead = ahead[positions_V[ahead] >= 0]
        nearest_V[ahead] = vocabulary.take(positions_V[ahead])
        ahead = ahead[nearest_V[ahead] > keys_V[ahead]]
