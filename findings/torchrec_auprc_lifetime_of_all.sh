#!/usr/bin/env bash
# TorchRec's lifetime AUPRC is one number for all tasks, and survives a reset (torchrec 1.8.0, torch 2.13.0).
#
# A model has two tasks, clicks and orders. Guess: the lifetime AUPRC of a task is that of this task's rows so far.
# Seen: with tasks computed together (FUSED_TASKS_COMPUTATION) it is the mean over all tasks: a task that is ranked
# perfectly and one that is not both report 0.708. Computed one by one each task has its own, but it is a mean of the
# window's values over all calls of compute(). So it depends on how often one looks: the first rows count again with
# each call that they are still in the window for. And reset(), which clears the window, leaves the sums: the next run,
# or validation after training, starts with the values of the one before. No state dict has them either. The window's
# value is right. What avoids it: the window's value, with a window as large as what is measured, and a new metric for
# each measurement.
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
from torchrec.metrics.auprc import AUPRCMetric
from torchrec.metrics.metrics_config import RecComputeMode, RecTaskInfo

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
NAMES = ("click", "order")
TASKS = [RecTaskInfo(name=n, label_name=n, prediction_name=n, weight_name=n) for n in NAMES]
LABELS = torch.tensor([1.0, 1.0, 0.0, 0.0])
GOOD, BAD = torch.tensor([0.9, 0.8, 0.2, 0.1]), torch.tensor([0.1, 0.2, 0.8, 0.9])
ALONE, FUSED = RecComputeMode.UNFUSED_TASKS_COMPUTATION, RecComputeMode.FUSED_TASKS_COMPUTATION


def new(mode):
    """Return a metric whose window holds all rows of this script."""
    return AUPRCMetric(
        world_size=1, my_rank=0, batch_size=4, tasks=TASKS, window_size=100, compute_mode=mode
    )


def update(metric, click, order):
    """Add four rows, of which the first two are positive for both tasks."""
    metric.update(
        predictions={"click": click, "order": order},
        labels=dict.fromkeys(NAMES, LABELS),
        weights=dict.fromkeys(NAMES, torch.ones(4)),
    )


def values(metric, prefix="lifetime"):
    """Return the value of clicks and of orders."""
    computed = metric.compute()
    return tuple(round(float(computed[f"auprc-{n}|{prefix}_auprc"]), 3) for n in NAMES)


found = {}
for title, mode in {"alone": ALONE, "fused": FUSED}.items():
    metric = new(mode)
    update(metric, GOOD, BAD)
    found[f"{title}, window"] = values(metric, "window")
    metric = new(mode)
    update(metric, GOOD, BAD)
    found[f"{title}, lifetime"] = values(metric)
once, twice = new(ALONE), new(ALONE)
update(twice, GOOD, BAD)
values(twice)
update(twice, BAD, GOOD)
update(once, GOOD, BAD)
update(once, BAD, GOOD)
found["eight rows, one look"] = values(once)
found["eight rows, two looks"] = values(twice)
metric = new(ALONE)
update(metric, GOOD, BAD)
values(metric)
metric.reset()
update(metric, BAD, GOOD)
found["after reset, window"] = values(metric, "window")
metric = new(ALONE)
update(metric, GOOD, BAD)
values(metric)
metric.reset()
update(metric, BAD, GOOD)
found["after reset, lifetime"] = values(metric)
for case, pair in found.items():
    print(f"{case}: (clicks, orders) {pair}")
wanted = {
    "alone, window": (1.0, 0.417),
    "alone, lifetime": (1.0, 0.417),
    "fused, window": (1.0, 0.417),
    "fused, lifetime": (0.708, 0.708),
    "eight rows, one look": (0.5, 0.5),
    "eight rows, two looks": (0.667, 0.472),
    "after reset, window": (0.417, 1.0),
    "after reset, lifetime": (0.708, 0.708),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
