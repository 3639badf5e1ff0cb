"""Compute the address of each table row: its owner's rank, and its number in that rank's stack.

A worker's pieces of equal precision and width are stored one after the other in one matrix, its
*stack*, so that one kernel call reads them all. Every worker knows all stacks from the plan. It
turns an id into a rank and a row of that rank's stack without communication.

A *lane* connects a feature with a band of a table's columns. The band is all columns, unless the
table is cut by columns.

Shapes: I ids.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchrec.distributed.types import ShardingPlan

from iak.pipeline.model.tables import TableShape
from iak.pipeline.sharding.placement_rule import TABLES_PATH
from iak.schemas.job import Precision

INT32_ROWS = 2**31 - 1
"""The largest row number that is sent as int32."""
_UINT8_RANKS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A rectangle of a table on a rank."""

    table: str
    rank: int
    row: int
    """Row of the table at which it begins."""
    rows: int
    col: int
    """Column of the table at which it begins."""
    cols: int
    first: int = 0
    """Row of the rank's stack at which it begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A feature, and a band of columns of the table that it reads."""

    feature: str
    table: str
    rows: int
    """Rows of the table."""
    col: int
    """Column at which the band begins."""
    ranks: tuple[int, ...]
    """Ranks that own the band, in order of their rows."""
    block: int
    """Rows on each rank; the last ranks may have fewer."""
    first: int
    """Row of each rank's stack at which its block begins, the same on all of these ranks."""


class Stack:
    """The pieces of equal precision and width, of all ranks."""

    def __init__(
        self,
        precision: Precision,
        width: int,
        pieces: Sequence[Piece],
        shapes: Sequence[TableShape],
    ) -> None:
        """Lay out the pieces one after the other on their ranks.

        Args:
            precision: precision of every piece.
            width: columns of every piece.
            pieces: pieces of all ranks.
            shapes: all tables, for the features that read the pieces.
        """
        self.precision, self.width = precision, width
        bands = _bands(pieces)
        self.pieces = [piece for band in bands for piece in band]
        self.lanes = list(_lanes(shapes, bands))
        self.ranks = 1 + max(piece.rank for piece in self.pieces)

    def rows_on(self, rank: int) -> int:
        """Return the number of rows of a rank's stack."""
        return max((p.first + p.rows for p in self.pieces if p.rank == rank), default=0)

    def address(
        self, lanes: Sequence[int], ids: Sequence[Tensor], like_I: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the rank that owns each id, and the id's row in that rank's stack.

        Args:
            lanes: numbers of the lanes that ask.
            ids: ids of each lane.
            like_I: a tensor of the type and device that row numbers get.

        Raises:
            ValueError: an id is outside its table. No other row is ever read instead.
        """
        rows_I = like_I.new_empty(sum(len(part) for part in ids))
        # One byte where the ranks allow it: owners are sorted in every lookup.
        owners_I = rows_I.new_empty(
            len(rows_I), dtype=torch.uint8 if self.ranks <= _UINT8_RANKS else torch.int32
        )
        counts = [len(part) for part in ids]
        # Both results are written in place, lane by lane, through views.
        parts = zip(lanes, ids, rows_I.split(counts), owners_I.split(counts), strict=True)
        for number, part_I, to_I, owner_I in parts:
            lane = self.lanes[number]
            _check(lane, part_I)
            row_I = part_I.int() if lane.rows <= INT32_ROWS else part_I
            if len(lane.ranks) == 1:
                owner_I.fill_(lane.ranks[0])
                torch.add(row_I, lane.first, out=to_I)
            else:
                # As TorchRec routes rows. Row-wise tables lie on all ranks: block b is on rank b.
                block_I = torch.div(row_I, lane.block, rounding_mode="trunc")
                owner_I.copy_(block_I)
                torch.sub(row_I, block_I, alpha=lane.block, out=to_I).add_(lane.first)
        return owners_I, rows_I


def stacks_of(
    shapes: Sequence[TableShape], pieces: Sequence[Piece], precisions: Mapping[str, Precision]
) -> list[Stack]:
    """Group pieces into stacks, in the same order on every worker.

    Args:
        shapes: all tables.
        pieces: pieces of all ranks.
        precisions: precision of each table.
    """
    by_kind: dict[tuple[Precision, int], list[Piece]] = {}
    for piece in pieces:
        by_kind.setdefault((precisions[piece.table], piece.cols), []).append(piece)
    return [Stack(precision, width, equal, shapes) for (precision, width), equal in by_kind.items()]


def planned_pieces(plan: ShardingPlan) -> Iterator[Piece]:
    """Yield the rectangles of a plan, table by table."""
    for table, sharding in plan.plan[TABLES_PATH].items():
        for rank, shard in zip(sharding.ranks, sharding.sharding_spec.shards, strict=True):
            (row, col), (rows, cols) = shard.shard_offsets, shard.shard_sizes
            yield Piece(table=table, rank=rank, row=row, rows=rows, col=col, cols=cols)


def whole_pieces(shapes: Sequence[TableShape]) -> Iterator[Piece]:
    """Yield every table as a single rectangle on rank 0."""
    for shape in shapes:
        yield Piece(table=shape.name, rank=0, row=0, rows=shape.rows, col=0, cols=shape.width)


def _bands(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Group pieces by band of columns, and assign each its first row in its rank's stack.

    A band that lies on all ranks reserves the same number of rows on each of them, so that it
    begins at the same row everywhere. Its last ranks may use fewer rows than that.
    """
    by_band: dict[tuple[str, int], list[Piece]] = {}
    for piece in pieces:
        by_band.setdefault((piece.table, piece.col), []).append(piece)
    ends: dict[int, int] = {}
    bands = []
    # Bands on all ranks come first: a band on one rank before them would shift that rank's rows.
    for band in sorted(by_band.values(), key=lambda band: -len(band)):
        block = max(piece.rows for piece in band)
        firsts = {ends.get(piece.rank, 0) for piece in band}
        assert len(firsts) == 1, f"bands of {band[0].table} begin at {firsts}; expected one row"
        (first,) = firsts
        bands.append([replace(piece, first=first) for piece in sorted(band, key=_by_row)])
        ends |= {piece.rank: first + block for piece in band}
    return bands


def _by_row(piece: Piece) -> tuple[int, int]:
    """Return the key that sorts a band's pieces by row."""
    return piece.row, piece.rank


def _lanes(shapes: Sequence[TableShape], bands: Sequence[Sequence[Piece]]) -> Iterator[Lane]:
    """Yield a lane for each feature and band of columns."""
    for shape in shapes:
        for band in bands:
            if band[0].table == shape.name:
                for feature in shape.features:
                    yield Lane(
                        feature=feature,
                        table=shape.name,
                        rows=shape.rows,
                        col=band[0].col,
                        ranks=tuple(piece.rank for piece in band),
                        block=max(piece.rows for piece in band),
                        first=band[0].first,
                    )


def _check(lane: Lane, ids_I: Tensor) -> None:
    """Refuse ids that are not rows of the table."""
    if len(ids_I) == 0:
        return
    low, high = (int(end) for end in ids_I.aminmax())
    if low < 0 or high >= lane.rows:
        raise ValueError(
            f"feature {lane.feature} asks for ids {low} to {high}; table {lane.table} has rows 0 "
            f"to {lane.rows - 1}. Encode the rows with this base's own encoding"
        )
