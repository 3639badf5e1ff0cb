"""Fit the encoding of a base on its pre-training rows, by one worker or several.

Each worker counts whole row groups that follow each other in the log, and all of them merge what
they counted. The encoding is the same, to the last bit, whatever the number of workers.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from iak.pipeline.collectives import gathered
from iak.pipeline.data import contract, parquet, ripeness, vocabulary
from iak.pipeline.data.breaches import named
from iak.pipeline.data.encoding_counts import EncodingCounts
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.data.pieces import Piece, pieces_of
from iak.pipeline.data.splits import Selection
from iak.pipeline.data.view import LogView
from iak.pipeline.events import Report
from iak.pipeline.process import Worker
from iak.pipeline.progress import RowCounter
from iak.schemas.training import CountedRows

SPLIT = "pretrain"
"""The rows that are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingWork:
    """What all workers need to fit an encoding."""

    view: LogView
    before: Encoding | None
    """Encoding of the base that is continued; None where a new one is trained."""
    grown: Collection[str]
    """Tables whose vocabulary takes in the new ids of these rows."""
    folder: Path
    """Folder that gets the encoding, in the run folder."""


def fit_on_worker(worker: Worker, work: EncodingWork, report: Report) -> CountedRows:
    """Count this worker's rows, merge all workers' counts, and write the encoding.

    A collective call. The first worker writes.

    Args:
        worker: this process.
        work: the log, and what is known before.
        report: gets the number of rows read so far.

    Returns:
        Labels, and findings of the contract, in the rows of all workers.

    Raises:
        BadLog: a row group cannot be read.
        DoesNotFit: the disk of temporary files is too small.
        WrongBase: ids of a table are of another kind than before.
    """
    view, gather = work.view, partial(gathered, worker=worker)
    selection = view.selections[SPLIT]
    first_row, pieces = whole_groups(selection, rank=worker.rank, world=worker.world)
    counts = EncodingCounts(view.catalog, before=work.before, grown=work.grown, first_row=first_row)
    counted = _count(counts, view, pieces, worker, report)
    if names := counts.misplaced(worker.rank, gather):
        for piece in pieces:
            counts.add_numbers(_numbers_of(piece, selection, names, counts), names)
    is_first = worker.rank == 0
    encoding = counts.encoding(gather, is_kept=is_first)
    if is_first:
        vocabulary.save(encoding, work.folder)
        worker.files.send(work.folder)
    return _summed(gather(counted))


def whole_groups(selection: Selection, *, rank: int, world: int) -> tuple[int, list[Piece]]:
    """Return the row groups of one worker, and the rows before them.

    A row group belongs to the worker whose share of all rows has its middle. None is cut, since a
    sum over half of it would round otherwise.
    """
    first_row, passed = 0, 0
    own: list[Piece] = []
    for piece in pieces_of(selection, rank=0, world=1):
        owner = (2 * passed + piece.rows) * world // (2 * selection.rows)
        if owner == rank:
            own.append(piece)
        first_row += piece.rows if owner < rank else 0
        passed += piece.rows
    return first_row, own


def _count(
    counts: EncodingCounts, view: LogView, pieces: Sequence[Piece], worker: Worker, report: Report
) -> CountedRows:
    """Count the rows of some pieces; return their labels and findings."""
    labels, findings = LabelCounts(view.catalog), Counter[str]()
    done = RowCounter(
        report, "rows counted", rank=worker.rank, of=sum(piece.rows for piece in pieces)
    )
    for raw in parquet.read_ahead(view.selections[SPLIT], pieces, view.catalog):
        rows = raw.rows
        inspected = contract.inspect(rows, view.catalog)
        findings.update(named(inspected.counts))
        young = ripeness.unripe(rows, view.catalog, view.as_of)
        findings.update(named(ripeness.unripe_counts(young, view.catalog, view.as_of)))
        labels.add(rows, inspected.quarantined, inspected.masks_with(young))
        counts.add(rows)
        done.add(len(rows))
    return CountedRows(labels=labels.counts(), contract=dict(findings))


def _numbers_of(
    piece: Piece, selection: Selection, names: Sequence[str], counts: EncodingCounts
) -> pa.RecordBatch:
    """Read the columns of some numbers once more, of a piece that is a whole row group."""
    columns = tuple(counts.numbers[name].columns[0] for name in names)
    rows = parquet.selected_columns(selection, piece.file, piece.group, columns, counts.catalog)
    # One row stands for all where the folder's name gives every number.
    return rows if len(rows) == piece.rows else rows.take(pa.array(np.zeros(piece.rows, np.int64)))


def _summed(parts: Sequence[CountedRows]) -> CountedRows:
    """Return the sums of all workers' counts."""
    labels, findings = Counter[str](), Counter[str]()
    for part in parts:
        labels.update(part.labels)
        findings.update(part.contract)
    return CountedRows(labels=dict(labels), contract=dict(findings))
