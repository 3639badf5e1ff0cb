#!/usr/bin/env bash
# TorchRec's NDCG of a negative task turns the caller's labels around (torchrec 1.8.0, torch 2.13.0).
#
# A task whose positive is unwanted, such as a skip, is marked `is_negative_task`, and NDCGMetric ranks it by one minus the
# prediction. Guess: a metric reads labels and predictions, and leaves them alone. Seen: they are turned around where they
# lie, in the tensors of the caller. Each metric that is updated after NDCG reads the opposite: a click-through rate of
# 0.25 becomes 0.75 and a calibration of 1.6 becomes 0.8, while AUC and NE are the same both ways and show nothing. A
# batch that is kept and read again in the next epoch brings the opposite labels to the loss. Nothing warns. Metrics that
# come before NDCG in the list are right. `should_clone_update_inputs=True` for NDCG avoids all of it.
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
from torchrec.metrics.calibration import CalibrationMetric
from torchrec.metrics.ctr import CTRMetric
from torchrec.metrics.metrics_config import RecTaskInfo
from torchrec.metrics.ndcg import NDCGMetric
from torchrec.metrics.rec_metric import RecMetricList

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
SESSION = torch.tensor([1, 1, 1, 1])


def updated(*kinds, negative, **settings):
    """Return labels and metrics after one batch through the metrics in turn."""
    task = RecTaskInfo(name="skip", is_negative_task=negative)
    shape = {"world_size": 1, "my_rank": 0, "batch_size": 4, "tasks": [task], "window_size": 4}
    metrics = [kind(**shape, **(settings if kind is NDCGMetric else {})) for kind in kinds]
    predictions, labels = torch.tensor([0.7, 0.3, 0.3, 0.3]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    RecMetricList(metrics).update(
        predictions={"skip": predictions},
        labels={"skip": labels},
        weights={"skip": torch.ones(4)},
        required_inputs={"session_id": SESSION},
    )
    values = {
        kind.__name__: round(float(value), 3)
        for kind, metric in zip(kinds, metrics, strict=True)
        for key, value in metric.compute().items()
        if "lifetime" in key and kind is not NDCGMetric
    }
    return labels.tolist(), values


others = (CTRMetric, CalibrationMetric)
found = {
    "a positive task": updated(NDCGMetric, *others, negative=False),
    "a negative task": updated(NDCGMetric, *others, negative=True),
    "a negative task, NDCG last": updated(*others, NDCGMetric, negative=True),
    "a negative task, inputs cloned": updated(
        NDCGMetric, *others, negative=True, should_clone_update_inputs=True
    ),
}
for case, (labels, values) in found.items():
    print(f"{case}: labels afterwards {labels}, {values}")
kept, turned = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]
right = {"CTRMetric": 0.25, "CalibrationMetric": 1.6}
wanted = {
    "a positive task": (kept, right),
    "a negative task": (turned, {"CTRMetric": 0.75, "CalibrationMetric": 0.8}),
    "a negative task, NDCG last": (turned, right),
    "a negative task, inputs cloned": (kept, right),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
