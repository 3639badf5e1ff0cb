#!/usr/bin/env bash
# ROCAUC of river is near 0.5 for rare clicks, also of calibrated models (river 0.26.1, scikit-learn 1.9.1).
#
# `metrics.ROCAUC` follows a model online without keeping rows: it counts at 10 thresholds between 0 and 1. Its
# documentation says that the error is not significant where probabilities are calibrated, and that models can be
# compared by it in any case. Guess: within 0.01 of the exact AUC for calibrated probabilities of clicks. Seen: it is,
# for a click rate of 0.5. At 0.02, where few probabilities reach the first threshold, it is 0.63 instead of 0.84, and
# at 0.002 it is 0.50. Models are compared the wrong way around: one that knows the click rates of five kinds of rows,
# up to 0.1, has an AUC of 0.83 and here 0.50, and one that knows one kind has 0.52 in both. With `n_thresholds=1_000`
# it is right at 0.02. `RollingROCAUC`, which keeps a window, is exact but for ties: one score for all rows has 0.4.
# What avoids it: many more thresholds than one by the click rate, or a window.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check river==0.26.1 scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from river import metrics
from sklearn.metrics import roc_auc_score

print("version: river", version("river"), "scikit-learn", version("scikit-learn"))


def river(metric, clicks, scores):
    """Return river's metric of the rows, one after the other."""
    for click, score in zip(clicks, scores):
        metric.update(bool(click), float(score))
    return round(float(metric.get()), 2)


def both(clicks, scores, thresholds=10):
    """Return ROCAUC of river and the exact one."""
    approximated = river(metrics.ROCAUC(n_thresholds=thresholds), clicks, scores)
    return approximated, round(float(roc_auc_score(clicks, scores)), 2)


def calibrated(rate, gap=1.5, rows=20_000):
    """Return clicks and their true probabilities: one normal variable, shifted by a click."""
    draw = np.random.default_rng(0)
    clicks = draw.random(rows) < rate
    signal = draw.normal(size=rows) + gap * clicks
    logits = gap * signal - gap**2 / 2 + np.log(rate / (1 - rate))
    return clicks, 1 / (1 + np.exp(-logits))


# Rows of five kinds, with one click in fifty on the whole.
kinds = np.repeat(np.arange(5), [200, 3_800, 6_000, 6_000, 4_000])
rates = np.array([0.12, 0.075, 0.01, 0.005, 0.00025])
drawn = np.random.default_rng(1).random(len(kinds)) < rates[kinds]
fine = rates[kinds] * np.where(kinds == 0, 0.8, 1)  # knows all kinds, none of its scores above 0.1
coarse = np.where(kinds == 0, 0.12, 0.0195)  # knows the first kind alone
found = {
    "click rate 0.5": both(*calibrated(0.5)),
    "click rate 0.02": both(*calibrated(0.02)),
    "click rate 0.02, 1,000 thresholds": both(*calibrated(0.02), 1_000),
    "click rate 0.002": both(*calibrated(0.002)),
    "five kinds of rows, all known": both(drawn, fine),
    "five kinds of rows, one known": both(drawn, coarse),
    "RollingROCAUC, click rate 0.02": river(
        metrics.RollingROCAUC(window_size=20_000), *calibrated(0.02)
    ),
    "RollingROCAUC, one score": river(metrics.RollingROCAUC(), 5 * [1, 0], 10 * [0.5]),
}
for case, value in found.items():
    print(f"{case}: {value if case.startswith('Rolling') else f'(river, exact) {value}'}")
wanted = {
    "click rate 0.5": (0.85, 0.86),
    "click rate 0.02": (0.63, 0.84),
    "click rate 0.02, 1,000 thresholds": (0.84, 0.84),
    "click rate 0.002": (0.5, 0.85),
    "five kinds of rows, all known": (0.5, 0.83),
    "five kinds of rows, one known": (0.52, 0.52),
    "RollingROCAUC, click rate 0.02": 0.84,
    "RollingROCAUC, one score": 0.4,
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
