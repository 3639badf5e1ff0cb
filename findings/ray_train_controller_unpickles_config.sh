#!/usr/bin/env bash
# Guess: Ray Train hands train_loop_config on to the workers, and its controller never looks inside.
# Seen: the controller, an actor of its own, unpickles the config too, and imports every module that a value in it needs.
# A module behind ray.put is imported by the workers alone.
# Ray's change 52684 keeps the training function out of the controller for that reason. The config brings it back.
# Why it matters: where the settings' class lives in a package that imports torchrec, the controller of every run spent
# 6 s of CPU instead of 3, on two Xeon cores that its workers wanted.
# Output: config as it is: imported by the controller and the worker
#         config behind ray.put: imported by the worker
# Seen with ray 2.60.0 (CPU, Python 3.11).
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0 "ray[train]" numpy
mkdir "$folder/modules"
# A module that notes which process imports it.
cat > "$folder/modules/heavy.py" <<'PYTHON'
import os
from pathlib import Path

title = Path("/proc/self/cmdline").read_text().split("\0")[0]  # of an actor: ray::CLASS
with Path(os.environ["IMPORTED_BY"]).open("a") as notes:
    notes.write(title + "\n")


class Settings:
    pass
PYTHON
cat > "$folder/run.py" <<'PYTHON'
import os
import sys
from pathlib import Path

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

folder = Path(sys.argv[1])


def loop(config):
    settings = config["settings"]
    ray.get(settings) if isinstance(settings, ray.ObjectRef) else settings


def importers(name, wrap):
    notes = folder / name
    variables = {"IMPORTED_BY": str(notes), "PYTHONPATH": str(folder / "modules")}
    os.environ.update(variables)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": variables})
    sys.path.insert(0, variables["PYTHONPATH"])
    sys.modules.pop("heavy", None)
    import heavy

    trainer = DataParallelTrainer(
        loop,
        train_loop_config={"settings": wrap(heavy.Settings())},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name=name, storage_path=str(folder / "results")),
    )
    trainer.fit()
    ray.shutdown()
    titles = notes.read_text()
    return [role for role, name in ROLES.items() if f"ray::{name}" in titles]


print("version: ray", ray.__version__)
ROLES = {"the controller": "TrainController", "the worker": "RayTrainWorker"}
plain = importers("as-it-is", lambda value: value)
print("config as it is: imported by", " and ".join(plain))
put = importers("behind-put", ray.put)
print("config behind ray.put: imported by", " and ".join(put))
if plain != list(ROLES) or put != ["the worker"]:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 RAY_TRAIN_V2_ENABLED=1 "$folder/venv/bin/python" -W ignore run.py "$folder" 2> "$folder/errors" \
  || { code=$?; tail -20 "$folder/errors"; exit $code; }
