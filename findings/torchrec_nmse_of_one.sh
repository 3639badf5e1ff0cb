#!/usr/bin/env bash
# TorchRec's normalized MSE compares with the constant 1, not with the mean (torchrec 1.8.0, torch 2.13.0).
#
# NMSEMetric documents "normalization computation for L2 regression metrics", and its state calls what it divides by the
# error of a constant prediction. Guess: the constant is the mean label, as it is for NE of the same library. Then a
# model that knows nothing has NMSE 1, and the unit of the labels does not matter. Seen: the constant is 1, in whatever
# unit the labels are. For watch times of 20 to 40 seconds the mean alone has NMSE 0.07, as if it explained 93 % of the
# variance, and a model that predicts the opposite of the labels still has 0.29. In hours the same model has 0.0, and only
# where the mean label is 1 the number is what its name says. So it tells nothing across two logs or two units.
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
from torchrec.metrics.metrics_config import DefaultTaskInfo
from torchrec.metrics.nmse import NMSEMetric

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
SECONDS = torch.tensor([20.0, 30.0, 40.0], dtype=torch.float64)
name = DefaultTaskInfo.name


def of_torchrec(predictions, labels):
    """Return NMSE over the lifetime."""
    metric = NMSEMetric(
        world_size=1, my_rank=0, batch_size=3, tasks=[DefaultTaskInfo], window_size=3
    )  # fmt: skip
    metric.update(
        predictions={name: predictions}, labels={name: labels}, weights={name: torch.ones(3)}
    )
    (value,) = (value for key, value in metric.compute().items() if key.endswith("lifetime_nmse"))
    return round(float(value), 3)


def of_mean(predictions, labels):
    """Return the squared error, divided by that of the mean label."""
    errors = [((guess - labels) ** 2).mean() for guess in (predictions, labels.mean())]
    return round(float(errors[0] / errors[1]), 3)


mean = torch.full((3,), 30.0, dtype=torch.float64)
cases = {
    "the mean of labels, in seconds": (mean, SECONDS),
    "the same in hours": (mean / 3600, SECONDS / 3600),
    "the same where the mean is 1": (mean / 30, SECONDS / 30),
    "the opposite of the labels, in seconds": (60 - SECONDS, SECONDS),
}
found = {case: (of_torchrec(*rows), of_mean(*rows)) for case, rows in cases.items()}
for case, (torchrec, by_mean) in found.items():
    print(f"{case}: TorchRec {torchrec}, compared with the mean {by_mean}")
wanted = {
    "the mean of labels, in seconds": (0.073, 1.0),
    "the same in hours": (0.0, 1.0),
    "the same where the mean is 1": (1.0, 1.0),
    "the opposite of the labels, in seconds": (0.294, 4.0),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
