#!/usr/bin/env bash
# On a CPU, fbgemm's weighted MEAN has the gradient of a weighted SUM (fbgemm-gpu-cpu 1.8.0, torch 2.13.0).
#
# Ids have weights (`per_sample_weights`), and a table pools by MEAN. Guess: the step of a row is the gradient of what the
# forward pass returns. Seen: the forward pass returns sum(weight * row) / number of ids, and the backward pass leaves the
# division out, for rows and for weights. A row in a bag of n ids gets n times its gradient. So long histories
# train their rows faster than short ones, and nothing warns. Without weights the gradient of MEAN is right, and with
# weights that of SUM is. SGD shows the gradient as the change of a row, and autograd on plain tensors what it should be.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 setuptools
# An underscore or a dash in a name is the same to pip.
"${pip[@]}" fbgemm_gpu_cpu==1.8.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

logging.disable(logging.WARNING)
print("version: fbgemm-gpu-cpu", version("fbgemm-gpu-cpu"), "torch", torch.__version__)
torch.manual_seed(0)
START = torch.randn(5, 4)
IDS, BAGS = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 3, 4])  # a bag of three ids, one of one id
WEIGHTS = torch.tensor([0.5, 0.25, 2.0, 3.0])


def of_fbgemm(pooling, weights):
    """Return the bags, and the gradients of rows and weights."""
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(5, 4, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=1.0,
        pooling_mode=pooling,
        device=torch.device("cpu"),
    )
    (rows,) = tables.split_embedding_weights()
    rows.data.copy_(START)
    bags = tables(IDS, BAGS, per_sample_weights=weights)
    bags.sum().backward()
    return bags.detach(), START - rows.detach(), None if weights is None else weights.grad


def of_autograd(pooling, weights):
    """Return the same, computed by plain tensors."""
    rows = START.clone().requires_grad_()
    weighted = rows[IDS] if weights is None else rows[IDS] * weights[:, None]
    bags = torch.stack([weighted[:3].sum(0), weighted[3:].sum(0)])
    if pooling == PoolingMode.MEAN:
        bags = bags / torch.tensor([[3.0], [1.0]])
    bags.sum().backward()
    return bags.detach(), rows.grad, None if weights is None else weights.grad


def ratios(pooling, weighted):
    """Return whether the bags agree, and each row's gradient divided by what it should be."""
    one, two = (WEIGHTS.clone().requires_grad_() if weighted else None for _ in range(2))
    bags, by_row, by_weight = of_fbgemm(pooling, one)
    wanted_bags, wanted_by_row, wanted_by_weight = of_autograd(pooling, two)
    found = [(by_row[:4] / wanted_by_row[:4])[:, 0]]
    found += [by_weight / wanted_by_weight] if weighted else []
    return torch.allclose(bags, wanted_bags, atol=1e-6), [
        [round(x, 2) for x in ratio.tolist()] for ratio in found
    ]


found = {
    (pooling.name, "weights" if weighted else "no weights"): ratios(pooling, weighted)
    for pooling in (PoolingMode.SUM, PoolingMode.MEAN)
    for weighted in (False, True)
}
for (pooling, kind), (agree, by) in found.items():
    print(f"{pooling}, {kind}: bags agree {agree}, gradients / autograd's (of rows, of weights) {by}")
ones, thrice = [1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 1.0]
wanted = {
    ("SUM", "no weights"): (True, [ones]),
    ("SUM", "weights"): (True, [ones, ones]),
    ("MEAN", "no weights"): (True, [ones]),
    ("MEAN", "weights"): (True, [thrice, thrice]),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
