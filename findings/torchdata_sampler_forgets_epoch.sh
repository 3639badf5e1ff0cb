#!/usr/bin/env bash
# A resumed StatefulDistributedSampler goes on in the order of epoch 0 (torchdata 0.11.0, torch 2.13.0).
#
# A run is stopped in the middle of an epoch, and a new process loads the state of its StatefulDataLoader. Guess: with the
# sampler made for it, the rows left of the epoch come, each once. Seen: the state says how many rows came and not of which
# epoch, so that the sampler skips that many of epoch 0's order: of 12,000 rows read half in epoch 3, about a quarter
# comes twice and a quarter never. DistributedSampler of torch does the same. With shuffle=True and no sampler, which keeps
# its generator's state, the resume is exact, so that one expects it of the other. What avoids it: `set_epoch` with the
# epoch that was stopped, before the first batch; the number has to be kept beside the state.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchdata==0.11.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from collections import Counter
from importlib.metadata import version

import torch
from torch.utils.data import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

print("version: torchdata", version("torchdata"), "torch", torch.__version__)
ROWS, EPOCH = list(range(12_000)), 3


def loader(kind, rank):
    """Return a worker's loader of half of the rows, and its sampler."""
    sampler = kind(ROWS, num_replicas=2, rank=rank, shuffle=True, seed=0)
    return StatefulDataLoader(ROWS, batch_size=100, sampler=sampler), sampler


def read(kind, again=False):
    """Return how many rows come never, once and twice over both workers, resumed after 30 batches of 60."""
    seen = Counter()
    for rank in (0, 1):
        stopped, sampler = loader(kind, rank)
        sampler.set_epoch(EPOCH)
        batches = iter(stopped)
        for _ in range(30):
            seen.update(next(batches).tolist())
        resumed, sampler = loader(kind, rank)
        resumed.load_state_dict(stopped.state_dict())
        if again:
            sampler.set_epoch(EPOCH)
        for batch in resumed:
            seen.update(batch.tolist())
    times = Counter(seen[row] for row in ROWS)
    return times[0], times[1], times[2]


def read_without_sampler():
    """Return the same of one worker that shuffles by itself."""
    torch.manual_seed(0)
    stopped = StatefulDataLoader(ROWS, batch_size=100, shuffle=True)
    for _ in range(EPOCH):
        list(stopped)
    batches = iter(stopped)
    seen = Counter(row for _ in range(60) for row in next(batches).tolist())
    torch.manual_seed(1)
    resumed = StatefulDataLoader(ROWS, batch_size=100, shuffle=True)
    resumed.load_state_dict(stopped.state_dict())
    for batch in resumed:
        seen.update(batch.tolist())
    times = Counter(seen[row] for row in ROWS)
    return times[0], times[1], times[2]


found = {
    "StatefulDistributedSampler": read(StatefulDistributedSampler),
    "DistributedSampler": read(DistributedSampler),
    "StatefulDistributedSampler and set_epoch": read(StatefulDistributedSampler, again=True),
    "shuffle=True, no sampler": read_without_sampler(),
}
for case, value in found.items():
    print(f"{case}: rows that came (never, once, twice) {value}")
lost = {case: never for case, (never, _, _) in found.items()}
doubled = {case: twice for case, (_, _, twice) in found.items()}
two = ("StatefulDistributedSampler", "DistributedSampler")
if not all(2_800 < count[case] < 3_200 for case in two for count in (lost, doubled)):
    sys.exit("the behaviour changed")
if any(lost[case] or doubled[case] for case in found if case not in two):
    sys.exit("the behaviour changed")
print("as described")
PYTHON
