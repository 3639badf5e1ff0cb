"""Adopt a recommender that runs elsewhere: check its columns in the log, and publish it as a base.

Nothing is trained, and no weight is copied but those of given towers. The published base says which
columns of the log are the base's logits and activations. Every other verb takes it as it takes a
base that was trained here.
"""

from collections import Counter

from iak.pipeline.base import given_columns, published_base
from iak.pipeline.base.given_columns import ColumnFindings
from iak.pipeline.base.given_towers import adopt_given
from iak.pipeline.base.module_weights import write_weights
from iak.pipeline.data import vocabulary
from iak.pipeline.data.reader import Reader
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import Report, silent
from iak.pipeline.model.digest import digest
from iak.pipeline.runs import skipped
from iak.pipeline.runs.adopt_module import adopt_module
from iak.pipeline.runs.adoption import (
    BATCH_ROWS,
    AdoptedFiles,
    inspected,
    new_folder,
    publish_adopted,
    record_adoption,
    refuse_bad_columns,
    splits_of,
)
from iak.pipeline.runs.compare_scores import refuse_other_towers
from iak.pipeline.runs.inputs import inputs_of
from iak.pipeline.runs.log import describe_log, list_log
from iak.pipeline.runs.outputs import file_output
from iak.pipeline.runs.record import OpenRecord, run_record
from iak.pipeline.sharding.shard import dense_state
from iak.schemas.adoption import AdoptionResult
from iak.schemas.job import AdoptSpec
from iak.schemas.log import Catalog
from iak.schemas.manifest import BaseManifest, sha256_of
from iak.schemas.results import AdoptResult


def adopt_base(spec: AdoptSpec, catalog: Catalog, report: Report = silent) -> AdoptResult:
    """Check the columns of a given base, measure them, and publish the base in the run folder.

    Args:
        spec: settings of `iak adopt`.
        catalog: the log's catalogue, with `[base]`.
        report: gets the events of the run.

    Raises:
        AlreadyFinished: the folder holds this very run, finished.
        BadLog: the columns are no base, or towers make other logits of them; the message says what
            to change.
        BadRequest: the catalogue names no columns of a base.
    """
    if catalog.base is None:
        raise BadRequest(
            f"catalog {spec.catalog} has no [base], so there is nothing to adopt. Add [base] with "
            'kind = "columns" and the column of each task\'s logit, or train a base by iak pretrain'
        )
    with run_record(
        "adopt", spec, spec.run_dir, may_differ=skipped.MAY_DIFFER, report=report
    ) as record:
        adopt = _adopt_columns if catalog.columns_base else adopt_module
        adoption, manifest = adopt(spec, catalog, record)
    return AdoptResult(
        run_dir=spec.run_dir, record=record.record, adoption=adoption, manifest=manifest
    )


def _adopt_columns(
    spec: AdoptSpec, catalog: Catalog, record: OpenRecord
) -> tuple[AdoptionResult, BaseManifest]:
    """Read the log once for statistics and checks, measure validation rows, and publish."""
    titles = [task.title for task in catalog.tasks]
    _refuse_settings_of_modules(spec)
    model = adopt_given(catalog, spec.weights)
    fitted, judged = splits_of(catalog)
    with record.phase("snapshot"):
        wanted = [fitted, judged]
        view = list_log(spec, catalog, record.report, wanted=wanted, digests_in=spec.run_dir)
        others = {"weights": file_output(spec.weights).sha256} if spec.weights else {}
        record.settle_inputs(inputs_of(catalog, describe_log(view), others))
        skipped.report_skipped(view, spec, record.report)
    findings, counts = ColumnFindings(catalog), Counter[str]()
    with record.phase("columns"):
        encoding = vocabulary.fit(inspected(view, fitted, findings, counts, record.report), catalog)
        for _ in inspected(view, judged, findings, counts, record.report):
            pass
        refuse_bad_columns(spec, findings, what="the columns of [base]")
    with record.phase("metrics"):
        reader = Reader(
            selection=view.selections[judged],
            catalog=catalog,
            encoding=encoding,
            rank=0,
            world=1,
            as_of=view.as_of,
        )
        refuse_other_towers(spec, reader, model)
        tasks = published_base.task_shapes(catalog)
        quality = given_columns.measure(reader, model, tasks, batch_rows=BATCH_ROWS)
    with record.phase("publish"):
        folder = new_folder(spec.run_dir, encoding)
        towers = model.towers
        written = AdoptedFiles(
            files=[write_weights(towers.named_tensors(titles), folder)] if towers else [],
            digest={
                **digest(replicas=dense_state(model)).by_name,
                **_digest_of_columns(catalog),
            },
        )
        manifest = publish_adopted(folder, spec, catalog, view, encoding, written, quality.tasks)
    return record_adoption(record, spec, manifest, findings, quality, counts), manifest


def _refuse_settings_of_modules(spec: AdoptSpec) -> None:
    """Refuse settings that would do nothing, since no module of a base of columns is run.

    Raises:
        BadRequest: the message names them.
    """
    given = {"trust": spec.trust, "scores": spec.scores, "outputs": spec.outputs}
    if unread := [f"{name}=" for name, value in given.items() if value]:
        raise BadRequest(
            f"{' and '.join(unread)}: settings of a module, and [base] of {spec.catalog} has "
            'kind = "columns": its logits are columns of the log, which nothing here computes. '
            'Leave them out, or declare kind = "torch"'
        )


def _digest_of_columns(catalog: Catalog) -> dict[str, str]:
    """Return the digest of the declared columns, which are the base."""
    assert catalog.base is not None, "only a given base is adopted"
    return {"columns": sha256_of(catalog.base.model_dump(mode="json"))}
