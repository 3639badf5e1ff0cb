"""Adopt a recommender that runs elsewhere: check its columns in the log, and publish it as a base.

Nothing is trained and no weight is copied. The published base says which columns of the log are the
base's logits and activations. Every other verb takes it as it takes a base that was trained here.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa

from iak.pipeline.base import given_columns, published_base
from iak.pipeline.base.given_columns import SeenColumns
from iak.pipeline.data import contract, hashing, vocabulary
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import BadLog, BadRequest
from iak.pipeline.events import Notice, PhaseAdvanced, Report, silent
from iak.pipeline.model.digest import digest
from iak.pipeline.model.given import GivenModel
from iak.pipeline.runs import skipped
from iak.pipeline.runs.inputs import inputs_of
from iak.pipeline.runs.log import describe_log, list_log
from iak.pipeline.runs.outputs import base_output
from iak.pipeline.runs.pretrain import VALIDATION
from iak.pipeline.runs.record import OpenRecord, run_record, versions
from iak.pipeline.sharding.shard import dense_state
from iak.schemas.adoption import AdoptionResult
from iak.schemas.job import AdoptSpec
from iak.schemas.log import Catalog
from iak.schemas.manifest import BaseManifest, sha256_of
from iak.schemas.results import AdoptResult

_BATCH_ROWS = 65_536
"""Rows that are measured at a time."""
_SEALED = ".sealed"


def adopt_base(spec: AdoptSpec, catalog: Catalog, report: Report = silent) -> AdoptResult:
    """Check the columns of a given base, measure them, and publish the base in the run folder.

    Args:
        spec: settings of `iak adopt`.
        catalog: the log's catalogue, with `[base]`.
        report: gets the events of the run.

    Raises:
        AlreadyFinished: the folder holds this very run, finished.
        BadLog: the columns are no base; the message says what to change.
        BadRequest: the catalogue names no columns of a base.
    """
    if catalog.base is None:
        raise BadRequest(
            f"catalog {spec.catalog} has no [base], so there is nothing to adopt. Add [base] with "
            'kind = "columns" and the column of each task\'s logit, or train a base by iak pretrain'
        )
    with run_record(
        "adopt", spec, spec.run_dir, may_move=skipped.MAY_MOVE, report=report
    ) as record:
        adoption, manifest = _adopt(spec, catalog, record)
    return AdoptResult(
        run_dir=spec.run_dir, record=record.record, adoption=adoption, manifest=manifest
    )


def _adopt(
    spec: AdoptSpec, catalog: Catalog, record: OpenRecord
) -> tuple[AdoptionResult, BaseManifest]:
    """Read the log once for statistics and checks, measure validation rows, and publish."""
    fitted = "pretrain" if "pretrain" in catalog.splits else "tune"
    judged = VALIDATION if VALIDATION in catalog.splits else "valid"
    with record.phase("snapshot"):
        wanted = [fitted, judged]
        view = list_log(spec, catalog, record.report, wanted=wanted, digests_in=spec.run_dir)
        record.settle_inputs(inputs_of(catalog, describe_log(view), {}))
        skipped.report_skipped(view, spec, record.report)
    seen, counts = SeenColumns(catalog), Counter[str]()
    with record.phase("columns"):
        encoding = vocabulary.fit(_inspected(view, fitted, seen, counts, record.report), catalog)
        for _ in _inspected(view, judged, seen, counts, record.report):
            pass
        _refuse_bad_columns(spec, seen)
    with record.phase("metrics"):
        reader = Reader(
            selection=view.selections[judged],
            catalog=catalog,
            encoding=encoding,
            rank=0,
            world=1,
            as_of=view.as_of,
        )
        tasks = published_base.task_shapes(catalog)
        quality = given_columns.measure(reader, tasks, batch_rows=_BATCH_ROWS)
    with record.phase("publish"):
        metrics = [task.model_dump(mode="json") for task in quality.tasks]
        manifest = _publish(spec, view, encoding, metrics)
    adoption = AdoptionResult(
        fingerprint=manifest.fingerprint,
        rows=seen.rows,
        unusable=dict(seen.unusable),
        ranges=tuple(seen.ranges()),
        quality=quality,
        contract=dict(counts),
        advice=tuple(given_columns.advice(seen, quality)),
    )
    for line in adoption.advice:
        record.report(Notice(line))
    record.result = adoption.as_json()
    record.outputs = {"base": base_output(spec.run_dir / "base")}
    return adoption, manifest


def _inspected(
    view: LogView, split: str, seen: SeenColumns, counts: Counter[str], report: Report
) -> Iterator[tuple[pa.RecordBatch, hashing.Keys]]:
    """Yield the rows of a split with their identities, and look at their columns on the way."""
    for rows, identity in view.raw_rows(split):
        seen.add(rows)
        counts.update(contract.inspect(rows, view.catalog).counts)
        report(PhaseAdvanced(f"{seen.rows:,} rows"))
        yield rows, identity


def _refuse_bad_columns(spec: AdoptSpec, seen: SeenColumns) -> None:
    """Refuse columns that are no base.

    Raises:
        BadLog: the message names every problem.
    """
    problems = list(seen.problems(max_unusable_share=spec.max_unusable_share))
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise BadLog(f"the columns of [base] in {spec.catalog} cannot be adopted:\n{listing}")


def _publish(
    spec: AdoptSpec, view: LogView, encoding: Encoding, metrics: list[dict[str, object]]
) -> BaseManifest:
    """Seal the base, and move it into place at once."""
    catalog = view.catalog
    assert catalog.base is not None, "only a given base is adopted"
    model = GivenModel(tasks=len(catalog.tasks))
    columns = sha256_of(catalog.base.model_dump(mode="json"))
    sealed = spec.run_dir / _SEALED
    shutil.rmtree(sealed, ignore_errors=True)
    vocabulary.save(encoding, sealed / published_base.ENCODING)
    manifest = published_base.seal(
        sealed,
        {
            "schema_hash": vocabulary.schema_hash(catalog, encoding),
            "tables": [],
            "files": [],
            "digest": {**digest(replicas=dense_state(model)).by_name, "columns": columns},
            "catalog": catalog.model_dump(mode="json"),
            "spec": spec.model_dump(mode="json"),
            "snapshot": {k: v for k, v in describe_log(view).items() if k != "files"},
            "versions": versions(),
            "metrics": metrics,
            "created_at": datetime.now(UTC),
        },
    )
    published_base.move_into_place(sealed, spec.run_dir / "base")
    return manifest
