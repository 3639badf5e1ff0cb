"""Load the model of a published base with frozen weights, for `FrozenBase.load`."""

from iak.pipeline.base import adopted_module
from iak.pipeline.base.build import build_model
from iak.pipeline.base.given_towers import open_given
from iak.pipeline.base.module_tables import TablesOnWorker
from iak.pipeline.base.published_base import PublishedBase, files_of, frozen_shapes
from iak.pipeline.model.adopted import AdoptedModel
from iak.pipeline.model.given import GivenModel
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.sharding.base_weights import read_frozen_base
from iak.pipeline.sharding.placement_rule import lay_out
from iak.schemas.given_base import ModuleBaseSpec

FrozenModule = Recommender | GivenModel | AdoptedModel


def load_frozen(published: PublishedBase, at: TablesOnWorker) -> FrozenModule:
    """Load the model of a base, its tables frozen and spread over the workers; a collective call.

    Args:
        published: the base; its files are on this machine.
        at: where its tables lie, and in which precision.

    Raises:
        BadRequest: the plan is not for this base, these workers or these precisions.
        Corrupt: a file is not what was published.
    """
    return _made_elsewhere(published, at) or _recommender(published, at)


def _made_elsewhere(
    published: PublishedBase, at: TablesOnWorker
) -> GivenModel | AdoptedModel | None:
    """Return the model of a base that was made elsewhere; None where it was pre-trained here."""
    base, folder, manifest = published.catalog.base, published.folder, published.manifest
    if isinstance(base, ModuleBaseSpec):
        return adopted_module.open_module(
            base.call,
            adopted_module.files_of(folder, manifest),
            tasks=len(published.catalog.tasks),
            at=at,
            allowed_source=published.allowed_source,
        )
    return None if base is None else open_given(folder, manifest, published.catalog)


def _recommender(published: PublishedBase, at: TablesOnWorker) -> Recommender:
    """Return the model of a base that was pre-trained here."""
    shapes = frozen_shapes(published)
    return read_frozen_base(
        # The published weights replace every value, so that the seed does not matter.
        build_model(published.catalog, published.encoding, published.model, seed=0),
        lay_out(shapes, at.placement, worker=at.worker, precisions=at.precisions),
        precisions=at.precisions,
        directory=published.folder,
        entries=files_of(published),
        worker=at.worker,
        mapped_at=at.mapped_at,
    )
