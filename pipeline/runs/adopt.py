"""Adopt a recommender that runs elsewhere: check its columns in the log, and publish it as a base.

Nothing is trained, and no weight is copied but those of given towers. The published base says which
columns of the log are the base's logits and activations. Every other verb takes it as it takes a
base that was trained here.
"""

from iak.pipeline.base.given_towers import adopt_given
from iak.pipeline.base.module_weights import write_weights
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import Report, silent
from iak.pipeline.model.digest import digest
from iak.pipeline.runs import skipped
from iak.pipeline.runs.adopt_module import adopt_module
from iak.pipeline.runs.adoption import (
    AdoptedFiles,
    measure,
    new_folder,
    open_checked_log,
    publish_adopted,
    record_adoption,
)
from iak.pipeline.runs.compare_scores import refuse_other_towers
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
    log = open_checked_log(spec, catalog, record, reading=catalog, what="the columns of [base]")
    with record.phase("metrics"):
        refuse_other_towers(spec, log.reader, model)
        quality = measure(log, model)
    with record.phase("publish"):
        folder = new_folder(spec.run_dir, log.reader.encoding)
        towers = model.towers
        written = AdoptedFiles(
            files=[write_weights(towers.named_tensors(titles), folder)] if towers else [],
            digest={
                **digest(replicas=dense_state(model)).by_name,
                **_digest_of_columns(catalog),
            },
        )
        manifest = publish_adopted(folder, spec, log, written, quality.tasks)
    return record_adoption(record, spec, manifest, log, quality), manifest


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
