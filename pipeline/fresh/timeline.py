"""Sum the counts of a key over a range of periods.

A `Timeline` has each key's running sums over its periods. Counts are integers, so that the result
depends neither on the order of files nor on the number of workers.

Shapes: n entries (a key in a period), U distinct keys, C counted numbers, B rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iak.pipeline.data.hashing import Keys
from iak.pipeline.data.table_sum import (
    Counts,
    Entries,
    Gather,
    TableSum,
    alone,
    key_ranges,
    merged_ranges,
)


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
    ranges = key_ranges(own, gather)
    least = None
    if most is not None:
        known_R = np.sum(gather(own.totals()), axis=0)[0::2]
        column = 2 * int(known_R.argmax())
        least = _least_kept(merged_ranges(own, ranges, gather), most, column)
    kept = (least.kept(e) if least else e for e in merged_ranges(own, ranges, gather))
    return Timeline.joined([Timeline.of(entries) for entries in kept])


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
