#!/usr/bin/env bash
# TorchRec's AUC and session AUC of tied scores depend on the order of rows (torchrec 1.8.0, torch 2.13.0).
#
# Many rows share a score: a counter of popularity, a score that was rounded to bf16 or int8, a model that starts with zeros.
# Guess: a tied pair counts one half, as in scikit-learn, so that one score for all rows has AUC 0.5. Seen: tied rows are
# taken in the order in which they were sorted, so that a log with its positives first has AUC 1, and the same rows with
# the positives last AUC 0. GAUCMetric is turned around: with the clicked item first in each session, a tie counts as
# lost, and with the clicked item last as won. Logs of sampled negatives do have the clicked item first. AUPRCMetric
# of the same package treats ties as one threshold. What avoids it: rows in an order that knows nothing of labels, or
# scikit-learn's roc_auc_score.
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
from torchrec.metrics.auc import AUCMetric
from torchrec.metrics.auprc import AUPRCMetric
from torchrec.metrics.gauc import GAUCMetric
from torchrec.metrics.metrics_config import DefaultTaskInfo

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
name = DefaultTaskInfo.name
SCORES = torch.full((4,), 0.5)  # of four items, one of them clicked
SESSION = torch.tensor([0.5, 0.5, 0.5, 0.1])


def measured(kind, scores, clicked, **more):
    """Return a metric of four rows, of which one is clicked."""
    labels = torch.zeros(4)
    labels[clicked] = 1
    metric = kind(
        world_size=1, my_rank=0, batch_size=4, tasks=[DefaultTaskInfo], window_size=100
    )
    metric.update(
        predictions={name: scores}, labels={name: labels}, weights={name: torch.ones(4)}, **more
    )
    values = [v for k, v in metric.compute().items() if "window" in k and "num_samples" not in k]
    return round(float(values[0]), 3)


one = {"num_candidates": torch.tensor([4])}
found = {
    "AUC, one score": [measured(AUCMetric, SCORES, row) for row in range(4)],
    "AUPRC, one score": [measured(AUPRCMetric, SCORES, row) for row in range(4)],
    "GAUC, three of four tied": [measured(GAUCMetric, SESSION, row, **one) for row in range(3)],
}
for metric, values in found.items():
    print(f"{metric}, by the place of the clicked row: {values}")
print("a tied pair counted as one half: AUC 0.5 and GAUC 0.667, at each place")
wanted = {
    "AUC, one score": [1.0, 0.667, 0.333, 0.0],
    "AUPRC, one score": [0.25, 0.25, 0.25, 0.25],
    "GAUC, three of four tied": [0.333, 0.667, 1.0],
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
