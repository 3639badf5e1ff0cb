"""Build a base's model from a catalogue, its encoding and its sizes."""

from collections.abc import Collection

import torch

from iak.pipeline.base.dense_parts import build_dense
from iak.pipeline.base.published_base import PublishedBase, files_of, inputs, table_shapes
from iak.pipeline.data import growth
from iak.pipeline.data.features import Encoding
from iak.pipeline.model.embedding_bags import build_tables
from iak.pipeline.model.inputs import input_origin
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.sharding import base_weights
from iak.pipeline.sharding.growth import Growth
from iak.schemas.job import ModelSpec
from iak.schemas.log import Catalog


def build_model(
    catalog: Catalog,
    encoding: Encoding,
    spec: ModelSpec,
    *,
    seed: int,
    with_twins: bool = False,
) -> Recommender:
    """Build the base's model, its dense part initialised and its tables on the meta device.

    Args:
        catalog: features, tables and tasks.
        encoding: encoding of the log's ids.
        spec: sizes of the model.
        seed: seed of all first values.
        with_twins: for training with weight decay on a CPU (see tables.TWIN).

    Raises:
        BadRequest: the widths of `spec` do not fit together.
    """
    torch.manual_seed(seed)
    shapes = table_shapes(catalog, encoding, spec)
    features = tuple(f.name for f in catalog.keyed)
    tables = build_tables(
        shapes,
        init_scale=spec.init_scale,
        device=torch.device("meta"),
        seed=seed,
        with_twins=with_twins,
    )
    dense = build_dense(catalog, spec)
    return Recommender(
        tables=tables,
        features=features,
        num_numeric=len(catalog.number_names),
        trunk=dense.trunk,
        heads=dense.heads,
        embedding_dropout=spec.embedding_dropout,
        histories=dense.histories,
        lists=[f.name for f in catalog.keyed if f.kind == "list"],
    )


def growth_from(base: PublishedBase, catalog: Catalog, encoding: Encoding) -> Growth:
    """Map the rows and inputs of a model to those of the base that they start from.

    Args:
        base: base that is continued.
        catalog: catalogue of the model.
        encoding: encoding of the model. The default width of its tables is the base's.
    """
    width = base.model.width
    return Growth(
        rows=growth.origins((base.catalog, base.encoding), (catalog, encoding)),
        inputs=input_origin(
            inputs(base.catalog, width=width),
            inputs(catalog, width=width),
        ),
    )


def check_loads(
    base: PublishedBase, catalog: Catalog, encoding: Encoding, allow: Collection[str]
) -> list[str]:
    """Return a line for each difference between a base and the model that continues it.

    Args:
        base: base that is continued.
        catalog: catalogue of the model.
        encoding: encoding of the model.
        allow: allowed differences, in the words of audit.py.

    Raises:
        BadRequest: a difference is not in `allow`. The message names all of them.
        Corrupt: the dense part is not the one that was published.
    """
    return base_weights.audit_base(
        build_model(catalog, encoding, base.model, seed=0),
        base.folder,
        files_of(base),
        allow=allow,
        growth=growth_from(base, catalog, encoding),
    )
