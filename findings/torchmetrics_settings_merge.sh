#!/usr/bin/env bash
# A MetricCollection lets metrics of other settings share a state if their first batch came out alike (torchmetrics 1.9.0).
#
# A run watches the precision of scores from 0.5 on and the recall of scores from 0.3 on, in one `MetricCollection`. Its
# documentation says that metrics share a state where they have the same one and differ in `compute` alone. Guess: metrics
# with other arguments keep states of their own. Seen: the collection compares states after the first batch, by value,
# and merges what is equal for good. A model that has just begun gives no score above 0.3, so both thresholds count
# the same, and from then on the recall is that at 0.5. So it is with whatever makes no difference in the first
# batch: distances of order 1 and 2 where it has only 0 and 1. The same batches in another order have other numbers. What avoids it: `compute_groups=False`.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
import torchmetrics
from torchmetrics.classification import BinaryPrecision, BinaryRecall
from torchmetrics.regression import MinkowskiDistance

print("version: torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
click = torch.tensor([1, 0, 0, 0])
low, high = torch.tensor([0.1, 0.1, 0.2, 0.1]), torch.tensor([0.4, 0.1, 0.2, 0.6])


def rates(batches, **how):
    """Return the recall of scores from 0.3 on after these batches of scores."""
    metrics = {"precision": BinaryPrecision(threshold=0.5), "recall": BinaryRecall(threshold=0.3)}
    collection = torchmetrics.MetricCollection(metrics, **how)
    for scores in batches:
        collection.update(scores, click)
    return round(collection.compute()["recall"].item(), 3)


def distances(batches, **how):
    """Return the Minkowski distances of order 1 and 2 between predictions and 0."""
    orders = {"order 1": MinkowskiDistance(p=1), "order 2": MinkowskiDistance(p=2)}
    collection = torchmetrics.MetricCollection(orders, **how)
    for values in batches:
        collection.update(torch.tensor(values), torch.zeros(2))
    return {name: round(value.item(), 3) for name, value in collection.compute().items()}


found = {
    "recall at 0.3, low scores first": rates([low, high, high]),
    "recall at 0.3, low scores last": rates([high, high, low]),
    "recall at 0.3, without groups": rates([low, high, high], compute_groups=False),
    "distances, 1 and 0 first": distances([[1.0, 0.0], [3.0, 2.0]]),
    "distances, 1 and 0 last": distances([[3.0, 2.0], [1.0, 0.0]]),
    "distances, without groups": distances([[1.0, 0.0], [3.0, 2.0]], compute_groups=False),
}
for case, value in found.items():
    print(f"{case}: {value}")
wanted = {
    "recall at 0.3, low scores first": 0.0,
    "recall at 0.3, low scores last": 0.667,
    "recall at 0.3, without groups": 0.667,
    "distances, 1 and 0 first": {"order 1": 6.0, "order 2": 2.449},
    "distances, 1 and 0 last": {"order 1": 6.0, "order 2": 3.742},
    "distances, without groups": {"order 1": 6.0, "order 2": 3.742},
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
