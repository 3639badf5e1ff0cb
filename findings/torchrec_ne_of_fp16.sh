#!/usr/bin/env bash
# NE of fp16 predictions falls to a fraction in a batch of 65,520 rows and more (torchrec 1.8.0, torch 2.13.0).
#
# Predictions come out of a model in fp16, and rows have no weights. Guess: NE, which converts predictions to float64,
# is what it is in float32, but for their rounding. Seen: rows without weights get ones of the predictions' type, and
# their sum over a batch is of that type too. From 65,520 rows on it is infinite in fp16. The mean label is then 0, the
# entropy of a constant prediction, by which NE divides, is huge, and NE falls from 1.006 to 0.178: a model no better
# than the mean looks like the best ever. Nothing is NaN or infinite, and nothing warns. The metric adds batches up, so
# that one such batch stays in the lifetime value. `fused_update_limit` joins batches, so that small ones reach it as
# well. Weights that are fp16 themselves do the same. What avoids it: predictions in float32, or weights that are.
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
from torchrec.metrics.metrics_config import DefaultTaskInfo
from torchrec.metrics.ne import NEMetric

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
name = DefaultTaskInfo.name


def measured(rows, kind, *, weights=None, batches=1):
    """Return NE of clicks at random, of which 2 % are positive, with fused updates where batches are many."""
    draw = torch.Generator().manual_seed(0)
    labels = (torch.rand(rows, generator=draw) < 0.02).float()
    scores = (0.02 + 0.01 * torch.rand(rows, generator=draw)).to(kind)
    metric = NEMetric(
        world_size=1,
        my_rank=0,
        batch_size=rows // batches,
        tasks=[DefaultTaskInfo],
        window_size=10**9,
        fused_update_limit=batches if batches > 1 else 0,
    )
    parts = zip(scores.chunk(batches), labels.chunk(batches), strict=True)
    for score, label in parts:
        weight = None if weights is None else {name: torch.ones(len(label), dtype=weights)}
        metric.update(predictions={name: score}, labels={name: label}, weights=weight)
    computed = metric.compute()
    return round(float(computed[f"ne-{name}|lifetime_ne"]), 3)


half, single = torch.float16, torch.float32
found = {
    "65,000 rows, fp32": measured(65_000, single),
    "65,000 rows, fp16": measured(65_000, half),
    "70,000 rows, fp32": measured(70_000, single),
    "70,000 rows, bf16": measured(70_000, torch.bfloat16),
    "70,000 rows, fp16": measured(70_000, half),
    "70,000 rows, fp16, weights in fp16": measured(70_000, half, weights=half),
    "70,000 rows, fp16, weights in fp32": measured(70_000, half, weights=single),
    "70,000 rows, fp16, in 10 batches, fused": measured(70_000, half, batches=10),
}
for case, value in found.items():
    print(f"{case}: NE {value}")
wanted = {
    "65,000 rows, fp32": 1.006,
    "65,000 rows, fp16": 1.006,
    "70,000 rows, fp32": 1.006,
    "70,000 rows, bf16": 1.006,
    "70,000 rows, fp16": 0.178,
    "70,000 rows, fp16, weights in fp16": 0.178,
    "70,000 rows, fp16, weights in fp32": 1.006,
    "70,000 rows, fp16, in 10 batches, fused": 0.178,
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
