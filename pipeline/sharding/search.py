"""Where tables should lie on machines one does not have: TorchRec's planner, asked without a GPU.

The planner searches over sharding types and ranks, with its own constants for lookups and links.
What it leaves out (the dense part, activations) is handed to it as memory that is taken already. It
is asked about tables that are trained; frozen ones lie as jobs put them, by `plan.plan_tables`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedAbsoluteStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from pipeline.errors import DoesNotFit
from pipeline.model.tables import TableShape, build_tables
from pipeline.sharding.plan import TABLES_PATH
from pipeline.sharding.shard import AnySharder
from schemas.cluster import ClusterSpec
from schemas.plan import PlanDocument, ShardDocument, ShardingType, TableDocument

GIB = 2**30
TYPES: tuple[ShardingType, ...] = ("table_wise", "row_wise", "column_wise")
_WORD_COLS = 4  # fbgemm wants widths that are multiples of 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be placed."""

    shapes: tuple[TableShape, ...]
    ids: Mapping[str, float]
    """Mean ids a row, by feature."""
    sharding: Mapping[str, ShardingType]
    """Types that are asked for, by table."""
    batch_rows: int
    """Rows a step, over all workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A plan, and what TorchRec's planner thinks of it."""

    document: PlanDocument
    planner_ms: float
    """Its estimate of a step's time in tables on the slowest rank: a constant's, never a card's."""


def search(wanted: Wanted, cluster: ClusterSpec, *, reserved_bytes: int) -> Found:
    """The best plan that TorchRec's planner finds.

    Args:
        wanted: tables, and how they are read.
        cluster: the machines.
        reserved_bytes: of each device's memory, for everything but tables.

    Raises:
        DoesNotFit: there is none; the planner's reason is in the message.
    """
    logging.getLogger("torchrec").setLevel(logging.ERROR)  # it warns of topologies made by hand
    holder = nn.Module()
    holder.add_module(
        TABLES_PATH, build_tables(wanted.shapes, init_scale=0.01, device=torch.device("meta"))
    )
    for weight in holder.parameters():  # the planner counts its state, and reads no more of it
        weight._optimizer_classes = [RowWiseAdagrad]  # type: ignore[attr-defined]
    planner = EmbeddingShardingPlanner(
        topology=_topology(cluster, reserved_bytes),
        batch_size=max(1, wanted.batch_rows // cluster.world),
        constraints={shape.name: _constraints(shape, wanted) for shape in wanted.shapes},
        storage_reservation=FixedAbsoluteStorageReservation(reserved_bytes),
        stats=[],
        debug=False,
    )
    try:
        plan = planner.plan(holder, [AnySharder()])
    except PlannerError as error:
        reason = str(error).strip().splitlines()[0]
        raise DoesNotFit(
            f"TorchRec's planner finds no plan for {cluster.name}: {reason}"
        ) from error
    module_plan = cast("EmbeddingModuleShardingPlan", plan.plan[TABLES_PATH])
    tables = tuple(_placed(shape, module_plan.get(shape.name)) for shape in wanted.shapes)
    document = PlanDocument(
        job="pretrain",
        world=cluster.world,
        cluster=cluster.name,
        tables=tables,
    )
    return Found(document=document, planner_ms=_slowest_ms(planner, cluster.world))


def _topology(cluster: ClusterSpec, reserved_bytes: int) -> Topology:
    """The cluster in the planner's words: bytes, and bytes a millisecond.

    The planner takes what is reserved from a GPU's memory alone; a CPU's is told without it.
    """
    constants, device_bytes = cluster.constants, int(cluster.device_memory_gib * GIB)
    is_cuda = cluster.device == "cuda"
    memory_bw = cluster.device_gb_per_s * 1e6 * constants.lookup_efficiency
    host_bytes = int(cluster.host_memory_gib / cluster.devices_per_node * GIB)
    return Topology(
        world_size=cluster.world,
        compute_device=cluster.device,
        hbm_cap=device_bytes if is_cuda else 0,
        ddr_cap=host_bytes if is_cuda else max(0, device_bytes - reserved_bytes),
        local_world_size=cluster.devices_per_node,
        hbm_mem_bw=memory_bw,
        ddr_mem_bw=memory_bw,
        intra_host_bw=cluster.intra_gb_per_s * 1e6 * constants.network_efficiency,
        inter_host_bw=cluster.inter_gb_per_s * 1e6 * constants.network_efficiency,
    )


def _constraints(shape: TableShape, wanted: Wanted) -> ParameterConstraints:
    asked = wanted.sharding.get(shape.name)
    kinds = (asked,) if asked else TYPES
    return ParameterConstraints(
        sharding_types=list(kinds),
        compute_kernels=[EmbeddingComputeKernel.FUSED.value],
        pooling_factors=[wanted.ids[feature] for feature in shape.features],
        min_partition=max(_WORD_COLS, shape.width // 8),
    )


def _placed(shape: TableShape, sharding: ParameterSharding | None) -> TableDocument:
    """A table of the plan; TorchRec has been seen to drop one (its #3652).

    Raises:
        DoesNotFit: the planner dropped it.
    """
    if sharding is None or sharding.ranks is None or sharding.sharding_spec is None:
        raise DoesNotFit(
            f"TorchRec's planner left table {shape.name} out of its plan (torchrec#3652); "
            f"name its type yourself: sharding.{shape.name}=row_wise"
        )
    shards = tuple(
        ShardDocument(
            rank=rank,
            row=min(shard.shard_offsets[0], shape.rows),
            rows=shard.shard_sizes[0],
            col=shard.shard_offsets[1],
            cols=shard.shard_sizes[1],
        )
        for rank, shard in zip(sharding.ranks, sharding.sharding_spec.shards, strict=True)
    )
    elements = sum(shard.rows * shard.cols for shard in shards)
    if elements != shape.rows * shape.width:
        raise DoesNotFit(
            f"TorchRec's plan places {elements:,} elements of table {shape.name}, which has "
            f"{shape.rows * shape.width:,}; name its type yourself: sharding.{shape.name}=row_wise"
        )
    return TableDocument(
        table=shape.name,
        type=cast("ShardingType", sharding.sharding_type),
        rows=shape.rows,
        width=shape.width,
        shards=shards,
    )


def _slowest_ms(planner: EmbeddingShardingPlanner, world: int) -> float:
    """The planner keeps its winning options to itself; their shards carry its estimates."""
    by_rank = [0.0] * world
    for option in planner._best_plan or []:
        for shard in option.shards:
            if shard.rank is not None and shard.perf is not None:
                by_rank[shard.rank] += shard.perf.total
    return max(by_rank)
