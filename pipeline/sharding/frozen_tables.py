"""Look up frozen tables that are cut over the workers: ids are sent, rows or sums come back.

There is no optimiser state, no backward pass and no gradient traffic. A lookup makes the three
collective calls of `exchange`. It makes none where a worker has every table whole: because it is
alone, or because tables are mapped from local disk.

Shapes: B bags of a feature, I ids, R rows, W columns, N bytes of a row.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torchrec.distributed.types import ShardingPlan
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.errors import BadRequest
from iak.pipeline.model.tables import LocalShard, TableShape
from iak.pipeline.process import Worker
from iak.pipeline.sharding import quantised
from iak.pipeline.sharding.exchange import LocalRows, Question, exchange, offsets_of, refuse
from iak.pipeline.sharding.mapped import Append, MapFolder, Mapped, map_files, remove_unused
from iak.pipeline.sharding.quantised import Lookup
from iak.pipeline.sharding.row_format import (
    SCALE_BYTES,
    check_width,
    column_bytes,
    has_scale,
    row_bytes,
    stride_bytes,
)
from iak.pipeline.sharding.stacks import (
    INT32_ROWS,
    Piece,
    Stack,
    planned_pieces,
    stacks_of,
    whole_pieces,
)
from iak.schemas.job import Precision
from iak.schemas.plan import ShardingType
from iak.schemas.table_placement import TablePlacement

BUFFER_BYTES = 16 * 2**20
"""Bytes of fp32 rows that are read from files at a time."""
BLOCK_BYTES = 2**20
"""Bytes of fp32 rows that are encoded at a time. Small blocks are reused by the allocator; encoding
whole buffers would allocate many aligned megabytes each time and fragment the heap."""


class ReadRows(Protocol):
    """A function that reads parts of tables in fp32."""

    def __call__(self, out_RW: Tensor, *, table: str, row: int, col: int) -> None:
        """Fill `out_RW` with the part of a table that begins at (row, col)."""


class Bags(NamedTuple):
    """A feature's bags."""

    ids_I: Tensor
    """Ids, bag after bag."""
    lengths_B: Tensor
    """Ids of each bag."""


class FrozenTables(nn.Module):
    """The tables of a frozen base; they replace `Recommender.tables`."""

    def __init__(
        self,
        shapes: Sequence[TableShape],
        plan: ShardingPlan,
        *,
        worker: Worker,
        precisions: Mapping[str, Precision],
        mapped_at: MapFolder | None = None,
    ) -> None:
        """Lay out the tables; `fill` gives them their values.

        Args:
            shapes: the tables.
            plan: the ranks of each table, from `plan_tables` for this world.
            worker: this process.
            precisions: the type of each table's entries.
            mapped_at: the base's folder on this machine's disk. Every worker then maps every table
                whole from files in it, and the plan is not used. None to follow the plan.

        Raises:
            BadRequest: a table cannot be stored in its precision, or a GPU is asked to map it.
        """
        super().__init__()
        if mapped_at is not None and worker.device.type != "cpu":
            raise BadRequest(
                f"tables.mapped maps tables into a CPU's memory; worker {worker.rank} computes on "
                f"{worker.device}. Leave it out, or set device=cpu"
            )
        for shape in shapes:
            check_width(shape.name, precisions[shape.name], shape.width)
        self.worker, self.precisions, self.mapped_at = worker, dict(precisions), mapped_at
        self._mapped: Mapped | None = None
        self.shapes = {shape.name: shape for shape in shapes}
        self.is_shared = worker.world > 1 and mapped_at is None
        self.rank = worker.rank if self.is_shared else 0
        pieces = planned_pieces(plan) if self.is_shared else whole_pieces(shapes)
        self.stacks = stacks_of(shapes, list(pieces), precisions)
        self.local_rows = [self._local_rows(stack) for stack in self.stacks]
        # Row numbers are sent: int32 halves their bytes where no rank has too many rows.
        longest = max(s.rows_on(piece.rank) for s in self.stacks for piece in s.pieces)
        row_type = torch.int32 if longest <= INT32_ROWS else torch.int64
        self._no_rows = torch.empty(0, dtype=row_type, device=worker.device)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of rows that this worker stores or maps."""
        return sum(local.bytes_RN.numel() for local in self.local_rows)

    def fill(self, read: ReadRows) -> None:
        """Give the tables their values. Besides the tables it takes a buffer of bounded size.

        Args:
            read: reads parts of the published tables.

        Raises:
            BadRequest: a value is outside the range of its table's precision.
            Corrupt: a mapped file is not what was written.
        """
        if self.mapped_at is not None:
            self._map(self.mapped_at, read)
            return
        for stack, local in zip(self.stacks, self.local_rows, strict=True):
            # `local=local` binds this turn's rows: a closure would see the loop's last one.
            def keep(first: int, bytes_RN: Tensor, local: LocalRows = local) -> None:
                rows, width = bytes_RN.shape  # on CUDA a row may be longer, for its alignment
                local.bytes_RN[first : first + rows, :width].copy_(bytes_RN)

            self._encode(stack, read, keep)

    @torch.no_grad()
    def forward(self, ids: KeyedJaggedTensor) -> dict[str, Tensor]:
        """Return the SUM of every bag: feature -> (B, width), fp32.

        A collective call where tables are sharded. Workers may bring different numbers of rows.

        Raises:
            ValueError: an id is outside its table, here or on another worker.
        """
        return self._sums(_bags_of(ids))

    @torch.no_grad()
    def sequences(self, ids: KeyedJaggedTensor) -> dict[str, Tensor]:
        """Return the row of every id, in the order of `ids`: feature -> (its ids, width), fp32.

        A collective call, with the same errors as `forward`.
        """
        return self._sums(
            {
                feature: Bags(bags.ids_I, torch.ones_like(bags.ids_I))
                for feature, bags in _bags_of(ids).items()
            }
        )

    @torch.no_grad()
    def rows(self, table: str, ids_I: Tensor) -> Tensor:
        """Return the rows of ids of one table, `rows_IW` in fp32.

        A collective call where tables are sharded: every worker asks for rows of the same table.

        Args:
            table: name of the table, which one feature reads.
            ids_I: row numbers of this worker; there may be none.

        Raises:
            ValueError: an id is outside the table, here or on another worker.
        """
        (feature,) = self.shapes[table].features
        return self._sums({feature: Bags(ids_I, torch.ones_like(ids_I))})[feature]

    def local_shards(self) -> list[LocalShard]:
        """Return this worker's parts of tables, not copied; each element is on one worker alone.

        fp32 and fp16 come as numbers; int8 and int4 as bytes, scale and bias first. Mapped tables
        are whole on every worker, so that each returns an equal share of the rows.
        """
        return [
            self._shard(stack, local, piece)
            for stack, local in zip(self.stacks, self.local_rows, strict=True)
            for piece in self._shown(stack)
        ]

    def describe(self) -> list[TablePlacement]:
        """Return the placement of every table, for records."""
        lines = []
        for name, shape in self.shapes.items():
            pieces = [p for stack in self.stacks for p in stack.pieces if p.table == name]
            precision = self.precisions[name]
            lines.append(
                TablePlacement(
                    table=name,
                    type="mapped" if self.mapped_at else _sharding_type(pieces, shape),
                    precision=precision,
                    ranks=tuple(piece.rank for piece in pieces),
                    rows=shape.rows,
                    width=shape.width,
                    bytes_per_rank=tuple(p.rows * row_bytes(precision, p.cols) for p in pieces),
                )
            )
        return lines

    def _local_rows(self, stack: Stack) -> LocalRows:
        """Allocate a stack's memory on this worker, not initialised; no rows where it is mapped."""
        device = self.worker.device
        stride = stride_bytes(stack.precision, stack.width, device)
        rows = 0 if self.mapped_at else stack.rows_on(self.rank)
        return LocalRows(
            bytes_RN=quantised.room_for(rows, stride, device),
            lookup=Lookup(stack.precision, stack.width, device),
            partial=Lookup("fp32", stack.width, device),
        )

    def _encode(self, stack: Stack, read: ReadRows, keep: Callable[[int, Tensor], object]) -> None:
        """Encode this worker's rows of a stack, and pass them to `keep` block by block, in order.

        Args:
            stack: stack whose rows are read.
            read: reads parts of the published tables.
            keep: is called with the stack's row at which a block begins, and with its bytes. They
                are freed when it returns, before the next block is encoded.
        """
        # Scale and bias follow from all columns of a row, so that even a piece with some of the
        # columns reads whole rows.
        whole = has_scale(stack.precision)
        for piece in (p for p in stack.pieces if p.rank == self.rank):
            width = self.shapes[piece.table].width if whole else piece.cols
            buffer_RW = torch.empty(min(piece.rows, max(1, BUFFER_BYTES // (4 * width))), width)
            for done in range(0, piece.rows, max(1, len(buffer_RW))):
                row, rows_RW = piece.row + done, buffer_RW[: piece.rows - done]
                read(rows_RW, table=piece.table, row=row, col=0 if whole else piece.col)
                for block_RW in rows_RW.split(max(1, BLOCK_BYTES // (4 * width))):
                    bytes_RN = self._bytes_of(block_RW, stack, piece, row)
                    keep(piece.first + row - piece.row, bytes_RN)
                    row += len(block_RW)

    @staticmethod
    def _bytes_of(rows_RW: Tensor, stack: Stack, piece: Piece, row: int) -> Tensor:
        """Encode rows as a piece of the stack stores them; `row` is the table's first of them."""
        precision = stack.precision
        bytes_RN = quantised.to_bytes(rows_RW, precision, table=piece.table, first_row=row)
        if has_scale(precision) and piece.cols < rows_RW.shape[1]:
            return quantised.columns_of(bytes_RN, precision, piece.col, piece.cols)
        return bytes_RN

    def _map(self, where: MapFolder, read: ReadRows) -> None:
        """Map every stack from its file, and write the files first where this machine has none."""
        layout = [
            (stack.precision, stack.width, [(p.table, p.rows) for p in stack.pieces])
            for stack in self.stacks
        ]
        # The key names the folder: another layout of the same base has files of its own.
        key = hashlib.sha256(json.dumps(layout).encode()).hexdigest()[:12]
        names = [f"{stack.precision}-{stack.width}" for stack in self.stacks]
        strides = [local.bytes_RN.shape[1] for local in self.local_rows]
        named = dict(zip(names, self.stacks, strict=True))

        def write(name: str, append: Append) -> None:
            self._encode(named[name], read, lambda _, bytes_RN: append(bytes_RN.numpy().data))

        sizes = {
            name: stack.rows_on(0) * stride
            for name, stack, stride in zip(names, self.stacks, strides, strict=True)
        }
        self._mapped = map_files(where, key, sizes, write)
        for name, local, stride in zip(names, self.local_rows, strides, strict=True):
            local.bytes_RN = self._mapped.files[name].view(-1, stride)
        remove_unused(where.path.parent, days=where.days)

    def _sums(self, bags: Mapping[str, Bags]) -> dict[str, Tensor]:
        """Return every feature's sums, whichever ranks own the rows."""
        try:
            asked = [
                pair
                for stack, local in zip(self.stacks, self.local_rows, strict=True)
                for pair in self._questions(stack, local, bags)
            ]
        except ValueError:
            if self.is_shared:  # two questions per stack; the other workers wait in `exchange`
                refuse(2 * sum(bool(_asking(stack, bags)) for stack in self.stacks), self.worker)
            raise
        questions = [question for _, question in asked]
        if self.is_shared:
            sums = exchange(questions, self.worker)
        else:
            sums = [q.local.sums(q.rows_I, q.offsets_O) for q in questions]
        parts: dict[str, list[tuple[int, Tensor]]] = {}
        for (stack, lanes), part_GW in zip((key for key, _ in asked), sums, strict=True):
            sizes = [len(bags[stack.lanes[number].feature].lengths_B) for number in lanes]
            for number, sums_BW in zip(lanes, part_GW.split(sizes), strict=True):
                lane = stack.lanes[number]
                parts.setdefault(lane.feature, []).append((lane.col, sums_BW))
        return {feature: _joined(bands) for feature, bands in parts.items()}

    def _questions(
        self, stack: Stack, local: LocalRows, bags: Mapping[str, Bags]
    ) -> Iterator[tuple[tuple[Stack, list[int]], Question]]:
        """Yield the questions to a stack, each with the lanes that ask it; none where no lane asks.

        Where tables are shared there are two: of lanes whose rows come as stored, and of lanes
        whose bags their owners sum. Each lane takes what needs fewer bytes in this batch.
        """
        numbers = _asking(stack, bags)
        if not numbers:
            return
        if not self.is_shared:
            yield (stack, numbers), self._question(stack, local, bags, numbers, is_summed=False)
            return
        stored, summed = (local.answer_bytes(is_summed=is_summed) for is_summed in (False, True))
        for is_summed in (False, True):
            lanes = []
            for number in numbers:
                ids_I, lengths_B = bags[stack.lanes[number].feature]
                # At best each bag has one owner: as many sums come back as there are bags with ids.
                is_long = len(ids_I) * stored > int(lengths_B.count_nonzero()) * summed
                if is_long == is_summed:
                    lanes.append(number)
            yield (stack, lanes), self._question(stack, local, bags, lanes, is_summed=is_summed)

    def _question(
        self,
        stack: Stack,
        local: LocalRows,
        bags: Mapping[str, Bags],
        lanes: list[int],
        *,
        is_summed: bool,
    ) -> Question:
        """Address the bags of some lanes: the owner and the stack's row of each id."""
        read = [bags[stack.lanes[number].feature] for number in lanes]
        owners_I, rows_I = stack.address(lanes, [part.ids_I for part in read], self._no_rows)
        lengths = [part.lengths_B for part in read]
        offsets_O = offsets_of(torch.cat(lengths) if lengths else rows_I[:0])
        return Question(
            local=local,
            is_summed=is_summed,
            owners_I=owners_I,
            rows_I=rows_I,
            offsets_O=offsets_O,
        )

    def _shown(self, stack: Stack) -> Iterator[Piece]:
        """Yield the pieces whose elements `local_shards` returns on this worker."""
        for piece in stack.pieces:
            if self.mapped_at is not None:
                share = -(-piece.rows // self.worker.world)
                row = min(self.worker.rank * share, piece.rows)
                rows = min(share, piece.rows - row)
                yield replace(piece, row=row, rows=rows, first=piece.first + row)
            elif piece.rank == self.rank:
                yield piece

    def _shard(self, stack: Stack, local: LocalRows, piece: Piece) -> LocalShard:
        """View a piece as its precision stores it: as numbers, or as bytes."""
        bytes_RN = local.bytes_RN[piece.first : piece.first + piece.rows]
        bytes_RN = bytes_RN[:, : row_bytes(stack.precision, piece.cols)]
        tensor_RW, col = bytes_RN, piece.col
        if not has_scale(stack.precision):
            tensor_RW = bytes_RN.view(torch.float32 if stack.precision == "fp32" else torch.float16)
        elif piece.col > 0:  # scale and bias are copies here: the first columns' piece returns them
            tensor_RW = bytes_RN[:, SCALE_BYTES:]
            col = SCALE_BYTES + column_bytes(stack.precision, piece.col)
        return LocalShard(
            table=piece.table, row_offset=piece.row, col_offset=col, tensor_RW=tensor_RW
        )


def _bags_of(ids: KeyedJaggedTensor) -> dict[str, Bags]:
    """Split a batch into every feature's bags.

    Raises:
        ValueError: lengths and ids do not belong together.
    """
    keys, values = ids.keys(), ids.values()
    lengths_FB = ids.lengths().view(len(keys), -1) if keys else ids.lengths().view(0, 0)
    counts = lengths_FB.sum(dim=1).tolist()
    if sum(counts) != len(values):
        raise ValueError(f"lengths add up to {sum(counts)} ids, but there are {len(values)}")
    parts = values.split(counts)
    return {key: Bags(parts[i], lengths_FB[i]) for i, key in enumerate(keys)}


def _asking(stack: Stack, bags: Mapping[str, Bags]) -> list[int]:
    """Return the numbers of a stack's lanes whose features have bags."""
    return [number for number, lane in enumerate(stack.lanes) if lane.feature in bags]


def _joined(bands: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Join a feature's bands of columns, given as (first column, sums)."""
    if len(bands) == 1:
        return bands[0][1]
    return torch.cat([sums for _, sums in sorted(bands, key=lambda band: band[0])], dim=1)


def _sharding_type(pieces: Sequence[Piece], shape: TableShape) -> ShardingType:
    """Return the sharding type of a table, as a plan names it."""
    if len(pieces) == 1:
        return "table_wise"
    return "row_wise" if pieces[0].cols == shape.width else "column_wise"
