#!/usr/bin/env bash
# Gradient clipping around sharded tables clips the dense layers alone (torchrec 1.8.0, torch 2.13.0).
#
# GradientClippingOptimizer "clips gradients before doing optimization step", and takes the combined optimiser of tables and
# dense layers. Guess: a step is the same before and after sharding: the norm is that of all gradients, and what is
# larger than max_gradient is scaled down. Seen: unsharded, that is so. Sharded tables have stepped with their full gradient
# during the backward pass, before anything could be clipped. The norm that is left is that of the dense layers. So they
# are scaled by another factor than before too, and `last_total_grad_norm` looks small while the tables run away. Nothing
# warns. What clips sharded tables is gradient_clipping and max_gradient in their fused parameters, by value, not by norm.
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
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
IDS = KeyedJaggedTensor.from_lengths_sync(["item_id"], torch.tensor([1]), torch.tensor([1]))


def sgd(named):
    """Return SGD with learning rate 1 for the named weights."""
    return KeyedOptimizerWrapper(dict(named), lambda weights: torch.optim.SGD(weights, lr=1.0))


def sharded_tables(tables, settings):
    """Return the tables on rank 0, with SGD in the backward pass, and their optimiser."""
    apply_optimizer_in_backward(torch.optim.SGD, tables.parameters(), {"lr": 1.0})
    sharder = EmbeddingBagCollectionSharder(fused_params=settings)
    plan = construct_module_sharding_plan(
        tables, {"item": table_wise(rank=0)}, sharder=sharder,
        world_size=1, local_size=1, device_type="cpu",
    )  # fmt: skip
    plan["item"].compute_kernel = "fused"
    env = ShardingEnv.from_process_group(dist.group.WORLD)
    sharded = sharder.shard(tables, plan, env, device=torch.device("cpu"))
    sharded.reset_parameters()
    return sharded, sharded.fused_optimizer


def step(*, shard, settings=None):
    """Return how far a value of a row and a dense weight step, and the norm.

    The gradient of each of the row's four values is 2, that of the dense weight 3: the norm is 5.
    """
    config = EmbeddingBagConfig(
        name="item", feature_names=["item_id"], num_embeddings=4, embedding_dim=4,
        init_fn=torch.nn.init.ones_,
    )  # fmt: skip
    tables = EmbeddingBagCollection(tables=[config])
    dense = torch.nn.Parameter(torch.ones(1))
    if shard:
        tables, of_tables = sharded_tables(tables, settings)
    else:
        of_tables = sgd(tables.named_parameters())
    both = CombinedOptimizer([("tables", of_tables), ("dense", sgd({"weight": dense}.items()))])
    optimizer = GradientClippingOptimizer(both, GradientClipping.NORM, max_gradient=1.0)
    sums = tables(IDS)
    sums = sums.wait() if shard else sums
    (2.0 * sums.values().sum() + 3.0 * dense.sum()).backward()
    optimizer.step()
    row = tables.embedding_bags["item"].weight[1, 0]
    norm = optimizer.last_total_grad_norm
    return tuple(round(float(x), 3) for x in (1.0 - row, 1.0 - dense, norm))


found = {
    "unsharded": step(shard=False),
    "sharded": step(shard=True),
    "sharded, max_gradient 1 for the tables": step(
        shard=True, settings={"gradient_clipping": True, "max_gradient": 1.0}
    ),
}
dist.destroy_process_group()
for case, values in found.items():
    print(f"{case}: (step of a row's value, of the dense weight, norm) {values}")
wanted = {
    "unsharded": (0.4, 0.6, 5.0),
    "sharded": (2.0, 1.0, 3.0),
    "sharded, max_gradient 1 for the tables": (1.0, 1.0, 3.0),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
