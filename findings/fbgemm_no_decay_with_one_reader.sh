#!/usr/bin/env bash
# On a CPU, fbgemm decays a table only if two features read it (fbgemm-gpu-cpu 1.8.0, torch 2.13.0).
#
# Embedding tables train with EXACT_ROWWISE_ADAGRAD and weight decay, which fbgemm documents for this optimiser, in both
# of its modes. Guess: the decay of a row depends on the row, its gradient and the settings. Seen: a table that one
# feature reads never decays, neither with L2 nor with DECOUPLE, and nothing warns. The same table with a second reader,
# all of whose bags are empty, decays as documented. A backward pass over a table with one reader takes a path of its own,
# which leaves the decay out. Most tables have one reader, so that a model without any decay is what comes out.
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
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
    WeightDecayMode,
)

logging.disable(logging.WARNING)
print("version: fbgemm-gpu-cpu", version("fbgemm-gpu-cpu"), "torch", torch.__version__)


def after_a_step(readers, mode, decay):
    """Return a value of row 1 after one step with gradient 1, from 1 on.

    The first reader has one bag, of row 1. The others have one empty bag each.
    """
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(4, 4, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        feature_table_map=[0] * readers,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.1,
        weight_decay=decay,
        weight_decay_mode=mode,
        device=torch.device("cpu"),
    )
    (rows,) = tables.split_embedding_weights()
    rows.data.fill_(1.0)
    offsets = torch.tensor([0] + [1] * readers)
    tables(torch.tensor([1]), offsets).sum().backward()
    (state,) = tables.split_optimizer_states()
    return round(float(rows[1, 0]), 4), round(float(state[0][1]), 4)


found = {
    (mode.name, readers): (after_a_step(readers, mode, 0.0), after_a_step(readers, mode, 0.5))
    for mode in (WeightDecayMode.L2, WeightDecayMode.DECOUPLE)
    for readers in (1, 2)
}
for (mode, readers), (without, with_decay) in found.items():
    print(f"{mode}, {readers} reader(s): (row, accumulator) without decay {without}, with {with_decay}")
# L2: the gradient is 1 + 0.5 * 1, whose square is the accumulator. DECOUPLE: 1 - 0.1 * (1 + 0.5).
wanted = {
    ("L2", 1): ((0.9, 1.0), (0.9, 1.0)),
    ("L2", 2): ((0.9, 1.0), (0.9, 2.25)),
    ("DECOUPLE", 1): ((0.9, 1.0), (0.9, 1.0)),
    ("DECOUPLE", 2): ((0.9, 1.0), (0.85, 1.0)),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
