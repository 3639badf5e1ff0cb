#!/usr/bin/env bash
# After the last stage of a schedule the learning rate is full again (torchrec 1.8.0, torch 2.13.0).
#
# WarmupOptimizer "adjusts learning rate according to the schedule", in stages that end at a step each. A schedule may end
# with a decay: policies POLY, STEP, INTERPOLATE and a cosine are there for it. Guess: a run with more steps than the
# schedule goes on at the rate of the last stage, as with torch's schedulers. Seen: the first step after the last
# stage has the full rate `lr`, also where that stage had ended at 0, and even `lr_scale` no longer counts. So a run that
# is resumed for a few steps more, or whose rows were counted too low, loses with full steps what the decay had settled.
# Nothing warns. TorchRec adds a last stage without an end, whose factor is 1: that is right after a warm-up, and
# wrong after a decay. What avoids it: a stage CONSTANT of one's own at the end.
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
from torch.optim.lr_scheduler import PolynomialLR
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.optim.warmup import WarmupOptimizer, WarmupPolicy, WarmupStage

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
STEPS = 7


def by_torchrec(*stages):
    """Return the rate after each step."""
    weight = torch.nn.Parameter(torch.ones(2))
    plain = KeyedOptimizerWrapper({"weight": weight}, lambda weights: torch.optim.SGD(weights))
    optimizer, rates = WarmupOptimizer(plain, list(stages), lr=1.0), []
    for _ in range(STEPS):
        optimizer.step()
        rates.append(round(optimizer.param_groups[0]["lr"], 3))
    return rates


def by_torch():
    """Return the same by torch's decay to zero in four steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)
    schedule, rates = PolynomialLR(optimizer, total_iters=4), []
    for _ in range(STEPS):
        optimizer.step()
        schedule.step()
        rates.append(round(schedule.get_last_lr()[0], 3))
    return rates


poly = {"policy": WarmupPolicy.POLY, "max_iters": 4, "value": 1.0}
end = WarmupStage(WarmupPolicy.CONSTANT, max_iters=1 << 62, value=0.0)
found = {
    "torch, to 0 in four steps": by_torch(),
    "TorchRec, to 0 in four steps": by_torchrec(WarmupStage(**poly)),
    "TorchRec, the same with lr_scale 0.1": by_torchrec(WarmupStage(**poly, lr_scale=0.1)),
    "TorchRec, with a constant stage at the end": by_torchrec(WarmupStage(**poly), end),
}
for schedule, rates in found.items():
    print(f"{schedule}: {rates}")
wanted = {
    "torch, to 0 in four steps": [0.75, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0],
    "TorchRec, to 0 in four steps": [0.75, 0.5, 0.25, 0.0, 1.0, 1.0, 1.0],
    "TorchRec, the same with lr_scale 0.1": [0.075, 0.05, 0.025, 0.0, 1.0, 1.0, 1.0],
    "TorchRec, with a constant stage at the end": [0.75, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0],
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
