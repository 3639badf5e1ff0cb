"""The rows of a split as tuning needs them: labels, domains, identities, and activations.

A worker's share of the log comes in pieces (reader.py). What is known of a piece without the base
- labels, domains, identities, keys of the features - is kept in the cache under the file's
fingerprint, so that a night opens only files it has not met. Its activations are kept in chunks of
rows under the keys of their features, so that rows are found again whatever became of their labels,
files and row groups, in every split, window and number of workers.

Shapes: n rows of this worker, A encoder inputs, T tasks, L levels.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from iak.pipeline.activations.buffer import (
    Absent,
    ActivationBuffer,
    Activations,
    Recomputed,
    StandardizedBase,
    memory_for,
)
from iak.pipeline.activations.cache import Store, key_of
from iak.pipeline.data import features
from iak.pipeline.data.batch import labels_of
from iak.pipeline.data.feature_keys import FeatureKeys, feature_keys
from iak.pipeline.data.reader import Piece, Reader
from iak.pipeline.process import Worker
from iak.schemas.log import Catalog

KEYS = ("c.0", "c.1")
"""Columns of the keys of rows' features."""
CHUNK_ROWS = 16_384
"""Rows that are computed together, and kept as one entry of the cache; they begin at multiples of
it within a row group's rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningRows:
    """This worker's rows of one split, as the bank needs them.

    Activations lie where the base computes, everything else on the CPU.
    """

    activations: Activations
    labels_nT: Tensor
    mask_nT: Tensor
    slots_nL: Tensor
    """The row's domain at each level, as a number in that level's names; -1 where it has none."""
    identity_n: Tensor
    """Key of each row."""
    user_n: Tensor | None = None
    """Key of each row's user; None where the log declares none."""

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


@dataclass(slots=True)
class ReadPiece:
    """Where a piece's rows lie in their split, and their features if they were read."""

    piece: Piece
    first: int
    features: pa.RecordBatch | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSource:
    """Reads a split's rows for one worker: from the cache what it holds, the rest from the log."""

    reader: Reader
    store: Store | None
    seen: Counter[str]
    """Gathers what the contract finds."""
    schema_hash: str = ""
    """Of the encoding under which rows are read."""

    def read(self) -> SplitRows:
        """What is known of every row; the features of pieces the cache does not know come along."""
        pieces: list[ReadPiece] = []
        tables: list[pa.Table] = []
        first = 0
        for piece in self.reader.pieces_by_day(chunk_rows=CHUNK_ROWS):
            known, batch = self._known(piece)
            pieces.append(ReadPiece(piece=piece, first=first, features=batch))
            tables.append(known)
            first += len(known)
        if not tables:
            (no_rows,) = features.no_rows(self.reader.catalog).combine_chunks().to_batches() or [
                pa.RecordBatch.from_pylist([], features.no_rows(self.reader.catalog).schema)
            ]
            return SplitRows(known=self._known_columns(no_rows), pieces=())
        known = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        return SplitRows(known=known, pieces=tuple(pieces))

    def features_of(self, piece: ReadPiece) -> pa.RecordBatch:
        """A piece's encoded rows, read now if they were not before."""
        return self.reader.encoded(piece.piece) if piece.features is None else piece.features

    def _known(self, piece: Piece) -> tuple[pa.Table, pa.RecordBatch | None]:
        key = self._rows_key(piece)
        held = self.store.read_rows(key) if self.store else None
        if held is not None:
            self.seen.update(held[1])
            return held[0].replace_schema_metadata(None), None
        found: Counter[str] = Counter()
        batch = self.reader.encoded(piece, found)
        self.seen.update(found)
        known = self._known_columns(batch)
        if self.store:
            self.store.write_rows(key, known, found)
        return known, batch

    def _known_columns(self, batch: pa.RecordBatch) -> pa.Table:
        """Return what is known of rows without the base; keys of features where they are kept."""
        names = [n for n in batch.schema.names if not n.startswith(("f.", "n."))]
        known = pa.Table.from_batches([batch]).select(names)
        if self.store is not None:
            for name, column in zip(KEYS, feature_keys(batch).T, strict=True):
                known = known.append_column(name, pa.array(column))
        return known

    def _rows_key(self, piece: Piece) -> str:
        """Of everything that labels, domains and the choice of rows depend on."""
        reader = self.reader
        catalog = reader.catalog
        file = reader.selection.snapshot.files[piece.file]
        told = catalog.model_dump(mode="json", exclude={"splits", "presets"})
        ripens = any(t.matures_after for t in catalog.tasks)
        split = {**asdict(reader.selection.split), "name": None}
        if catalog.log.date_key in dict(file.partition):
            split |= {"first": None, "last": None}  # the file's date is the rows'
        return key_of(
            what="rows",
            catalog=told,
            encoding=self.schema_hash,
            as_of=reader.as_of if ripens else None,
            file=[file.path, file.fingerprint],
            rows=[piece.group, piece.start, piece.stop],
            split=split,
        )


def activations_of(
    rows: SplitRows,
    source: RowSource,
    base: StandardizedBase,
    *,
    key: Mapping[str, Any],
    dtype: torch.dtype,
    spill: Path | None,
    worker: Worker,
) -> ActivationBuffer:
    """The rows' activations: what the cache holds now, the rest when it is first used.

    Args:
        rows: of one split.
        source: where they were read from.
        base: computes what is missing.
        key: what the activations depend on besides the rows' features.
        dtype: how they are kept.
        spill: folder for them where they are not to lie in memory.
        worker: this process.
    """
    a_nA = memory_for(len(rows), base.width, dtype, spill=spill, device=worker.device)
    kept = _Kept(rows, source.store, key_of(what="activations", **key)[:16])
    lacking = {index: kept.lacking_chunks(read, a_nA) for index, read in enumerate(rows.pieces)}
    is_found_n = kept.find_rows([c for chunks in lacking.values() for c in chunks], a_nA)
    absent: list[Absent] = []
    for index, read in enumerate(rows.pieces):
        whole = [c for c in lacking[index] if is_found_n[c.first : c.stop].all()]
        for chunk in whole:
            kept.write(chunk.keys, a_nA[chunk.first : chunk.stop], computed=0)
        partly = [c for c in lacking[index] if c not in whole]
        encoded = source.features_of(read) if partly else None
        read.features = None
        for chunk in partly:
            assert encoded is not None
            part = encoded.slice(chunk.first - read.first, chunk.stop - chunk.first)
            absent.append(_absent(chunk, part, is_found_n[chunk.first : chunk.stop]))

    def keep(block: Absent, a_BA: Tensor) -> None:
        kept.write(block.keys, a_BA, computed=len(block.rows))

    return ActivationBuffer(a_nA=a_nA, absent=absent, base=base, worker=worker, filled=keep)


def _absent(chunk: "_Chunk", rows: pa.RecordBatch, is_found_B: npt.NDArray[np.bool_]) -> Absent:
    """Return a chunk as a block of an arena, of which some rows may be there."""
    places = None
    if is_found_B.any():
        rows = rows.filter(pa.array(~is_found_B))
        places = torch.from_numpy(np.flatnonzero(~is_found_B) + chunk.first)
    return Absent(
        first=chunk.first,
        stop=chunk.stop,
        rows=pa.Table.from_batches([rows]),
        places_r=places,
        keys=chunk.keys,
    )


def recomputed(
    rows: SplitRows, source: RowSource, base: StandardizedBase, dtype: torch.dtype
) -> Recomputed:
    """The rows' activations, looked up anew each time."""
    parts = [source.features_of(piece) for piece in rows.pieces]
    return Recomputed(base=base, rows=joined(parts, source.reader.catalog), dtype=dtype)


def tuning_rows(
    known: pa.Table, activations: Activations, catalog: Catalog, names: Sequence[Sequence[str]]
) -> TuningRows:
    """The rows with their labels and slots.

    Args:
        known: identity, labels and domains.
        activations: of the same rows.
        catalog: the log's catalogue.
        names: domain names of each level, in slot order.
    """
    labels_nT, mask_nT = labels_of(known, catalog)
    slots = [slots_of(known, level, names_) for level, names_ in enumerate(names)]
    users = known.column("user").to_numpy().copy() if catalog.log.user else None
    return TuningRows(
        activations=activations,
        labels_nT=labels_nT,
        mask_nT=mask_nT,
        slots_nL=torch.from_numpy(np.stack(slots, axis=1)),
        identity_n=torch.from_numpy(known.column("row").to_numpy().copy()),
        user_n=None if users is None else torch.from_numpy(users),
    )


def slots_of(rows: pa.Table, level: int, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Each row's place in `names` at this level, -1 for a domain that is not there."""
    column = rows.column(f"l.{level}").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries().combine_chunks()
    place = {name: index for index, name in enumerate(names)}
    lookup = np.array([place.get(n, -1) for n in column.dictionary.to_pylist()] + [-1], np.int64)
    indices = column.indices.fill_null(len(column.dictionary)).to_numpy().astype(np.int64)
    slots: npt.NDArray[np.int64] = lookup[indices]
    return slots


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """Rows [first, stop) of a split, computed together."""

    first: int
    stop: int
    keys: FeatureKeys | None
    """Of their features; None where nothing is kept."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """The part of the cache in which the activations of a split lie."""

    rows: SplitRows
    store: Store | None
    scope: str

    def lacking_chunks(self, read: ReadPiece, a_nA: Tensor) -> list[_Chunk]:
        """Read a piece's chunks into memory, and return those that are not there as a whole."""
        return [
            chunk
            for chunk in self._chunks(read)
            if self.store is None
            or chunk.keys is None
            or not self.store.read_into(self.scope, chunk.keys, a_nA[chunk.first : chunk.stop])
        ]

    def find_rows(self, chunks: Sequence[_Chunk], a_nA: Tensor) -> npt.NDArray[np.bool_]:
        """Read single rows of chunks into memory, and return which of all rows were found."""
        is_found_n = np.zeros(len(self.rows), np.bool_)
        keys = [chunk.keys for chunk in chunks if chunk.keys is not None]
        if self.store is None or not keys:
            return is_found_n
        places_m = np.concatenate([np.arange(chunk.first, chunk.stop) for chunk in chunks])
        for found, a_BA in self.store.find_rows(self.scope, np.concatenate(keys)):
            at = torch.from_numpy(places_m[found])
            a_nA[at.to(a_nA.device)] = a_BA.to(a_nA.device)
            is_found_n[places_m[found]] = True
        return is_found_n

    def write(self, keys: FeatureKeys | None, a_BA: Tensor, *, computed: int) -> None:
        """Keep a chunk under the keys of its rows."""
        if self.store is not None and keys is not None:
            self.store.write(self.scope, keys, a_BA.cpu(), computed=computed)

    def _chunks(self, read: ReadPiece) -> Iterator[_Chunk]:
        """Return a piece's rows in chunks that begin at multiples of CHUNK_ROWS in its group."""
        piece = read.piece
        for cut in range(piece.start - piece.start % CHUNK_ROWS, piece.stop, CHUNK_ROWS):
            start, stop = max(cut, piece.start), min(cut + CHUNK_ROWS, piece.stop)
            first, last = (read.first + at - piece.start for at in (start, stop))
            keys = None
            if self.store is not None:
                part = self.rows.known.slice(first, last - first)
                columns = [part.column(name).to_numpy() for name in KEYS]
                keys = np.stack(columns, axis=1)
            yield _Chunk(first, last, keys)


def joined(parts: Sequence[pa.RecordBatch], catalog: Catalog) -> pa.Table:
    """Encoded rows end to end."""
    if not parts:
        return features.no_rows(catalog)
    return pa.Table.from_batches(parts).unify_dictionaries().combine_chunks()
