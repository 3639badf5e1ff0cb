"""Where tables should lie on machines one does not have: TorchRec's planner, asked without a GPU.

The planner searches over sharding types and ranks, with its own constants for lookups and links.
What it leaves out (the dense part, activations) is handed to it as memory that is taken already.

It counts neither half bytes nor the scale and bias of a row. A frozen table therefore has a
stand-in: fp32 columns that are as many bytes as a row is, so that memory, lookups and answers (rows
as they are stored) come out as they are; only answers of summed bags are other than it believes.
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
from iak.pipeline.model.tables import TableShape, build_tables
from iak.pipeline.sharding.placement_rule import TABLES_PATH, column_parts
from iak.pipeline.sharding.quantised import stride_bytes
from iak.pipeline.sharding.shard import AnySharder
from iak.schemas.cluster import ClusterSpec
from iak.schemas.job import Precision
from iak.schemas.plan import PlanDocument, ShardDocument, ShardingType, TableDocument

GIB = 2**30
TYPES: tuple[ShardingType, ...] = ("table_wise", "row_wise", "column_wise")
_FP32 = 4
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
    precisions: Mapping[str, Precision] | None = None
    """What frozen tables are held in; None where tables are trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A plan, and what TorchRec's planner thinks of it."""

    document: PlanDocument
    planner_ms: float
    """Its estimate of a step's time in tables on the slowest rank: a constant's, never a card's.
    A step of frozen tables is one in which rows go through the base."""


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
    asked = [_asked(shape, wanted, cluster) for shape in wanted.shapes]
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
        _placed(shape, table.shape.width, wanted, module_plan.get(shape.name))
        for shape, table in zip(wanted.shapes, asked, strict=True)
    )
    document = PlanDocument(
        job="finetune" if is_frozen else "pretrain",
        world=cluster.world,
        cluster=cluster.name,
        tables=tables,
    )
    return Found(document=document, planner_ms=_slowest_ms(planner, cluster.world))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A table as the planner sees it."""

    shape: TableShape
    """Its own where it is trained; else with fp32 columns of as many bytes as its rows are."""
    kinds: tuple[ShardingType, ...]
    least_cols: int
    """Of a band of columns."""


def _asked(shape: TableShape, wanted: Wanted, cluster: ClusterSpec) -> _Asked:
    """Columns of frozen rows are cut only where that is asked, and then as the rule cuts them."""
    kinds = TYPES if wanted.precisions is None else TYPES[:2]
    if shape.name in wanted.sharding:
        kinds = (wanted.sharding[shape.name],)
    if wanted.precisions is None:
        return _Asked(shape, kinds, max(_WORD_COLS, shape.width // 8))
    bands = column_parts(shape.width, cluster.world) if kinds == ("column_wise",) else 1
    device, precision = torch.device(cluster.device), wanted.precisions[shape.name]
    cols = -(-stride_bytes(precision, shape.width // bands, device) // _FP32)
    return _Asked(replace(shape, width=bands * cols), kinds, cols)


def _on_meta(asked: Sequence[_Asked], *, is_trained: bool) -> nn.Module:
    """What holds the tables, without their memory."""
    holder, shapes = nn.Module(), [table.shape for table in asked]
    tables = build_tables(shapes, init_scale=0.01, device=torch.device("meta"))
    holder.add_module(TABLES_PATH, tables)
    if is_trained:
        for weight in tables.parameters():  # the planner counts its state, and reads no more of it
            weight._optimizer_classes = [RowWiseAdagrad]
    return holder


def _planner(
    wanted: Wanted, asked: Sequence[_Asked], cluster: ClusterSpec, reserved_bytes: int
) -> EmbeddingShardingPlanner:
    """TorchRec's planner for this cluster; of frozen tables it counts no state and no way back."""
    is_frozen = wanted.precisions is not None
    topology = _topology(cluster, reserved_bytes)
    batch_rows = max(1, wanted.batch_rows // cluster.world)
    constraints = {
        table.shape.name: ParameterConstraints(
            sharding_types=list(table.kinds),
            compute_kernels=[EmbeddingComputeKernel.FUSED.value],
            pooling_factors=[wanted.ids[feature] for feature in table.shape.features],
            min_partition=table.least_cols,
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


def _placed(
    shape: TableShape, planned_width: int, wanted: Wanted, sharding: ParameterSharding | None
) -> TableDocument:
    """A table of the plan; TorchRec has been seen to drop one (its #3652).

    Args:
        shape: the table.
        planned_width: the columns that the planner saw in its place.
        wanted: what was asked.
        sharding: what the planner says.

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
            col=shard.shard_offsets[1] * shape.width // planned_width,
            cols=shard.shard_sizes[1] * shape.width // planned_width,
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
        precision=wanted.precisions[shape.name] if wanted.precisions else "fp32",
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
