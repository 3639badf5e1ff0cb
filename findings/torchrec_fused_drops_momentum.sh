#!/usr/bin/env bash
# Sharded tables drop the momentum and the weight decay of their optimiser (torchrec 1.8.0, torch 2.13.0).
#
# apply_optimizer_in_backward names an optimiser of torch for the tables. Guess: tables train alike before and after
# sharding, or what the fused kernel lacks is refused. Seen: unsharded tables follow the optimiser. Sharded ones become
# fbgemm's fused tables, which are given the same keyword arguments. fbgemm has parameters `momentum` and `weight_decay`
# for other optimisers, so it takes both without a word, and uses neither: SGD with momentum 0.9 is plain SGD. Neither
# does RowWiseAdagrad decay, since fbgemm's decay needs a weight_decay_mode, which torch does not know. An argument that
# fbgemm has no parameter for, as `maximize`, is refused with a TypeError. A run on one machine without sharding thus
# trains another model than the same code sharded.
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
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, table_wise
from torchrec.distributed.types import ShardingEnv
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
FEATURES = ["clicked", "bought"]
IDS = KeyedJaggedTensor.from_lengths_sync(FEATURES, torch.tensor([1, 1]), torch.tensor([1, 1]))


def fill(rows):
    """Set every value to one."""
    with torch.no_grad():
        rows.fill_(1.0)


def trained(optimizer, settings, *, sharded):
    """Return a value of the row that three steps with gradient 2 read, from 1 on."""
    config = EmbeddingBagConfig(
        name="item", feature_names=FEATURES, num_embeddings=4, embedding_dim=4, init_fn=fill
    )
    tables = EmbeddingBagCollection(tables=[config])
    fill(tables.embedding_bags["item"].weight)
    apply_optimizer_in_backward(optimizer, tables.parameters(), settings)
    if sharded:
        sharder = EmbeddingBagCollectionSharder()
        plan = construct_module_sharding_plan(
            tables, {"item": table_wise(rank=0)}, sharder=sharder,
            world_size=1, local_size=1, device_type="cpu",
        )  # fmt: skip
        plan["item"].compute_kernel = "fused"
        env = ShardingEnv.from_process_group(dist.group.WORLD)
        tables = sharder.shard(tables, plan, env, device=torch.device("cpu"))
        tables.reset_parameters()
    for _ in range(3):
        sums = tables(IDS)
        sums = sums.wait() if sharded else sums
        sums.values().sum().backward()
    return round(float(tables.embedding_bags["item"].weight[1, 0]), 4)


def outcome(*job, sharded):
    """Return the value, or the kind of error."""
    try:
        return trained(*job, sharded=sharded)
    except TypeError:
        return "TypeError"


jobs = {
    "SGD": (torch.optim.SGD, {"lr": 0.1}),
    "SGD, momentum 0.9": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "SGD, weight decay 0.5": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.5}),
    "SGD, maximize": (torch.optim.SGD, {"lr": 0.1, "maximize": True}),
    "RowWiseAdagrad": (RowWiseAdagrad, {"lr": 0.1}),
    "RowWiseAdagrad, weight decay 0.5": (RowWiseAdagrad, {"lr": 0.1, "weight_decay": 0.5}),
}
found = {
    name: (outcome(*job, sharded=False), outcome(*job, sharded=True)) for name, job in jobs.items()
}
dist.destroy_process_group()
for name, (whole, sharded) in found.items():
    print(f"{name}: unsharded {whole}, sharded {sharded}")
plain, adagrad = found["SGD"], found["RowWiseAdagrad"]
dropped = [
    plain[0] == plain[1],
    adagrad[0] == adagrad[1],
    *(
        whole != plain[0] and sharded == plain[1]
        for whole, sharded in (found["SGD, momentum 0.9"], found["SGD, weight decay 0.5"])
    ),
    found["RowWiseAdagrad, weight decay 0.5"][0] != adagrad[0],
    found["RowWiseAdagrad, weight decay 0.5"][1] == adagrad[1],
    found["SGD, maximize"][1] == "TypeError",
]
if not all(dropped):
    sys.exit("the behaviour changed")
print("as described")
PYTHON
