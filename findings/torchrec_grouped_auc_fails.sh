#!/usr/bin/env bash
# TorchRec's grouped AUC fails on two workers, and on one once its window is full (torchrec 1.8.0, torch 2.13.0).
#
# AUCMetric(grouped_auc=True) returns the mean AUC over groups of rows, such as users. Guess: it is there for as many rows
# and workers as the AUC without groups. Seen: with two workers each compute() raises an IndexError about the shape of a
# mask, from the first batch on. With one worker it works until the rows fill the window, and raises ever after. So a
# run passes its first evaluations and fails hours later, and what was tried on one worker fails on two. The plain AUC of
# the same call is lost with it. The metric keeps one key of a group, -1, more than it keeps rows, to begin with. It takes
# away one of them, but each worker has one, and the first rows that leave a full window take that key with them. RAUC
# with groups does the same. What avoids it: one worker and a window for all rows, or GAUCMetric.
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
"$folder/venv/bin/python" -W ignore - "$folder/store" <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import torch
import torch.distributed as dist
from torchrec.metrics.auc import AUCMetric
from torchrec.metrics.metrics_config import DefaultTaskInfo
from torchrec.metrics.rauc import RAUCMetric

logging.disable(logging.WARNING)
name = DefaultTaskInfo.name


def evaluated(metric, batches):
    """Return what compute() brings after each batch of two rows, one group."""
    seen = []
    for _ in range(batches):
        metric.update(
            predictions={name: torch.tensor([0.9, 0.1])},
            labels={name: torch.tensor([1.0, 0.0])},
            weights={name: torch.ones(2)},
            required_inputs={"grouping_keys": torch.tensor([7, 7])},
        )
        try:
            (value,) = (float(v) for key, v in metric.compute().items() if "grouped" in key)
            seen.append(value)
        except IndexError as error:
            seen.append(type(error).__name__)
    return seen


def made(kind, world, rank, window):
    """Return the metric with groups."""
    shape = {"world_size": world, "my_rank": rank, "batch_size": 2, "tasks": [DefaultTaskInfo]}
    return kind(**shape, window_size=window, **{f"grouped_{kind.__name__[:-6].lower()}": True})


def work(rank, store, results):
    """Evaluate one batch on a worker of two."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    metric = made(AUCMetric, 2, rank, window=100)
    if rank == 0:
        results.put(evaluated(metric, 1))
    else:  # only rank 0 has a result
        metric.update(
            predictions={name: torch.tensor([0.8, 0.2])},
            labels={name: torch.tensor([1.0, 0.0])},
            weights={name: torch.ones(2)},
            required_inputs={"grouping_keys": torch.tensor([8, 8])},
        )
        metric.compute()
    dist.barrier()
    dist.destroy_process_group()


print("version: torchrec", version("torchrec"), "torch", torch.__version__)
found = {
    "AUC, window of 4 rows": evaluated(made(AUCMetric, 1, 0, window=4), 4),
    "RAUC, window of 4 rows": evaluated(made(RAUCMetric, 1, 0, window=4), 4),
}
fork = torch.multiprocessing.get_context("fork")
results = fork.SimpleQueue()
workers = torch.multiprocessing.start_processes(
    work, (sys.argv[1], results), nprocs=2, join=False, start_method="fork"
)
while not workers.join():
    pass
found["AUC, two workers, window of 100 rows"] = results.get()
for case, seen in found.items():
    print(f"{case}: after each batch of 2 rows {seen}")
wanted = {
    "AUC, window of 4 rows": [1.0, 1.0, "IndexError", "IndexError"],
    "RAUC, window of 4 rows": [1.0, 1.0, "IndexError", "IndexError"],
    "AUC, two workers, window of 100 rows": ["IndexError"],
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
