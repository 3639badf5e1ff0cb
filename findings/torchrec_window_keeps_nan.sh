#!/usr/bin/env bash
# A window of TorchRec's metrics never forgets NaN, nor a large value (torchrec 1.8.0, torch 2.13.0).
#
# The model is bad in one step, and predicts NaN or a huge number for one row. Guess: the lifetime metric is spoilt, and
# the window metric is right again once that batch has left the window. Seen: it is not. A window is a sum to which a batch
# is added and from which it is subtracted when it leaves, and NaN minus NaN is NaN: one such row, and the window says NaN
# for the rest of the run, though each row in it is fine. Infinity does the same. A row with an error of 10 ** 9
# leaves no NaN but a number: what stood in the sum beside it has been rounded away, and the window's error is 0.0, as
# of a perfect model. What avoids it: `reset()` after such a batch, or a check of predictions before.
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
import math
import sys
from importlib.metadata import version

import torch
from torchrec.metrics.metrics_config import DefaultTaskInfo
from torchrec.metrics.mse import MSEMetric
from torchrec.metrics.ne import NEMetric

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
name = DefaultTaskInfo.name
FINE, LABELS = torch.tensor([0.9, 0.1]), torch.tensor([1.0, 0.0])
WINDOW = 10  # rows


def window(kind, first):
    """Return a window metric once a bad first row and then ten windows of good ones were seen."""
    metric = kind(
        world_size=1, my_rank=0, batch_size=2, tasks=[DefaultTaskInfo], window_size=WINDOW
    )
    for scores in [torch.tensor([first, 0.1])] + [FINE] * (10 * WINDOW // 2):
        metric.update(
            predictions={name: scores}, labels={name: LABELS}, weights={name: torch.ones(2)}
        )
    values = [float(v) for k, v in metric.compute().items() if "window" in k]
    return "NaN" if math.isnan(values[0]) else round(values[0], 4)


found = {
    "NE, first row 0.9": window(NEMetric, 0.9),
    "NE, first row NaN": window(NEMetric, math.nan),
    "MSE, first row 0.9": window(MSEMetric, 0.9),
    "MSE, first row infinite": window(MSEMetric, math.inf),
    "MSE, first row 10 ** 9": window(MSEMetric, 1e9),
}
for case, value in found.items():
    print(f"{case}, then 100 rows that are fine: the window of {WINDOW} rows says {value}")
wanted = {
    "NE, first row 0.9": 0.152,
    "NE, first row NaN": "NaN",
    "MSE, first row 0.9": 0.01,
    "MSE, first row infinite": "NaN",
    "MSE, first row 10 ** 9": 0.0,
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
