#!/usr/bin/env bash
# One score for all rows has XAUC 0 and RAUC 1 (torchrec 1.8.0, torch 2.13.0).
#
# XAUC and RAUC are shares of pairs of rows that a regression orders as their labels: watch times, prices, counts.
# Guess: a tied score counts one half, as in AUC, and pairs with equal labels are left out, so that chance has 0.5 and
# the best possible order 1. Seen: XAUCMetric counts a pair that is tied in the score or in the label, but not in both,
# as wrong. One score for all rows has XAUC 0, and the best possible order of rows of which one in four is not 0 has
# 0.5. RAUCMetric counts all of them as right: one score for all rows has RAUC 1. Where one row in ten is not 0, as with
# minutes watched or amounts spent, scores drawn at random have XAUC 0.08 and RAUC 0.90, and neither can be told from
# the other end by looking. RAUCMetric also ignores weights: rows of weight 0, which a mask or a filter gives, count as
# all others. What avoids it: to compare with the value of a random score on the same rows, and to leave rows out
# instead of giving them weight 0.
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
from torchrec.metrics.rauc import RAUCMetric
from torchrec.metrics.xauc import XAUCMetric

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
name = DefaultTaskInfo.name


def measured(scores, labels, weights=None):
    """Return XAUC and RAUC of the rows of one batch."""
    rows = len(labels)
    values = []
    for kind in (XAUCMetric, RAUCMetric):
        metric = kind(
            world_size=1, my_rank=0, batch_size=rows, tasks=[DefaultTaskInfo], window_size=10_000
        )
        metric.update(
            predictions={name: scores},
            labels={name: labels},
            weights={name: torch.ones(rows) if weights is None else weights},
        )
        windows = [v for k, v in metric.compute().items() if "window" in k]
        values.append(round(float(windows[0]), 3))
    return tuple(values)


draw = torch.Generator().manual_seed(0)
minutes = torch.tensor([1.0, 2.0, 3.0, 4.0])
one_in_ten = (torch.rand(1_000, generator=draw) < 0.1).float()
random = torch.rand(1_000, generator=draw)
found = {
    "labels 1 2 3 4, scores in their order": measured(minutes, minutes),
    "labels 1 2 3 4, one score": measured(torch.full((4,), 0.5), minutes),
    "labels 0 0 0 1, best order": measured(minutes, torch.tensor([0.0, 0.0, 0.0, 1.0])),
    "labels 0 0 0 0": measured(minutes, torch.zeros(4)),
    "one label in ten is 1, random scores": measured(random, one_in_ten),
    "one label in ten is 1, best order": measured(one_in_ten + 0.1 * random, one_in_ten),
    "two rows in order, two of weight 0 not": measured(
        torch.tensor([1.0, 2.0, 9.0, 0.0]), minutes, torch.tensor([1.0, 1.0, 0.0, 0.0])
    ),
}
for case, values in found.items():
    print(f"{case}: (XAUC, RAUC) {values}")
wanted = {
    "labels 1 2 3 4, scores in their order": (1.0, 1.0),
    "labels 1 2 3 4, one score": (0.0, 1.0),
    "labels 0 0 0 1, best order": (0.5, 1.0),
    "labels 0 0 0 0": (0.0, 1.0),
    "one label in ten is 1, random scores": (0.084, 0.904),
    "one label in ten is 1, best order": (0.18, 1.0),
    "two rows in order, two of weight 0 not": (1.0, 0.5),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
