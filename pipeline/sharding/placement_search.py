"""Search a placement of tables for any cluster with TorchRec's planner, without a GPU.

The planner searches over sharding types and ranks, with its own constants for lookups and links.
It does not count the dense part and activations. They are passed to it as reserved memory.

It counts neither half bytes nor the scale and bias of a row. So a frozen table is replaced by one
of fp32 columns whose rows have as many bytes. Memory, lookups and answers of stored rows are then
right. Only the answers of summed bags are larger than the planner assumes, being fp32.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.shard_estimators import (
    EmbeddingPerfEstimator,
    EmbeddingStorageEstimator,
)
from torchrec.distributed.planner.storage_reservations import FixedAbsoluteStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from iak.pipeline.errors import DoesNotFit
from iak.pipeline.model.embedding_bags import build_tables
from iak.pipeline.model.tables import TableShape
from iak.pipeline.sharding.placement_rule import TABLES_PATH, column_parts
from iak.pipeline.sharding.row_format import stride_bytes
from iak.pipeline.sharding.shard import AnySharder
from iak.schemas.cluster import ClusterSpec
from iak.schemas.job import Precision
from iak.schemas.plan import (
    PlacementRuleSpec,
    PlanDocument,
    ShardDocument,
    ShardingType,
    TableDocument,
)

GIB = 2**30
TYPES: tuple[ShardingType, ...] = ("table_wise", "row_wise")
"""Sharding types to search over. Under a cut by columns row-wise Adagrad keeps an accumulator for
each band, so that a trained table would learn otherwise than a whole one."""
_FP32 = 4
_WORD_COLS = 4  # fbgemm requires widths that are multiples of 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Tables to place, and how they are read."""

    shapes: tuple[TableShape, ...]
    ids: Mapping[str, float]
    """Feature -> mean ids per row of the log."""
    placement: PlacementRuleSpec
    """Its sharding types are followed. The rest is for the rule, where the search finds no plan."""
    batch_rows: int
    """Rows of a step, of all workers."""
    precisions: Mapping[str, Precision] | None = None
    """Types of frozen tables' entries; None where tables are trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """A plan, and the planner's estimate of it."""

    document: PlanDocument
    planner_ms: float
    """Milliseconds of a step in tables on the slowest rank. They follow from the planner's
    constants, not from a measurement. A step of frozen tables is one batch through the base."""


def search(wanted: Wanted, cluster: ClusterSpec, *, reserved_bytes: int) -> SearchResult:
    """Return the best plan that TorchRec's planner finds.

    Args:
        wanted: tables, and how they are read.
        cluster: the machines.
        reserved_bytes: memory of each device for everything but tables.

    Raises:
        DoesNotFit: the planner finds none. The message has its reason.
    """
    if not wanted.shapes:  # a base that runs elsewhere
        document = PlanDocument(
            job="finetune", world=cluster.world, cluster=cluster.name, tables=()
        )
        return SearchResult(document=document, planner_ms=0.0)
    logging.getLogger("torchrec").setLevel(logging.ERROR)  # it warns of topologies made by hand
    names = _planner_names(wanted.shapes)
    asked = [
        _asked(shape, name, wanted, cluster)
        for shape, name in zip(wanted.shapes, names, strict=True)
    ]
    is_frozen = wanted.precisions is not None
    planner = _planner(wanted, asked, cluster, reserved_bytes)
    try:
        plan = planner.plan(_on_meta(asked, is_trained=not is_frozen), [AnySharder()])
    except PlannerError as error:
        reason = str(error).strip().splitlines()[0]
        raise DoesNotFit(
            f"TorchRec's planner finds no plan for {cluster.name}: {reason}"
        ) from error
    module_plan = cast("EmbeddingModuleShardingPlan", plan.plan[TABLES_PATH])
    tables = tuple(
        _placed(shape, table.shape.width, wanted, module_plan.get(table.shape.name))
        for shape, table in zip(wanted.shapes, asked, strict=True)
    )
    document = PlanDocument(
        job="finetune" if is_frozen else "pretrain",
        world=cluster.world,
        cluster=cluster.name,
        tables=tables,
    )
    return SearchResult(document=document, planner_ms=_slowest_ms(planner, cluster.world))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A table in the form in which the planner gets it."""

    shape: TableShape
    """Its own where it is trained; else with fp32 columns that have the bytes of its rows."""
    kinds: tuple[ShardingType, ...]
    """Sharding types to search over."""
    min_cols: int
    """Fewest columns of a band."""


def _planner_names(shapes: Sequence[TableShape]) -> list[str]:
    """Return the names under which the planner gets the tables: their own, where TorchRec can.

    It keeps tables as children of a `ModuleDict`, whose names have no dot and are none of its
    methods (torchrec 1.8). A layer of an adopted module may be `encoder.items`.
    """
    names, children = [shape.name for shape in shapes], nn.ModuleDict()
    if any("." in name or hasattr(children, name) for name in names):
        return [f"table{number:06d}" for number in range(len(names))]
    return names


def _asked(shape: TableShape, name: str, wanted: Wanted, cluster: ClusterSpec) -> _Asked:
    """Return a table in the form in which the planner gets it, under a name that it can have.

    A table is cut by columns only where the user asks for it, a frozen one then as the rule cuts
    it.
    """
    kind = wanted.placement.sharding.get(shape.name)
    kinds = (kind,) if kind else TYPES
    if wanted.precisions is None:
        return _Asked(replace(shape, name=name), kinds, max(_WORD_COLS, shape.width // 8))
    bands = column_parts(shape.width, cluster.world) if kinds == ("column_wise",) else 1
    device, precision = torch.device(cluster.device), wanted.precisions[shape.name]
    cols = -(-stride_bytes(precision, shape.width // bands, device) // _FP32)
    return _Asked(replace(shape, name=name, width=bands * cols), kinds, cols)


def _on_meta(asked: Sequence[_Asked], *, is_trained: bool) -> nn.Module:
    """Build a module with the tables, without their memory."""
    holder, shapes = nn.Module(), [table.shape for table in asked]
    tables = build_tables(shapes, init_scale=0.01, device=torch.device("meta"))
    holder.add_module(TABLES_PATH, tables)
    if is_trained:
        # The planner reads the optimiser from this attribute, to count its state (torchrec 1.8).
        for weight in tables.parameters():
            weight._optimizer_classes = [RowWiseAdagrad]
    return holder


def _planner(
    wanted: Wanted, asked: Sequence[_Asked], cluster: ClusterSpec, reserved_bytes: int
) -> EmbeddingShardingPlanner:
    """Build TorchRec's planner for a cluster.

    For frozen tables it counts no optimiser state and no backward pass.
    """
    is_frozen = wanted.precisions is not None
    topology = _topology(cluster, reserved_bytes)
    batch_rows = max(1, wanted.batch_rows // cluster.world)
    constraints = {
        table.shape.name: ParameterConstraints(
            sharding_types=list(table.kinds),
            compute_kernels=[EmbeddingComputeKernel.FUSED.value],
            pooling_factors=[wanted.ids[feature] for feature in table.shape.features],
            min_partition=table.min_cols,
        )
        for table in asked
    }
    estimators = [
        kind(topology=topology, constraints=constraints, is_inference=is_frozen)
        for kind in (EmbeddingPerfEstimator, EmbeddingStorageEstimator)
    ]
    return EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch_rows,
        constraints=constraints,
        enumerator=EmbeddingEnumerator(
            topology=topology,
            batch_size=batch_rows,
            constraints=constraints,
            estimator=estimators,
        ),
        storage_reservation=FixedAbsoluteStorageReservation(reserved_bytes),
        stats=[],
        debug=False,
    )


def _topology(cluster: ClusterSpec, reserved_bytes: int) -> Topology:
    """Describe the cluster to the planner, in bytes and bytes per millisecond."""
    constants, device_bytes = cluster.constants, int(cluster.device_memory_gib * GIB)
    is_cuda = cluster.device == "cuda"
    memory_bw = cluster.device_gb_per_s * 1e6 * constants.lookup_efficiency
    host_bytes = int(cluster.host_memory_gib / cluster.devices_per_node * GIB)
    return Topology(
        world_size=cluster.world,
        compute_device=cluster.device,
        hbm_cap=device_bytes if is_cuda else 0,
        # The planner subtracts what is reserved from a GPU's memory alone (torchrec 1.8).
        ddr_cap=host_bytes if is_cuda else max(0, device_bytes - reserved_bytes),
        local_world_size=cluster.devices_per_node,
        hbm_mem_bw=memory_bw,
        ddr_mem_bw=memory_bw,
        intra_host_bw=cluster.intra_gb_per_s * 1e6 * constants.network_efficiency,
        inter_host_bw=cluster.inter_gb_per_s * 1e6 * constants.network_efficiency,
    )


def _placed(
    shape: TableShape, planned_width: int, wanted: Wanted, sharding: ParameterSharding | None
) -> TableDocument:
    """Turn the planner's placement of a table into that of a plan.

    Args:
        shape: the table.
        planned_width: columns of the table that the planner got.
        wanted: tables and settings of the search.
        sharding: the planner's placement; None where it dropped the table.

    Raises:
        DoesNotFit: the planner dropped the table (torchrec#3652), or a part of it.
    """
    if sharding is None or sharding.ranks is None or sharding.sharding_spec is None:
        raise DoesNotFit(
            f"TorchRec's planner left table {shape.name} out of its plan (torchrec#3652); "
            f"name its type yourself: placement.sharding.{shape.name}=row_wise"
        )
    shards = tuple(
        ShardDocument(
            rank=rank,
            row=min(shard.shard_offsets[0], shape.rows),
            rows=shard.shard_sizes[0],
            col=shard.shard_offsets[1] * shape.width // planned_width,
            cols=shard.shard_sizes[1] * shape.width // planned_width,
        )
        for rank, shard in zip(sharding.ranks, sharding.sharding_spec.shards, strict=True)
    )
    elements = sum(shard.rows * shard.cols for shard in shards)
    if elements != shape.rows * shape.width:
        raise DoesNotFit(
            f"TorchRec's plan places {elements:,} elements of table {shape.name}, which has "
            f"{shape.rows * shape.width:,}; name its type yourself: "
            f"placement.sharding.{shape.name}=row_wise"
        )
    return TableDocument(
        table=shape.name,
        type=cast("ShardingType", sharding.sharding_type),
        rows=shape.rows,
        width=shape.width,
        precision=wanted.precisions[shape.name] if wanted.precisions else "fp32",
        shards=shards,
    )


def _slowest_ms(planner: EmbeddingShardingPlanner, world: int) -> float:
    """Return the planner's milliseconds of the slowest rank."""
    by_rank = [0.0] * world
    for option in planner._best_plan or []:  # torchrec has no public access to these estimates
        for shard in option.shards:
            if shard.rank is not None and shard.perf is not None:
                by_rank[shard.rank] += shard.perf.total
    return max(by_rank)
