#!/usr/bin/env bash
# Sharded tables remember the order of features of their first batch (torchrec 1.8.0, torch 2.13.0).
#
# A KeyedJaggedTensor names its features, and an EmbeddingBagCollection looks them up by name. Two loaders of one job, for
# training and for evaluation, list the same features in another order. Guess: the tables read the same rows, whatever
# the order is. Seen: the unsharded collection does. The sharded one notes on its first batch where each feature stands, and
# takes later batches by place: user ids go to the item table and item ids to the user table, under the names of the first
# batch. Both numbers of rows allow it, so nothing warns, and training changes the wrong rows. A
# ManagedCollisionCollection does the same, and gives the ids of one feature slots of the other one's table. What
# avoids it: one order of keys everywhere, as by `permute`, and a check of `keys()` where batches come in.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 tensordict iopath tqdm torchmetrics==1.0.3 pyre-extensions
# torchrec asks for fbgemm-gpu, whose build for a CPU has another name.
"${pip[@]}" --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import torch
import torch.distributed as dist
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, table_wise
from torchrec.distributed.types import ShardingEnv
from torchrec.modules.mc_modules import (
    LFU_EvictionPolicy,
    ManagedCollisionCollection,
    MCHManagedCollisionModule,
)

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
ROWS = 8
batches = {
    "user, item": KeyedJaggedTensor.from_lengths_sync(
        ["user", "item"], torch.tensor([3, 4]), torch.tensor([1, 1])
    ),
    "item, user": KeyedJaggedTensor.from_lengths_sync(
        ["item", "user"], torch.tensor([4, 3]), torch.tensor([1, 1])
    ),
}


def numbered(first):
    """Return what fills a table with the numbers of its rows, counted from `first`."""
    return lambda rows: rows.data.copy_(torch.arange(first, first + ROWS)[:, None].expand_as(rows))


def tables():
    """Return a table of users, numbered from 0, and one of items, numbered from 100."""
    configs = [
        EmbeddingBagConfig(
            name=name, feature_names=[name], num_embeddings=ROWS, embedding_dim=4,
            init_fn=numbered(first),
        )
        for name, first in {"user": 0.0, "item": 100.0}.items()
    ]  # fmt: skip
    return EmbeddingBagCollection(tables=configs)


def sharded():
    """Return the same tables, each whole on the only worker."""
    whole = tables()
    sharder = EmbeddingBagCollectionSharder(fused_params={"learning_rate": 0.1})
    plan = construct_module_sharding_plan(
        whole, {"user": table_wise(rank=0), "item": table_wise(rank=0)}, sharder=sharder,
        world_size=1, local_size=1, device_type="cpu",
    )  # fmt: skip
    for sharding in plan.values():
        sharding.compute_kernel = "fused"
    env = ShardingEnv.from_process_group(dist.group.WORLD)
    made = sharder.shard(whole, plan, env, device=torch.device("cpu"))
    made.reset_parameters()
    return made


def rows_read(model, batch):
    """Return the rows that a batch reads, of users and of items."""
    found = model(batch)
    found = found.wait() if hasattr(found, "wait") else found
    return tuple(int(found[name][0, 0]) for name in ("user", "item"))


def slots():
    """Return which ids the tables of users and of items know, after both batches."""
    configs = tables().embedding_bag_configs()
    modules = {
        config.name: MCHManagedCollisionModule(
            zch_size=ROWS, device=torch.device("cpu"), eviction_policy=LFU_EvictionPolicy(),
            eviction_interval=1,
        )
        for config in configs
    }  # fmt: skip
    collection = ManagedCollisionCollection(modules, configs)
    for batch in batches.values():
        collection(batch)
    return tuple(
        [i for i in modules[name]._mch_sorted_raw_ids.tolist() if i < ROWS]
        for name in ("user", "item")
    )


unsharded, model, other = tables(), sharded(), sharded()
found = {
    "unsharded": {order: rows_read(unsharded, batch) for order, batch in batches.items()},
    "sharded": {order: rows_read(model, batch) for order, batch in batches.items()},
    "sharded, other order first": {
        order: rows_read(other, batches[order]) for order in ("item, user", "user, item")
    },
    "ids that a managed collision collection knows": slots(),
}
dist.destroy_process_group()
for what, rows in found.items():
    print(f"user 3 and item 4, {what}: {rows}")
right, wrong = (3, 104), (4, 103)
wanted = {
    "unsharded": {"user, item": right, "item, user": right},
    "sharded": {"user, item": right, "item, user": wrong},
    "sharded, other order first": {"item, user": right, "user, item": wrong},
    "ids that a managed collision collection knows": ([3, 4], [3, 4]),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
