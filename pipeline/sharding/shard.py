"""Shard a model over the workers by a plan, to train it or to freeze it.

Trained tables are updated inside the backward pass by fbgemm's row-wise Adagrad. Frozen tables are
`FrozenTables`, without optimiser state, backward pass and gradient traffic. (`shard` without an
optimiser freezes TorchRec's own tables, in fp32. `FrozenTables` are measured against them.)

Gradients are averaged over workers, of dense parameters and of tables. A worker's loss is therefore
`iak.pipeline.model.loss.share_of_mean`, which is scaled by the number of workers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
    WeightDecayMode,
)
from torch import Tensor, nn
from torch import distributed as dist
from torchrec.distributed.embeddingbag import (
    EmbeddingBagCollectionSharder,
    ShardedEmbeddingBagCollection,
)
from torchrec.distributed.model_parallel import (
    DefaultDataParallelWrapper,
    DistributedModelParallel,
    get_unwrapped_module,
)
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    ShardingEnv,
    ShardingPlan,
    ShardingType,
)
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.model.digest import Digest, digest
from iak.pipeline.model.embedding_bags import padded, whole_tables
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.model.tables import (
    TWIN,
    LocalShard,
    TableShape,
    UniformStart,
    table_name,
    torchrec_name,
)
from iak.pipeline.process import Worker
from iak.pipeline.sharding.frozen_tables import FrozenTables
from iak.pipeline.sharding.mapped import MapFolder
from iak.pipeline.sharding.placement_rule import TABLES_PATH, check_covers
from iak.schemas.job import Precision

ShardedModel: TypeAlias = DistributedModelParallel
"""Type of a sharded model, for packages that must not import torchrec.distributed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowWiseAdagrad:
    """Settings of the trained tables' optimiser, which has one accumulator per row."""

    lr: float
    """Learning rate."""
    eps: float = 1e-8
    """Added to the root of the accumulator."""
    weight_decay: float = 0.0
    """L2: this factor times the row is added to the gradient of rows that a batch reads, and to no
    others. It acts on rare rows as much as on frequent ones. On a CPU it needs tables built
    `with_twins`."""
    penalty: float = 0.0
    """Adds penalty / 2 * |e|^2 to the loss of a row of the log, for each mean embedding e that it
    reads: averaged over this worker's rows, then over workers. It acts under any plan, is in no
    reported loss, and acts on frequent rows more."""


class AnySharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]
    """TorchRec's sharder, which also offers row-wise sharding on a CPU, where it works too."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return the types that TorchRec offers, and row-wise."""
        offered: list[str] = super().sharding_types(compute_device_type)
        return sorted({*offered, ShardingType.ROW_WISE.value})


def shard(
    model: Recommender,
    plan: ShardingPlan,
    *,
    worker: Worker,
    tables_optimizer: RowWiseAdagrad | None,
    initialise: bool = True,
) -> DistributedModelParallel:
    """Shard `model` over the process group by `plan`.

    Args:
        model: the whole model. Its tables may be on the `meta` device: each shard then starts with
            the values that the whole table would have there. Tables with values keep them. Dense
            parameters become rank 0's.
        plan: from `plan_tables`, for this world and device.
        worker: this process. A process group is up, also in a world of one.
        tables_optimizer: settings of the tables' optimiser; None freezes the tables.
        initialise: False leaves the tables' memory for `read_base_weights` to fill.

    Returns:
        The sharded model. Call it to train: it averages dense gradients. For the representation
        use `unwrap(model).represent`.

    Raises:
        BadRequest: the plan is for other tables.
    """
    check_covers(plan, model.table_sizes)
    starts = _take_starts(model.tables)  # before TorchRec sees the tables
    whole = None if model.tables.device.type == "meta" else model.tables
    model.tables_frozen = tables_optimizer is None
    model.tables_l2 = tables_optimizer.penalty if tables_optimizer else 0.0
    group = dist.group.WORLD
    assert group is not None, "shard() needs a process group; see pipeline.process.process_group"
    sharder = AnySharder(fused_params=_fused_params(tables_optimizer))
    sharded = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(group),
        device=worker.device,
        plan=_for_torchrec(plan),
        sharders=[sharder],
        init_data_parallel=False,
        data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
    )
    unwrap(sharded).tables.register_forward_pre_hook(_pad_to_common_rows)
    if initialise:
        _start(sharded, starts, whole)
    # DDP refuses a module without a parameter that learns.
    if any(parameter.requires_grad for parameter in dense_state(sharded).values()):
        sharded.init_data_parallel()
    return sharded


def _for_torchrec(plan: ShardingPlan) -> ShardingPlan:
    """Return the plan with the names under which TorchRec keeps the tables."""
    of_tables = cast("EmbeddingModuleShardingPlan", plan.plan[TABLES_PATH])
    kept = EmbeddingModuleShardingPlan()
    kept.update({torchrec_name(table): sharding for table, sharding in of_tables.items()})
    return ShardingPlan(plan={TABLES_PATH: kept})


def freeze_tables(
    model: Recommender,
    plan: ShardingPlan,
    *,
    worker: Worker,
    precisions: Mapping[str, Precision],
    mapped_at: MapFolder | None = None,
) -> FrozenTables:
    """Replace the model's tables by frozen ones; `read_base_weights` fills them.

    Args:
        model: its tables are on the meta device; any values are dropped.
        plan: from `plan_tables`, for this world and device.
        worker: this process.
        precisions: the type of each table's entries.
        mapped_at: folder from which each table is mapped whole; None to follow the plan.

    Raises:
        BadRequest: the plan is for other tables, or a table cannot be stored in its precision.
    """
    check_covers(plan, model.table_sizes)
    shapes = shapes_of(model.tables)
    tables = FrozenTables(shapes, plan, worker=worker, precisions=precisions, mapped_at=mapped_at)
    model.tables, model.tables_frozen, model.tables_l2 = tables, True, 0.0
    return tables


def shapes_of(tables: EmbeddingBagCollection) -> list[TableShape]:
    """Return the shapes of tables, without twins of features."""
    return [
        TableShape(
            name=table_name(config.name),
            rows=config.num_embeddings,
            width=config.embedding_dim,
            features=tuple(f for f in config.feature_names if not f.endswith(TWIN)),
        )
        for config in tables.embedding_bag_configs()
    ]


def unwrap(model: nn.Module) -> Recommender:
    """Return the recommender inside the wrappers of DDP and TorchRec, or itself."""
    return cast(Recommender, get_unwrapped_module(model))


def local_shards(model: nn.Module) -> list[LocalShard]:
    """Return the parts of tables that this process owns, not copied.

    Over all workers they cover each table once. Where nothing is sharded they are whole tables.
    Frozen tables of low precision come as they are stored: as fp16 numbers, or as bytes.
    """
    tables = unwrap(model).tables
    if isinstance(tables, FrozenTables):
        return tables.local_shards()
    if isinstance(tables, EmbeddingBagCollection):
        return list(whole_tables(tables))
    return [
        LocalShard(
            table=table_name(name.split(".")[-2]),
            row_offset=local.metadata.shard_offsets[0],
            col_offset=local.metadata.shard_offsets[1],
            tensor_RW=local.tensor.detach(),
        )
        for name, sharded in tables.state_dict().items()
        for local in sharded.local_shards()
    ]


def dense_state(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer that is not a table, not copied, by its name."""
    inner = get_unwrapped_module(model)
    return {
        name: tensor
        for part, child in inner.named_children()
        if part != "tables"
        for name, tensor in child.state_dict(prefix=f"{part}.", keep_vars=True).items()
    }


def digest_model(model: nn.Module, worker: Worker) -> Digest:
    """Return digests of all tables and dense tensors; a collective call where they are sharded.

    They are the same under any plan.
    """
    return digest(local_shards(model), dense_state(model), worker=worker)


def set_tables_lr(model: DistributedModelParallel, lr: float) -> None:
    """Set the learning rate of the tables' fused optimiser, which has no schedule of its own."""
    for module in table_modules(model):
        module.set_learning_rate(lr)
    # TorchRec's optimiser writes the rate of its groups back to the modules.
    for group in model.fused_optimizer.param_groups:
        group["lr"] = lr


def table_modules(model: nn.Module) -> list[SplitTableBatchedEmbeddingBagsCodegen]:
    """Return the fbgemm modules, which own the tables' weights and their optimiser's state."""
    tables = unwrap(model).tables
    assert isinstance(tables, ShardedEmbeddingBagCollection)
    return [
        module
        for lookup in tables._lookups  # torchrec 1.8 has no public access
        for module in lookup.modules()
        if isinstance(module, SplitTableBatchedEmbeddingBagsCodegen)
    ]


def _pad_to_common_rows(_: nn.Module, args: tuple[KeyedJaggedTensor]) -> tuple[KeyedJaggedTensor]:
    """Pad a batch so that torchrec 1.8 can exchange it; `Recommender.embed` drops the padding.

    A batch without rows fails in the mean of row-wise tables ("cannot reshape tensor of 0
    elements"). Batches of unequal rows fail in their backward pass on gloo, which gathers only
    equal parts ("allgather: invalid tensor size"); NCCL gathers unequal ones.
    """
    (ids,) = args
    if dist.get_world_size() == 1 or dist.get_backend() != "gloo":
        return (padded(ids, max(ids.stride(), 1)),)
    rows = torch.tensor(ids.stride())
    dist.all_reduce(rows, op=dist.ReduceOp.MAX)
    return (padded(ids, max(int(rows), 1)),)


def _fused_params(optimizer: RowWiseAdagrad | None) -> dict[str, Any]:
    """Return fbgemm's settings of the tables' optimiser."""
    if optimizer is None:  # frozen: SGD has no state, and at rate 0 it changes nothing
        return {"optimizer": EmbOptimType.EXACT_SGD, "learning_rate": 0.0}
    return {
        "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        "learning_rate": optimizer.lr,
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
        "weight_decay_mode": WeightDecayMode.L2 if optimizer.weight_decay else WeightDecayMode.NONE,
    }


def _take_starts(tables: EmbeddingBagCollection) -> dict[str, UniformStart]:
    """Take the functions of first values from the tables, so that TorchRec does not call them.

    It would call each per shard, as if the shard were a whole table.
    """
    starts: dict[str, UniformStart] = {}
    for config in tables.embedding_bag_configs():
        starts[table_name(config.name)] = config.init_fn
        config.init_fn = _leave
    return starts


def _leave(weight: Tensor) -> Tensor:
    """Return `weight` as it is: an `init_fn` that does nothing."""
    return weight


def _start(
    sharded: nn.Module,
    starts: Mapping[str, UniformStart],
    whole: EmbeddingBagCollection | None,
) -> None:
    """Give every shard the values that the whole table has there.

    Args:
        sharded: the model.
        starts: function of first values of each table.
        whole: the tables with their values; None where they were on the meta device.
    """
    with torch.no_grad():
        for shard_ in local_shards(sharded):
            rows, width = shard_.tensor_RW.shape
            row, col = shard_.row_offset, shard_.col_offset
            if whole is None:
                starts[shard_.table](shard_.tensor_RW, row, col)
            else:
                table_RW = whole.embedding_bags[torchrec_name(shard_.table)].weight
                shard_.tensor_RW.copy_(table_RW[row : row + rows, col : col + width])
