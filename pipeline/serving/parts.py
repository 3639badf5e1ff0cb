"""Do one worker's part of `iak predict`: write each of its parts as one file of predictions.

A part is some row groups of the log, one after the other. The parts depend on the log and on
`part_rows` alone, and the file of a part on its rows alone. So any number of workers write the same
files, and a resumed run writes those that are missing.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.collectives import most
from iak.pipeline.data import parquet
from iak.pipeline.data.breaches import named
from iak.pipeline.data.hashing import dictionary_indices
from iak.pipeline.data.pieces import Piece, blocks_of, pieces_of
from iak.pipeline.data.prefetch import prefetch
from iak.pipeline.data.reader import rebatch
from iak.pipeline.data.splits import Selection
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import Corrupt, PipelineError
from iak.pipeline.events import Report, WorkDone
from iak.pipeline.files import putting_file
from iak.pipeline.formats import current_document
from iak.pipeline.process import Worker
from iak.pipeline.serving.activation_writer import ActivationWriter, ActivationWriterConfig
from iak.pipeline.serving.encode import encode_to_score
from iak.pipeline.serving.routes import one_dictionary
from iak.pipeline.serving.scorer import Scorer
from iak.schemas.job import FrozenTablesSpec
from iak.schemas.log import SCORED
from iak.schemas.plan import ResolvedPlacement
from iak.schemas.scoring import SCORES_FORMAT, ScoresDocument

DOCUMENT = b"iak"
"""Key of the document in the metadata of a file of predictions."""
_AHEAD = 2
"""Batches that are read and encoded ahead."""
Part = list[Piece]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreWork:
    """The work of `iak predict`, the same for every worker."""

    view: LogView
    """Its catalogue is without labels, and its one split has the rows that are predicted."""
    base: PublishedBase
    bundles: Path | None
    """Folder of the kernels; None predicts with the base alone."""
    folder: Path
    """Folder of the parts' files."""
    batch_rows: int
    part_rows: int
    tables: FrozenTablesSpec
    placement: ResolvedPlacement
    writer_config: ActivationWriterConfig | None = None
    """Where activations are stored; None stores none."""

    @property
    def selection(self) -> Selection:
        """Return the rows that are predicted."""
        return self.view.selections[SCORED]

    @property
    def parts(self) -> list[Part]:
        """Return all parts, in the log's order."""
        return blocks_of(pieces_of(self.selection, rank=0, world=1), rows=self.part_rows)

    def path(self, number: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"part-{number:05d}.parquet"


def score_parts(work: ScoreWork, *, worker: Worker, report: Report) -> None:
    """Write the files of this worker's parts that are not there yet; a collective call.

    Args:
        work: log, base, bundles and settings.
        worker: this process.
        report: called after each batch.

    Raises:
        PipelineError: tables or trunk changed meanwhile.
    """
    work.folder.mkdir(parents=True, exist_ok=True)  # on a machine that is not the driver's
    if work.bundles is not None:
        worker.files.fetch(work.bundles)
    base = FrozenBase.load(work.base, work.tables, work.placement, worker)
    before = base.digest()
    scorer = Scorer.of(base, work.view.catalog, bundles=work.bundles, tables=work.tables)
    if work.writer_config is not None and work.bundles is not None:
        writer = ActivationWriter.of(work.writer_config, base, work.bundles, work.tables)
        scorer = replace(scorer, activation_writer=writer)
    # Parts go to the workers in turn, so that each one knows its own without asking others.
    own = {n: part for n, part in enumerate(work.parts) if n % worker.world == worker.rank}
    missing = {number: part for number, part in own.items() if not work.path(number).exists()}
    steps = sum(-(-_rows(part) // work.batch_rows) for part in missing.values())
    rounds = most(steps, worker)
    all_rows, left = (sum(map(_rows, parts.values())) for parts in (own, missing))
    progress = _Progress(report, done=all_rows - left, of=all_rows)
    for number, part in missing.items():
        _write_part(work, number, part, scorer, progress)
        worker.files.send(work.path(number))
    # A lookup in sharded tables is a collective call: take part without rows.
    for _ in range(rounds - steps):
        scorer.score(pa.table({}))
    if scorer.activation_writer is not None and work.writer_config is not None:
        scorer.activation_writer.close(work.writer_config, is_first=worker.is_first_here)
    if base.digest() != before:
        raise PipelineError("tables or trunk changed while they predicted; the result is void")


@dataclass(slots=True)
class _Progress:
    """The number of this worker's rows that are predicted so far."""

    report: Report
    done: int
    of: int

    def add(self, rows: int) -> None:
        """Report further rows."""
        self.done += rows
        self.report(WorkDone("rows", self.done, self.of))


def _rows(part: Part) -> int:
    return sum(piece.rows for piece in part)


def _write_part(
    work: ScoreWork, number: int, part: Part, scorer: Scorer, progress: _Progress
) -> None:
    """Write one part's file, which appears when it is whole; a collective call."""
    contract: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    encoded = rebatch(_encoded(work, part, contract), work.batch_rows)
    with (
        putting_file(work.path(number)) as path,
        pq.ParquetWriter(path, scorer.schema, compression="zstd", write_page_checksum=True) as out,
    ):
        for rows in prefetch(encoded, depth=_AHEAD):
            scores = scorer.score(rows)
            out.write_table(scores)
            kernels.update(_counted(scores.column("kernel")))
            reasons.update(_counted(scores.column("reason")))
            progress.add(len(rows))
        document = ScoresDocument(
            part=number,
            rows=_rows(part),
            row_id=work.view.catalog.log.row_id,
            tasks=tuple(task.name for task in scorer.tasks),
            base_fingerprint=work.base.manifest.fingerprint,
            kernels=dict(kernels),
            reasons=dict(reasons),
            contract=dict(contract),
        )
        out.add_key_value_metadata({DOCUMENT: document.model_dump_json()})
        if scorer.activation_writer is not None:
            scorer.activation_writer.cache.flush()  # a resumed run does not look at this part again


def _encoded(work: ScoreWork, part: Part, contract: Counter[str]) -> Iterator[pa.RecordBatch]:
    """Yield a part's encoded rows, one row group at a time."""
    catalog = work.view.catalog
    for piece in part:
        raw = parquet.read_piece(work.selection, piece, catalog)
        contract.update(named(raw.counts))
        yield encode_to_score(
            raw.rows, raw.identity, catalog=catalog, encoding=work.base.encoding, counts=contract
        )


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    """Return the rows of each value of a column of dictionaries; nulls are left out."""
    coded = one_dictionary(column)
    words = coded.dictionary.to_pylist()
    counts = np.bincount(dictionary_indices(coded), minlength=len(words))
    return {word: int(rows) for word, rows in zip(words, counts, strict=False) if rows}


def read_document(path: Path) -> ScoresDocument:
    """Return the document of a file of predictions.

    Raises:
        Corrupt: it is missing or no document, or names another number of rows than the file has.
        OtherFormat: another version wrote it.
    """
    remedy = "Remove the run folder, and run its `iak predict` again"
    try:
        metadata = pq.read_metadata(path)
        written = json.loads((metadata.metadata or {}).get(DOCUMENT, b"{}"))
        entry = current_document(
            written, kind="scores", current=SCORES_FORMAT, where=path, remedy=remedy
        )
        document = ScoresDocument.model_validate(entry)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Corrupt(f"{path} is no file of predictions: {error}. {remedy}") from error
    if document.rows != metadata.num_rows:
        raise Corrupt(
            f"{path} has {metadata.num_rows:,} rows, its document says {document.rows:,}. {remedy}"
        )
    return document
