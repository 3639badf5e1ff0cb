"""Count keys by period, and sum the counts of a key over a range of periods.

A period is a day, or a fold of a log without days. `Entries` are counts in any order. A `Timeline`
is the same, sorted: each key's running sums over its periods. Counts are integers, so that the
result depends neither on the order of files nor on the number of workers.

Shapes: n entries (a key in a period), U distinct keys, C counted numbers, B rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from iak.pipeline.data.hashing import Keys

Counts = npt.NDArray[np.int64]
Periods = npt.NDArray[np.int32]
MAX_WAITING_ENTRIES = 2_000_000
"""Entries that may wait to be merged, however small the merged sum is."""


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

    @property
    def size(self) -> int:
        """Return the number of entries of all parts; a pair may occur in each of them."""
        return sum(map(len, self.parts))

    def add(self, entries: Entries) -> None:
        """Add a part."""
        self.parts.append(entries)
        merged, *waiting = map(len, self.parts)
        # As many entries may wait as are merged already. So all merges together cost a few times as
        # much as the last one, and memory is at most about twice that of the sum.
        if sum(waiting) > max(MAX_WAITING_ENTRIES, merged):
            self.parts = [merge(self.parts)]

    def total(self) -> Entries:
        """Return the sum, sorted by key and period; at least one part was added."""
        self.parts = [merge(self.parts)]
        return self.parts[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timeline:
    """The running sums of each key over its periods."""

    keys_U: Keys
    """Distinct keys, ascending."""
    cells_n: npt.NDArray[np.int64]
    """Cell of each entry in a grid of keys by periods, row by row; ascending.

    It is the index of the entry's key times `periods`, plus the entry's period minus `first`."""
    sums_nC: Counts
    """Counts of the entry's key up to its period, which is included."""
    first: int
    """First period of any entry."""
    periods: int
    """Periods from the first to the last one of any entry; at least 1."""

    @classmethod
    def of(cls, entries: Entries) -> "Timeline":
        """Return the timeline of entries, which `merge` has sorted."""
        if not len(entries):
            return cls(
                keys_U=entries.keys_n,
                cells_n=np.empty(0, np.int64),
                sums_nC=entries.counts_nC,
                first=0,
                periods=1,
            )
        first = int(entries.periods_n.min())
        periods = int(entries.periods_n.max()) - first + 1
        keys_U, starts_U, index_n = np.unique(
            entries.keys_n, return_index=True, return_inverse=True
        )
        cells_n = index_n.astype(np.int64) * periods + (entries.periods_n - first)
        sums_nC = np.cumsum(entries.counts_nC, axis=0)
        # One running sum over all entries, minus its value at the end of the key before.
        before_UC = np.zeros((len(keys_U), sums_nC.shape[1]), np.int64)
        before_UC[1:] = sums_nC[starts_U[1:] - 1]
        return cls(
            keys_U=keys_U,
            cells_n=cells_n,
            sums_nC=sums_nC - before_UC[index_n],
            first=first,
            periods=periods,
        )

    @classmethod
    def joined(cls, parts: "list[Timeline]") -> "Timeline":
        """Return one timeline of several, whose keys ascend from part to part.

        Args:
            parts: at least one. The list is emptied, so that no number is in memory twice for long.
        """
        counted = [part for part in parts if len(part.keys_U)]
        if len(counted) < 2:
            return (counted or parts)[0]
        parts.clear()
        first = min(part.first for part in counted)
        periods = max(part.first + part.periods for part in counted) - first
        width = counted[0].sums_nC.shape[1]
        keys_U = np.empty(sum(len(part.keys_U) for part in counted), np.uint64)
        cells_n = np.empty(sum(len(part.cells_n) for part in counted), np.int64)
        sums_nC = np.empty((len(cells_n), width), np.int64)
        key = entry = 0
        counted.reverse()
        while counted:
            part = counted.pop()
            index_n, period_n = np.divmod(part.cells_n, part.periods)
            keys_U[key : key + len(part.keys_U)] = part.keys_U
            cells_n[entry : entry + len(index_n)] = (
                (index_n + key) * periods + period_n + (part.first - first)
            )
            sums_nC[entry : entry + len(index_n)] = part.sums_nC
            key, entry = key + len(part.keys_U), entry + len(index_n)
        return cls(keys_U=keys_U, cells_n=cells_n, sums_nC=sums_nC, first=first, periods=periods)

    def through(self, keys_B: Keys, periods_B: npt.NDArray[np.int64]) -> Counts:
        """Return the counts of each key up to a period, which is included, (B, C).

        Args:
            keys_B: keys; one that was never counted has zeros.
            periods_B: periods, which may lie before the first one or after the last.
        """
        counts_BC = np.zeros((len(keys_B), self.sums_nC.shape[1]), np.int64)
        if not len(self.keys_U):
            return counts_BC
        # The index of a key that is larger than all would lie behind the last one.
        index_B = np.minimum(np.searchsorted(self.keys_U, keys_B), len(self.keys_U) - 1)
        start_B = index_B * self.periods
        last_B = start_B + np.minimum(periods_B - self.first, self.periods - 1)
        entry_B = np.searchsorted(self.cells_n, last_B, side="right") - 1
        # `entry_B` is the last entry up to that cell. It belongs to a smaller key where this key
        # has no entry so early, and to another key where this one was never counted.
        is_counted_B = (self.keys_U[index_B] == keys_B) & (periods_B >= self.first)
        is_counted_B &= (entry_B >= 0) & (self.cells_n[entry_B] >= start_B)
        counts_BC[is_counted_B] = self.sums_nC[entry_B[is_counted_B]]
        return counts_BC

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays that a file stores of it."""
        bounds = np.array([self.first, self.periods], np.int64)
        return {
            "keys": self.keys_U,
            "places": self.cells_n,  # the name in files, from the first version on
            "sums": self.sums_nC,
            "bounds": bounds,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> "Timeline":
        """Return the timeline that a file stores."""
        first, periods = (int(bound) for bound in arrays["bounds"])
        return cls(
            keys_U=arrays["keys"].view(np.uint64),
            cells_n=arrays["places"].view(np.int64),
            sums_nC=arrays["sums"].view(np.int64),
            first=first,
            periods=periods,
        )
