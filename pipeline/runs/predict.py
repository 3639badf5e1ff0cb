"""Predict rows on workers, and publish the files of predictions together."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType
from typing import BinaryIO

from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.data import kinds
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.events import Report, silent
from iak.pipeline.files import put_folder, remove_parts
from iak.pipeline.launcher import Launch, Launcher
from iak.pipeline.process import Worker, process_group
from iak.pipeline.runs import skipped
from iak.pipeline.runs.inputs import inputs_of
from iak.pipeline.runs.log import describe_log, list_log
from iak.pipeline.runs.outputs import file_output
from iak.pipeline.runs.pinned import bundles_now, pinned_bundles
from iak.pipeline.runs.preflight import (
    BundlesFolder,
    base_inputs,
    bundles_folder,
    bundles_inputs,
    check_frozen_fits,
    check_workers,
    open_frozen_base,
)
from iak.pipeline.runs.record import PARTS, OpenRecord, run_record
from iak.pipeline.runs.stored_run import ACTIVATIONS, local_cache, local_run
from iak.pipeline.serving.activation_writer import ActivationWriterConfig
from iak.pipeline.serving.parts import ScoreWork, read_document, score_parts
from iak.pipeline.serving.scorer import Scorer
from iak.pipeline.serving.stream import score_stream
from iak.schemas.explaining import ChosenRowsSpec
from iak.schemas.log import SCORED, Catalog, SplitSpec
from iak.schemas.predictions import PREDICTIONS
from iak.schemas.results import RunResult
from iak.schemas.scoring import PredictSpec, ScoresDocument, ScoringResult

MAY_DIFFER = (*skipped.MAY_DIFFER, "workers")
"""Settings that change no file of predictions."""


class PredictResult(RunResult):
    """Result of a run that predicted."""

    scoring: ScoringResult
    """Rows by kernel and by reason."""

    @property
    def predictions(self) -> Path:
        """Return the folder of the files of predictions."""
        return self.run_dir / PREDICTIONS


def predict(
    spec: PredictSpec, catalog: Catalog, launcher: Launcher, report: Report = silent
) -> PredictResult:
    """Predict every selected row of a log once, and publish all files together.

    A run that was interrupted is resumed: files that are complete are not written again.

    Args:
        spec: settings of `iak predict`.
        catalog: the log's catalogue; the log may lack the columns of its labels.
        launcher: starts the workers.
        report: gets the events of the run.

    Raises:
        AlreadyFinished: the folder holds this very run, finished.
        PipelineError: the request cannot be met; nothing was published.
    """
    with (
        local_run(spec) as local,
        run_record("predict", spec, local.run_dir, may_differ=MAY_DIFFER, report=report) as record,
    ):
        scoring = _predict(local, catalog, launcher, record)
    return PredictResult(run_dir=spec.run_dir, record=record.record, scoring=scoring)


def predict_stream(spec: PredictSpec, catalog: Catalog, source: BinaryIO, sink: BinaryIO) -> int:
    """Predict an Arrow stream in this process, and return the number of its rows.

    Args:
        spec: settings of `iak predict`.
        catalog: the log's catalogue.
        source: an Arrow IPC stream; partition keys are columns of it.
        sink: gets an Arrow IPC stream of predictions.

    Raises:
        BadRequest: rows were to be chosen, or the stream cannot be read.
        PipelineError: the request cannot be met.
    """
    if spec.keep_activations:
        raise BadRequest("keep_activations=true is for files; leave it out for a stream")
    if spec.dates or spec.where:
        raise BadRequest(
            "dates= and where= choose rows of files, and this is a stream. Leave them out, and "
            "send the rows that you want predicted"
        )
    opened = open_frozen_base(spec.base, catalog, spec.tables)
    with (
        TemporaryDirectory(prefix="iak-bundles-") as scratch,
        process_group(0, 1, backend="gloo", threads=1) as worker,
    ):
        bundles = None
        if spec.bundles is not None:
            folder = bundles_now(spec.bundles, opened, Path(scratch), setting="bundles")
            bundles = bundles_folder(folder, opened, setting="bundles").path
        base = FrozenBase.load(opened, spec.tables, spec.placement.resolved(), worker)
        scorer = Scorer.of(base, to_score(spec, catalog), bundles=bundles, tables=spec.tables)
        return score_stream(scorer, source, sink, batch_rows=spec.batch_rows)


def _predict(
    spec: PredictSpec, catalog: Catalog, launcher: Launcher, record: OpenRecord
) -> ScoringResult:
    """Open base, bundles and log, predict on workers, and publish."""
    report = record.report
    check_workers(spec, report, is_elsewhere=launcher.is_elsewhere)
    opened = open_frozen_base(spec.base, catalog, spec.tables)
    check_frozen_fits(spec, opened, spec.tables, is_elsewhere=launcher.is_elsewhere)
    bundles = _bundles(spec, opened, record)
    with record.phase("snapshot"):
        described = to_score(spec, catalog)
        view = list_log(spec, described, report, wanted=(SCORED,), digests_in=opened.folder.parent)
        others = base_inputs(opened) | bundles_inputs(bundles, name="bundles")
        record.settle_inputs(inputs_of(catalog, describe_log(view), others))
        skipped.report_skipped(view, spec, report)
        kinds.refuse_other_kinds(view.snapshot, described, opened.encoding.kinds)
    work = score_work(spec, view, opened, bundles=bundles.path if bundles else None)
    # `_publish` renames the folder when every file is complete. An attempt that was interrupted
    # after that has nothing left to predict.
    published = spec.run_dir / PREDICTIONS
    if not published.exists():
        with record.phase("predict"):
            _run_workers(spec, work, launcher, report)
    with record.phase("predictions"):
        documents = _publish(work, published)
    scoring = _summed(documents, opened, bundles)
    record.result = scoring
    record.outputs = {
        f"{PREDICTIONS}/{path.name}": file_output(path) for path in sorted(published.iterdir())
    }
    return scoring


def to_score(
    spec: PredictSpec | ChosenRowsSpec, catalog: Catalog, *, share: float = 1.0
) -> Catalog:
    """Return the catalogue without labels, and with the rows that are predicted as its split.

    Args:
        spec: names the rows by their dates and values.
        catalog: the log's catalogue.
        share: share of these rows, by the slice key. They are the rows of the highest hashes, which
            a night's gate has, so that its kernels were not tuned on them.

    Raises:
        BadRequest: the log has no dates to choose rows by.
    """
    log = catalog.log
    if spec.dates and not (log.date_key or log.event_time):
        raise BadRequest(
            f"dates={spec.dates[0]} to {spec.dates[1]}: the catalogue of log '{log.name}' names no "
            "date_key and no event_time. Leave dates out, or choose rows by where=COLUMN=VALUE"
        )
    rows = SplitSpec(dates=spec.dates, where=spec.admitted, slice=(1 - share, 1))
    return catalog.to_score(rows)


def score_work(
    spec: PredictSpec, view: LogView, opened: PublishedBase, *, bundles: Path | None
) -> ScoreWork:
    """Return the workers' part of a run that predicts.

    Args:
        spec: settings of the run.
        view: the rows that are predicted.
        opened: the base.
        bundles: folder of the kernels; None predicts with the base alone.
    """
    return ScoreWork(
        view=view,
        base=opened,
        bundles=bundles,
        folder=spec.run_dir.resolve() / PARTS,
        batch_rows=spec.batch_rows,
        part_rows=spec.part_rows,
        tables=spec.tables,
        placement=spec.placement.resolved(),
        writer_config=_writer_config(spec, opened) if spec.keep_activations else None,
    )


def _writer_config(spec: PredictSpec, opened: PublishedBase) -> ActivationWriterConfig:
    """Return where activations are stored: beside the base, unless the spec names a folder."""
    folder = local_cache(spec.cache) or opened.folder.parent / ACTIVATIONS
    return ActivationWriterConfig(
        folder=folder.absolute(),
        precision=spec.cache.precision,
        budget_bytes=int(spec.cache.budget_gib * 2**30),
        # A run that is resumed on another machine has another folder there, but the same name.
        run=spec.run_dir.name if spec.cache.uri else str(spec.run_dir.resolve()),
        uri=spec.cache.uri,
    )


def _bundles(spec: PredictSpec, opened: PublishedBase, record: OpenRecord) -> BundlesFolder | None:
    """Return the folder of the kernels, an alias resolved; None where the base predicts alone."""
    if spec.bundles is None:
        return None
    pinned = pinned_bundles(spec.bundles, opened, record, setting="bundles")
    return bundles_folder(pinned, opened, setting="bundles")


def _run_workers(spec: PredictSpec, work: ScoreWork, launcher: Launcher, report: Report) -> None:
    """Let workers write the files that are missing."""
    work.folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(work.parts)):
        remove_parts(work.path(number))  # of workers that were killed
    launcher.run(Launch.of(spec, score_on_worker, work, NoneType, title="predict"), report)


def score_on_worker(worker: Worker, work: ScoreWork, report: Report) -> None:
    """Write one worker's files of predictions."""
    score_parts(work, worker=worker, report=report)


def _publish(work: ScoreWork, published: Path) -> list[ScoresDocument]:
    """Check every file, and rename the folder to its published name.

    Raises:
        Corrupt: a file is missing, or has other rows than its part.
    """
    folder = published if published.exists() else work.folder
    documents = [
        read_document(folder / work.path(number).name) for number in range(len(work.parts))
    ]
    for number, (document, part) in enumerate(zip(documents, work.parts, strict=True)):
        rows = sum(piece.rows for piece in part)
        if (document.part, document.rows) != (number, rows):
            raise Corrupt(
                f"{folder / work.path(number).name} has {document.rows:,} rows of part "
                f"{document.part}, expected {rows:,} rows of part {number}. Remove the run folder, "
                "and run its `iak predict` again"
            )
    if folder != published:
        put_folder(folder, published)
    return documents


def _summed(
    documents: Sequence[ScoresDocument], opened: PublishedBase, bundles: BundlesFolder | None
) -> ScoringResult:
    """Return the counts of all files."""
    kernels: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    contract: Counter[str] = Counter()
    for document in documents:
        kernels.update(document.kernels)
        reasons.update(document.reasons)
        contract.update(document.contract)
    return ScoringResult(
        rows=sum(document.rows for document in documents),
        parts=len(documents),
        kernels=dict(kernels.most_common()),
        reasons=dict(reasons.most_common()),
        contract=dict(contract),
        base_fingerprint=opened.manifest.fingerprint,
        bundles=bundles.digest if bundles else None,
    )
