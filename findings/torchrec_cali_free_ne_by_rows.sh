#!/usr/bin/env bash
# TorchRec's calibration-free NE falls with the number of rows (torchrec 1.8.0, torch 2.13.0).
#
# CaliFreeNEMetric is the normalized entropy (NE) of which miscalibration is taken out: the cross-entropy of the model is
# compared with that of a constant prediction, as large as the model's mean. Guess: it is a ratio, as NE is, so that the
# same rows twice give the same number. Seen: rows twice give one half, and rows ten times one tenth. The metric is NE,
# which is a ratio already, divided by a cross-entropy that is added up over all rows. So the lifetime value falls with
# every batch, whatever the model does, and looks like progress. The values of two days, of two windows or of two
# tests cannot be compared before each is multiplied by its number of rows.
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
from torch.nn.functional import binary_cross_entropy
from torchrec.metrics.cali_free_ne import CaliFreeNEMetric
from torchrec.metrics.metrics_config import DefaultTaskInfo
from torchrec.metrics.ne import NEMetric

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
PREDICTIONS = torch.tensor([0.9, 0.2, 0.6, 0.1], dtype=torch.float64)
LABELS = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
name = DefaultTaskInfo.name


def lifetime(kind, times):
    """Return the metric after the same four rows so many times."""
    metric = kind(
        world_size=1, my_rank=0, batch_size=4, tasks=[DefaultTaskInfo], window_size=40
    )
    for _ in range(times):
        metric.update(
            predictions={name: PREDICTIONS}, labels={name: LABELS}, weights={name: torch.ones(4)}
        )
    (value,) = (value for key, value in metric.compute().items() if "lifetime" in key)
    return round(float(value), 4)


TIMES = (1, 2, 10)
found = {kind.__name__: [lifetime(kind, n) for n in TIMES] for kind in (NEMetric, CaliFreeNEMetric)}
constant = PREDICTIONS.mean().expand(4)
ratio = float(binary_cross_entropy(PREDICTIONS, LABELS) / binary_cross_entropy(constant, LABELS))
for kind, values in found.items():
    print(f"{kind}, four rows {TIMES} times: {values}")
print(f"cross-entropy / that of the mean prediction, from torch, at each of them: {ratio:.4f}")
wanted = {"NEMetric": [0.3407, 0.3407, 0.3407], "CaliFreeNEMetric": [0.0846, 0.0423, 0.0085]}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
