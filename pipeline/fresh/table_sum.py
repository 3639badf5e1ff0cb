"""Sum the counts of a table that may be larger than memory.

Each worker adds the counts of its files. What does not fit into memory is written to disk in runs,
which are sorted by key. Then all workers merge their counts, one range of keys after the other. A
range has all entries of its keys, so it can be merged, bounded and turned into a timeline alone.

    files -> TableSum of each worker -> ranges of keys, merged over workers -> Timeline

Shapes: n entries, U distinct keys, C counted numbers.
"""

import errno
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from iak.pipeline.data.hashing import Keys
from iak.pipeline.errors import DoesNotFit
from iak.pipeline.fresh.timeline import Entries, RunningSum, Timeline, merge

MAX_ENTRIES = 2_000_000
"""Entries of a table that a worker keeps in memory, and that a range of keys has."""

T = TypeVar("T")


class Gather(Protocol):
    """Returns what each worker gives to the call, in the order of workers; a collective call."""

    def __call__(self, own: T, /) -> Sequence[T]:
        """Return all workers' values; `own` is this worker's."""


def alone(own: T) -> Sequence[T]:
    """Return what the only worker gives to the call."""
    return [own]


@dataclass(slots=True)
class TableSum:
    """The sum of a table's entries that one worker adds: in memory, and beyond that on disk."""

    width: int
    """C."""
    running: RunningSum = field(default_factory=RunningSum)
    """What lies in memory."""
    runs: list[Entries] = field(default_factory=list)
    """Sorted entries of which each pair of key and period occurs once, mapped from disk."""

    def add(self, entries: Entries) -> None:
        """Add entries, which `merge` has sorted.

        Raises:
            DoesNotFit: the disk has no room for them.
        """
        self.running.add(entries)
        if self.running.size > MAX_ENTRIES:
            merged = self.running.total()
            # A sum that shrank well may grow on. Otherwise each part would be merged again alone.
            if len(merged) > MAX_ENTRIES // 2:
                self.runs.append(_on_disk(merged))
                self.running = RunningSum()

    def size(self) -> int:
        """Return the number of entries, in which a pair of key and period may occur in each run."""
        return self.running.size + sum(map(len, self.runs))

    def totals(self) -> npt.NDArray[np.int64]:
        """Return the sum of each counted number over all keys and periods, (C,)."""
        totals_C = np.zeros(self.width, np.int64)
        for part in (*self.running.parts, *self.runs):
            totals_C += part.counts_nC.sum(axis=0)
        return totals_C

    def between(self, low: int, high: int) -> Entries:
        """Return the merged entries of the keys from `low` to below `high`."""
        # Merged first, so that what lies in memory is sorted too.
        in_memory = [self.running.total()] if self.running.parts else []
        nothing = Entries(
            np.empty(0, np.uint64), np.empty(0, np.int32), np.empty((0, self.width), np.int64)
        )
        parts = (_between(part, low, high) for part in (*in_memory, *self.runs))
        return merge([nothing, *parts])


def _on_disk(entries: Entries) -> Entries:
    """Write entries to disk, and return them mapped.

    Raises:
        DoesNotFit: the disk has no room for them.
    """
    try:
        return Entries(
            _mapped(entries.keys_n), _mapped(entries.periods_n), _mapped(entries.counts_nC)
        )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DoesNotFit(
            f"{len(entries):,} more counts of fresh statistics do not fit on the disk of "
            f"{tempfile.gettempdir()} ({error.strerror}). Free some, or set TMPDIR to a folder of "
            "a larger disk"
        ) from error


def _mapped(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Write an array to a file and map it into memory, read-only."""
    with tempfile.NamedTemporaryFile(prefix="iak-counts-") as file:
        file.write(np.ascontiguousarray(array).data)
        file.flush()
        # The file has no name any more after this. The mapping keeps its bytes until it is freed.
        return np.memmap(file.name, array.dtype, "r", shape=array.shape)


def _between(entries: Entries, low: int, high: int) -> Entries:
    """Return the entries of the keys from `low` to below `high`, of sorted ones."""
    first = np.searchsorted(entries.keys_n, np.uint64(low))
    last = len(entries) if high >> 64 else np.searchsorted(entries.keys_n, np.uint64(high))
    rows = slice(int(first), int(last))
    return Entries(entries.keys_n[rows], entries.periods_n[rows], entries.counts_nC[rows])


def timeline_of(own: TableSum, most: int | None, gather: Gather = alone) -> Timeline:
    """Return the timeline of all workers' counts of a table; a collective call.

    Keys are ranked by their numbers of rows, whatever the labels. These are the rows of the rate
    that has most of them, since a conversion's rate has clicked rows alone. A key that is left out
    reads the rate of its parent.

    Args:
        own: what this worker counted.
        most: keys with most rows that are kept; None for all.
        gather: collects from all workers.
    """
    ranges = _ranges(sum(gather(own.size())))
    least = None
    if most is not None:
        known_R = np.sum(gather(own.totals()), axis=0)[0::2]
        column = 2 * int(known_R.argmax())
        least = _least_kept(_merged(own, ranges, gather), most, column)
    kept = (least.kept(e) if least else e for e in _merged(own, ranges, gather))
    return Timeline.joined([Timeline.of(entries) for entries in kept])


def _ranges(entries: int) -> list[tuple[int, int]]:
    """Return ranges of keys that have at most about `MAX_ENTRIES` entries each, ascending."""
    count = max(1, -(-entries // MAX_ENTRIES))
    # Keys are hashes, so equal ranges have about as many.
    bounds = [number * 2**64 // count for number in range(count + 1)]
    return list(pairwise(bounds))


def _merged(own: TableSum, ranges: list[tuple[int, int]], gather: Gather) -> Iterator[Entries]:
    """Yield the merged entries of each range over all workers; a collective call for each."""
    for low, high in ranges:
        yield merge(gather(own.between(low, high)))


@dataclass(frozen=True, slots=True)
class _Least:
    """The last key that is kept, where those with most rows are, and smaller ones of equal rows."""

    key: int
    rows: int
    column: int
    """The counted number that is a key's rows."""

    def kept(self, entries: Entries) -> Entries:
        """Return the merged entries of the keys that are kept."""
        keys_U, rows_U, starts_U = _rows_of(entries, self.column)
        is_kept_U = (rows_U > self.rows) | ((rows_U == self.rows) & (keys_U <= self.key))
        lengths_U = np.diff(np.append(starts_U, len(entries)))
        is_kept_n = np.repeat(is_kept_U, lengths_U)
        return Entries(
            entries.keys_n[is_kept_n], entries.periods_n[is_kept_n], entries.counts_nC[is_kept_n]
        )


def _least_kept(merged: Iterator[Entries], most: int, column: int) -> _Least | None:
    """Return the last of the `most` keys with most rows; None where there are not more of them."""
    keys_U, rows_U = np.empty(0, np.uint64), np.empty(0, np.int64)
    found = 0
    for entries in merged:
        keys_V, rows_V, _ = _rows_of(entries, column)
        found += len(keys_V)
        keys_U, rows_U = np.concatenate([keys_U, keys_V]), np.concatenate([rows_U, rows_V])
        if len(keys_U) > 2 * most:
            keys_U, rows_U = _first(keys_U, rows_U, most)
    if found <= most:
        return None
    keys_U, rows_U = _first(keys_U, rows_U, most)
    return _Least(key=int(keys_U[-1]), rows=int(rows_U[-1]), column=column)


def _first(
    keys_U: Keys, rows_U: npt.NDArray[np.int64], most: int
) -> tuple[Keys, npt.NDArray[np.int64]]:
    """Return the `most` keys with most rows, by falling rows and then rising keys."""
    order_U = np.lexsort((keys_U, -rows_U))[:most]
    return keys_U[order_U], rows_U[order_U]


def _rows_of(
    entries: Entries, column: int
) -> tuple[Keys, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the distinct keys of merged entries, the rows of each, and its first entry."""
    is_new_n = np.ones(len(entries), np.bool_)
    is_new_n[1:] = entries.keys_n[1:] != entries.keys_n[:-1]
    starts_U = np.flatnonzero(is_new_n)
    if not len(starts_U):
        return entries.keys_n, np.empty(0, np.int64), starts_U
    return (
        entries.keys_n[starts_U],
        np.add.reduceat(entries.counts_nC[:, column], starts_U),
        starts_U,
    )
