"""Count what an encoding is made of: the ids of each table, and the moments of each number.

Several workers count whole row groups each. Merged, they give the encoding that one worker counts.
Nothing here grows with the ids of a table: counts beyond memory lie on disk (table_sum.py), and the
keys of a vocabulary are written to a file, one range of keys after the other.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from iak.pipeline.data import hashing, kinds, moments
from iak.pipeline.data.features import Encoding, Floats, counted_keys, raw_number
from iak.pipeline.data.ids import Ids
from iak.pipeline.data.moments import Moments
from iak.pipeline.data.table_sum import (
    Entries,
    Gather,
    TableSum,
    alone,
    key_ranges,
    keys_on_disk,
    merge,
    merged_ranges,
)
from iak.schemas.feature import FIRST_ROW, FeatureSpec, NumericSpec, table_of
from iak.schemas.log import Catalog

NO_KEYS: hashing.Keys = np.zeros(0, np.uint64)


class EncodingCounts:
    """What one worker counts of the rows that it reads."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        before: Encoding | None = None,
        grown: Collection[str] = (),
        first_row: int = 0,
    ) -> None:
        """Count nothing yet.

        Args:
            catalog: the log's catalogue.
            before: encoding of an earlier window. It stays as it is, and only what it lacks is
                learned.
            grown: tables whose vocabulary in `before` takes in the new ids of this window.
            first_row: rows of the window before those that this worker reads.
        """
        self.catalog = catalog
        self.before = before or Encoding(vocabularies={}, statistics={}, boundaries={})
        tables = catalog.table_specs
        self.vocabularies = [n for n, table in tables.items() if table.encoding == "vocabulary"]
        known = self.before.vocabularies
        self.tables = {n: TableSum(1) for n in self.vocabularies if n in grown or n not in known}
        numbers = [f for f in catalog.features if isinstance(f, NumericSpec)]
        self.numbers = {f.name: f for f in numbers}
        self.moments = {
            name: Moments(first=first_row)
            for name in self.numbers
            if name not in self.before.statistics
        }
        self.kinds = dict(self.before.kinds)

    def add(self, rows: pa.RecordBatch) -> None:
        """Count raw rows, in the order of the log.

        Raises:
            WrongBase: ids of a table are of another kind than before.
        """
        batch_kinds = kinds.kinds_of(rows, self.catalog)
        kinds.refuse_change(batch_kinds, self.kinds)
        self.kinds |= batch_kinds
        self.add_numbers(rows, self.moments)
        for feature in self.catalog.features:
            if not isinstance(feature, NumericSpec) and (table := table_of(feature)) in self.tables:
                self.tables[table].add(_counted(feature, rows))

    def add_numbers(self, rows: pa.RecordBatch, names: Collection[str]) -> None:
        """Measure some numbers of raw rows."""
        for name in names:
            self.moments[name].add(raw_number(self.numbers[name], rows))

    def misplaced(self, rank: int, gather: Gather) -> list[str]:
        """Return the numbers that have to be added once more; a collective call.

        Their moments are empty afterwards, and know the values before this worker's.

        Args:
            rank: this worker.
            gather: collects from all workers.
        """
        names = []
        for name, own in self.moments.items():
            first = moments.true_first(own, rank, gather)
            if first is not None:
                self.moments[name] = Moments(first=first)
                names.append(name)
        return names

    def encoding(self, gather: Gather = alone, *, is_kept: bool = True) -> Encoding:
        """Return the encoding of all workers' rows; a collective call.

        Args:
            gather: collects from all workers.
            is_kept: whether this worker needs the vocabularies; they are empty where it does not.

        Raises:
            DoesNotFit: the disk has no room for a vocabulary.
            WrongBase: ids of a table are of another kind on another worker.
        """
        learned: dict[str, str] = {}
        for own in gather(self.kinds):
            kinds.refuse_change(own, learned)
            learned |= own
        measured = {name: moments.merged(own, gather) for name, own in self.moments.items()}
        statistics = {
            name: measured[name].statistics() if name in measured else self.before.statistics[name]
            for name in self.numbers
        }
        return Encoding(
            vocabularies={n: self._vocabulary(n, gather, is_kept) for n in self.vocabularies},
            statistics=statistics,
            boundaries={
                f.name: self.before.boundaries[f.name]
                if f.name in self.before.boundaries
                else _boundaries(f, measured)
                for f in self.numbers.values()
                if f.is_bucketed
            },
            kinds={name: learned[name] for name in self.catalog.table_specs if name in learned},
        )

    def _vocabulary(self, name: str, gather: Gather, is_kept: bool) -> hashing.Keys:
        """Return the sorted keys of a table, mapped from a file; a collective call."""
        before = self.before.vocabularies.get(name, NO_KEYS)
        if name not in self.tables:
            return before
        spec = self.catalog.table_specs[name]
        at_most = None if spec.rows is None else spec.rows - FIRST_ROW
        parts = chosen_keys(self.tables[name], spec.min_count, at_most, before, gather)
        if is_kept:
            return keys_on_disk(parts)
        for _ in parts:  # a collective call for each
            pass
        return NO_KEYS


def _counted(feature: FeatureSpec, rows: pa.RecordBatch) -> Entries:
    """Return the keys of a feature's values with their numbers of occurrences."""
    keys, counts = counted_keys(feature, rows)
    return merge([Entries(keys, np.zeros(len(keys), np.int32), counts[:, None])])


def _boundaries(feature: NumericSpec, measured: Mapping[str, Moments]) -> Floats:
    """Return the declared boundaries of a bucketed number, else its quantiles."""
    if feature.boundaries:
        return np.asarray(feature.boundaries)
    return measured[feature.name].quantiles(feature.buckets or 2)


NewKeys = Callable[[], Iterator[tuple[hashing.Keys, hashing.Keys, Ids]]]
"""Returns ranges of keys, ascending: keys that are known, keys that may be taken, their counts."""


def chosen_keys(
    own: TableSum,
    min_count: int,
    at_most: int | None,
    kept: hashing.Keys = NO_KEYS,
    gather: Gather = alone,
) -> Iterator[hashing.Keys]:
    """Yield the keys of a vocabulary, ascending; a collective call for each part.

    Args:
        own: the occurrences of each key that this worker counted.
        min_count: occurrences that a new key needs to get a row.
        at_most: most keys of the vocabulary, of which the most frequent are taken; None takes all.
        kept: sorted keys that are taken in any case.
        gather: collects from all workers.
    """
    ranges = key_ranges(own, gather, others=len(kept))

    def new_keys() -> Iterator[tuple[hashing.Keys, hashing.Keys, Ids]]:
        merged = merged_ranges(own, ranges, gather)
        for entries, known in zip(merged, _cut(kept, ranges), strict=True):
            counts = entries.counts_nC[:, 0]
            is_new = (counts >= min_count) & ~np.isin(entries.keys_n, known)
            yield known, entries.keys_n[is_new], counts[is_new]

    if at_most is None:
        taken: Iterator[tuple[hashing.Keys, hashing.Keys]] = (
            (known, keys) for known, keys, _ in new_keys()
        )
    else:
        taken = _most_frequent(new_keys, max(at_most - len(kept), 0))
    for known, keys in taken:
        yield np.sort(np.concatenate([known, keys]))


def _cut(keys: hashing.Keys, ranges: Sequence[tuple[int, int]]) -> Iterator[hashing.Keys]:
    """Yield the keys of each range, of sorted ones."""
    firsts = np.array([low for low, _ in ranges], np.uint64)
    starts = [*np.searchsorted(keys, firsts).tolist(), len(keys)]
    for start, stop in pairwise(starts):
        yield keys[start:stop]


def _most_frequent(new_keys: NewKeys, room: int) -> Iterator[tuple[hashing.Keys, hashing.Keys]]:
    """Yield each range's known keys and its share of the `room` most frequent new ones.

    Of equally frequent keys the smaller ones are taken.
    """
    keys_of_count: Counter[int] = Counter()
    for _, _, counts in new_keys():
        values, numbers = np.unique(counts, return_counts=True)
        keys_of_count.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    least, rest = _last_count(keys_of_count, room)
    for known, keys, counts in new_keys():
        is_taken = counts > least
        equal = np.flatnonzero(counts == least)[:rest]
        is_taken[equal] = True
        rest -= len(equal)
        yield known, keys[is_taken]


def _last_count(keys_of_count: Mapping[int, int], room: int) -> tuple[int, int]:
    """Return the count of which not all keys have room, and how many have; (0, 0) if all have."""
    for count in sorted(keys_of_count, reverse=True):
        if keys_of_count[count] > room:
            return count, room
        room -= keys_of_count[count]
    return 0, 0
