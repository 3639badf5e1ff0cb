#!/usr/bin/env bash
# `get_optimizer_state_dict` of a new optimiser counts as a step of it (torch 2.13.0).
#
# `torch.distributed.checkpoint.state_dict.get_optimizer_state_dict` returns what a checkpoint saves, and a loader calls it
# to know what to load. Guess: it only reads, so that training after it is the same as without. Seen: before the first step it
# takes one itself, with gradients of 0 and a learning rate of 0, so that there is a state to return. Weights stay, but the state
# is that after a step. Adam and AdamW correct their moments for one step too many: the first step is 0.74 of the
# learning rate instead of all, that of Adamax 0.53, and Rprop stands still. A checkpoint
# "at step 0", or a resume that finds nothing to load, trains another model. SGD, Adagrad and RMSprop do
# not change. What avoids it: to ask only after the first step, or to make the optimiser anew after having asked.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

print("version: torch", torch.__version__)


def steps(kind, is_read, number=10):
    """Return how far the weight is after the first step and after some more, in learning rates."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    optimizer = kind(model.parameters(), lr=0.01)
    if is_read:
        get_optimizer_state_dict(model, optimizer)
    moved = []
    for _ in range(number):
        optimizer.zero_grad()
        model(torch.ones(4, 1)).mean().backward()
        optimizer.step()
        moved.append(-model.weight.item() / 0.01)
    return round(moved[0], 2), round(moved[-1], 2)


kinds = ("Adam", "AdamW", "Adamax", "Rprop", "SGD", "Adagrad", "RMSprop")
found = {
    kind: [steps(getattr(torch.optim, kind), is_read) for is_read in (False, True)]
    for kind in kinds
}
for kind, (alone, after_read) in found.items():
    print(f"{kind}: (first step, ten steps) {alone}, after its state was read {after_read}")
unchanged = {"SGD": 10.0, "Adagrad": 5.02, "RMSprop": 50.65}
changed = {
    "Adam": [(1.0, 10.0), (0.74, 9.33)],
    "AdamW": [(1.0, 10.0), (0.74, 9.33)],
    "Adamax": [(1.0, 10.0), (0.53, 8.36)],
    "Rprop": [(1.0, 25.96), (0.0, 0.0)],
}
is_as_described = all(found[kind] == value for kind, value in changed.items())
is_as_described &= all(
    found[kind][0] == found[kind][1] and found[kind][0][1] == value
    for kind, value in unchanged.items()
)
if not is_as_described:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
