#!/usr/bin/env bash
# What a weighted MEAN is depends on the sharding plan (torchrec 1.8.0, torch 2.13.0).
#
# Ids of a history have weights, by age for instance, and its table pools by MEAN (is_weighted=True). Guess: every plan
# gives the same lookup. Seen: a whole table, or one cut by columns, gives sum(weight * row) / number of ids. One that is
# cut by rows gives sum(weight * row) / sum(weight). With equal weights of 0.5 the second is twice the first. Nothing
# warns, and the unsharded collection cannot tell which is meant: it refuses weights with MEAN. So a planner that cuts a
# table by rows, once it has grown, changes the inputs of a trained model. SUM has one meaning under every plan.
# Rank 0 of a world of one shows it.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 tensordict iopath tqdm torchmetrics pyre-extensions
# torchrec asks for fbgemm-gpu, whose build for a CPU has another name.
"${pip[@]}" --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import torch
import torch.distributed as dist
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingEnv

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
IDS = KeyedJaggedTensor(
    ["history"], torch.tensor([1, 2, 3]), lengths=torch.tensor([3]),
    weights=torch.tensor([0.5, 0.5, 0.5]),
)  # fmt: skip


class Sharder(EmbeddingBagCollectionSharder):
    """Offers row-wise sharding on a CPU too. On a GPU TorchRec offers it itself."""

    def sharding_types(self, compute_device_type):
        return [*super().sharding_types(compute_device_type), "row_wise"]


def fill(rows):
    """Set every value to one."""
    with torch.no_grad():
        rows.fill_(1.0)


def collection(pooling):
    """Return a table of ones that a weighted history reads."""
    config = EmbeddingBagConfig(
        name="item", feature_names=["history"], num_embeddings=6, embedding_dim=4,
        pooling=pooling, init_fn=fill,
    )  # fmt: skip
    return EmbeddingBagCollection(tables=[config], is_weighted=True)


def looked_up(pooling, placement):
    """Return what three ids of weight 0.5 give in a sharded table of ones."""
    tables, sharder = collection(pooling), Sharder(fused_params={"learning_rate": 0.1})
    plan = construct_module_sharding_plan(
        tables, {"item": placement}, sharder=sharder,
        world_size=1, local_size=1, device_type="cpu",
    )  # fmt: skip
    plan["item"].compute_kernel = "fused"
    env = ShardingEnv.from_process_group(dist.group.WORLD)
    sharded = sharder.shard(tables, plan, env, device=torch.device("cpu"))
    sharded.reset_parameters()
    return round(float(sharded(IDS).wait()["history"][0, 0]), 3)


placements = {
    "whole": table_wise(rank=0),
    "by columns": column_wise(ranks=[0]),
    "by rows": row_wise(),
}
found = {
    (pooling.name, name): looked_up(pooling, placement)
    for pooling in (PoolingType.SUM, PoolingType.MEAN)
    for name, placement in placements.items()
}
dist.destroy_process_group()
try:
    collection(PoolingType.MEAN)(IDS)
    found["MEAN", "unsharded"] = "accepted"
except NotImplementedError:
    found["MEAN", "unsharded"] = "refused"
for (pooling, name), value in found.items():
    print(f"{pooling}, {name}: three ones of weight 0.5 give {value}")
wanted = {
    ("SUM", "whole"): 1.5,
    ("SUM", "by columns"): 1.5,
    ("SUM", "by rows"): 1.5,
    ("MEAN", "whole"): 0.5,
    ("MEAN", "by columns"): 0.5,
    ("MEAN", "by rows"): 1.0,
    ("MEAN", "unsharded"): "refused",
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
