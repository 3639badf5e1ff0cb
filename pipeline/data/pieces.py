"""Plan which rows each worker reads. Pure: nothing here opens a file.

The selected rows of all row groups, in the order of the epoch, form one sequence of N rows. Worker
r of W reads rows [N r / W, N (r + 1) / W) of it, however the rows are spread over files:

    row groups    |--- 0 ---|----- 1 -----|-- 2 --|
    workers       [   0   )[    1    )[    2     )

A row group that a boundary cuts is read by both neighbours, and each keeps its own rows. In tuning
each day is such a sequence of its own (`pieces_by_day`): the first time a row is read costs more
than later times, so the rows of a new day are shared by all workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from iak.pipeline.data.splits import Selection

Group = tuple[int, int, int]
"""Index of the file, index of its row group, selected rows of that row group."""
_SAMPLED_GROUPS = 200
"""Most row groups that a sample takes rows from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Consecutive selected rows of one row group."""

    file: int
    """Index of the file in the snapshot."""
    group: int
    """Index of the row group in the file."""
    start: int
    """First row, counted among the selected rows of the row group."""
    stop: int
    """Row after the last one, counted in the same way."""

    @property
    def rows(self) -> int:
        """Return the number of rows of the piece."""
        return self.stop - self.start


def pieces_of(
    selection: Selection,
    *,
    rank: int,
    world: int,
    order: npt.NDArray[np.int64] | None = None,
) -> list[Piece]:
    """Return the pieces that one worker reads.

    Over all ranks the pieces cover each selected row once. The row counts of two workers differ by
    one at most.

    Args:
        selection: the rows to share out.
        rank: the worker, 0 <= rank < world.
        world: number of workers.
        order: a permutation of the selection's row groups; None keeps the log's order.
    """
    groups = selection.groups if order is None else [selection.groups[index] for index in order]
    return _share(groups, rank=rank, world=world)


def pieces_by_day(
    selection: Selection, *, rank: int, world: int, date_key: str | None, chunk_rows: int
) -> list[Piece]:
    """Return the pieces that one worker reads if each day is shared out by itself.

    Over all ranks the pieces cover each selected row once.

    Args:
        selection: the rows to share out.
        rank: the worker, 0 <= rank < world.
        world: number of workers.
        date_key: partition key that holds a file's day; None treats the log as one day.
        chunk_rows: rows of a cached chunk. Chunks start at multiples of it in each row group. The
            boundary of a share moves to the boundary of a chunk where that moves it by no more than
            an eighth of a worker's share of the day.

    Returns:
        Pieces in the log's order.
    """
    days: dict[str | None, list[Group]] = {}
    for group in selection.groups:
        partition = dict(selection.snapshot.files[group[0]].partition)
        days.setdefault(partition.get(date_key or ""), []).append(group)
    shares = (_share(day, rank=rank, world=world, chunk_rows=chunk_rows) for day in days.values())
    # Days are interleaved in the log's order (region by region), so one sort restores it.
    return sorted(chain.from_iterable(shares), key=lambda piece: (piece.file, piece.group))


def _share(groups: Sequence[Group], *, rank: int, world: int, chunk_rows: int = 0) -> list[Piece]:
    """Return one worker's part of the sequence that these row groups form."""
    rows = sum(count for _, _, count in groups)
    # Integer division, not floats: the end of one rank is exactly the start of the next.
    low, high = (rows * r // world for r in (rank, rank + 1))
    if chunk_rows:
        most = rows / (8 * world)
        low, high = (_chunk_boundary(groups, row, chunk_rows, most) for row in (low, high))
    pieces, passed = [], 0
    for file, group, count in groups:
        start, stop = max(low - passed, 0), min(high - passed, count)
        if start < stop:
            pieces.append(Piece(file=file, group=group, start=start, stop=stop))
        passed += count
    return pieces


def _chunk_boundary(groups: Sequence[Group], row: int, chunk_rows: int, most: float) -> int:
    """Return the chunk boundary nearest to a row, or the row if that is further than `most` rows.

    Each worker computes the boundary between two ranks alone. It depends on the row alone, so both
    neighbours get the same one.
    """
    first = 0
    for _, _, count in groups:
        if row <= first + count:
            below = first + (row - first) // chunk_rows * chunk_rows
            above = min(below + chunk_rows, first + count)
            nearest = below if row - below <= above - row else above
            return nearest if abs(nearest - row) <= most else row
        first += count
    return row


def rows_of_worker(selection: Selection, *, rank: int, world: int) -> int:
    """Return the number of selected rows that one worker reads in an epoch."""
    return selection.rows * (rank + 1) // world - selection.rows * rank // world


def blocks_of(pieces: list[Piece], *, rows: int) -> list[list[Piece]]:
    """Group neighbouring pieces into blocks of at least `rows` rows; the last may have fewer."""
    blocks: list[list[Piece]] = []
    block_rows = rows
    for piece in pieces:
        if block_rows >= rows:
            blocks.append([])
            block_rows = 0
        blocks[-1].append(piece)
        block_rows += piece.rows
    return blocks


def spread_pieces(selection: Selection, *, rows: int) -> Iterator[Piece]:
    """Yield pieces of row groups that are spread evenly over a selection.

    Args:
        selection: the rows to sample from.
        rows: approximate number of rows in all. Each of at most `_SAMPLED_GROUPS` row groups gives
            the same number of its first rows, at least one.
    """
    stride = -(-len(selection.groups) // _SAMPLED_GROUPS) or 1
    groups = selection.groups[::stride]
    most = max(rows // max(len(groups), 1), 1)
    for file, group, count in groups:
        yield Piece(file=file, group=group, start=0, stop=min(count, most))
