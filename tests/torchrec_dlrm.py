"""A DLRM of TorchRec, trained and checkpointed by two ranks, with nothing of `iak` in it.

Each rank is a process with half of the rows, as torchrun would start it. The table of users is cut
by rows over both ranks, the table of items lies whole on the second.
"""

import multiprocessing
import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed
from torch.distributed import checkpoint
from torchrec.datasets.utils import Batch
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import (
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

USERS, ITEMS, WIDTH, HIDDEN = 61, 40, 8, 16
"""An odd number of users, so that the ranks have different numbers of rows."""
WORLD, EPOCHS = 2, 4
CHECKPOINT, SCORES = "checkpoint", "scores.npy"


def sizes() -> dict:
    """The sizes of the model."""
    tables = [
        EmbeddingBagConfig(
            name=f"t_{name}", embedding_dim=WIDTH, num_embeddings=rows, feature_names=[name]
        )
        for name, rows in (("user", USERS), ("item", ITEMS))
    ]
    return {
        "embedding_bag_collection": EmbeddingBagCollection(tables=tables),
        "dense_in_features": 1,
        "dense_arch_layer_sizes": [WIDTH],
        "over_arch_layer_sizes": [HIDDEN, 1],
    }


class RowWiseOnCpu(EmbeddingBagCollectionSharder):
    """TorchRec 1.8 offers no cut by rows on a CPU, although it works there."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """What a table may be cut by."""
        return [*super().sharding_types(compute_device_type), "row_wise"]


def over_ranks(model: DLRMTrain) -> DistributedModelParallel:
    """The model over both ranks, its tables with row-wise Adagrad in the backward pass."""
    tables, fused = model.model.sparse_arch.embedding_bag_collection, "fused"
    apply_optimizer_in_backward(RowWiseAdagrad, tables.parameters(), {"lr": 0.1})
    sharder = RowWiseOnCpu()
    cuts = {
        "t_user": row_wise(compute_kernel=fused),
        "t_item": table_wise(rank=1, compute_kernel=fused),
    }
    plan = construct_module_sharding_plan(
        tables, cuts, sharder=sharder, local_size=WORLD, world_size=WORLD, device_type="cpu"
    )
    return DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(distributed.group.WORLD),
        device=torch.device("cpu"),
        plan=ShardingPlan({"model.sparse_arch.embedding_bag_collection": plan}),
        sharders=[sharder],
    )


def batch_of(columns: dict[str, np.ndarray], index: Tensor | slice) -> Batch:
    """Rows as the model reads them."""
    user, item, price, click = (
        torch.from_numpy(columns[name])[index] for name in ("user", "item", "price", "click")
    )
    ids = KeyedJaggedTensor(
        keys=["user", "item"],
        values=torch.cat([user, item]),
        lengths=torch.ones(2 * len(user), dtype=torch.int32),
    )
    return Batch(dense_features=price[:, None], sparse_features=ids, labels=click)


def train_rank(rank: int, folder: Path, old: dict[str, np.ndarray], rows: dict) -> None:
    """What one rank does: train on its half of the old rows, checkpoint, and score all rows."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_RANK": str(rank)}
    store = distributed.FileStore(str(folder / "meeting"), WORLD)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=300)
    )
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    model = over_ranks(DLRMTrain(DLRM(**sizes())))
    dense = [weight for name, weight in model.named_parameters() if "embedding" not in name]
    optimizer = torch.optim.Adam(dense, lr=0.01)
    half = {name: column[rank::WORLD] for name, column in old.items()}
    for _ in range(EPOCHS):
        for index in torch.randperm(len(half["click"])).split(128):
            loss, _ = model(batch_of(half, index))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    state = {
        "model": model.state_dict(),
        "optim": model.fused_optimizer.state_dict(),
        "dense_optim": optimizer.state_dict(),
        "epochs": EPOCHS,
    }
    checkpoint.save(state, checkpoint_id=folder / CHECKPOINT)
    model.eval()
    with torch.no_grad():
        _, (_, logits, _) = model(batch_of(rows, slice(None)))
    if rank == 0:
        np.save(folder / SCORES, logits.flatten().numpy())
    distributed.barrier()
    distributed.destroy_process_group()


def train(folder: Path, old: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> np.ndarray:
    """Train on old rows by two ranks, which write `checkpoint`; the logits of all rows."""
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=train_rank, args=(rank, folder, old, rows)) for rank in range(WORLD)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    if failed := [rank.exitcode for rank in ranks if rank.exitcode]:
        raise RuntimeError(f"ranks ended with {failed}")
    return np.load(folder / SCORES)


class Adopted(DLRM):
    """The same model with an attach point: the last hidden layer."""

    units = HIDDEN

    def __init__(self):
        super().__init__(**sizes())

    def represent(self, ids: KeyedJaggedTensor, numbers: Tensor) -> Tensor:
        """h: what the last layer reads. A row number of a table is its id + 2."""
        own = KeyedJaggedTensor(
            keys=ids.keys(), values=(ids.values() - 2).clamp(min=0), lengths=ids.lengths()
        )
        inputs = self.inter_arch(self.dense_arch(numbers), self.sparse_arch(own))
        return self.over_arch.model[0](inputs)

    def tail(self, h: Tensor) -> Tensor:
        """The logit from h."""
        return self.over_arch.model[1](h)


def build() -> Adopted:
    """factory = "tests.torchrec_dlrm:build"."""
    return Adopted()
