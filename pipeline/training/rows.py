"""The rows of a split as tuning needs them: labels, domains, identities, and activations.

A worker's share of the log comes in pieces (reader.py). What is known of a piece without the base
- labels, domains, identities - is kept in the cache under the file's fingerprint, so that a night
opens only files it has not met; its activations are kept in chunks of rows, under the rows' own
identities, so that every split, window and number of workers that meets a row finds it.

Shapes: n rows of this worker, A encoder inputs, T tasks, L levels.
"""

import hashlib
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

from pipeline.data import features
from pipeline.data.batch import labels_of
from pipeline.data.reader import Piece, Reader
from pipeline.process import Worker
from pipeline.training.activations import (
    Absent,
    Activations,
    Arena,
    FrozenBase,
    Recomputed,
    memory_for,
)
from pipeline.training.cache import Store, key_of
from schemas.log import Catalog

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
            return SplitRows(known=_known_columns(features.no_rows(self.reader.catalog)), pieces=())
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
        known = _known_columns(pa.Table.from_batches([batch]))
        if self.store:
            self.store.write_rows(key, known, found)
        return known, batch

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
            as_of=reader.as_of if ripens else None,
            file=[file.path, file.fingerprint],
            rows=[piece.group, piece.start, piece.stop],
            split=split,
        )


def activations_of(
    rows: SplitRows,
    source: RowSource,
    base: FrozenBase,
    *,
    key: Mapping[str, Any],
    dtype: torch.dtype,
    spill: Path | None,
    worker: Worker,
) -> Arena:
    """The rows' activations: what the cache holds now, the rest when it is first used.

    Args:
        rows: of one split.
        source: where they were read from.
        base: computes what is missing.
        key: what the activations depend on besides the rows.
        dtype: how they are kept.
        spill: folder for them where they are not to lie in memory.
        worker: this process.
    """
    store = source.store
    a_nA = memory_for(len(rows), base.width, dtype, spill=spill, device=worker.device)
    absent: list[Absent] = []
    for read in rows.pieces:
        lacking = [
            chunk
            for chunk in _chunks(rows, read, source, key)
            if store is None or not store.read_into(chunk.key, a_nA[chunk.first : chunk.stop])
        ]
        encoded = source.features_of(read) if lacking else None
        read.features = None
        for chunk in lacking:
            assert encoded is not None
            part = encoded.slice(chunk.first - read.first, chunk.stop - chunk.first)
            absent.append(
                Absent(
                    first=chunk.first,
                    stop=chunk.stop,
                    rows=pa.Table.from_batches([part]),
                    key=chunk.key,
                )
            )

    def keep(name: str, a_BA: Tensor) -> None:
        if store is not None:
            store.write(name, a_BA.cpu())

    return Arena(a_nA=a_nA, absent=absent, base=base, worker=worker, filled=keep)


def recomputed(
    rows: SplitRows, source: RowSource, base: FrozenBase, dtype: torch.dtype
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


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows [first, stop) of a split, computed together, and kept under a key."""

    first: int
    stop: int
    key: str


def _chunks(
    rows: SplitRows, read: ReadPiece, source: RowSource, key: Mapping[str, Any]
) -> Iterator[_Chunk]:
    """A piece's rows in chunks, each with the name of its content where it may be kept."""
    piece = read.piece
    file = source.reader.selection.snapshot.files[piece.file]
    for cut in range(piece.start - piece.start % CHUNK_ROWS, piece.stop, CHUNK_ROWS):
        start, stop = max(cut, piece.start), min(cut + CHUNK_ROWS, piece.stop)
        first, last = (read.first + at - piece.start for at in (start, stop))
        name = ""
        if source.store is not None:
            who = rows.known.column("row").slice(first, last - first).to_numpy()
            name = key_of(
                what="activations",
                **key,
                file=file.fingerprint,
                rows=hashlib.sha256(np.ascontiguousarray(who).tobytes()).hexdigest(),
            )
        yield _Chunk(first, last, name)


def _known_columns(rows: pa.Table) -> pa.Table:
    """What is known of rows without the base."""
    return rows.select([n for n in rows.schema.names if not n.startswith(("f.", "n."))])


def joined(parts: Sequence[pa.RecordBatch], catalog: Catalog) -> pa.Table:
    """Encoded rows end to end."""
    if not parts:
        return features.no_rows(catalog)
    return pa.Table.from_batches(parts).unify_dictionaries().combine_chunks()
