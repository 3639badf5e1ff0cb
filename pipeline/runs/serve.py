"""Open base and kernels for requests, and follow the registry that they come from."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.process import Worker
from iak.pipeline.registry.resolve import ResolvedAlias, alias_of, resolve
from iak.pipeline.runs.pinned import bundles_now
from iak.pipeline.runs.preflight import bundles_folder, open_frozen_base
from iak.pipeline.serving.calibration import ServedCalibration
from iak.pipeline.serving.follow import Follower
from iak.pipeline.serving.label_log import LabelLog
from iak.pipeline.serving.scorer import Scorer
from iak.pipeline.serving.service import Service
from iak.pipeline.storage.store import open_store
from iak.schemas.log import Catalog, SplitSpec
from iak.schemas.paths import in_registry, reference_text
from iak.schemas.plan import ResolvedPlacement
from iak.schemas.serving import ServeSpec

BUNDLES = "bundles"


@dataclass(frozen=True, slots=True)
class Serving:
    """A running service, with what follows its registry."""

    service: Service
    follower: Follower | None
    """Follows the registry; None where the bundles are a folder, or there are none."""
    labels: LabelLog | None
    """Reads labels as they arrive; None where no log of them is given."""


@contextmanager
def serving(spec: ServeSpec, catalog: Catalog) -> Iterator[Serving]:
    """Yield a service that follows its registry and reads labels while the block lasts.

    Args:
        spec: settings of `iak serve`.
        catalog: the log's catalogue.

    Raises:
        PipelineError: base or bundles cannot be used.
    """
    opened = open_frozen_base(spec.base, catalog, spec.tables)
    worker = Worker(rank=0, world=1, device=torch.device("cpu"))
    base = FrozenBase.load(opened, spec.tables, ResolvedPlacement(), worker)
    with TemporaryDirectory(prefix="iak-serve-") as name:
        scratch = Path(name)
        folder, resolved = _bundles(spec, opened, scratch)
        scorer = Scorer.of(base, catalog.to_score(SplitSpec()), bundles=folder, tables=spec.tables)
        service = Service(scorer, batch_rows=spec.batch_rows, wait_s=spec.wait_ms / 1000)
        with ExitStack() as stack:
            stack.callback(service.close)
            follower = _follower(spec, service, scratch, resolved)
            labels = _labels(spec, catalog, scorer)
            for looking, every_s in ((follower, spec.follow_s), (labels, spec.labels.every_s)):
                if looking is not None:
                    looking.start(every_s)
                    stack.callback(looking.stop)
            yield Serving(service, follower, labels)


def _bundles(
    spec: ServeSpec, opened: PublishedBase, scratch: Path
) -> tuple[Path | None, ResolvedAlias | None]:
    """Return the folder of the bundles, and what the alias means that names them, if one does."""
    if spec.bundles is None:
        return None, None
    reference = in_registry(spec.bundles)
    if reference is None:
        folder = bundles_now(spec.bundles, opened, scratch, setting=BUNDLES)
        return bundles_folder(folder, opened, setting=BUNDLES).path, None
    store, alias = open_store(reference[0]), alias_of(spec.bundles, reference[1], setting=BUNDLES)
    base = opened.manifest.fingerprint
    return scratch / BUNDLES, resolve(store, alias, scratch / BUNDLES, base_fingerprint=base)


def _follower(
    spec: ServeSpec, service: Service, scratch: Path, resolved: ResolvedAlias | None
) -> Follower | None:
    """Return what follows the registry; None where the bundles are in none."""
    reference = in_registry(spec.bundles) if spec.bundles else None
    if reference is None or spec.bundles is None or resolved is None:
        return None
    store, alias = open_store(reference[0]), alias_of(spec.bundles, reference[1], setting=BUNDLES)
    return Follower(service, store, alias, scratch, resolved=resolved)


def _labels(spec: ServeSpec, catalog: Catalog, scorer: Scorer) -> LabelLog | None:
    """Return what reads labels; None where no log of them is given."""
    if spec.labels.data is None:
        return None
    calibration = ServedCalibration(scorer.tasks, rows=spec.labels.rows, share=spec.labels.share)
    data_root = reference_text(spec.labels.data)
    return LabelLog(calibration, catalog, data_root, days=spec.labels.days)
