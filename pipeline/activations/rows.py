"""Prepare a split's rows for tuning: labels, domains, identities, and activations.

A worker's share of the log comes in pieces (reader.py). The cache stores two things of a piece:

- labels, domains, identities and keys of the features, under the file's fingerprint. They are known
  without the base. A night then opens only files that are new.
- the activations, in chunks of rows, under the keys of their features. They are found again
  although labels, files, row groups, splits, windows or the number of workers have changed.

Shapes: n rows of this worker, B rows of a chunk, m rows of some chunks, A encoder inputs, T tasks,
L levels.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from iak.pipeline.activations.buffer import (
    ActivationBuffer,
    Activations,
    MissingBlock,
    Recomputed,
    StandardizedBase,
    memory_for,
)
from iak.pipeline.activations.cache import ActivationCache, key_of
from iak.pipeline.data import features
from iak.pipeline.data.batch import labels_of
from iak.pipeline.data.feature_keys import FeatureKeys, feature_keys
from iak.pipeline.data.parquet import LastGroup, selected_columns
from iak.pipeline.data.partition_days import days_of_rows
from iak.pipeline.data.pieces import Piece
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.splits import day_of, event_seconds
from iak.pipeline.errors import BadRequest
from iak.pipeline.process import Worker
from iak.schemas.log import Catalog

KEYS = ("c.0", "c.1")
"""Columns of the keys of rows' features."""
_EPOCH = date(1970, 1, 1).toordinal()
CHUNK_ROWS = 16_384
"""Rows that are computed together and stored as one entry of the cache. A chunk begins at a
multiple of this number within its row group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningRows:
    """This worker's rows of one split, as the bank needs them.

    Activations are on the device of the base, everything else on the CPU.
    """

    activations: Activations
    labels_nT: Tensor
    """0 or 1, and 0 where the mask is False."""
    mask_nT: Tensor
    """Whether the label is known."""
    slots_nL: Tensor
    """The row's domain at each level, as a number in that level's names; -1 where it has none."""
    identity_n: Tensor
    """Key of each row, by which noise and steps are drawn."""
    user_n: Tensor | None = None
    """Key of each row's user; None where the log declares none."""
    day_n: Tensor | None = None
    """Day of each row, in days since 1970-01-01; None where nobody asked for it."""
    second_n: Tensor | None = None
    """Unix time of each row's event in seconds, minus infinity where it has none; None where nobody
    asked for it, or the log has no event time."""

    def __len__(self) -> int:
        return self.labels_nT.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRows:
    """This worker's rows of one split before they have activations."""

    known: pa.Table
    """Identity, labels, domains, user of every row."""
    pieces: tuple["ReadPiece", ...]

    def __len__(self) -> int:
        return len(self.known)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOfSplit:
    """The rows of a piece, read on their own."""

    piece: Piece
    known: pa.Table
    """Identity, labels, domains, user of every row."""
    features: pa.RecordBatch | None
    """Encoded rows; None where the cache made it unnecessary to read them."""


@dataclass(slots=True)
class ReadPiece:
    """A piece of a split after it was read."""

    piece: Piece
    first: int
    """Number of its first row in the split."""
    features: pa.RecordBatch | None
    """Encoded rows; None where the cache made it unnecessary to read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSource:
    """Reads a split's rows for one worker: from the cache where it has them, else from the log."""

    reader: Reader
    cache: ActivationCache | None
    """The cache, None without one."""
    contract: Counter[str]
    """Counts quarantined rows by reason, as they are read."""
    schema_hash: str = ""
    """Digest of the encoding under which rows are read."""

    @property
    def rows(self) -> int:
        """Return the rows that this worker reads, as its pieces are planned; no file is opened."""
        return sum(piece.rows for piece in self.pieces())

    def read(self, on_rows: Callable[[int], None] = lambda _: None) -> SplitRows:
        """Return rows without activations, with features of pieces that the cache lacks.

        Args:
            on_rows: called with the number of rows of each piece that was read.
        """
        (rows,) = read_side_by_side([self], on_rows)
        return rows

    def pieces(self) -> list[Piece]:
        """Return the pieces that this worker reads, in the log's order."""
        return self.reader.pieces_by_day(chunk_rows=CHUNK_ROWS)

    def rows_of(self, parts: Sequence["PartOfSplit"]) -> SplitRows:
        """Return the rows of all pieces, in their order."""
        pieces: list[ReadPiece] = []
        first = 0
        for part in parts:
            pieces.append(ReadPiece(piece=part.piece, first=first, features=part.features))
            first += len(part.known)
        if not parts:
            # `to_batches` of a table without rows may return no batch at all.
            (no_rows,) = features.no_rows(self.reader.catalog).combine_chunks().to_batches() or [
                pa.RecordBatch.from_pylist([], features.no_rows(self.reader.catalog).schema)
            ]
            return SplitRows(known=self._known_columns(no_rows), pieces=())
        known = pa.concat_tables([part.known for part in parts])
        return SplitRows(known=known.unify_dictionaries().combine_chunks(), pieces=tuple(pieces))

    def features_of(self, piece: ReadPiece) -> pa.RecordBatch:
        """Return a piece's encoded rows, read now if they were not before."""
        return self.reader.encoded(piece.piece) if piece.features is None else piece.features

    def read_piece(self, piece: Piece) -> "PartOfSplit":
        """Return labels and identities of a piece's rows, and their features if they were read."""
        key = self._rows_key(piece)
        stored = self.cache.read_rows(key) if self.cache else None
        if stored is not None:
            self.contract.update(stored[1])
            known = stored[0].replace_schema_metadata(None)
            return PartOfSplit(piece=piece, known=known, features=None)
        contract: Counter[str] = Counter()  # of this piece alone: it is stored beside the rows
        batch = self.reader.encoded(piece, contract)
        self.contract.update(contract)
        known = self._known_columns(batch)
        if self.cache:
            self.cache.write_rows(key, known, contract)
        return PartOfSplit(piece=piece, known=known, features=batch)

    def _known_columns(self, batch: pa.RecordBatch) -> pa.Table:
        """Return labels, domains, identities and users, with keys of features for the cache."""
        names = [n for n in batch.schema.names if not n.startswith(features.INPUTS)]
        known = pa.Table.from_batches([batch]).select(names)
        if self.cache is not None:
            for name, column in zip(KEYS, feature_keys(batch).T, strict=True):
                known = known.append_column(name, pa.array(column))
        return known

    def _rows_key(self, piece: Piece) -> str:
        """Return a key of everything that labels, domains and the choice of rows depend on."""
        reader = self.reader
        catalog = reader.catalog
        file = reader.selection.snapshot.files[piece.file]
        settings = catalog.model_dump(mode="json", exclude={"splits", "presets"})
        # Only labels that ripen depend on the day of the run. Where there are none, the key is
        # without that day, so that a later run finds the rows again.
        ripens = any(t.matures_after for t in catalog.tasks)
        split = {**asdict(reader.selection.split), "name": None}
        if catalog.log.date_key in dict(file.partition):
            # The file has one date, so that the split takes all its rows or none. Without the days
            # in the key, a window that moves finds the file again.
            split |= {"first": None, "last": None}
        return key_of(
            what="rows",
            catalog=settings,
            encoding=self.schema_hash,
            as_of=reader.as_of if ripens else None,
            file=[file.path, file.fingerprint],
            rows=[piece.group, piece.start, piece.stop],
            split=split,
        )


def read_side_by_side(
    sources: Sequence[RowSource], on_rows: Callable[[int], None] = lambda _: None
) -> list[SplitRows]:
    """Read splits of one log, and decode a row group once for all splits that have rows of it.

    Args:
        sources: their sources, which read one snapshot by one catalogue.
        on_rows: called with the number of rows of each piece that was read.

    Returns:
        The rows of each source, as `RowSource.read` returns them.
    """
    last = LastGroup()
    own = [replace(source, reader=replace(source.reader, last=last)) for source in sources]
    parts: list[list[PartOfSplit]] = [[] for _ in own]
    planned = [(number, piece) for number, source in enumerate(own) for piece in source.pieces()]
    for number, piece in sorted(planned, key=lambda at: (at[1].file, at[1].group)):
        part = own[number].read_piece(piece)
        parts[number].append(part)
        on_rows(len(part.known))
    return [source.rows_of(read) for source, read in zip(own, parts, strict=True)]


def activations_of(
    rows: SplitRows,
    source: RowSource,
    base: StandardizedBase,
    *,
    scope: str,
    dtype: torch.dtype,
    spill: Path | None,
    worker: Worker,
) -> ActivationBuffer:
    """Return the rows' activations: from the cache now, the others when they are first used.

    Args:
        rows: rows of one split. Their features are released, so that memory need not hold both.
        source: source of these rows.
        base: computes the missing activations.
        scope: digest of everything that they depend on besides the rows' features.
        dtype: type in which they are stored.
        spill: folder for a file of them; None for memory.
        worker: this process.

    Raises:
        DoesNotFit: `spill` has no room for them.
    """
    a_nA = memory_for(len(rows), base.width, dtype, spill=spill, device=worker.device)
    cached = _CachedSplit(rows, source.cache, scope)
    lacking = {index: cached.lacking_chunks(read, a_nA) for index, read in enumerate(rows.pieces)}
    # Single rows of the lacking chunks may be stored too, in chunks of other files.
    is_present_n = cached.find_rows([c for chunks in lacking.values() for c in chunks], a_nA)
    missing: list[MissingBlock] = []
    for index, read in enumerate(rows.pieces):
        whole = [c for c in lacking[index] if is_present_n[c.first : c.stop].all()]
        for chunk in whole:  # stored under its own name, so that the next night reads it at once
            cached.write(chunk.keys, a_nA[chunk.first : chunk.stop], computed=0)
        partial = [c for c in lacking[index] if c not in whole]
        encoded = source.features_of(read) if partial else None
        read.features = None  # the blocks below hold the rows that are still needed
        for chunk in partial:
            assert encoded is not None
            part = encoded.slice(chunk.first - read.first, chunk.stop - chunk.first)
            missing.append(_missing_block(chunk, part, is_present_n[chunk.first : chunk.stop]))

    def store(block: MissingBlock, a_BA: Tensor) -> None:
        cached.write(block.keys, a_BA, computed=len(block.rows))

    return ActivationBuffer(a_nA=a_nA, missing=missing, base=base, worker=worker, on_computed=store)


def _missing_block(
    chunk: "_Chunk", rows: pa.RecordBatch, is_present_B: npt.NDArray[np.bool_]
) -> MissingBlock:
    """Return a chunk as a block of the buffer, of which some rows may be present."""
    index_r = None
    if is_present_B.any():
        rows = rows.filter(pa.array(~is_present_B))
        index_r = torch.from_numpy(np.flatnonzero(~is_present_B) + chunk.first)
    return MissingBlock(
        first=chunk.first,
        stop=chunk.stop,
        rows=pa.Table.from_batches([rows]),
        index_r=index_r,
        keys=chunk.keys,
    )


def recomputed(
    rows: SplitRows, source: RowSource, base: StandardizedBase, dtype: torch.dtype
) -> Recomputed:
    """Return the rows' activations, looked up in the base at each use.

    Args:
        rows: rows of one split.
        source: source of these rows.
        base: computes their activations.
        dtype: type to which activations are rounded, as if they were stored.
    """
    parts = [source.features_of(piece) for piece in rows.pieces]
    return Recomputed(base=base, rows=joined(parts, source.reader.catalog), dtype=dtype)


def tuning_rows(
    known: pa.Table, activations: Activations, catalog: Catalog, names: Sequence[Sequence[str]]
) -> TuningRows:
    """Return the rows with their labels and slots.

    Args:
        known: identity, labels, domains and user.
        activations: activations of the same rows.
        catalog: catalogue of the log.
        names: domain names of each level, in slot order.
    """
    labels_nT, mask_nT = labels_of(known, catalog)
    slots = [slots_of(known, level, level_names) for level, level_names in enumerate(names)]
    users = known.column("user").to_numpy().copy() if catalog.log.user else None
    return TuningRows(
        activations=activations,
        labels_nT=labels_nT,
        mask_nT=mask_nT,
        slots_nL=torch.from_numpy(np.stack(slots, axis=1)),
        identity_n=torch.from_numpy(known.column("row").to_numpy().copy()),
        user_n=None if users is None else torch.from_numpy(users),
    )


def days_of(rows: SplitRows, reader: Reader) -> Tensor:
    """Return the day of each row, in days since 1970-01-01; 0 where it has none.

    The day is that in the path of its file, else that of its event time. Only event times are read
    from the file.

    Args:
        rows: rows of one split.
        reader: the reader that read them.

    Raises:
        BadRequest: the log has neither a date key nor an event time.
    """
    log, selection = reader.catalog.log, reader.selection
    dated = log.date_key or log.event_time
    if dated is None:
        raise BadRequest(
            "evidence over nights counts each day once, and this log has no date_key or "
            "event_time. Declare one, or tune with `iak finetune`, which judges one night alone"
        )
    parts = [torch.zeros(0, dtype=torch.int64)]
    for read in rows.pieces:
        piece = read.piece
        known = selection.snapshot.files[piece.file].exact_partition
        day = day_of(known.get(log.date_key or ""), log)
        if day is not None:  # the path names the day of all rows of the file
            parts.append(torch.full((piece.rows,), day.toordinal() - _EPOCH))
            continue
        columns = selected_columns(selection, piece.file, piece.group, (dated,), reader.catalog)
        ordinals = days_of_rows(columns.slice(piece.start, piece.rows), reader.catalog)
        days = ordinals.fill_null(_EPOCH).to_numpy() - _EPOCH
        parts.append(torch.from_numpy(days.astype(np.int64)))
    return torch.cat(parts)


def seconds_of_rows(rows: SplitRows, reader: Reader) -> Tensor | None:
    """Return the Unix time of each row's event in seconds; None where the log has no event time.

    A row without a time has minus infinity, and so is never among the newest.

    Args:
        rows: rows of one split.
        reader: the reader that read them.
    """
    log, selection = reader.catalog.log, reader.selection
    if log.event_time is None:
        return None
    parts = [torch.zeros(0, dtype=torch.float64)]
    for read in rows.pieces:
        piece, wanted = read.piece, (log.event_time,)
        columns = selected_columns(selection, piece.file, piece.group, wanted, reader.catalog)
        times = columns.slice(piece.start, piece.rows).column(log.event_time)
        parts.append(torch.from_numpy(event_seconds(times, log).copy()))
    return torch.cat(parts)


def slots_of(rows: pa.Table, level: int, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return each row's slot: the index of its domain in `names`, -1 where it is not among them.

    Args:
        rows: with the column `l.LEVEL`, a dictionary of domain names.
        level: level whose column is read.
        names: domain names in slot order.
    """
    column = rows.column(f"l.{level}").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries().combine_chunks()
    slot = {name: index for index, name in enumerate(names)}
    # Look up each distinct name once, not each row. The last entry is for rows without a domain.
    lookup = np.array([slot.get(n, -1) for n in column.dictionary.to_pylist()] + [-1], np.int64)
    indices = column.indices.fill_null(len(column.dictionary)).to_numpy().astype(np.int64)
    slots: npt.NDArray[np.int64] = lookup[indices]
    return slots


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """Rows [first, stop) of a split, computed together."""

    first: int
    stop: int
    keys: FeatureKeys | None
    """Keys of their features; None without a cache."""


@dataclass(frozen=True, slots=True)
class _CachedSplit:
    """The activations of a split's rows in the cache."""

    rows: SplitRows
    cache: ActivationCache | None
    scope: str
    """Key of everything that activations depend on besides the rows' features."""

    def lacking_chunks(self, read: ReadPiece, a_nA: Tensor) -> list[_Chunk]:
        """Read a piece's chunks into memory, and return those that the cache does not store."""
        return [
            chunk
            for chunk in self._chunks(read)
            if self.cache is None
            or chunk.keys is None
            or not self.cache.read_into(self.scope, chunk.keys, a_nA[chunk.first : chunk.stop])
        ]

    def find_rows(self, chunks: Sequence[_Chunk], a_nA: Tensor) -> npt.NDArray[np.bool_]:
        """Read single rows of chunks into memory, and return which of all rows are present now.

        Args:
            chunks: chunks that the cache does not store as they are.
            a_nA: memory for all rows.
        """
        is_present_n = np.zeros(len(self.rows), np.bool_)
        keys = [chunk.keys for chunk in chunks if chunk.keys is not None]
        if self.cache is None or not keys:
            return is_present_n
        index_m = np.concatenate([np.arange(chunk.first, chunk.stop) for chunk in chunks])
        for matches, a_BA in self.cache.find_rows(self.scope, np.concatenate(keys)):
            index = torch.from_numpy(index_m[matches])
            a_nA[index.to(a_nA.device)] = a_BA.to(a_nA.device)
            is_present_n[index_m[matches]] = True
        return is_present_n

    def write(self, keys: FeatureKeys | None, a_BA: Tensor, *, computed: int) -> None:
        """Store a chunk under the keys of its rows.

        Args:
            keys: None stores nothing.
            a_BA: activations of the whole chunk.
            computed: rows among them that the base computed now.
        """
        if self.cache is not None and keys is not None:
            self.cache.write(self.scope, keys, a_BA.cpu(), computed=computed)

    def _chunks(self, read: ReadPiece) -> Iterator[_Chunk]:
        """Yield a piece's rows in chunks that begin at multiples of CHUNK_ROWS in its row group.

        So two pieces that cut the group at other rows share the chunks between the cuts.
        """
        piece = read.piece
        for cut in range(piece.start - piece.start % CHUNK_ROWS, piece.stop, CHUNK_ROWS):
            start, stop = max(cut, piece.start), min(cut + CHUNK_ROWS, piece.stop)
            first, last = (read.first + row - piece.start for row in (start, stop))
            keys = None
            if self.cache is not None:
                part = self.rows.known.slice(first, last - first)
                columns = [part.column(name).to_numpy() for name in KEYS]
                keys = np.stack(columns, axis=1)
            yield _Chunk(first, last, keys)


def joined(parts: Sequence[pa.RecordBatch], catalog: Catalog) -> pa.Table:
    """Return encoded rows as one table."""
    if not parts:
        return features.no_rows(catalog)
    return pa.Table.from_batches(parts).unify_dictionaries().combine_chunks()
