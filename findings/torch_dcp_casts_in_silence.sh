#!/usr/bin/env bash
# torch.distributed.checkpoint loads float32 into float16, or int64 into int32, without a word (torch 2.13.0).
#
# A checkpoint is loaded into a model or an optimiser that was made in another type. Guess: refused, as another shape is,
# or a warning. Seen: the values are cast as `copy_` casts. In float16, an accumulator of Adagrad above 65,520 is infinite,
# and its row's steps are 0 from then on. One of 1e-8 is 0. Hashed ids and times in int32 wrap around, some to negative
# ones, counts in int8 too, and rates in int64 are cut. What avoids it: to compare types with
# `FileSystemReader(path).read_metadata()` before the load.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import logging
import sys

import torch
from torch.distributed import checkpoint

logging.disable(logging.WARNING)
print("version: torch", torch.__version__)
saved = {
    "accumulator": torch.tensor([1.0, 70_000.0, 1e-8]),
    "hashed ids": torch.tensor([7, 2**31 + 7, 2**32 + 7]),
    "counts": torch.tensor([100, 300]),
    "rates": torch.tensor([0.9, -0.9]),
}
checkpoint.save(saved, checkpoint_id=f"{sys.argv[1]}/checkpoint")


def loaded(name, target):
    """Return what one value of the checkpoint is in a tensor of another type or shape."""
    try:
        checkpoint.load({name: target}, checkpoint_id=f"{sys.argv[1]}/checkpoint")
    except checkpoint.CheckpointException:
        return "refused"
    return target.tolist()


metadata = checkpoint.FileSystemReader(f"{sys.argv[1]}/checkpoint").read_metadata()
found = {
    "accumulator in float16": loaded("accumulator", torch.zeros(3, dtype=torch.float16)),
    "hashed ids in int32": loaded("hashed ids", torch.zeros(3, dtype=torch.int32)),
    "counts in int8": loaded("counts", torch.zeros(2, dtype=torch.int8)),
    "rates in int64": loaded("rates", torch.zeros(2, dtype=torch.int64)),
    "counts in another shape": loaded("counts", torch.zeros(3, dtype=torch.int64)),
    "type of the ids by the metadata": metadata.state_dict_metadata["hashed ids"].properties.dtype,
}
for case, value in found.items():
    print(f"{case}: {value}")
wanted = {
    "accumulator in float16": [1.0, float("inf"), 0.0],
    "hashed ids in int32": [7, -(2**31) + 7, 7],
    "counts in int8": [100, 44],
    "rates in int64": [0, 0],
    "counts in another shape": "refused",
    "type of the ids by the metadata": torch.int64,
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
