#!/usr/bin/env bash
# HindsightTargetPRMetric reports numbers that nobody set (torchrec 1.8.0, torch 2.13.0).
#
# The metric finds the lowest threshold at which precision reaches a target, and reports it with precision and recall.
# Guess: "hindsight_target_pr" is that threshold, or its number among the 1,000 that are tried. Seen: it is a tensor with as
# many elements as that number, and none of them was ever set: `torch.Tensor(600)` is not a tensor of 600 but one of
# that length. Its numbers are left over from other tensors, and `item()` of it fails. At threshold 0 it is empty.
# Precision and recall at the threshold are right. What avoids it: the length of the tensor is the number that is meant,
# and the threshold is length / 999.
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
from torchrec.metrics.hindsight_target_pr import HindsightTargetPRMetric
from torchrec.metrics.metrics_config import DefaultTaskInfo

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
name = DefaultTaskInfo.name


def measured(scores, target):
    """Return the shape of what is reported for a threshold, and the precision there."""
    metric = HindsightTargetPRMetric(
        world_size=1, my_rank=0, batch_size=4, tasks=[DefaultTaskInfo], window_size=100,
        target_precision=target,
    )  # fmt: skip
    metric.update(
        predictions={name: torch.tensor(scores)},
        labels={name: torch.tensor([0.0, 0.0, 1.0, 1.0])},
        weights={name: torch.ones(4)},
    )
    values = {key.split("|")[1]: value for key, value in metric.compute().items()}
    threshold = values["lifetime_hindsight_target_pr"]
    return tuple(threshold.shape), float(values["lifetime_hindsight_target_precision"])


found = {
    "target 0.9, negatives up to 0.5999": measured([0.3, 0.5999, 0.7, 0.8], 0.9),
    "target 0.9, negatives up to 0.1999": measured([0.1, 0.1999, 0.7, 0.8], 0.9),
    "target 0.5": measured([0.3, 0.6, 0.7, 0.8], 0.5),
}
for case, (shape, precision) in found.items():
    print(f"{case}: the threshold is reported as a tensor of shape {shape}, precision {precision}")
wanted = {
    "target 0.9, negatives up to 0.5999": ((600,), 1.0),
    "target 0.9, negatives up to 0.1999": ((200,), 1.0),
    "target 0.5": ((0,), 0.5),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
