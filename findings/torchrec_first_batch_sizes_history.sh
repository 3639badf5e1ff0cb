#!/usr/bin/env bash
# A first batch that is small, and TorchRec's managed ids hardly learn afterwards (torchrec 1.8.0, torch 2.13.0).
#
# MCHManagedCollisionModule gives the ids that occur most a slot of their own, as it sees them. Guess: what a later batch
# brings is counted, whatever the first batch was. Seen: the module keeps ids in a buffer until the next round of eviction.
# The first batch decides on its size for good: 1.25 x its number of ids x `eviction_interval`. Ids of larger batches that
# do not fit are not counted, without a word. After a first batch of one id, as one of a warm-up or of a short history,
# one id of each batch of 40 is seen, always the first one, and all others share one row although the table is empty.
# Fed with a full batch first, all of them have a slot. A resumed run makes its buffer anew, by the first batch that it
# meets. What avoids it: a full batch first, in each run.
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
from torchrec.modules.mc_modules import LFU_EvictionPolicy, MCHManagedCollisionModule
from torchrec.sparse.jagged_tensor import JaggedTensor

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
SLOTS, LATER = 100, list(range(1000, 1040))


def batch(ids):
    """Return a batch of one id in each row."""
    return {"item": JaggedTensor(values=torch.tensor(ids), lengths=torch.ones(len(ids)).int())}


def known_after(first, batches, interval):
    """Return how many of the 40 later ids have a slot of their own."""
    module = MCHManagedCollisionModule(
        zch_size=SLOTS, device=torch.device("cpu"), eviction_policy=LFU_EvictionPolicy(),
        eviction_interval=interval,
    )  # fmt: skip
    module(batch(first))
    for _ in range(batches):
        module(batch(LATER))
    module.eval()
    rows = module(batch(LATER))["item"].values()
    return int((rows != SLOTS - 1).sum())  # the last row is for ids without a slot


found = {
    (len(first), batches, interval): known_after(first, batches, interval)
    for first in (LATER, LATER[:20], [7])
    for batches, interval in ((1, 1), (100, 1), (100, 5))
}
for (ids, batches, interval), known in found.items():
    print(
        f"first batch of {ids} ids, then {batches} of 40 ids, interval {interval}: "
        f"{known} of 40 ids have a slot"
    )
wanted = {
    (40, 1, 1): 40,
    (40, 100, 1): 40,
    (40, 100, 5): 40,
    (20, 1, 1): 25,
    (20, 100, 1): 25,
    (20, 100, 5): 40,
    (1, 1, 1): 1,
    (1, 100, 1): 1,
    (1, 100, 5): 6,
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
