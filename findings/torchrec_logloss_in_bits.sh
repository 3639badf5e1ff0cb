#!/usr/bin/env bash
# TorchRec's log-loss is in bits (torchrec 1.8.0, torch 2.13.0).
#
# NEMetric(include_logloss=True) documents that it returns "vanilla logloss". Guess: it is the mean of
# -ln(probability of the label), as torch's binary_cross_entropy and scikit-learn's log_loss. Seen: it is that number
# divided by ln 2, since the metric adds up log2. NE itself is a ratio and has no unit, so nothing there shows it. A
# number that is compared with a training loss, with another library's log-loss or with a bound in nats is 1.44 times as
# large.
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
from torch.nn.functional import binary_cross_entropy
from torchrec.metrics.metrics_config import DefaultTaskInfo
from torchrec.metrics.ne import NEMetric

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
probabilities = torch.tensor([0.9, 0.2, 0.6, 0.1], dtype=torch.float64)
labels = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
metric = NEMetric(
    world_size=1, my_rank=0, batch_size=4, tasks=[DefaultTaskInfo], window_size=4,
    include_logloss=True,
)  # fmt: skip
name = DefaultTaskInfo.name
metric.update(
    predictions={name: probabilities}, labels={name: labels}, weights={name: torch.ones(4)}
)
(torchrec_loss,) = (
    float(value) for key, value in metric.compute().items() if key.endswith("lifetime_logloss")
)
loss = float(binary_cross_entropy(probabilities, labels))
print(f"torchrec's lifetime_logloss: {torchrec_loss:.6f}")
print(f"torch's binary_cross_entropy: {loss:.6f}, divided by ln 2: {loss / math.log(2):.6f}")
if not math.isclose(torchrec_loss, loss / math.log(2), rel_tol=1e-6):
    sys.exit("the behaviour changed")
print("as described")
PYTHON
