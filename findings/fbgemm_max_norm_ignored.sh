#!/usr/bin/env bash
# max_norm is ignored on a CPU (fbgemm_gpu_cpu 1.8.0, torch 2.13.0).
#
# Tables that are trained with `max_norm` keep each row within a ball, as `torch.nn.EmbeddingBag(max_norm=...)` does.
# Guess: on a CPU it works with row-wise Adagrad, or is refused. Seen: the argument is taken, and rows have whatever
# norm they reach, 1.99 for a `max_norm` of 0.5. `gradient_clipping` with `max_gradient`, beside it in the same call,
# works. What avoids it: to scale rows back after a step, or a penalty in the loss.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 fbgemm_gpu_cpu==1.8.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

print("version: fbgemm-gpu-cpu", version("fbgemm-gpu-cpu"), "torch", torch.__version__)


def trained(**settings):
    """Return the first row after a step away from ones, and its norm."""
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(4, 4, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.01,
        **settings,
    )
    rows = tables.split_embedding_weights()[0]
    rows.fill_(1.0)
    output = tables(torch.tensor([0, 1]), torch.tensor([0, 1, 2]))
    (output * torch.tensor([1.0, 1.0, 1.0, 10.0])).sum().backward()
    return [round(float(x), 3) for x in rows[0]], round(float(rows[0].norm()), 2)


bag = torch.nn.EmbeddingBag(4, 4, max_norm=0.5)
with torch.no_grad():
    bag.weight.fill_(1.0)
bag(torch.tensor([0]), torch.tensor([0]))
found = {
    "plain": trained(),
    "max_norm=0.5": trained(max_norm=0.5),
    "max_gradient=1": trained(gradient_clipping=True, max_gradient=1.0),
    "torch's EmbeddingBag, max_norm=0.5": round(float(bag.weight[0].norm()), 2),
}
for case, value in found.items():
    print(f"{case}: (row, norm) {value}")
plain = ([0.998, 0.998, 0.998, 0.98], 1.99)
wanted = {
    "plain": plain,
    "max_norm=0.5": plain,
    "max_gradient=1": ([0.99, 0.99, 0.99, 0.99], 1.98),
    "torch's EmbeddingBag, max_norm=0.5": 0.5,
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
