#!/usr/bin/env bash
# A schedule around combined optimisers starts over at each resume (torchrec 1.8.0, torch 2.13.0).
#
# TorchRec trains tables and dense layers by two optimisers, which CombinedOptimizer makes one, and WarmupOptimizer gives
# an optimiser a schedule. Guess: WarmupOptimizer around the combined one keeps its step in state_dict(), as it does
# around a single optimiser, and a resumed run goes on at the rate where the first run stopped. Seen: the state has no
# step at all. A resumed run starts at the first rate and goes through the whole warm-up again, and so does the first run
# if it loads its own state. Nothing warns, and the rate follows the schedule as long as nothing is loaded. WarmupOptimizer
# writes its step to the `state` that it finds, and that of a combined optimiser is a new dict at each look. A schedule
# around each optimiser, combined afterwards, goes on as it should.
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
import copy
import logging
import sys
from importlib.metadata import version

import torch
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.warmup import WarmupOptimizer, WarmupPolicy, WarmupStage

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)


def one(name):
    """Return Adagrad of one parameter."""
    weight = torch.nn.Parameter(torch.ones(2))
    return KeyedOptimizerWrapper({name: weight}, lambda weights: torch.optim.Adagrad(weights))


def scheduled(optimizer):
    """Return the optimiser with a warm-up from 0.1 to 1 in ten steps."""
    return WarmupOptimizer(
        optimizer, [WarmupStage(WarmupPolicy.LINEAR, max_iters=10, value=0.1)], lr=1.0
    )


ways = {
    "one optimiser": lambda: scheduled(one("dense")),
    "a schedule around two": lambda: scheduled(
        CombinedOptimizer([("tables", one("item")), ("layers", one("dense"))])
    ),
    "two with a schedule each": lambda: CombinedOptimizer(
        [("tables", scheduled(one("item"))), ("layers", scheduled(one("dense")))]
    ),
}


def rates(optimizer):
    """Return the learning rates of all groups."""
    return [round(group["lr"], 2) for group in optimizer.param_groups]


found = {}
for way, make in ways.items():
    first = make()
    first.init_state()  # a step of the schedule, with gradient 0
    for _ in range(4):
        first.step()
    stopped_at, saved = rates(first), copy.deepcopy(first.state_dict())
    resumed = make()
    resumed.init_state()
    resumed.load_state_dict(saved)
    steps = sum("warmup" in state for state in saved["state"].values())
    first.load_state_dict(saved)
    found[way] = (stopped_at, steps, rates(resumed), rates(first))
for way, (stopped_at, steps, resumed, again) in found.items():
    print(f"{way}: stops at {stopped_at}, steps in the state {steps}, ", end="")
    print(f"resumes at {resumed}, the first run after loading its own state at {again}")
wanted = {
    "one optimiser": ([0.55], 1, [0.55], [0.55]),
    "a schedule around two": ([0.55, 0.55], 0, [0.1, 0.1], [0.1, 0.1]),
    "two with a schedule each": ([0.55, 0.55], 2, [0.55, 0.55], [0.55, 0.55]),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
