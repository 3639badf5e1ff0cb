#!/usr/bin/env bash
# The best checkpoint of Ray Train is the one whose score is NaN (ray 2.60.0).
#
# Training reports AUC with each checkpoint, and one epoch has no AUC: its validation rows were all of one label, or it
# diverged. Guess: `Result.get_best_checkpoint("auc", "max")` returns the checkpoint with the largest number. Seen: with
# `checkpoint_score_attribute="auc"` it returns the one with NaN, wherever in the run it was. Ray sorts NaN to the front, as
# the worst, and `get_best_checkpoint` takes Python's `max`, which keeps a NaN that comes first, as no number is larger. So
# does `min`. Without a score attribute it depends on the order: a NaN in the first epoch wins, and a later one does not. The
# last of `best_checkpoints` is right, with a score attribute. What avoids it: to report no NaN but a number that is worse
# than any, or to take the last of `best_checkpoints`.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0 "ray[train]" pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import logging
import math
import sys
import tempfile

import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, ScalingConfig
from ray.train.v2.api.config import RunConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

print("version: ray", ray.__version__)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
logging.disable()


def train(config):
    """Report a checkpoint for each score."""
    for score in config["scores"]:
        with tempfile.TemporaryDirectory() as folder:
            ray.train.report({"auc": score}, checkpoint=Checkpoint.from_directory(folder))


def best(scores, mode, attribute):
    """Return the scores of the best checkpoint and of the last of `best_checkpoints`."""
    kept = CheckpointConfig(checkpoint_score_attribute=attribute, checkpoint_score_order=mode)
    trainer = DataParallelTrainer(
        train,
        train_loop_config={"scores": scores},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(storage_path=sys.argv[1], checkpoint_config=kept),
    )
    result = trainer.fit()
    path = result.get_best_checkpoint("auc", mode).path
    by_path = {checkpoint.path: metrics["auc"] for checkpoint, metrics in result.best_checkpoints}
    return tuple("NaN" if math.isnan(s) else s for s in (by_path[path], [*by_path.values()][-1]))


nan = math.nan
found = {
    "0.7, 0.9, 0.8": best([0.7, 0.9, 0.8], "max", "auc"),
    "0.7, 0.9, NaN": best([0.7, 0.9, nan], "max", "auc"),
    "0.7, 0.9, NaN, no score attribute": best([0.7, 0.9, nan], "max", None),
    "NaN, 0.7, 0.9, no score attribute": best([nan, 0.7, 0.9], "max", None),
    "0.7, 0.5, NaN, least": best([0.7, 0.5, nan], "min", "auc"),
}
ray.shutdown()
for scores, answers in found.items():
    print(f"{scores}: (get_best_checkpoint, last of best_checkpoints) {answers}")
wanted = {
    "0.7, 0.9, 0.8": (0.9, 0.9),
    "0.7, 0.9, NaN": ("NaN", 0.9),
    "0.7, 0.9, NaN, no score attribute": (0.9, "NaN"),
    "NaN, 0.7, 0.9, no score attribute": ("NaN", 0.9),
    "0.7, 0.5, NaN, least": ("NaN", 0.5),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" -W ignore run.py "$folder" 2> "$folder/errors" \
  || { code=$?; tail -20 "$folder/errors"; exit $code; }
