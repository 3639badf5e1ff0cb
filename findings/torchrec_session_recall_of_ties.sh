#!/usr/bin/env bash
# A model that scores all items alike has TorchRec's best recall of a session (torchrec 1.8.0, torch 2.13.0).
#
# RecallSessionMetric takes the `top_threshold` best items of a session for those that were shown, and counts the positives
# among them. Guess: at most top_threshold items are taken, in some order where scores tie, as the example in its source
# ranks ties one after the other. Seen: tied items share the best of their ranks, so that all of them are in the top. A
# model that gives one score to every item has recall 1 at any threshold, which a good model does not reach. So a collapsed
# model looks perfect, and scores that are rounded to int8 or saturated by a sigmoid gain recall by their ties. Nothing
# warns. PrecisionSessionMetric ranks alike, and a constant score has the share of positives there.
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
from torchrec.metrics.metrics_config import RecTaskInfo, SessionMetricDef
from torchrec.metrics.precision_session import PrecisionSessionMetric
from torchrec.metrics.recall_session import RecallSessionMetric, ranking_within_session

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
LABELS = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
SESSION = torch.tensor([1, 1, 1, 1, 2, 2, 2, 2])
TOP_ONE = SessionMetricDef(session_var_name="session", top_threshold=1)
task = RecTaskInfo(name="click", session_metric_def=TOP_ONE)


def lifetime(kind, scores):
    """Return the metric over two sessions of four items, three of them positive."""
    metric = kind(world_size=1, my_rank=0, batch_size=8, tasks=[task], window_size=8)
    metric.update(
        predictions={task.name: torch.tensor(scores)},
        labels={task.name: LABELS},
        weights={task.name: torch.ones(8)},
        required_inputs={"session": SESSION},
    )
    (value,) = (value for key, value in metric.compute().items() if "lifetime" in key)
    return round(float(value), 3)


models = {
    "ranks every positive first": [0.9, 0.3, 0.8, 0.1, 0.2, 0.7, 0.1, 0.3],
    "ranks a negative first": [0.1, 0.9, 0.2, 0.3, 0.6, 0.5, 0.7, 0.1],
    "one score for all": [0.5] * 8,
}
found = {
    model: tuple(lifetime(kind, scores) for kind in (RecallSessionMetric, PrecisionSessionMetric))
    for model, scores in models.items()
}
for model, values in found.items():
    print(f"{model}: (recall, precision) of the first item {values}")
# The scores of the example in the source of ranking_within_session.
SCORES = torch.tensor([[1.0, 0.0, 0.51, 0.8, 1.0, 0.0, 0.51, 0.8, 1.0, 0.0, 0.51, 0.8]])
ranks = ranking_within_session(SCORES, torch.tensor([[1] * 7 + [-1] * 5])).tolist()
print("ranks of the source's example:", ranks)
print("as the source states them    : [0, 5, 3, 2, 1, 6, 4, 1, 0, 4, 3, 2]")
wanted = {
    "ranks every positive first": (0.667, 1.0),
    "ranks a negative first": (0.0, 0.0),
    "one score for all": (1.0, 0.375),
}
if found != wanted or ranks != [0, 5, 3, 2, 0, 5, 3, 1, 0, 4, 3, 1]:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
