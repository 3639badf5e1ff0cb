"""Snapshot x worker -> batches of rows: each row to exactly one worker, exactly once.

The selected rows of all row groups, in the epoch's order, are one long line; worker r of W takes
[N r / W, N (r + 1) / W) of it, whatever the file layout. A row group that a cut falls into is read
by both neighbours, each keeping its own rows. In tuning, where a row costs more the first time than
again, every day is such a line: a new day is everybody's work. Within a worker, neighbouring pieces
form a block whose rows are shuffled together; `Cursor` says how far a worker has come.
"""

import hashlib
import json
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iak.pipeline.data import contract, features, hashing, partitions, splits
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.logs import LogFile, Snapshot
from iak.pipeline.data.splits import Selection, Split
from iak.pipeline.data.unseen import UnseenIds
from iak.pipeline.errors import BadLog
from iak.schemas.log import Catalog

T = TypeVar("T")
Group = tuple[int, int, int]
"""File, row group, selected rows."""
TRUTH = ("p_click", "p_order", "p_click_global", "p_order_global")
"""Columns of a planted log's truth."""
UNSEEN_ROWS = 100_000
"""Rows in which ids that training never saw are counted."""
_SAMPLED_GROUPS = 200
_PART_ROWS = 8_192
"""Rows whose ids lie together where batches are smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Consecutive selected rows of one row group."""

    file: int
    group: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Selected rows of the piece."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a worker has come in an epoch: the block it is in, and the rows it used of it."""

    epoch: int = 0
    file: str = ""
    """File of the block's first row group; empty at the start of an epoch."""
    group: int = 0
    """That row group's index in its file."""
    row: int = 0
    """Rows of the block already given out."""
    selection: str = ""
    """SHA-256 over all that decides which rows are read; empty before anything was read."""
    worker: str = ""
    """Whose share the block is of, `0 of 2`; empty at the start of an epoch, which has no block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRows:
    """Selected rows of one piece as the log holds them, with their identities."""

    rows: pa.RecordBatch
    identity: hashing.Keys
    truth: pa.RecordBatch | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    """`<level>: <what> in <column>` -> rows: what reading them showed."""


def select(snapshot: Snapshot, split: Split, catalog: Catalog) -> Selection:
    """Count the split's rows by row group, reading only the columns that decide."""
    groups: list[tuple[int, int, int]] = []
    for index, file in enumerate(snapshot.files):
        if not splits.admits(split, file.exact_partition, date_key=catalog.log.date_key):
            continue
        columns = splits.columns_read(split, catalog, inside=file.inside)
        parquet: pq.ParquetFile | None = None
        for group, rows in enumerate(file.group_rows):
            count = rows
            if columns or split.is_sliced:
                parquet = parquet or snapshot.open(file)
                chosen = _mask(parquet, file, group, split, columns, catalog)
                count = rows if chosen is None else int(chosen.sum())
            if count:
                groups.append((index, group, count))
    return Selection(split=split, snapshot=snapshot, groups=tuple(groups))


def _mask(
    parquet: pq.ParquetFile,
    file: LogFile,
    group: int,
    split: Split,
    columns: tuple[str, ...],
    catalog: Catalog,
) -> splits.Mask | None:
    rows = _read_group(parquet, file, group, columns, catalog)
    return splits.mask(split, rows, _slice_keys(rows, file, group, catalog), catalog)


def _read_group(
    parquet: pq.ParquetFile,
    file: LogFile,
    group: int,
    columns: tuple[str, ...],
    catalog: Catalog | None = None,
) -> pa.RecordBatch:
    """One row group's columns in the types that encoding reads, without a table's deleted rows.

    Partition keys inside the file come as partition values; other partition values are not added.
    Optional columns that the file lacks are null.
    """
    names = file.stored_names(columns)
    try:
        table = parquet.read_row_group(group, columns=list(names.values()), use_threads=False)
        _validate(table)
    except (pa.ArrowException, OSError) as error:
        raise BadLog(
            f"{file.path}, row group {group} cannot be decoded: {error}. "
            "The footer is whole but the data are not; write the file again, or move it away"
        ) from error
    if not columns:
        return pa.RecordBatch.from_arrays([pa.nulls(file.group_rows[group])], ["_"])
    rows = file.stored_rows[group]
    if table.num_columns and len(table) != rows:
        raise BadLog(
            f"{file.path}, row group {group} decodes to {len(table):,} rows, its footer says "
            f"{rows:,}; write the file again, or move it away"
        )
    batch = _as_logged(table.combine_chunks(), file, group, names)
    try:
        return contract.normalised(batch, columns, catalog)
    except pa.ArrowException as error:
        raise BadLog(f"{file.path}, row group {group}: {error}. Mend the export") from error


def _as_logged(
    stored: pa.Table, file: LogFile, group: int, names: Mapping[str, str]
) -> pa.RecordBatch:
    """Return the rows that a row group of the file holds, under the log's names.

    Args:
        stored: its columns as the file has them.
        file: the file.
        group: the row group.
        names: column of the log -> column of the file.
    """
    rows = file.stored_rows[group]
    folder = dict(file.partition)
    columns: dict[str, pa.Array] = {} if stored.num_columns else {"_": pa.nulls(rows)}
    for name, own in names.items():
        if own in stored.column_names:
            chunks = stored.column(own).chunks
            column = chunks[0] if chunks else pa.array([], stored.schema.field(own).type)
            is_key = name in file.inside
            columns[name] = partitions.resolve(column, folder.get(name)) if is_key else column
    for name, value in file.constants.items():
        columns[name] = pa.repeat(value, rows) if value.is_valid else pa.nulls(rows, value.type)
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    kept = file.kept(group)
    return batch if kept is None else batch.filter(pa.array(kept))


def _validate(table: pa.Table) -> None:
    """Refuse what a damaged page may decode to: codes outside their dictionary, torn text.

    Raises:
        ArrowInvalid: as Arrow's own full validation, which looks at much that cannot be wrong here.
    """
    for column in table.itercolumns():
        column.validate()
        for chunk in column.chunks if pa.types.is_dictionary(column.type) else ():
            chunk.dictionary.validate(full=True)
            words, codes = len(chunk.dictionary), pc.min_max(chunk.indices)
            lowest, highest = codes["min"].as_py(), codes["max"].as_py()
            if lowest is not None and not 0 <= lowest <= highest < words:
                raise pa.ArrowInvalid(f"codes {lowest} to {highest} of {words} words")


def read_columns(
    snapshot: Snapshot, file: LogFile, group: int, columns: tuple[str, ...], catalog: Catalog
) -> pa.RecordBatch:
    """Return any columns of one row group, declared or not."""
    return _read_group(snapshot.open(file), file, group, columns, catalog)


def read_column(snapshot: Snapshot, file: LogFile, column: str) -> Iterator[pa.Array]:
    """One column of a file, a row group at a time."""
    parquet = snapshot.open(file)
    for group in range(len(file.group_rows)):
        yield _read_group(parquet, file, group, (column,)).column(column)


def row_keys(snapshot: Snapshot, file: LogFile, group: int, catalog: Catalog) -> hashing.Keys:
    """Return the keys of a row group's rows, reading the row id alone."""
    columns = (catalog.log.row_id,) if catalog.log.row_id else ()
    rows = _read_group(snapshot.open(file), file, group, columns, catalog)
    return _identity(rows, file, group, catalog)


def selected_columns(
    selection: Selection, file: int, group: int, columns: tuple[str, ...], catalog: Catalog
) -> pa.RecordBatch:
    """Return some columns of a row group's selected rows, and the partition's values.

    Args:
        selection: the rows.
        file: index of the file in the snapshot.
        group: index of its row group.
        columns: wanted. Where the partition of the file names all their values, nothing is read,
            and one row stands for all.
        catalog: the log's catalogue.
    """
    held = selection.snapshot.files[file]
    inside = [column for column in columns if column not in held.exact_partition]
    if not inside:
        return _with_partition(pa.RecordBatch.from_arrays([pa.nulls(1)], ["_"]), held)
    deciding = splits.columns_read(selection.split, catalog, inside=held.inside)
    wanted = tuple(dict.fromkeys((*inside, *deciding)))
    rows = _read_group(selection.snapshot.open(held), held, group, wanted, catalog)
    slice_keys = _slice_keys(rows, held, group, catalog)
    chosen = splits.mask(selection.split, rows, slice_keys, catalog)
    return _with_partition(rows if chosen is None else rows.filter(pa.array(chosen)), held)


def _identity(rows: pa.RecordBatch, file: LogFile, group: int, catalog: Catalog) -> hashing.Keys:
    """Return each row's key: its declared id, else (absent or null) its place in its file."""
    return _keys_or_places(rows, file, group, catalog.log.row_id)


def _slice_keys(rows: pa.RecordBatch, file: LogFile, group: int, catalog: Catalog) -> hashing.Keys:
    """Return the key by which each row is sliced; where it is null, the row's place counts."""
    return _keys_or_places(rows, file, group, catalog.log.slice_by or catalog.log.row_id)


def _keys_or_places(
    rows: pa.RecordBatch, file: LogFile, group: int, column: str | None
) -> hashing.Keys:
    ids = rows.column(column) if column and column in rows.schema.names else None
    if ids is not None and not ids.null_count:
        return hashing.keys_of(ids)
    first, stored = sum(file.stored_rows[:group]), file.stored_rows[group]
    places = hashing.keys_of_places(hashing.key_of_text(file.path), first, stored)
    kept = file.kept(group)  # a row keeps its place where its neighbours are deleted
    places = places if kept is None else places[kept]
    if ids is None:
        return places
    is_null = ids.is_null().to_numpy(zero_copy_only=False)
    return np.where(is_null, places, hashing.keys_of(ids))


def pieces_of(
    selection: Selection,
    *,
    rank: int,
    world: int,
    order: npt.NDArray[np.int64] | None = None,
) -> list[Piece]:
    """The pieces worker `rank` reads.

    Args:
        selection: the rows to share out.
        rank: of the worker.
        world: workers.
        order: of the row groups; the selection's own when None.

    Returns:
        Over all ranks they cover every selected row once; two workers' rows differ by one at most.
    """
    groups = selection.groups if order is None else [selection.groups[at] for at in order]
    return _share(groups, rank=rank, world=world)


def pieces_by_day(
    selection: Selection, *, rank: int, world: int, date_key: str | None, chunk_rows: int
) -> list[Piece]:
    """The pieces worker `rank` reads where it has its share of every day, a new one's as well.

    Args:
        selection: the rows to share out.
        rank: of the worker.
        world: workers.
        date_key: partition key of a file's day; without one the log is as one day.
        chunk_rows: rows are wanted in chunks, begun at multiples of it in each row group; a share
            ends where a chunk does, if that moves its end by an eighth of a day's share at most.

    Returns:
        In the log's order; over all ranks they cover every selected row once.
    """
    days: dict[str | None, list[Group]] = {}
    for found in selection.groups:
        partition = dict(selection.snapshot.files[found[0]].partition)
        days.setdefault(partition.get(date_key or ""), []).append(found)
    shares = (_share(day, rank=rank, world=world, chunk_rows=chunk_rows) for day in days.values())
    return sorted(chain.from_iterable(shares), key=lambda piece: (piece.file, piece.group))


def _share(groups: Sequence[Group], *, rank: int, world: int, chunk_rows: int = 0) -> list[Piece]:
    """A worker's part of the line that row groups make, in chunks where they are wanted."""
    rows = sum(count for _, _, count in groups)
    low, high = (rows * r // world for r in (rank, rank + 1))
    if chunk_rows:
        most = rows / (8 * world)
        low, high = (_chunk_end(groups, at, chunk_rows, most) for at in (low, high))
    pieces, passed = [], 0
    for file, group, count in groups:
        start, stop = max(low - passed, 0), min(high - passed, count)
        if start < stop:
            pieces.append(Piece(file=file, group=group, start=start, stop=stop))
        passed += count
    return pieces


def _chunk_end(groups: Sequence[Group], at: int, chunk_rows: int, most: float) -> int:
    """The end of a chunk that is nearest to a row, or the row where that is further than `most`."""
    first = 0
    for _, _, count in groups:
        if at <= first + count:
            below = first + (at - first) // chunk_rows * chunk_rows
            above = min(below + chunk_rows, first + count)
            nearest = below if at - below <= above - at else above
            return nearest if abs(nearest - at) <= most else at
        first += count
    return at


def rows_of_worker(selection: Selection, *, rank: int, world: int) -> int:
    """Selected rows that worker `rank` reads in an epoch."""
    return selection.rows * (rank + 1) // world - selection.rows * rank // world


def blocks_of(pieces: list[Piece], *, rows: int) -> list[list[Piece]]:
    """Neighbouring pieces in blocks of at least `rows` rows, the last one excepted."""
    blocks: list[list[Piece]] = []
    held = rows
    for piece in pieces:
        if held >= rows:
            blocks.append([])
            held = 0
        blocks[-1].append(piece)
        held += piece.rows
    return blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads a selection for one worker, encoded under the contract."""

    selection: Selection
    catalog: Catalog
    encoding: Encoding
    rank: int
    world: int
    as_of: date | None = None
    """Last date whose labels were collected; decides which labels are ripe."""
    truth: Snapshot | None = None
    """A planted log's truth, whose columns are then read beside the rows; evaluation alone asks."""
    with_ids: bool = False
    """Keep the declared `row_id` as text in a column `id`; evaluation alone asks."""

    def in_order(self, seen: Counter[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Encoded rows a piece at a time, in the log's order; `seen` gathers contract counts."""
        for piece in self.pieces():
            yield self.encoded(piece, seen)

    def pieces(self) -> list[Piece]:
        """What this worker reads, in the log's order."""
        return pieces_of(self.selection, rank=self.rank, world=self.world)

    def pieces_by_day(self, *, chunk_rows: int) -> list[Piece]:
        """The same where it reads its share of every day, as `pieces_by_day` has it."""
        return pieces_by_day(
            self.selection,
            rank=self.rank,
            world=self.world,
            date_key=self.catalog.log.date_key,
            chunk_rows=chunk_rows,
        )

    def encoded(self, piece: Piece, seen: Counter[str] | None = None) -> pa.RecordBatch:
        """Encoded rows of a piece; `seen` gathers contract counts."""
        return self._encoded(self._read(piece), seen)

    def shuffled(
        self,
        *,
        seed: int,
        epoch: int,
        batch_rows: int,
        block_rows: int,
        start: Cursor | None = None,
        seen: Counter[str] | None = None,
    ) -> Iterator[tuple[pa.Table, Cursor]]:
        """Batches of `batch_rows` encoded rows (the last may be short), reproducibly shuffled.

        Args:
            seed: of the shuffle; another epoch is another order.
            epoch: number of the pass.
            batch_rows: rows a batch.
            block_rows: rows shuffled together.
            start: where an interrupted epoch stood; the batches that follow are those that would
                have followed.
            seen: gathers contract counts.

        Yields:
            Each batch with the cursor that stands after it.

        Raises:
            BadLog: the cursor stands in another selection than this one.
        """
        fresh = self.start_of(epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(self.selection.groups))
        pieces = pieces_of(self.selection, rank=self.rank, world=self.world, order=order)
        blocks = blocks_of(pieces, rows=block_rows)
        at, used = self._find(blocks, start or fresh, fresh.selection)
        left: pa.Table | None = None
        for number in range(at, len(blocks)):
            block = self._shuffled_block(
                blocks[number], seed=(seed, epoch, self.rank, number), seen=seen
            )
            here = self._cursor(blocks[number], fresh)
            row = used if number == at else 0
            if left is not None:
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
        """SHA-256 over all that decides which rows are read: files, conditions, their columns.

        The files count by their fingerprints and by the rows selected of each row group. Two splits
        may select as many rows of each, and other ones: so their conditions count as well.
        """
        split, log = self.selection.split, self.catalog.log
        conditions = [str(split.first), str(split.last), sorted(split.where.items()), split.slice]
        columns = log.model_dump(
            mode="json",
            include={
                "partition_keys",
                "date_key",
                "event_time",
                "event_time_unit",
                "time_zone",
                "row_id",
                "slice_by",
            },
        )
        decides = json.dumps([self.selection.fingerprint, conditions, columns], sort_keys=True)
        return hashlib.sha256(decides.encode()).hexdigest()

    @property
    def rows(self) -> int:
        """Rows of this worker in an epoch."""
        return rows_of_worker(self.selection, rank=self.rank, world=self.world)

    def steps(self, batch_rows: int) -> int:
        """Batches an epoch takes on the worker that has most; all workers make as many steps."""
        ranks = range(self.world)
        most = max(rows_of_worker(self.selection, rank=r, world=self.world) for r in ranks)
        return -(-most // batch_rows)

    def in_step(self, batch_rows: int, seen: Counter[str] | None = None) -> Iterator[pa.Table]:
        """The worker's rows in the log's order, `steps` batches of at most `batch_rows`.

        A worker that runs out first goes on with batches of no rows: nobody waits for it in a
        collective, and nobody's rows are dropped.
        """
        given = 0
        part_rows = batch_rows * max(_PART_ROWS // batch_rows, 1)
        for table in rebatch(self._in_parts(part_rows, seen), batch_rows):
            given += 1
            yield table
        for _ in range(given, self.steps(batch_rows)):
            yield features.no_rows(self.catalog)

    def _in_parts(self, part_rows: int, seen: Counter[str] | None) -> Iterator[pa.RecordBatch]:
        """Encoded rows in the log's order, cut at multiples of `part_rows` and where pieces end."""
        passed = 0
        for piece in self.pieces():
            raw = self._read(piece)
            cuts = [0, *range(-passed % part_rows or part_rows, piece.rows, part_rows), piece.rows]
            yield from self._encoded_parts(raw, np.diff(cuts).tolist(), seen)
            passed += piece.rows

    def _cursor(self, block: list[Piece], start: Cursor) -> Cursor:
        """The cursor at the start of a block, given the one at the start of its epoch."""
        path = self.selection.snapshot.files[block[0].file].path
        return replace(start, file=path, group=block[0].group, worker=self._worker)

    @property
    def _worker(self) -> str:
        return f"{self.rank} of {self.world}"

    def _find(self, blocks: list[list[Piece]], start: Cursor, selection: str) -> tuple[int, int]:
        """The block a cursor stands in, and the rows used of it."""
        is_same = start.selection == selection
        if not start.file and (is_same or not start.selection):
            return 0, 0
        is_ours = is_same and start.worker == self._worker
        for number, block in enumerate(blocks if is_ours else ()):
            path = self.selection.snapshot.files[block[0].file].path
            if (path, block[0].group) == (start.file, start.group):
                return number, start.row
        raise BadLog(
            f"the cursor stands at {start.file or 'the start'}, row group {start.group}, worker "
            f"{start.worker or '-'}, of a selection {start.selection[:12]}; this one is "
            f"{selection[:12]}, worker {self._worker}. The log, the split or the number of workers "
            "changed since the checkpoint, or another version wrote it. Start a new run"
        )

    def _shuffled_block(
        self, block: list[Piece], *, seed: tuple[int, ...], seen: Counter[str] | None
    ) -> pa.Table:
        parts = [self._encoded(self._read(p), seen) for p in block]
        table = pa.Table.from_batches(parts).unify_dictionaries()
        return table.take(pa.array(np.random.default_rng(list(seed)).permutation(len(table))))

    def _read(self, piece: Piece) -> RawRows:
        return read_piece(self.selection, piece, self.catalog, truth=self.truth)

    def _encoded(self, raw: RawRows, seen: Counter[str] | None) -> pa.RecordBatch:
        (whole,) = self._encoded_parts(raw, (len(raw.rows),), seen)
        return whole

    def _encoded_parts(
        self, raw: RawRows, sizes: Sequence[int], seen: Counter[str] | None
    ) -> list[pa.RecordBatch]:
        found = contract.inspect(raw.rows, self.catalog)
        young = unripe(raw.rows, self.catalog, self.as_of)
        if seen is not None:
            seen.update(found.counts)
            seen.update(unripe_counts(young, self.catalog, self.as_of))
            seen.update(raw.counts)
        parts = features.encode_parts(
            raw.rows,
            sizes,
            identity=raw.identity,
            catalog=self.catalog,
            encoding=self.encoding,
            unlabelled=found.quarantined,
            unripe=found.without(young),
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
    """The parts with more columns of their rows beside them."""
    beside, passed = [], 0
    for part in parts:
        own = [column.slice(passed, len(part)) for column in columns.values()]
        beside.append(
            pa.RecordBatch.from_arrays([*part.columns, *own], [*part.schema.names, *columns])
        )
        passed += len(part)
    return beside


def as_text(column: pa.Array) -> pa.Array:
    """Ids as text, whatever type a file gives them: one type over all files."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string())


def rebatch(parts: Iterator[pa.RecordBatch], batch_rows: int) -> Iterator[pa.Table]:
    """The same rows in the same order, in tables of `batch_rows` (the last may be short)."""
    held: list[pa.Table] = []
    rows = 0
    for part in parts:
        if not held and len(part) == batch_rows:
            yield pa.Table.from_batches([part])
            continue
        held.append(pa.Table.from_batches([part]))
        rows += len(part)
        if rows >= batch_rows:
            whole = pa.concat_tables(held).unify_dictionaries()
            full = rows - rows % batch_rows
            for start in range(0, full, batch_rows):
                yield whole.slice(start, batch_rows)
            held, rows = [whole.slice(full)] if rows > full else [], rows - full
    if rows:
        yield pa.concat_tables(held).unify_dictionaries()


def unripe(
    rows: pa.RecordBatch, catalog: Catalog, as_of: date | None
) -> Mapping[str, npt.NDArray[np.bool_]]:
    """By task, the rows whose label had not matured when labels were last collected."""
    ripening = [t for t in catalog.tasks if t.matures_after]
    if not ripening or as_of is None:
        return {}
    _, collected = splits.window_seconds(as_of, as_of, catalog.log.time_zone)
    happened = _event_seconds(rows, catalog)
    return {
        t.title: happened + (t.matures_after or timedelta()).total_seconds() > collected
        for t in ripening
    }


def unripe_counts(
    young: Mapping[str, npt.NDArray[np.bool_]], catalog: Catalog, as_of: date | None
) -> Counter[str]:
    """Return how many rows of each label `unripe` masks, as the contract's counts have it."""
    labels = {task.title: task.label for task in catalog.tasks}
    found = {title: int(rows.sum()) for title, rows in young.items()}
    counts = {f"warn: not ripe by {as_of} in {labels[t]}": n for t, n in found.items()}
    return +Counter(counts)


def _event_seconds(rows: pa.RecordBatch, catalog: Catalog) -> npt.NDArray[np.float64]:
    """When each row happened; the end of its day where the log knows only dates.

    A row without a time is never known to be ripe: it happened at infinity.
    """
    log = catalog.log
    if log.event_time:
        seconds = splits.event_seconds(rows.column(log.event_time), log)
        return np.where(np.isfinite(seconds), seconds, np.inf)
    names = rows.column(log.date_key).dictionary_encode()
    days = [splits.parse_date(name) for name in names.dictionary.to_pylist()]
    ends = [splits.window_seconds(d, d, log.time_zone)[1] if d else np.inf for d in days]
    return np.array([*ends, np.inf])[hashing.places_in_dictionary(names)]


def read_piece(
    selection: Selection, piece: Piece, catalog: Catalog, *, truth: Snapshot | None = None
) -> RawRows:
    """The piece's rows with all columns the catalogue names, and the planted truth beside them."""
    file = selection.snapshot.files[piece.file]
    keys = catalog.log.partition_keys
    inside = tuple(c for c in catalog.columns if c not in keys)
    inside += tuple(key for key in file.inside if key not in inside)
    opened = selection.snapshot.open_file(file)
    rows = _read_group(opened.parquet, file, piece.group, inside, catalog)
    if file.content is not None:  # after decoding: a file that is written meanwhile is noticed
        file.content.check(opened.handle, file.path, piece.group)
    identity = _identity(rows, file, piece.group, catalog)
    slice_keys = _slice_keys(rows, file, piece.group, catalog) if catalog.log.slice_by else identity
    chosen = splits.mask(selection.split, rows, slice_keys, catalog)
    places = np.arange(len(rows)) if chosen is None else np.flatnonzero(chosen)
    places = places[piece.start : piece.stop]
    beside = None
    if truth is not None:
        twin = _twin(file, truth)
        beside = _kept(_read_group(truth.open(twin), twin, piece.group, TRUTH), places)
    rows = _with_partition(_kept(rows, places), file)
    return RawRows(
        rows=rows, identity=identity[places], truth=beside, counts=_disagreements(rows, file)
    )


def _disagreements(rows: pa.RecordBatch, file: LogFile) -> dict[str, int]:
    """Count the rows whose partition value inside the file is not that of the file's folder."""
    counts = {
        f"warn: value inside the file differs from the folder's in {key}": partitions.disagreements(
            rows.column(key), value
        )
        for key, value in file.partition
        if key in file.inside
    }
    return {told: count for told, count in counts.items() if count}


def _twin(file: LogFile, truth: Snapshot) -> LogFile:
    """The truth's file beside a file of the log."""
    for twin in truth.files:
        if twin.path == file.path and twin.group_rows == file.group_rows:
            return twin
    raise BadLog(
        f"no truth with the same row groups lies beside {file.path}, below {truth.uri}; log and "
        "truth were not written together. Run `iak synth` again"
    )


def _kept(rows: pa.RecordBatch, places: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """The rows at these places; a slice without a copy when they are neighbours."""
    if len(places) and places[-1] - places[0] + 1 == len(places):
        return rows.slice(int(places[0]), len(places))
    return rows.take(pa.array(places))


def _with_partition(rows: pa.RecordBatch, file: LogFile) -> pa.RecordBatch:
    for key, value in file.exact_partition.items():
        zeros = np.zeros(len(rows), np.int32)
        indices = pa.array(zeros) if value is not None else pa.nulls(len(rows), pa.int32())
        word = pa.array([value or ""], pa.string())
        column = pa.DictionaryArray.from_arrays(indices, word, safe=False)
        rows = rows.append_column(key, column)
    return rows


def unseen_ids(
    selection: Selection, catalog: Catalog, encoding: Encoding, *, rows: int = UNSEEN_ROWS
) -> UnseenIds:
    """Count the ids that `encoding` never saw, in about `rows` rows spread over the row groups."""
    counted = UnseenIds()
    for piece in spread_pieces(selection, rows=rows):
        raw = read_piece(selection, piece, catalog)
        counted.add(
            features.encode(raw.rows, identity=raw.identity, catalog=catalog, encoding=encoding),
            catalog,
        )
    return counted


def spread_pieces(selection: Selection, *, rows: int) -> Iterator[Piece]:
    """Return pieces of row groups spread evenly over a selection, about `rows` rows in all.

    Of at most `_SAMPLED_GROUPS` row groups the first rows are taken, as many of each.
    """
    stride = -(-len(selection.groups) // _SAMPLED_GROUPS) or 1
    groups = selection.groups[::stride]
    most = max(rows // max(len(groups), 1), 1)
    for file, group, count in groups:
        yield Piece(file=file, group=group, start=0, stop=min(count, most))


def prefetch(items: Iterator[T], *, depth: int) -> Iterator[T]:
    """The same items, produced by a thread up to `depth` ahead; its error is raised here.

    The thread is gone when the consumer has finished, however it finished.
    """
    ready: queue.Queue[tuple[bool, object]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def produce() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                ready.put((True, item))
            ready.put((False, None))
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, raised there
            ready.put((False, error))

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            is_item, item = ready.get()
            if not is_item:
                if isinstance(item, BaseException):
                    raise item
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        while thread.is_alive():
            with suppress(queue.Empty):
                ready.get(timeout=0.01)
