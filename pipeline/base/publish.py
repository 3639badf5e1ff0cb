"""Publish the result of a training run as a base: best weights, encoding, sealed manifest."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from iak.pipeline.base import published_base
from iak.pipeline.base.best_weights import WEIGHTS, read_best
from iak.pipeline.base.pretrain_work import BEST, PretrainWork
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.files import replace_folder
from iak.pipeline.sharding.rectangles import listed
from iak.schemas.base import JsonObject
from iak.schemas.job import PretrainSpec
from iak.schemas.log_snapshot import LogSnapshot
from iak.schemas.manifest import UNSEALED, BaseManifest, BaseMetric
from iak.schemas.training import TrainingResult

_SEALED = ".sealed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseProvenance:
    """The origin of a base, as its manifest states it."""

    spec: PretrainSpec | None
    """Settings of the run; None where a benchmark made the base."""
    snapshot: LogSnapshot
    """The log that it was trained on."""
    versions: Mapping[str, str]
    """Versions of the libraries."""


def publish_trained(
    work: PretrainWork,
    result: TrainingResult,
    provenance: BaseProvenance,
    *,
    parent: PublishedBase | None = None,
    metrics: Sequence[BaseMetric] = (),
) -> BaseManifest:
    """Link best weights and encoding into a folder, write its manifest, rename it to `base`.

    Weights and encoding also stay where they are, so that a run that dies here can publish again.

    Args:
        work: what the workers trained. The `scratch` of the chosen trial has the best weights, and
            the run's folder the encoding in the folder `encoding`.
        result: what the workers measured.
        provenance: what the manifest says of the run.
        parent: the base that was continued; None where a new one was trained.
        metrics: further numbers for the manifest, after the validation loss and each task's.

    Returns:
        The manifest of the base in `base/` of the run folder.
    """
    work = work.of_trial_named(result.trial)
    sealed = work.run_dir / _SEALED
    shutil.rmtree(sealed, ignore_errors=True)
    shutil.copytree(work.scratch / BEST, sealed, copy_function=_linked)
    weights = read_best(sealed)
    (sealed / WEIGHTS).unlink()
    shutil.copytree(
        work.run_dir / published_base.ENCODING,
        sealed / published_base.ENCODING,
        copy_function=_linked,
    )
    contents = published_base.contents(
        work.view.catalog, work.encoding, work.model, weights.files, weights.digest
    )
    manifest = published_base.seal(
        sealed,
        BaseManifest(
            **dict(contents),
            fingerprint=UNSEALED,
            optimizer=listed(weights.optimizer),
            parent=parent.manifest.fingerprint if parent else None,
            spec=_settings(provenance.spec, work, result),
            snapshot=provenance.snapshot,
            versions=dict(provenance.versions),
            metrics=[
                BaseMetric(name="valid_loss", value=result.best_valid_loss),
                *(BaseMetric(**quality.model_dump()) for quality in result.best_tasks),
                *metrics,
            ],
            precisions=list(result.precisions),
            created_at=datetime.now(UTC),
        ),
    )
    replace_folder(sealed, work.run_dir / "base")
    return manifest


def _settings(spec: PretrainSpec | None, work: PretrainWork, result: TrainingResult) -> JsonObject:
    """Return the settings of the run as the manifest has them, with those of the best trial."""
    settings = {} if spec is None else spec.model_dump(mode="json", by_alias=True)
    # The sizes that were trained: those of the parent, where a base is continued.
    settings["model"] = work.model.model_dump(mode="json")
    best = [trial.settings for trial in result.trials if trial.name == result.trial]
    return settings | ({"trial_settings": best[0]} if best else {})


def _linked(source: str, target: str) -> str:
    """Hard-link a file; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
