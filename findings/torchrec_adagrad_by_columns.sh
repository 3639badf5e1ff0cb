#!/usr/bin/env bash
# Row-wise Adagrad of a table that is cut by columns trains another model (torchrec 1.8.0, torch 2.13.0).
#
# The planner cuts a wide table by columns. Guess: a plan decides where numbers lie, not what they are: a step of
# row-wise Adagrad is the same in each plan, as one of SGD and of Adagrad is. Seen: row-wise Adagrad has one accumulator
# for each row, the mean square of its gradient, and each band of columns keeps its own, of its own columns. A table in
# two bands steps further than the whole one where a band's gradient is small, and less where it is large. In the
# extreme, a row whose second half of columns had gradients a hundred times smaller moves in it as far as in the first
# half. With each number of bands it is another optimiser, so that a run on more workers, or after a new plan, does not
# repeat the old one, and its state does not fit. Cut by rows nothing changes. Nothing warns. Rank 0 of a world of one
# shows it. What avoids it: constraints that allow table-wise and row-wise alone, or Adagrad, whose state is by element.
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
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
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
WIDTH = 8
GRADIENT = torch.tensor([[1.0] * 4 + [0.01] * 4])  # of the looked up row, in each step


class Sharder(EmbeddingBagCollectionSharder):
    """Offers all ways to cut on a CPU too. On a GPU TorchRec offers them itself."""

    def sharding_types(self, compute_device_type):
        return [*super().sharding_types(compute_device_type), "row_wise", "column_wise"]


def moved(cut, optimizer):
    """Return how far the first and the last column of a row go in three steps."""
    tables = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name="item", feature_names=["item_id"], num_embeddings=4, embedding_dim=WIDTH,
                init_fn=lambda rows: rows.data.fill_(0.0),
            )
        ]
    )  # fmt: skip
    sharder = Sharder(fused_params={"learning_rate": 0.1, "optimizer": optimizer})
    plan = construct_module_sharding_plan(
        tables, {"item": cut}, sharder=sharder, world_size=1, local_size=1, device_type="cpu"
    )
    for sharding in plan.values():
        sharding.compute_kernel = "fused"
    env = ShardingEnv.from_process_group(dist.group.WORLD)
    sharded = sharder.shard(tables, plan, env, device=torch.device("cpu"))
    sharded.reset_parameters()
    ids = KeyedJaggedTensor.from_lengths_sync(["item_id"], torch.tensor([1]), torch.tensor([1]))
    for _ in range(3):
        (sharded(ids).wait().values() * GRADIENT).sum().backward()
    with torch.no_grad():
        row = sharded(ids).wait().values()[0]
    return round(-float(row[0]), 4), round(-float(row[-1]), 4)


cuts = {"whole": table_wise(rank=0), "by rows": row_wise(), "in 2 bands": column_wise(ranks=[0, 0])}
kinds = {
    "row-wise Adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "Adagrad": EmbOptimType.EXACT_ADAGRAD,
    "SGD": EmbOptimType.EXACT_SGD,
}
found = {f"{kind}, {cut}": moved(cuts[cut], kinds[kind]) for kind in kinds for cut in cuts}
dist.destroy_process_group()
for case, values in found.items():
    print(f"{case}: columns with gradients 1 and 0.01 moved by {values}")
wanted = {
    "row-wise Adagrad, whole": (0.3231, 0.0032),
    "row-wise Adagrad, by rows": (0.3231, 0.0032),
    "row-wise Adagrad, in 2 bands": (0.2284, 0.2284),
    "Adagrad, whole": (0.2284, 0.2284),
    "Adagrad, by rows": (0.2284, 0.2284),
    "Adagrad, in 2 bands": (0.2284, 0.2284),
    "SGD, whole": (0.3, 0.003),
    "SGD, by rows": (0.3, 0.003),
    "SGD, in 2 bands": (0.3, 0.003),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
