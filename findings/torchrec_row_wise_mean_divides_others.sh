#!/usr/bin/env bash
# One row-wise table with MEAN pooling: TorchRec divides the sums of the other tables too (torchrec 1.8.0, torch 2.13.0).
#
# A plan cuts a large table by rows and keeps small ones whole. The large one pools by MEAN. Guess: the plan does not
# change what a lookup returns. Seen: the lookups of all tables that are not cut by rows are divided by their number of ids
# once more. A SUM of three rows of ones comes back as 1 instead of 3, and a MEAN as 1/3 instead of 1. Nothing warns. The
# row-wise table itself is right, and so is every table where none or all are row-wise. Row-wise tables are summed
# on each rank and divided after the exchange, by a divisor for all features. That divisor is 1 for features with SUM, but
# only for those of row-wise tables: it leaves out features that need no division. So the planner's choice for one
# table decides what the others return. Rank 0 of a world of one shows it. What avoids it: SUM for all tables, and to
# divide outside.
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
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingEnv

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


class Sharder(EmbeddingBagCollectionSharder):
    """Offers row-wise sharding on a CPU too. On a GPU TorchRec offers it itself."""

    def sharding_types(self, compute_device_type):
        return [*super().sharding_types(compute_device_type), "row_wise"]


def fill(rows):
    """Set every value to one."""
    with torch.no_grad():
        rows.fill_(1.0)


def looked_up(large, small):
    """Return what three ids give in a large and a small table, each with its way to shard and to pool."""
    configs = [
        EmbeddingBagConfig(
            name=name, feature_names=[f"{name}_id"], num_embeddings=6, embedding_dim=4,
            pooling=pooling, init_fn=fill,
        )
        for name, (_, pooling) in {"large": large, "small": small}.items()
    ]  # fmt: skip
    tables = EmbeddingBagCollection(tables=configs)
    sharder = Sharder(fused_params={"learning_rate": 0.1})
    plan = construct_module_sharding_plan(
        tables, {"large": large[0], "small": small[0]}, sharder=sharder,
        world_size=1, local_size=1, device_type="cpu",
    )  # fmt: skip
    for sharding in plan.values():
        sharding.compute_kernel = "fused"
    env = ShardingEnv.from_process_group(dist.group.WORLD)
    sharded = sharder.shard(tables, plan, env, device=torch.device("cpu"))
    sharded.reset_parameters()
    ids = KeyedJaggedTensor.from_lengths_sync(
        ["large_id", "small_id"], torch.tensor([1, 2, 3, 3, 4, 5]), torch.tensor([3, 3])
    )
    found = sharded(ids).wait()
    return tuple(round(float(found[name][0, 0]), 3) for name in ("large_id", "small_id"))


SUM, MEAN = PoolingType.SUM, PoolingType.MEAN
whole, by_rows = table_wise(rank=0), row_wise()
found = {
    "large MEAN whole, small SUM whole": looked_up((whole, MEAN), (whole, SUM)),
    "large MEAN by rows, small SUM by rows": looked_up((by_rows, MEAN), (by_rows, SUM)),
    "large MEAN by rows, small SUM whole": looked_up((by_rows, MEAN), (whole, SUM)),
    "large MEAN by rows, small MEAN whole": looked_up((by_rows, MEAN), (whole, MEAN)),
    "large SUM by rows, small MEAN whole": looked_up((by_rows, SUM), (whole, MEAN)),
}
dist.destroy_process_group()
for plan, values in found.items():
    print(f"{plan}: three rows of ones give {values}")
wanted = {
    "large MEAN whole, small SUM whole": (1.0, 3.0),
    "large MEAN by rows, small SUM by rows": (1.0, 3.0),
    "large MEAN by rows, small SUM whole": (1.0, 1.0),
    "large MEAN by rows, small MEAN whole": (1.0, 0.333),
    "large SUM by rows, small MEAN whole": (3.0, 1.0),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
