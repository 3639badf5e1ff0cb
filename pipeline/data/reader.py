"""Read one worker's share of a selection as encoded rows: in order, in equal steps or shuffled.

Which rows a worker reads is planned in `pieces.py`; row groups are decoded in `parquet.py`. This
module encodes the pieces, cuts them into batches, and shuffles them. For a shuffled epoch,
neighbouring pieces form a block whose rows are shuffled together. A `Cursor` says how far a worker
has come, so that an interrupted epoch continues with the very batches that were left.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pyarrow as pa

from iak.pipeline.data import contract, features, parquet, pieces
from iak.pipeline.data.breaches import named
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.parquet import LastGroup, RawRows
from iak.pipeline.data.pieces import Piece
from iak.pipeline.data.ripeness import unripe, unripe_counts
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.splits import Selection
from iak.pipeline.errors import BadLog
from iak.schemas.log import Catalog

_PART_ROWS = 8_192
"""Rows whose ids lie in one buffer, where batches are smaller than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Position of a worker in an epoch: its current block, and the rows already used of it."""

    epoch: int = 0
    file: str = ""
    """File of the block's first row group; empty at the start of an epoch."""
    group: int = 0
    """Index of that row group in its file."""
    row: int = 0
    """Rows of the block that were already returned."""
    selection: str = ""
    """SHA-256 over everything that decides which rows are read; empty before anything was read."""
    worker: str = ""
    """The worker whose block it is, `0 of 2`; empty at the start of an epoch, which has no
    block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads a selection for one worker, encoded as the catalogue says.

    Methods that take `counts` add the contract's findings in the rows that they read:
    `<level>: <what> in <column>` -> rows.
    """

    selection: Selection
    catalog: Catalog
    encoding: Encoding
    rank: int
    world: int
    as_of: date | None = None
    """Last date whose labels were collected; decides which labels are ripe."""
    truth: Snapshot | None = None
    """A planted log's truth, whose columns are read beside the rows; only evaluation uses it."""
    with_ids: bool = False
    """Keep the declared `row_id` as text in a column `id`; only evaluation uses it."""
    last: LastGroup | None = None
    """The row group that was decoded last, where readers of other splits share it."""

    def pieces(self) -> list[Piece]:
        """Return the pieces that this worker reads, in the log's order."""
        return pieces.pieces_of(self.selection, rank=self.rank, world=self.world)

    def pieces_by_day(self, *, chunk_rows: int) -> list[Piece]:
        """Return the pieces that this worker reads if each day is shared out by itself.

        Args:
            chunk_rows: rows of a chunk, for `pieces.pieces_by_day`.
        """
        return pieces.pieces_by_day(
            self.selection,
            rank=self.rank,
            world=self.world,
            date_key=self.catalog.log.date_key,
            chunk_rows=chunk_rows,
        )

    def encoded(self, piece: Piece, counts: Counter[str] | None = None) -> pa.RecordBatch:
        """Return the encoded rows of a piece."""
        raw = self._read(piece)
        (whole,) = self._encoded_parts(raw, (len(raw.rows),), counts)
        return whole

    def shuffled(
        self,
        *,
        seed: int,
        epoch: int,
        batch_rows: int,
        block_rows: int,
        start: Cursor | None = None,
    ) -> Iterator[tuple[pa.Table, Cursor]]:
        """Yield batches of encoded rows in a reproducible random order.

        Args:
            seed: seed of the shuffle.
            epoch: number of the pass; each epoch has another order.
            batch_rows: rows of a batch; the last batch may have fewer.
            block_rows: least number of rows that are shuffled together, all in memory.
            start: cursor at which an interrupted epoch stopped. The batches that follow are the
                same as without the interruption. None starts the epoch.

        Yields:
            Each batch, with the cursor after it.

        Raises:
            BadLog: the cursor belongs to another selection, or to another worker.
        """
        fresh = self.start_of(epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(self.selection.groups))
        own = pieces.pieces_of(self.selection, rank=self.rank, world=self.world, order=order)
        blocks = pieces.blocks_of(own, rows=block_rows)
        first, used = self._locate(blocks, start or fresh, fresh.selection)
        left: pa.Table | None = None
        for number in range(first, len(blocks)):
            # The seed names the block, not the blocks before it, so a resumed epoch need not
            # read those again.
            block = self._shuffled_block(blocks[number], seed=(seed, epoch, self.rank, number))
            here = self._cursor(blocks[number], fresh)
            row = used if number == first else 0
            if left is not None:
                # Fill up the batch that the previous block left short.
                need = batch_rows - len(left)
                head = pa.concat_tables([left, block.slice(0, need)])
                row = min(need, len(block))
                if len(head) < batch_rows:
                    left = head
                    continue
                yield head, replace(here, row=row)
            while row + batch_rows <= len(block):
                row += batch_rows
                yield block.slice(row - batch_rows, batch_rows), replace(here, row=row)
            left = block.slice(row) if row < len(block) else None
        if left is not None:
            yield left, replace(fresh, epoch=epoch + 1)

    def start_of(self, epoch: int) -> Cursor:
        """Return the cursor that stands before the first row of an epoch."""
        return Cursor(epoch=epoch, selection=self._selection_id())

    def _selection_id(self) -> str:
        """Return SHA-256 over everything that decides which rows are read.

        That is: the fingerprints of the files, the number of rows selected of each row group, the
        split's conditions, and the columns that the conditions use. The conditions count because
        two splits may select equally many rows of each row group, and different ones.
        """
        split, log = self.selection.split, self.catalog.log
        conditions = [str(split.first), str(split.last), sorted(split.where.items()), split.slice]
        columns = log.model_dump(
            mode="json",
            include={
                "partition_keys",
                "date_key",
                "date_unit",
                "event_time",
                "event_time_unit",
                "event_time_format",
                "time_zone",
                "row_id",
                "slice_by",
            },
        )
        decides = json.dumps([self.selection.fingerprint, conditions, columns], sort_keys=True)
        return hashlib.sha256(decides.encode()).hexdigest()

    @property
    def rows(self) -> int:
        """Return the rows of this worker in an epoch."""
        return pieces.rows_of_worker(self.selection, rank=self.rank, world=self.world)

    def steps(self, batch_rows: int) -> int:
        """Return the batches of an epoch, the same number for each worker.

        Args:
            batch_rows: rows of a batch.
        """
        ranks = range(self.world)
        most = max(pieces.rows_of_worker(self.selection, rank=r, world=self.world) for r in ranks)
        return -(-most // batch_rows)

    def in_step(self, batch_rows: int, counts: Counter[str] | None = None) -> Iterator[pa.Table]:
        """Yield the worker's encoded rows in the log's order, in `steps(batch_rows)` batches.

        A worker that runs out of rows yields empty batches. So each worker takes part in every
        collective operation, and no rows are dropped.

        Args:
            batch_rows: most rows of a batch.
            counts: counter to which the contract's findings are added.
        """
        yielded = 0
        part_rows = batch_rows * max(_PART_ROWS // batch_rows, 1)
        for table in rebatch(self._in_parts(part_rows, counts), batch_rows):
            yielded += 1
            yield table
        for _ in range(yielded, self.steps(batch_rows)):
            yield features.no_rows(self.catalog)

    def _in_parts(self, part_rows: int, counts: Counter[str] | None) -> Iterator[pa.RecordBatch]:
        """Yield encoded rows in the log's order, cut every `part_rows` rows and between pieces.

        A batch that lies in one part is a slice of it, and its ids become a tensor without a copy.
        """
        passed = 0
        for piece in self.pieces():
            raw = self._read(piece)
            # A part ends where the rows passed are a multiple of `part_rows`.
            cuts = [0, *range(-passed % part_rows or part_rows, piece.rows, part_rows), piece.rows]
            yield from self._encoded_parts(raw, np.diff(cuts).tolist(), counts)
            passed += piece.rows

    def _cursor(self, block: list[Piece], start: Cursor) -> Cursor:
        """Return the cursor at the start of a block, given the one at the start of its epoch."""
        path = self.selection.snapshot.files[block[0].file].path
        return replace(start, file=path, group=block[0].group, worker=self._worker)

    @property
    def _worker(self) -> str:
        return f"{self.rank} of {self.world}"

    def _locate(self, blocks: list[list[Piece]], start: Cursor, selection: str) -> tuple[int, int]:
        """Return the index of the block that a cursor stands in, and the rows used of it.

        Raises:
            BadLog: the cursor belongs to another selection, or to another worker.
        """
        is_same = start.selection == selection
        if not start.file and (is_same or not start.selection):
            return 0, 0
        is_own = is_same and start.worker == self._worker
        for number, block in enumerate(blocks if is_own else ()):
            path = self.selection.snapshot.files[block[0].file].path
            if (path, block[0].group) == (start.file, start.group):
                return number, start.row
        raise BadLog(
            f"the cursor is at {start.file or 'the start'}, row group {start.group}, worker "
            f"{start.worker or '-'}, of a selection {start.selection[:12]}; this one is "
            f"{selection[:12]}, worker {self._worker}. The log, the split or the number of workers "
            "changed since the checkpoint, or another version wrote it. Start a new run"
        )

    def _shuffled_block(self, block: list[Piece], *, seed: tuple[int, ...]) -> pa.Table:
        parts = [self.encoded(piece) for piece in block]
        # `take` joins the chunks of a column, which needs one dictionary for all of them.
        table = pa.Table.from_batches(parts).unify_dictionaries()
        return table.take(pa.array(np.random.default_rng(list(seed)).permutation(len(table))))

    def _read(self, piece: Piece) -> RawRows:
        return parquet.read_piece(
            self.selection, piece, self.catalog, truth=self.truth, last=self.last
        )

    def _encoded_parts(
        self, raw: RawRows, sizes: Sequence[int], counts: Counter[str] | None
    ) -> list[pa.RecordBatch]:
        """Encode rows in parts of these sizes, with labels masked that are bad or not ripe."""
        inspection = contract.inspect(raw.rows, self.catalog)
        unripe_rows = unripe(raw.rows, self.catalog, self.as_of)
        if counts is not None:
            counts.update(named(inspection.counts))
            counts.update(named(unripe_counts(unripe_rows, self.catalog, self.as_of)))
            counts.update(named(raw.counts))
        parts = features.encode_parts(
            raw.rows,
            sizes,
            identity=raw.identity,
            catalog=self.catalog,
            encoding=self.encoding,
            unlabelled=inspection.quarantined,
            masked=inspection.masks_with(unripe_rows),
        )
        beside: dict[str, pa.Array] = {}
        if self.with_ids and self.catalog.log.row_id:
            beside["id"] = as_text(raw.rows.column(self.catalog.log.row_id))
        if raw.truth is not None:
            beside |= {f"t.{name}": raw.truth.column(name) for name in raw.truth.schema.names}
        return _with_columns(parts, beside) if beside else parts


def _with_columns(
    parts: list[pa.RecordBatch], columns: Mapping[str, pa.Array]
) -> list[pa.RecordBatch]:
    """Append columns to consecutive parts; each column has the rows of all parts together."""
    extended, passed = [], 0
    for part in parts:
        own = [column.slice(passed, len(part)) for column in columns.values()]
        extended.append(
            pa.RecordBatch.from_arrays([*part.columns, *own], [*part.schema.names, *columns])
        )
        passed += len(part)
    return extended


def as_text(column: pa.Array) -> pa.Array:
    """Return ids as text, so that files with ids of several types give one type."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string())


def rebatch(parts: Iterator[pa.RecordBatch], batch_rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in the same order, in tables of `batch_rows` rows.

    Args:
        parts: batches of any size.
        batch_rows: rows of a table; the last one may have fewer.
    """
    waiting: list[pa.Table] = []
    rows = 0
    for part in parts:
        # A part of the right size is passed on as it is: joining would copy it.
        if not waiting and len(part) == batch_rows:
            yield pa.Table.from_batches([part])
            continue
        waiting.append(pa.Table.from_batches([part]))
        rows += len(part)
        if rows >= batch_rows:
            whole = pa.concat_tables(waiting).unify_dictionaries()
            full = rows - rows % batch_rows
            for start in range(0, full, batch_rows):
                yield whole.slice(start, batch_rows)
            waiting, rows = [whole.slice(full)] if rows > full else [], rows - full
    if rows:
        yield pa.concat_tables(waiting).unify_dictionaries()
