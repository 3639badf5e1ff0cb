"""Evaluate a base and its kernels on later rows, with intervals on paired differences."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.data import kinds, logs, stores
from iak.pipeline.data.domains import Serving, nearest_of
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import BadLog, UnderTrained
from iak.pipeline.events import Report, silent
from iak.pipeline.launcher import Launch, Launcher
from iak.pipeline.process import Worker
from iak.pipeline.publish.bundle_set import read_bundle_set
from iak.pipeline.publish.predict import PredictWork, predict
from iak.pipeline.publish.predictions import read_predictions
from iak.pipeline.runs import skipped
from iak.pipeline.runs.inputs import inputs_of
from iak.pipeline.runs.log import describe_log, list_log
from iak.pipeline.runs.metrics import (
    METRICS,
    METRICS_TABLE,
    intervals_of,
    metrics_of,
    reachable_facts,
    served_by,
    with_base_gap,
    write_metrics,
)
from iak.pipeline.runs.outputs import file_output
from iak.pipeline.runs.pinned import pinned_bundles
from iak.pipeline.runs.preflight import (
    base_inputs,
    bundles_folder,
    bundles_inputs,
    check_frozen_fits,
    check_workers,
    open_frozen_base,
)
from iak.pipeline.runs.pretrain import usual_unseen
from iak.pipeline.runs.record import OpenRecord, run_record
from iak.pipeline.runs.stored_run import local_run
from iak.pipeline.stats.metrics import MetricRow
from iak.schemas.job import EvaluateSpec
from iak.schemas.log import Catalog
from iak.schemas.prediction import EvaluationResult, PlantedFacts, PredictionResult
from iak.schemas.predictions import PREDICTIONS
from iak.schemas.record import Output, RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Result of an evaluation."""

    run_dir: Path
    """The run folder."""
    record: RunRecord
    """Its `record.json`."""
    rows: tuple[MetricRow, ...]
    """A row for each method, task and domain, the rows of `metrics.json`."""
    result: EvaluationResult
    """The other numbers of the run: rows, contract, unseen ids, gate, facts of a planted log."""


def evaluate(
    spec: EvaluateSpec, catalog: Catalog, launcher: Launcher, report: Report = silent
) -> Evaluation:
    """Predict on workers, then rank, compare and write metrics.json and metrics.parquet.

    Args:
        spec: settings of `iak evaluate`.
        catalog: the log's catalogue.
        launcher: starts the workers.
        report: gets the events of the run.

    Raises:
        AlreadyFinished: the folder holds this very run, finished.
        UnderTrained: on a planted log, the base is weaker than `max_base_gap` allows.
        PipelineError: the request cannot be met.
    """
    with (
        local_run(spec) as local,
        run_record(
            "evaluate", spec, local.run_dir, may_differ=skipped.MAY_DIFFER, report=report
        ) as record,
    ):
        result, rows = _evaluate(local, catalog, launcher, record)
        _check_gap(spec, result.base_gap)
    return Evaluation(run_dir=spec.run_dir, record=record.record, rows=tuple(rows), result=result)


def _check_gap(spec: EvaluateSpec, gap: float | None) -> None:
    if gap is not None and spec.max_base_gap is not None and gap > spec.max_base_gap:
        raise UnderTrained(
            f"base_gap {gap:.4f} is above max_base_gap={spec.max_base_gap}: on held-out rows "
            "of its own days the base ranks worse than the global taste it should know. "
            "Pre-train it longer (epochs, batch_rows, optim.*). Gains of kernels on a weak base "
            "prove nothing"
        )


def _evaluate(
    spec: EvaluateSpec, catalog: Catalog, launcher: Launcher, record: OpenRecord
) -> tuple[EvaluationResult, list[MetricRow]]:
    """Open base, bundles and log, predict on workers, and compute the metrics."""
    report = record.report
    check_workers(spec, report, is_elsewhere=launcher.is_elsewhere)
    opened = open_frozen_base(spec.base, catalog, spec.tables)
    check_frozen_fits(spec, opened, spec.tables, is_elsewhere=launcher.is_elsewhere)
    pinned = (
        pinned_bundles(spec.bundles, opened, record, setting="bundles") if spec.bundles else None
    )
    folder = bundles_folder(pinned, opened, setting="bundles") if pinned else None
    bundles = folder.path if folder else None
    gap_split = _gap_split(catalog)
    wanted = tuple(dict.fromkeys(s for s in (spec.split, gap_split) if s))
    with record.phase("snapshot"):
        digests_in = opened.folder.parent
        view = list_log(spec, catalog, report, wanted=wanted, digests_in=digests_in)
        truth = _truth(view, spec.data_root, catalog.log.truth) if catalog.log.truth else None
        others = base_inputs(opened) | bundles_inputs(folder, name="bundles")
        others |= {"truth": truth.fingerprint} if truth else {}
        record.settle_inputs(inputs_of(catalog, describe_log(view), others))
        skipped.report_skipped(view, spec, report)
        kinds.refuse_other_kinds(view.snapshot, catalog, opened.encoding.kinds)
    untuned = skipped.report_untuned(view, _serving(bundles, opened), report, judged=[spec.split])
    # Each worker writes a file. An earlier attempt with more workers left files of other rows.
    shutil.rmtree(spec.run_dir / PREDICTIONS, ignore_errors=True)
    work = evaluate_work(spec, view, opened, bundles=bundles, truth=truth, splits=wanted)
    with record.phase("predict"):
        launch = Launch.of(spec, predict_on_worker, work, PredictionResult, title="evaluate")
        prediction = launcher.run(launch, report)
    record.result = prediction
    with record.phase("metrics"):
        table = read_predictions(spec.run_dir, spec.split).table
        rows = metrics_of(table, catalog)
        write_metrics(rows, spec.run_dir)
    result = EvaluationResult(
        **dict(prediction),
        base_fingerprint=opened.manifest.fingerprint,
        split=spec.split,
        rows=len(table),
        untuned_domains=untuned,
        served=served_by(table),
        intervals=intervals_of(rows),
        unseen_usual=usual_unseen(opened.manifest),
        **dict(_planted_facts(spec, catalog, table) if truth else PlantedFacts()),
    )
    record.result = result
    record.outputs = outputs_of(spec.run_dir)
    return result, rows


def _planted_facts(spec: EvaluateSpec, catalog: Catalog, table: pa.Table) -> PlantedFacts:
    """Return the numbers that need true probabilities: the reachable share, and the base's gap."""
    facts = reachable_facts(table, catalog)
    if gap_split := _gap_split(catalog):
        held_out = read_predictions(spec.run_dir, gap_split).table
        facts = with_base_gap(facts, held_out, catalog)
    return facts


def evaluate_work(
    spec: EvaluateSpec,
    view: LogView,
    opened: PublishedBase,
    *,
    bundles: Path | None,
    truth: Snapshot | None,
    splits: tuple[str, ...],
) -> PredictWork:
    """Return the workers' part of an evaluation.

    Args:
        spec: settings of the run.
        view: the run's view of the log.
        opened: the base.
        bundles: folder of the kernels; None predicts with the base alone.
        truth: files with true probabilities beside those of the log; None where it has none.
        splits: splits to predict.
    """
    return PredictWork(
        view=view,
        truth=truth,
        base=opened,
        bundles=bundles,
        run_dir=spec.run_dir.resolve(),
        splits=splits,
        batch_rows=spec.batch_rows,
        tables=spec.tables,
        placement=spec.placement.resolved(),
    )


def outputs_of(run_dir: Path) -> dict[str, Output]:
    """Return the results of an evaluation: its metrics, and every worker's predictions."""
    paths = [run_dir / METRICS, run_dir / METRICS_TABLE, *(run_dir / PREDICTIONS).glob("*.parquet")]
    return {str(path.relative_to(run_dir)): file_output(path) for path in sorted(paths)}


def _serving(bundles: Path | None, opened: PublishedBase) -> Serving:
    """Return the function that names the published kernel of a domain, as workers choose it."""
    if bundles is None:
        return nearest_of(set())
    bundle_set = read_bundle_set(
        bundles,
        base_fingerprint=opened.manifest.fingerprint,
        schema_hash=opened.manifest.schema_hash,
    )
    decided = zip(bundle_set.names, bundle_set.verdicts, strict=True)
    return nearest_of({name for name, verdict in decided if verdict.publish})


def predict_on_worker(worker: Worker, work: PredictWork, report: Report) -> PredictionResult:
    """Predict one worker's rows."""
    return predict(work, worker=worker, report=report)


def _gap_split(catalog: Catalog) -> str | None:
    """Return the split of held-out rows of the base's own days; None where no truth is known."""
    if not catalog.log.truth:
        return None
    return next((s for s in ("pretrain_test", "pretrain_valid") if s in catalog.splits), None)


def _truth(view: LogView, data_root: str, folder: str) -> Snapshot:
    """Return the files with true probabilities, one beside every file of the log.

    Raises:
        BadLog: one of them has other row groups than the log's file.
    """
    log = view.catalog.log
    beside = logs.take_snapshot(
        stores.below(data_root, folder),
        partition_keys=log.partition_keys,
        folder_names=log.folder_names,
    )
    rows = {f.path: f.group_rows for f in beside.files}
    for file in view.snapshot.files:
        if rows.get(file.path) != file.group_rows:
            raise BadLog(
                f"the truth beside {file.path} has row groups {rows.get(file.path)}, the log's "
                f"file {file.group_rows}; they were not written together. Run `iak synth` again"
            )
    return beside
