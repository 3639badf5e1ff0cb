"""Sum the counts of a table that may be larger than memory.

A period is a day, or a fold of a log without days, or 0 where a table is not cut by time. Each
worker adds the counts of its files. What does not fit into memory is written to disk in runs, which
are sorted by key. Then all workers merge their counts, one range of keys after the other. A range
has all entries of its keys, so it can be merged, bounded and used alone.

    files -> TableSum of each worker -> ranges of keys, merged over workers

Counts are integers, so that the result depends neither on the order of files nor on the number of
workers.

Shapes: n entries (a key in a period), C counted numbers.
"""

import errno
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from iak.pipeline.data.hashing import Keys
from iak.pipeline.errors import DoesNotFit

Counts = npt.NDArray[np.int64]
Periods = npt.NDArray[np.int32]
MAX_WAITING_ENTRIES = 2_000_000
"""Entries that may wait to be merged, however small the merged sum is."""
MAX_ENTRIES = 2_000_000
"""Entries of a table that a worker keeps in memory, and that a range of keys has."""

T = TypeVar("T")
Number = TypeVar("Number", bound=np.generic)


class Gather(Protocol):
    """Returns what each worker gives to the call, in the order of workers; a collective call."""

    def __call__(self, own: T, /) -> Sequence[T]:
        """Return all workers' values; `own` is this worker's."""


def alone(own: T) -> Sequence[T]:
    """Return what the only worker gives to the call."""
    return [own]


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Counts of keys in periods; a pair of key and period may occur several times."""

    keys_n: Keys
    periods_n: Periods
    counts_nC: Counts

    def __len__(self) -> int:
        return len(self.keys_n)


def merge(parts: Sequence[Entries]) -> Entries:
    """Return the sum of counts, sorted by key and period, each pair of them once.

    Args:
        parts: at least one, all with the same C.
    """
    keys_n = np.concatenate([part.keys_n for part in parts])
    periods_n = np.concatenate([part.periods_n for part in parts])
    counts_nC = np.concatenate([part.counts_nC for part in parts])
    order = np.lexsort((periods_n, keys_n))
    keys_n, periods_n = keys_n[order], periods_n[order]
    if not len(keys_n):
        return Entries(keys_n, periods_n, counts_nC)
    is_new = np.ones(len(keys_n), np.bool_)
    is_new[1:] = (keys_n[1:] != keys_n[:-1]) | (periods_n[1:] != periods_n[:-1])
    starts = np.flatnonzero(is_new)
    return Entries(
        keys_n[starts], periods_n[starts], np.add.reduceat(counts_nC[order], starts, axis=0)
    )


@dataclass(slots=True)
class RunningSum:
    """The sum of entries that come in parts, of which few wait to be merged at a time."""

    parts: list[Entries] = field(default_factory=list)
    """The sum so far, then what waits."""
    size: int = 0
    """Entries of all parts; a pair may occur in each of them. It is counted along, since a log of
    many small row groups has a part for each."""

    def add(self, entries: Entries) -> None:
        """Add a part."""
        self.parts.append(entries)
        self.size += len(entries)
        merged = len(self.parts[0])
        # As many entries may wait as are merged already. So all merges together cost a few times as
        # much as the last one, and memory is at most about twice that of the sum.
        if self.size - merged > max(MAX_WAITING_ENTRIES, merged):
            self.total()

    def total(self) -> Entries:
        """Return the sum, sorted by key and period; at least one part was added."""
        self.parts = [merge(self.parts)]
        self.size = len(self.parts[0])
        return self.parts[0]


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
        # Merged first, so that what lies in memory is sorted too. One part is sorted already.
        in_memory = [self.running.total()] if len(self.running.parts) > 1 else self.running.parts
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
    with _full_disk(f"{len(entries):,} more counts"):
        return Entries(
            _mapped([entries.keys_n]), _mapped([entries.periods_n]), _mapped([entries.counts_nC])
        )


def keys_on_disk(parts: Iterable[Keys]) -> Keys:
    """Write keys to disk part by part, and return them mapped.

    Raises:
        DoesNotFit: the disk has no room for them.
    """
    with _full_disk("the keys of a vocabulary"):
        # As a plain array: of np.memmap, every slice would have attributes of its own.
        return np.asarray(_mapped(chain([np.empty(0, np.uint64)], parts)))


@contextmanager
def _full_disk(what: str) -> Iterator[None]:
    """Say what does not fit where the disk of temporary files is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DoesNotFit(
            f"{what} do not fit on the disk of "
            f"{tempfile.gettempdir()} ({error.strerror}). Free some, or set TMPDIR to a folder of "
            "a larger disk"
        ) from error


def _mapped(parts: Iterable[npt.NDArray[Number]]) -> npt.NDArray[Number]:
    """Write parts of an array to a file and map it into memory, read-only.

    Args:
        parts: at least one; they follow each other along the first dimension.
    """
    with tempfile.NamedTemporaryFile(prefix="iak-counts-") as file:
        for part in parts:
            file.write(np.ascontiguousarray(part).data)
            last = part
        file.flush()
        if not file.tell():
            return last
        # The file has no name any more after this. The mapping keeps its bytes until it is freed.
        return np.memmap(file.name, last.dtype, "r").reshape(-1, *last.shape[1:])


def _between(entries: Entries, low: int, high: int) -> Entries:
    """Return the entries of the keys from `low` to below `high`, of sorted ones."""
    first = np.searchsorted(entries.keys_n, np.uint64(low))
    last = len(entries) if high >> 64 else np.searchsorted(entries.keys_n, np.uint64(high))
    rows = slice(int(first), int(last))
    return Entries(entries.keys_n[rows], entries.periods_n[rows], entries.counts_nC[rows])


def key_ranges(own: TableSum, gather: Gather = alone, *, others: int = 0) -> list[tuple[int, int]]:
    """Return ascending ranges of keys of about `MAX_ENTRIES` entries each; a collective call.

    Args:
        own: what this worker counted.
        gather: collects from all workers.
        others: further keys that are in memory with the entries of their range.
    """
    count = max(1, -(-(sum(gather(own.size())) + others) // MAX_ENTRIES))
    # Keys are hashes, so equal ranges have about as many.
    bounds = [number * 2**64 // count for number in range(count + 1)]
    return list(pairwise(bounds))


def merged_ranges(
    own: TableSum, ranges: Sequence[tuple[int, int]], gather: Gather = alone
) -> Iterator[Entries]:
    """Yield the merged entries of each range over all workers; a collective call for each.

    Args:
        own: what this worker counted.
        ranges: from each first key to below the second one, the same on every worker.
        gather: collects from all workers.
    """
    for low, high in ranges:
        yield merge(gather(own.between(low, high)))
