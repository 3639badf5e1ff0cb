"""Where each row of each table lies among the rows that a worker holds.

A worker's pieces of equal precision and width lie one after the other in one matrix, its *stack*:
one kernel call reads them all. Every worker knows all stacks from the plan, and so turns an id
into a worker and a row of that worker's stack without asking.

A *lane* is a feature's way to a band of a table's columns; all columns, unless the table is cut
by columns.

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
"""Row numbers that travel as int32 stay below this."""
_UINT8_RANKS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A rectangle of a table on a rank, and the row of that rank's stack at which it begins."""

    table: str
    rank: int
    row: int
    rows: int
    col: int
    cols: int
    first: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A feature's way to a band of columns: its rows lie on `ranks`, `block` of them on each."""

    feature: str
    table: str
    rows: int
    col: int
    ranks: tuple[int, ...]
    block: int
    first: int
    """The row of each of these ranks' stacks at which its block begins."""


class Stack:
    """The pieces of equal precision and width, of all ranks."""

    def __init__(
        self,
        precision: Precision,
        width: int,
        pieces: Sequence[Piece],
        shapes: Sequence[TableShape],
    ) -> None:
        """Lay the pieces one after the other on their ranks."""
        self.precision, self.width = precision, width
        bands = _bands(pieces)
        self.pieces = [piece for band in bands for piece in band]
        self.lanes = list(_lanes(shapes, bands))
        self.ranks = 1 + max(piece.rank for piece in self.pieces)

    def rows_on(self, rank: int) -> int:
        """Rows of a rank's stack."""
        return max((p.first + p.rows for p in self.pieces if p.rank == rank), default=0)

    def address(
        self, lanes: Sequence[int], ids: Sequence[Tensor], like_I: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Who holds each id of these lanes, and in which row of its stack.

        Args:
            lanes: their numbers.
            ids: of each.
            like_I: of the type and on the device that row numbers shall have.

        Raises:
            ValueError: an id is outside its table. No other row is ever read in its place.
        """
        rows_I = like_I.new_empty(sum(len(part) for part in ids))
        owners_I = rows_I.new_empty(
            len(rows_I), dtype=torch.uint8 if self.ranks <= _UINT8_RANKS else torch.int32
        )
        counts = [len(part) for part in ids]
        places = zip(lanes, ids, rows_I.split(counts), owners_I.split(counts), strict=True)
        for number, part_I, to_I, owner_I in places:
            lane = self.lanes[number]
            _check(lane, part_I)
            row_I = part_I.int() if lane.rows <= INT32_ROWS else part_I
            if len(lane.ranks) == 1:
                owner_I.fill_(lane.ranks[0])
                torch.add(row_I, lane.first, out=to_I)
            else:
                block_I = torch.div(row_I, lane.block, rounding_mode="trunc")
                owner_I.copy_(block_I)
                torch.sub(row_I, block_I, alpha=lane.block, out=to_I).add_(lane.first)
        return owners_I, rows_I


def stacks_of(
    shapes: Sequence[TableShape], pieces: Sequence[Piece], precisions: Mapping[str, Precision]
) -> list[Stack]:
    """The stacks that hold these pieces, in the same order on every worker."""
    kinds: dict[tuple[Precision, int], list[Piece]] = {}
    for piece in pieces:
        kinds.setdefault((precisions[piece.table], piece.cols), []).append(piece)
    return [Stack(precision, width, held, shapes) for (precision, width), held in kinds.items()]


def planned_pieces(plan: ShardingPlan) -> Iterator[Piece]:
    """The rectangles of a plan."""
    for table, sharding in plan.plan[TABLES_PATH].items():
        for rank, shard in zip(sharding.ranks, sharding.sharding_spec.shards, strict=True):
            (row, col), (rows, cols) = shard.shard_offsets, shard.shard_sizes
            yield Piece(table=table, rank=rank, row=row, rows=rows, col=col, cols=cols)


def whole_pieces(shapes: Sequence[TableShape]) -> Iterator[Piece]:
    """Every table as the one rectangle it is, on rank 0."""
    for shape in shapes:
        yield Piece(table=shape.name, rank=0, row=0, rows=shape.rows, col=0, cols=shape.width)


def _bands(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces by band of a table's columns, each at its place in its rank's stack.

    Bands that all ranks share come first, and take as many rows on each of them, so that their
    place is the same everywhere: `rows - ranks < rows of all stacks together` at worst.
    """
    held: dict[tuple[str, int], list[Piece]] = {}
    for piece in pieces:
        held.setdefault((piece.table, piece.col), []).append(piece)
    ends: dict[int, int] = {}
    bands = []
    for band in sorted(held.values(), key=lambda band: -len(band)):
        block = max(piece.rows for piece in band)
        firsts = {ends.get(piece.rank, 0) for piece in band}
        assert len(firsts) == 1, f"bands of {band[0].table} begin at {firsts}; expected one row"
        (first,) = firsts
        bands.append([replace(piece, first=first) for piece in sorted(band, key=_by_row)])
        ends |= {piece.rank: first + block for piece in band}
    return bands


def _by_row(piece: Piece) -> tuple[int, int]:
    return piece.row, piece.rank


def _lanes(shapes: Sequence[TableShape], bands: Sequence[Sequence[Piece]]) -> Iterator[Lane]:
    """A lane for each feature and band of columns."""
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
    """Refuse ids that are no rows of the table."""
    if len(ids_I) == 0:
        return
    low, high = (int(end) for end in ids_I.aminmax())
    if low < 0 or high >= lane.rows:
        raise ValueError(
            f"feature {lane.feature} asks for ids {low} to {high}; table {lane.table} has rows 0 "
            f"to {lane.rows - 1}. Encode the rows with the encoding of this very base"
        )
