"""Build the parts of a base that are not tables. They need torch alone."""

from collections.abc import Sequence
from typing import NamedTuple

from iak.pipeline.base.histories import build_histories
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.histories.histories import Histories
from iak.pipeline.model.trunks.dcnv2_mmoe import DcnMmoe
from iak.pipeline.model.trunks.deepfm import DeepFm
from iak.pipeline.model.trunks.dlrm import Dlrm
from iak.pipeline.model.trunks.mlp import Mlp
from iak.pipeline.model.trunks.ple import Ple
from iak.schemas.feature import table_of
from iak.schemas.job import ModelSpec
from iak.schemas.log import Catalog

Trunk = DcnMmoe | DeepFm | Dlrm | Mlp | Ple


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
