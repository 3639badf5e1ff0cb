"""Values of a column -> rows of an embedding table; V values.

Each distinct value is worked out once: a text by the dictionary it came in, a whole number by a
memo of the small ones (`Memo`), which later row groups read again. What arithmetic there is goes
block by block, so that its intermediate arrays stay in the processor's cache.
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
Room = Sequence[Ids]
"""Where rows of a table go: the first values to the first array until it is full, and so on."""
Fill = Callable[[Room], None]
SMALL_IDS = 1 << 21
"""Whole numbers up to this are remembered with their rows: 32 MiB a table at most."""
_BLOCK = 32_768
_FEW_WORDS = 512
"""Words of a dictionary up to which asking a `dict` is faster than hashing them all again."""
_MOST_WORDS = 65_536
_NOTHING = np.zeros(0, np.int64)


@dataclass(slots=True)
class Memo:
    """What was worked out before; several threads may fill it at once, they write the same."""

    numbers: dict[str, Ids] = field(default_factory=dict)
    """Table -> row of each small number, 0 where it was not met."""
    starts: dict[str, Ids] = field(default_factory=dict)
    """Table with a vocabulary -> where each range of keys begins in it."""
    words: dict[str, dict[str | int | None, int]] = field(default_factory=dict)
    """Table -> row of each word of its short dictionaries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """How values become rows of one table."""

    name: str
    spec: TableSpec
    vocabulary: hashing.Keys | None
    """Sorted keys of its ids, where the table has a vocabulary."""
    memo: Memo

    def fill(self, values_V: pa.Array, room: Room) -> None:
        """Write the row of each value; a null's is `NULL_ROW`."""
        if pa.types.is_integer(values_V.type) or pa.types.is_boolean(values_V.type):
            self._fill_numbers(values_V, room)
        else:
            coded = hashing.coded(values_V)
            _fill_picked(self._rows_of_words(coded.dictionary), coded.indices, room)

    def rows_of_keys(self, keys_V: hashing.Keys) -> Ids:
        """The row of each key."""
        if self.vocabulary is not None:
            return _look_up(keys_V, self.vocabulary, self._starts(self.vocabulary))
        return (keys_V % np.uint64(self._ids)).astype(np.int64) + FIRST_ROW

    def _starts(self, vocabulary: hashing.Keys) -> Ids:
        """Where in the vocabulary the keys begin that share their first bits, by those bits."""
        starts = self.memo.starts.get(self.name)
        if starts is None:
            bits = max(len(vocabulary).bit_length(), 1)
            firsts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
            starts = self.memo.starts[self.name] = np.searchsorted(vocabulary, firsts)
        return starts

    @property
    def _ids(self) -> int:
        """Declared rows without the null's and the unseen one."""
        return (self.spec.rows or 0) - FIRST_ROW

    def _fill_numbers(self, values_V: pa.Array, room: Room) -> None:
        is_counted = self.spec.encoding == "identity"
        _by_blocks(whole_numbers(values_V), self._count if is_counted else self._remember, room)
        if values_V.null_count:
            for rows, is_known in _shared_out(known(values_V), room):
                rows[~is_known] = NULL_ROW

    def _count(self, numbers: Numbers, rows: Ids) -> None:
        """The numbers themselves; one too large for int64 has turned negative, and is unseen."""
        if numbers.min() >= 0 and numbers.max() < self._ids:
            np.add(numbers, FIRST_ROW, out=rows, dtype=np.int64)
            return
        wide = numbers.astype(np.int64)
        inside = (wide >= 0) & (wide < self._ids)
        rows[:] = np.where(inside, wide + FIRST_ROW, UNSEEN_ROW)

    def _remember(self, numbers: Numbers, rows: Ids) -> None:
        """The rows of numbers from the memo, where it has them all.

        A negative number is remembered where it wraps around to, counted from the end.
        """
        memo = self.memo.numbers.get(self.name, _NOTHING)
        half = len(memo) // 2
        if -half <= numbers.min() and numbers.max() < half:
            memo.take(numbers, out=rows, mode="wrap")
            if rows.min():
                return
        self._meet(numbers.astype(np.int64), rows)

    def _meet(self, numbers: Ids, rows: Ids) -> None:
        """The rows of numbers, of which small ones are remembered from now on."""
        is_small = (numbers >= -SMALL_IDS) & (numbers < SMALL_IDS)
        if not is_small.any():
            rows[:] = self._worked_out(numbers)
            return
        new = np.unique(numbers[is_small])
        memo = self._room_for(max(-int(new[0]), int(new[-1]) + 1))
        memo[new] = self._worked_out(new)
        rows[is_small] = memo[numbers[is_small]]
        rows[~is_small] = self._worked_out(numbers[~is_small])

    def _room_for(self, size: int) -> Ids:
        """The memo, with room for the numbers from -size up to size."""
        memo = self.memo.numbers.get(self.name, _NOTHING)
        if len(memo) < 2 * size:
            half = len(memo) // 2
            grown = np.zeros(2 << (size - 1).bit_length(), np.int64)
            grown[:half], grown[len(grown) - half :] = memo[:half], memo[half:]
            memo = self.memo.numbers[self.name] = grown
        return memo

    def _worked_out(self, numbers: Ids) -> Ids:
        return self.rows_of_keys(hashing.mix(numbers.view(np.uint64)))

    def _rows_of_words(self, words: pa.Array) -> Ids:
        """The row of each word of a dictionary; the words of a short one are remembered."""
        if len(words) > _FEW_WORDS:
            return self._worked_out_words(words)
        met = self.memo.words.setdefault(self.name, {})
        asked = words.to_pylist()
        try:
            return np.fromiter(map(met.__getitem__, asked), np.int64, len(asked))
        except KeyError:
            rows = self._worked_out_words(words)
        if len(met) > _MOST_WORDS:
            met.clear()
        met.update(zip(asked, rows.tolist(), strict=True))
        return rows

    def _worked_out_words(self, words: pa.Array) -> Ids:
        if self.spec.encoding == "identity":
            rows = np.empty(len(words), np.int64)
            self._fill_numbers(words.cast(pa.int64(), safe=False), [rows])
        else:
            rows = self.rows_of_keys(hashing.keys_of_words(words))
        return np.where(known(words), rows, NULL_ROW) if words.null_count else rows


def known(values: pa.Array) -> npt.NDArray[np.bool_]:
    """Where the values are not null."""
    return cast("npt.NDArray[np.bool_]", values.is_valid().to_numpy(zero_copy_only=False))


def whole_numbers(values: pa.Array) -> Numbers:
    """Integers or booleans, in their own width where they have one; a null is 0."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    whole = values.fill_null(0) if values.null_count else values
    return cast("Numbers", whole.to_numpy())


def fill_with(rows_V: Ids, room: Room) -> None:
    """Write these rows."""
    for place, part in _shared_out(rows_V, room):
        place[:] = part


def _shared_out(values_V: npt.NDArray[T], room: Room) -> Iterator[tuple[Ids, npt.NDArray[T]]]:
    """Each array of the room, and the values that go there."""
    start = 0
    for rows in room:
        yield rows, values_V[start : start + len(rows)]
        start += len(rows)


def _by_blocks(numbers_V: Numbers, fill: Callable[[Numbers, Ids], None], room: Room) -> None:
    for rows, numbers in _shared_out(numbers_V, room):
        for start in range(0, len(rows), _BLOCK):
            fill(numbers[start : start + _BLOCK], rows[start : start + _BLOCK])


def _fill_picked(rows: Ids, places_V: pa.Array, room: Room) -> None:
    """Write the row at each place; `NULL_ROW` for a null."""
    if places_V.null_count:
        places_V = places_V.cast(pa.int64()).fill_null(len(rows))
        rows = np.append(rows, NULL_ROW)

    def pick(places: Numbers, picked: Ids) -> None:
        if places.min() < 0 or places.max() >= len(rows):
            raise IndexError(f"codes {places.min()} to {places.max()} of {len(rows)} words")
        rows.take(places, out=picked, mode="wrap")

    _by_blocks(places_V.to_numpy(), pick, room)


def _look_up(keys_V: hashing.Keys, vocabulary: hashing.Keys, starts: Ids) -> Ids:
    """Rows of keys in a sorted vocabulary; keys are evenly spread, so each lies near its start."""
    if not len(vocabulary):
        return np.full(len(keys_V), UNSEEN_ROW, np.int64)
    last = len(vocabulary) - 1
    bits = len(starts).bit_length() - 1
    places_V = np.minimum(starts.take(keys_V >> np.uint64(64 - bits)), last)
    found_V = vocabulary.take(places_V)
    behind = np.flatnonzero(found_V < keys_V)
    while len(behind):
        places_V[behind] += 1
        behind = behind[places_V[behind] <= last]
        found_V[behind] = vocabulary.take(places_V[behind])
        behind = behind[found_V[behind] < keys_V[behind]]
    return np.where(found_V == keys_V, places_V + FIRST_ROW, UNSEEN_ROW)
