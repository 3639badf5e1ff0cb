#!/usr/bin/env bash
# TrainPipelineBase trains in its first epoch alone (torchrec 1.8.0, torch 2.13.0).
#
# Each epoch hands a new iterator to `progress()` until it raises StopIteration. Guess: the second epoch trains on its
# batches. Seen: TrainPipelineBase remembers that an iterator has ended and raises StopIteration at the first call, so
# that all later epochs have no batch. The loop ends as after an epoch, and the model, its checkpoints and its metrics
# stay as they were. TrainPipelineSparseDist and TrainPipelinePT2 take the new iterator, so that the loop works until
# one of them is exchanged for TrainPipelineBase. What avoids it: `reset()` before each epoch, or to count batches.
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
from torch import distributed, nn
from torchrec.distributed.train_pipeline import (
    TrainPipelineBase,
    TrainPipelinePT2,
    TrainPipelineSparseDist,
)
from torchrec.streamable import Pipelineable

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
distributed.init_process_group(
    "gloo", init_method=f"file://{sys.argv[1]}/meeting", rank=0, world_size=1
)


class Batch(Pipelineable):
    """A batch of one number."""

    def __init__(self, x):
        self.x = x

    def to(self, device, non_blocking=False):
        return Batch(self.x.to(device))

    def record_stream(self, stream):
        pass


class Model(nn.Module):
    """A weight whose gradient is 1 in each batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return self.weight * batch.x, batch.x


def batches(kind, reset=False, epochs=3):
    """Return how many batches each epoch of three trains, and how many steps the weight took."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    pipeline, counts = kind(model, optimizer, torch.device("cpu")), []
    for _ in range(epochs):
        if reset:
            pipeline.reset()
        epoch, count = iter([Batch(torch.ones(())) for _ in range(3)]), 0
        while True:
            try:
                pipeline.progress(epoch)
            except StopIteration:
                break
            count += 1
        counts.append(count)
    return counts, round(-float(model.weight))


found = {
    "TrainPipelineBase": batches(TrainPipelineBase),
    "TrainPipelineBase, reset() before each epoch": batches(TrainPipelineBase, reset=True),
    "TrainPipelineSparseDist": batches(TrainPipelineSparseDist),
    "TrainPipelinePT2": batches(TrainPipelinePT2),
}
distributed.barrier()
distributed.destroy_process_group()
for pipeline, value in found.items():
    print(f"{pipeline}: (batches of three epochs, steps of the weight) {value}")
all_of_them = ([3, 3, 3], 9)
wanted = dict.fromkeys(found, all_of_them) | {"TrainPipelineBase": ([3, 0, 0], 3)}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
