"""Count row ids that occur more than once, in bounded memory.

A repeated row is learned from twice, and ranked twice. Ids are compared by their 64-bit keys. Once
there are too many keys, only those that begin with a zero bit are kept, then those with two, and so
on. Each row of a kept key is counted, so the share of repeated rows stays an unbiased estimate.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iak.pipeline.data import hashing, parquet
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.notice import notice
from iak.pipeline.data.splits import Selection
from iak.pipeline.errors import BadLog
from iak.schemas.log import Catalog, LogSpec

KEPT_KEYS = 1 << 22
"""Most keys in memory, 32 MiB."""
LOOKED_AT_ROWS = 1_000_000
"""Rows whose ids are read, where not all of them are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Counts of rows that repeat the id of another row."""

    column: str
    rows: int
    """Rows whose ids were read."""
    repeated: int
    """Rows whose id an earlier row has; an estimate where only some of the keys were kept."""
    is_estimated: bool = False

    @property
    def share(self) -> float:
        """Return the share of the rows read that repeat an id."""
        return self.repeated / self.rows if self.rows else 0.0

    def finding(self, log: LogSpec, where: str) -> Finding | None:
        """Return the finding, None where no id repeats.

        Args:
            log: says how many repeats are allowed.
            where: folder of the log.
        """
        if not self.repeated:
            return None
        about = "about " if self.is_estimated else ""
        return notice(
            f"repeated id in {self.column}: {about}{self.repeated:,} of {self.rows:,} rows looked "
            f"at ({self.share:.2%}; log.max_repeated_ids allows {log.max_repeated_ids:.2%})",
            column=self.column,
            count=self.repeated,
            remedy="Write each row once, or raise log.max_repeated_ids. A column that is the same "
            "for several rows (a request, a user) is slice_by, not row_id",
            where=where,
            level="refuse" if self.share > log.max_repeated_ids else "warn",
        )


class KeyCounter:
    """Counts rows and their distinct keys."""

    def __init__(self, kept: int = KEPT_KEYS) -> None:
        """Start with no rows.

        Args:
            kept: most keys in memory.
        """
        self.rows = 0
        self._kept = kept
        self._zero_bits = 0
        self._keys = np.empty(0, np.uint64)
        self._counts = np.empty(0, np.int64)
        self._added: list[hashing.Keys] = []

    def add(self, keys: hashing.Keys) -> None:
        """Count some rows by their keys."""
        self.rows += len(keys)
        self._added.append(keys[self._is_sampled(keys)])
        if len(self._keys) + sum(map(len, self._added)) > self._kept:
            self._merge()

    def repeats(self, column: str) -> Repeats:
        """Return the counts, for ids of this column."""
        self._merge()
        sampled = int(self._counts.sum())
        share = (sampled - len(self._keys)) / sampled if sampled else 0.0
        return Repeats(
            column=column,
            rows=self.rows,
            repeated=round(share * self.rows),
            is_estimated=self._zero_bits > 0,
        )

    def _is_sampled(self, keys: hashing.Keys) -> npt.NDArray[np.bool_]:
        if not self._zero_bits:  # a shift by all 64 bits is undefined
            return np.ones(len(keys), np.bool_)
        return np.asarray(keys >> np.uint64(64 - self._zero_bits) == 0)

    def _merge(self) -> None:
        """Merge the added keys into the others, and halve the sample while it is too large."""
        added = np.concatenate([np.empty(0, np.uint64), *self._added])
        self._added = []
        counts = np.concatenate([self._counts, np.ones(len(added), np.int64)])
        self._keys, positions = np.unique(np.concatenate([self._keys, added]), return_inverse=True)
        self._counts = np.bincount(positions, counts, len(self._keys)).astype(np.int64)
        # Half of the room stays free for new keys, so that merges are rare.
        while 2 * len(self._keys) > self._kept:
            self._zero_bits += 1
            kept = self._is_sampled(self._keys)
            self._keys, self._counts = self._keys[kept], self._counts[kept]


def count_repeats(
    selections: Iterable[Selection], catalog: Catalog, *, rows: int | None = LOOKED_AT_ROWS
) -> Repeats | None:
    """Count repeated row ids in the last rows of some selections. Only that column is read.

    Whole row groups that are neighbours in the log's order are read: a delivery that was written
    twice is often there twice in a row.

    Args:
        selections: parts of one snapshot. A row group of several of them is read once, and whole.
        catalog: the log's catalogue.
        rows: number of rows to read, rounded up to whole row groups; None for all.

    Returns:
        None where the log declares no row id.
    """
    column = catalog.log.row_id
    if not column:
        return None
    counter = KeyCounter()
    for keys in _newest_keys(selections, catalog):
        counter.add(keys)
        if rows is not None and counter.rows >= rows:
            break
    return counter.repeats(column)


def _newest_keys(selections: Iterable[Selection], catalog: Catalog) -> Iterator[hashing.Keys]:
    """Yield the row keys of each row group with selected rows, the log's last one first."""
    groups: dict[tuple[int, int], Selection] = {}
    for selection in selections:
        groups |= dict.fromkeys(((file, group) for file, group, _ in selection.groups), selection)
    for (file, group), selection in sorted(groups.items(), key=lambda item: item[0], reverse=True):
        yield parquet.row_keys(selection.snapshot, selection.snapshot.files[file], group, catalog)


def refuse_repeats(repeats: Repeats | None, log: LogSpec, where: str) -> None:
    """Refuse a log in which more rows repeat an id than the catalogue allows.

    Raises:
        BadLog: the message names column, rows, share and setting.
    """
    finding = repeats.finding(log, where) if repeats else None
    if finding and finding.level == "refuse":
        raise BadLog(f"{where}: {finding.what}. {finding.remedy}")
