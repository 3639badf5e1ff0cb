"""Do the steps that all adoptions share: check columns, measure, publish a sealed base."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from torch import nn

from iak.pipeline.base import given_columns, published_base
from iak.pipeline.base.distributed_checkpoint import digest_of_checkpoint
from iak.pipeline.base.given_columns import ColumnFindings
from iak.pipeline.data import contract, hashing, vocabulary
from iak.pipeline.data.breaches import named
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import BadLog
from iak.pipeline.events import Notice, PhaseAdvanced, Report
from iak.pipeline.files import replace_folder
from iak.pipeline.runs import skipped
from iak.pipeline.runs.inputs import inputs_of
from iak.pipeline.runs.log import describe_log, list_log
from iak.pipeline.runs.outputs import base_output, file_output
from iak.pipeline.runs.pretrain import VALIDATION
from iak.pipeline.runs.record import OpenRecord, versions
from iak.schemas.adoption import AdoptionResult, GivenQuality
from iak.schemas.job import AdoptSpec
from iak.schemas.log import Catalog
from iak.schemas.manifest import (
    UNSEALED,
    BaseManifest,
    BaseMetric,
    FileEntry,
    PrecisionEntry,
    TableEntry,
)
from iak.schemas.training import TaskQuality

BATCH_ROWS = 65_536
"""Rows that are measured at a time."""
_SEALED = ".sealed"


def splits_of(catalog: Catalog) -> tuple[str, str]:
    """Return the split that statistics are fitted on, and the one that the base is measured on."""
    fitted = "pretrain" if "pretrain" in catalog.splits else "tune"
    return fitted, VALIDATION if VALIDATION in catalog.splits else "valid"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLog:
    """A log that was read once, whose columns a base can be adopted with."""

    view: LogView
    findings: ColumnFindings
    """Ranges and problems of the columns that were checked."""
    contract: Counter[str]
    """Rows by finding of the contract."""
    reader: Reader
    """Reads the rows that the base is measured on, as the base's own catalogue says."""


def open_checked_log(
    spec: AdoptSpec,
    catalog: Catalog,
    record: OpenRecord,
    *,
    reading: Catalog,
    what: str,
    factory_source: str | None = None,
) -> CheckedLog:
    """List the log, read it once for statistics, and refuse columns that are no logits.

    Args:
        spec: settings of the run.
        catalog: the catalogue of the base.
        record: record of the run; gets its inputs.
        reading: the catalogue with every column that is checked.
        what: these columns in words, for the message.
        factory_source: SHA-256 of the source file that built the module; None without a module.

    Raises:
        BadLog: the message names every problem of the columns.
    """
    fitted, judged = splits_of(catalog)
    with record.phase("snapshot"):
        wanted = [fitted, judged]
        view = list_log(spec, reading, record.report, wanted=wanted, digests_in=spec.run_dir)
        others = {"weights": _digest_of(spec.weights)} if spec.weights else {}
        if factory_source is not None:
            others["factory"] = factory_source
        record.settle_inputs(inputs_of(catalog, describe_log(view), others))
        skipped.report_skipped(view, spec, record.report)
    findings, counts = ColumnFindings(reading), Counter[str]()
    with record.phase("columns"):
        rows = _inspected(view, fitted, findings, counts, record.report)
        encoding = vocabulary.fit(rows, catalog)
        for _ in _inspected(view, judged, findings, counts, record.report):
            pass
        _refuse_bad_columns(spec, findings, what=what)
    reader = Reader(
        selection=view.selections[judged],
        catalog=catalog,
        encoding=encoding,
        rank=0,
        world=1,
        as_of=view.as_of,
    )
    return CheckedLog(view=view, findings=findings, contract=counts, reader=reader)


def _digest_of(weights: Path) -> str:
    """Return the SHA-256 of a file of weights, or of a folder with them."""
    return digest_of_checkpoint(weights) if weights.is_dir() else file_output(weights).sha256


def _inspected(
    view: LogView, split: str, findings: ColumnFindings, counts: Counter[str], report: Report
) -> Iterator[tuple[pa.RecordBatch, hashing.Keys]]:
    """Yield the rows of a split with their identities; count findings and ranges of their columns.

    Args:
        view: the run's view of the log.
        split: split that is read.
        findings: gets the base's columns of each batch.
        counts: gets the rows by finding of the contract.
        report: gets the number of rows read so far.
    """
    for rows, identity in view.raw_rows(split):
        findings.add(rows)
        counts.update(named(contract.inspect(rows, view.catalog).counts))
        report(PhaseAdvanced(f"{findings.rows:,} rows"))
        yield rows, identity


def _refuse_bad_columns(spec: AdoptSpec, findings: ColumnFindings, *, what: str) -> None:
    """Refuse columns that are no logits or activations."""
    problems = list(findings.problems(max_unusable_share=spec.max_unusable_share))
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise BadLog(f"{what} in {spec.catalog} cannot be adopted:\n{listing}")


def measure(log: CheckedLog, model: nn.Module) -> GivenQuality:
    """Measure how well a base predicts the validation rows."""
    tasks = published_base.task_shapes(log.reader.catalog)
    return given_columns.measure(log.reader, model, tasks, batch_rows=BATCH_ROWS)


def new_folder(run_dir: Path, encoding: Encoding) -> Path:
    """Return a new folder in which a base is built. It has the encoding already."""
    folder = run_dir / _SEALED
    shutil.rmtree(folder, ignore_errors=True)
    vocabulary.save(encoding, folder / published_base.ENCODING)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedFiles:
    """The files of an adopted base, and what its manifest says of them."""

    files: Sequence[FileEntry]
    digest: Mapping[str, str]
    """Digest of each tensor, or of the columns that are the base."""
    tables: Sequence[TableEntry] = ()
    precisions: Sequence[PrecisionEntry] = ()
    factory_source: str | None = None
    """SHA-256 of the source file that built the module; None where columns are the base."""


def publish_adopted(
    folder: Path,
    spec: AdoptSpec,
    log: CheckedLog,
    written: AdoptedFiles,
    tasks: Sequence[TaskQuality],
) -> BaseManifest:
    """Seal a base, and move it into place at once.

    Args:
        folder: a folder from `new_folder`, with every file of the base.
        spec: settings of the run.
        log: the log that was read, with the base's catalogue and its statistics.
        written: the files in the folder.
        tasks: how well the base predicts each task.
    """
    catalog, encoding = log.reader.catalog, log.reader.encoding
    settings = spec.model_dump(mode="json")
    if written.factory_source is not None:
        settings["factory_source"] = written.factory_source
    unsealed = BaseManifest(
        fingerprint=UNSEALED,
        schema_hash=vocabulary.schema_hash(catalog, encoding),
        tables=list(written.tables),
        files=list(written.files),
        digest=dict(written.digest),
        catalog=catalog.model_dump(mode="json"),
        spec=settings,
        snapshot=describe_log(log.view).without_files(),
        versions=versions(),
        metrics=[BaseMetric(**task.model_dump(mode="json")) for task in tasks],
        precisions=list(written.precisions),
        created_at=datetime.now(UTC),
    )
    manifest = published_base.seal(folder, unsealed)
    replace_folder(folder, spec.run_dir / "base")
    return manifest


def record_adoption(
    record: OpenRecord,
    spec: AdoptSpec,
    manifest: BaseManifest,
    log: CheckedLog,
    quality: GivenQuality,
    *,
    advice: Sequence[str] = (),
) -> AdoptionResult:
    """Write the result of an adoption into its record, report its advice, and return it.

    Args:
        record: record of the run.
        spec: settings of the run.
        manifest: manifest of the published base.
        log: what was found in the log.
        quality: how well the base's logits predict.
        advice: further sentences of advice.
    """
    findings = log.findings
    adoption = AdoptionResult(
        fingerprint=manifest.fingerprint,
        rows=findings.rows,
        unusable=dict(findings.unusable),
        ranges=tuple(findings.ranges()),
        quality=quality,
        contract=dict(log.contract),
        advice=(*given_columns.advice(findings, quality), *advice),
    )
    for line in adoption.advice:
        record.report(Notice(line))
    record.result = adoption
    record.outputs = {"base": base_output(spec.run_dir / "base")}
    return adoption
