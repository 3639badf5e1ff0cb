"""Ask TorchRec's planner for the time and memory of a table under a sharding type.

The planner computes milliseconds from bandwidths of memory and links. Its own defaults are those of
cards and links that it does not name. Measured bandwidths give the milliseconds of this machine.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.shard_estimators import (
    EmbeddingPerfEstimator,
    EmbeddingStorageEstimator,
)
from torchrec.distributed.planner.types import (
    HardwareConfig,
    KernelConfig,
    ParameterConstraints,
    Topology,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from iak.pipeline.model.tables import TableShape, torchrec_name
from iak.pipeline.sharding.shard import AnySharder
from iak.schemas.job import Precision
from iak.schemas.plan import ShardingType

_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "int8": torch.int8,
}
"""Types of entries that the planner can count. It has none of half a byte, as int4 needs."""
_MS = 1e3


@dataclass(frozen=True, kw_only=True, slots=True)
class Bandwidths:
    """A machine's measured bandwidths for each worker, in bytes/s."""

    memory: float
    link: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Time and memory of one table."""

    step_ms: float
    """Milliseconds of a step on the slowest worker."""
    held_bytes: int
    """Bytes of the fullest worker. For a trained table they include ids and sums in flight."""


def expected(
    shape: TableShape,
    kind: ShardingType,
    precision: Precision,
    *,
    is_trained: bool,
    world: int,
    device_type: str,
    local_rows: int,
    ids_per_row: int,
    measured: Bandwidths | None = None,
) -> Estimate | None:
    """Return the planner's estimate for a table under one sharding type.

    Args:
        shape: the table.
        kind: sharding type of the table.
        precision: the type of its entries.
        is_trained: True with row-wise Adagrad and a backward pass, False for lookups alone.
        world: number of workers, all on one machine.
        device_type: `cpu` or `cuda`.
        local_rows: rows of the log in one worker's step.
        ids_per_row: ids that each feature of the table reads per row of the log.
        measured: this machine's bandwidths; the planner's own when absent.

    Returns:
        The estimate, without the scales and biases of int8 rows. None for int4, which the planner
        cannot count.
    """
    if precision not in _DTYPES:
        return None
    tables = _on_meta(shape, _DTYPES[precision])
    if is_trained:
        weight_RW = tables.embedding_bags[torchrec_name(shape.name)].weight
        # The planner reads the optimiser from this attribute (torchrec 1.8).
        weight_RW._optimizer_classes = [RowWiseAdagrad]
    constraints = {
        torchrec_name(shape.name): ParameterConstraints(
            sharding_types=[kind],
            compute_kernels=[EmbeddingComputeKernel.FUSED.value],
            # Else the planner cuts columns into bands of its own choice.
            min_partition=shape.width // world if kind == "column_wise" else None,
            pooling_factors=[float(ids_per_row)] * len(shape.features),
            output_dtype=DataType.FP32,
        )
    }
    topology = _topology(world, device_type, measured)
    estimators = [
        kind_of(topology=topology, constraints=constraints, is_inference=not is_trained)
        for kind_of in (EmbeddingPerfEstimator, EmbeddingStorageEstimator)
    ]
    enumerator = EmbeddingEnumerator(
        topology=topology, batch_size=local_rows, constraints=constraints, estimator=estimators
    )
    (option,) = enumerator.enumerate(tables, [AnySharder()])
    return Estimate(
        step_ms=max(float(shard.perf.total) for shard in option.shards),
        held_bytes=max(int(shard.storage.hbm + shard.storage.ddr) for shard in option.shards),
    )


def _on_meta(shape: TableShape, dtype: torch.dtype) -> EmbeddingBagCollection:
    """Build the table without its memory."""
    config = EmbeddingBagConfig(
        name=torchrec_name(shape.name),
        num_embeddings=shape.rows,
        embedding_dim=shape.width,
        feature_names=list(shape.features),
    )
    tables = EmbeddingBagCollection(tables=[config], device=torch.device("meta"))
    if dtype != torch.float32:  # torchrec itself would turn every other type into fp16
        weight_RW = torch.empty(shape.rows, shape.width, dtype=dtype, device="meta")
        tables.embedding_bags[torchrec_name(shape.name)].weight = nn.Parameter(
            weight_RW, requires_grad=False
        )
    return tables


def _topology(world: int, device_type: str, measured: Bandwidths | None) -> Topology:
    """Describe the machine to the planner, with bandwidths in bytes per millisecond."""
    hardware = HardwareConfig()
    if measured is not None:
        memory, link = measured.memory / _MS, measured.link / _MS
        hardware = HardwareConfig(
            hbm_mem_bw=memory, ddr_mem_bw=memory, intra_host_bw=link, inter_host_bw=link
        )
    return TopologyFactory.create_topology(
        TrainerConfig(world_size=world, local_world_size=world),
        hardware,
        KernelConfig(compute_device=device_type, use_hardware_based_bandwidth=measured is not None),
    )
