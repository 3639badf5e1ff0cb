#!/usr/bin/env bash
# On a CPU, fbgemm's fp16 tables stand still: stochastic rounding is ignored (fbgemm-gpu-cpu 1.8.0, torch 2.13.0).
#
# Tables are trained in fp16 to halve their memory. stochastic_rounding, which is on by default, is documented as "apply
# stochastic rounding for weight type that is not FP32". Guess: a step that is smaller than half the distance between
# two fp16 numbers moves a row on average. Seen: with stochastic_rounding=True 200 such steps leave every value of every row
# where it was, as with False. The CPU rounds to the nearest number, always, and nothing warns. A row of ones needs a step
# of more than 2.4e-4 to move at all. With a falling learning rate a table thus stops to learn long before the end.
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
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

logging.disable(logging.WARNING)
print("version: fbgemm-gpu-cpu", version("fbgemm-gpu-cpu"), "torch", torch.__version__)
STEPS, RATE = 200, 1e-4


def trained(precision, stochastic, rate):
    """Return the mean of a row of 64 ones after steps with gradient 1."""
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(4, 64, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=rate,
        weights_precision=precision,
        output_dtype=SparseType.FP32,
        stochastic_rounding=stochastic,
        device=torch.device("cpu"),
    )
    (rows,) = tables.split_embedding_weights()
    rows.data.fill_(1.0)
    for _ in range(STEPS):
        tables(torch.tensor([1]), torch.tensor([0, 1])).sum().backward()
    return round(float(rows[1].float().mean()), 3)


FP16, FP32 = SparseType.FP16, SparseType.FP32
found = {
    f"fp32, rate {RATE}": trained(FP32, True, RATE),
    f"fp16, stochastic rounding, rate {RATE}": trained(FP16, True, RATE),
    f"fp16, to nearest, rate {RATE}": trained(FP16, False, RATE),
    f"fp16, stochastic rounding, rate {10 * RATE}": trained(FP16, True, 10 * RATE),
}
for name, mean in found.items():
    print(f"{name}: 1.0 becomes {mean} in {STEPS} steps with gradient 1")
exact, stochastic, nearest, larger = found.values()
if exact != 0.98 or stochastic != 1.0 or nearest != 1.0 or larger > 0.9:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
