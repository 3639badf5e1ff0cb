"""Build a base's model from a catalogue, its encoding and its sizes."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch

from iak.pipeline.base.histories import build_histories
from iak.pipeline.base.published_base import PublishedBase, files_of, inputs, table_shapes
from iak.pipeline.data import growth
from iak.pipeline.data.features import Encoding
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.embedding_bags import build_tables
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.histories.histories import Histories
from iak.pipeline.model.inputs import input_origin
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.model.trunks.dcnv2_mmoe import DcnMmoe
from iak.pipeline.model.trunks.deepfm import DeepFm
from iak.pipeline.model.trunks.dlrm import Dlrm
from iak.pipeline.model.trunks.mlp import Mlp
from iak.pipeline.model.trunks.ple import Ple
from iak.pipeline.sharding import base_weights
from iak.pipeline.sharding.growth import Growth
from iak.schemas.feature import table_of
from iak.schemas.job import ModelSpec
from iak.schemas.log import Catalog

Trunk = DcnMmoe | DeepFm | Dlrm | Mlp | Ple


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


class DenseParts(NamedTuple):
    """The parts of a base that are not tables."""

    histories: Histories | None
    trunk: Trunk
    heads: Heads


def build_dense(catalog: Catalog, spec: ModelSpec) -> DenseParts:
    """Build what reads histories, the trunk and the towers.

    Args:
        catalog: features, tables and tasks.
        spec: sizes of the model.

    Raises:
        BadRequest: the widths of `spec` do not fit together, or the catalogue lacks what it reads.
    """
    tables = catalog.table_specs
    widths = {f.name: tables[table_of(f) or f.name].width or spec.width for f in catalog.keyed}
    histories, tasks = build_histories(catalog, spec, widths), len(catalog.tasks)
    # To a trunk, units that are read of histories are numbers after those of the row.
    numbers = len(catalog.number_names) + (histories.units if histories else 0)
    return DenseParts(
        histories=histories,
        trunk=build_trunk(spec, embeddings=list(widths.values()), numbers=numbers, tasks=tasks),
        heads=Heads(tasks=tasks, width=spec.expert_width, hidden=spec.tower_width),
    )


def build_trunk(spec: ModelSpec, *, embeddings: Sequence[int], numbers: int, tasks: int) -> Trunk:
    """Build the trunk of `spec`.

    Args:
        spec: kind and sizes.
        embeddings: width of each embedding, in the order of x.
        numbers: units at the end of x, which are numbers.
        tasks: number of tasks.

    Raises:
        BadRequest: the widths of `spec` do not fit together, or the trunk needs embeddings.
    """
    try:
        return _build_trunk(spec, embeddings=embeddings, numbers=numbers, tasks=tasks)
    except ValueError as error:
        raise BadRequest(str(error)) from error


def _build_trunk(spec: ModelSpec, *, embeddings: Sequence[int], numbers: int, tasks: int) -> Trunk:
    shared = {"expert_width": spec.expert_width, "tasks": tasks}
    width = sum(embeddings) + numbers
    if spec.trunk == "mlp":
        return Mlp(width=width, mlp=spec.mlp, dropout=spec.dropout, **shared)
    if spec.trunk == "ple":
        return Ple(
            width=width,
            levels=spec.levels,
            experts=spec.experts,
            shared_experts=spec.shared_experts,
            dropout=spec.dropout,
            **shared,
        )
    if spec.trunk in ("deepfm", "dlrm"):
        of_vectors = DeepFm if spec.trunk == "deepfm" else Dlrm
        return of_vectors(
            embeddings=embeddings,
            numbers=numbers,
            width=spec.width,
            mlp=spec.mlp,
            dropout=spec.dropout,
            **shared,
        )
    return DcnMmoe(
        width=width,
        cross_layers=spec.cross_layers,
        cross_rank=spec.cross_rank or None,
        mlp=spec.mlp,
        experts=spec.experts,
        dropout=spec.dropout,
        **shared,
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
