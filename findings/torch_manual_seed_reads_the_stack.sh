#!/usr/bin/env bash
# torch.manual_seed reads the source lines of the whole call stack, once for each kind of device (torch 2.13.0).
#
# A training step that must draw the same dropout after a restart seeds itself from its own number. Guess: a seed sets
# a number. Seen: for CUDA, XPU and MTIA, while the process has not used them, each call keeps the seed for later
# together with `traceback.format_stack()`. So on a machine without a GPU each call formats all frames three times, and
# the deeper the caller stands, the dearer it is: .2 ms at the top of a program, .8 ms below 60 frames on 2 cores
# of an AMD EPYC, where the generator's own seed takes a thousandth of a millisecond. In our training on CPUs that was
# 3 % of a step. What avoids it: seed the generator that is drawn from, `torch.default_generator.manual_seed(seed)`
# or `torch.cuda.manual_seed(seed)`. It gives the same numbers.
#
# The script counts formatted frames, not time. It exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
CUDA_VISIBLE_DEVICES="" "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
import traceback

import torch

print("version: torch", torch.__version__)
real = traceback.extract_stack
formatted = []


def counted(*args, **kwargs):
    """Read the stack, as `format_stack` does first, and note its frames."""
    frames = real(*args, **kwargs)
    formatted.append(len(frames))
    return frames


def below(frames, call):
    """Call a function below some frames."""
    return call() if frames == 0 else below(frames - 1, call)


def frames_of(seed, depth):
    """Return the stacks that a seed formats, and how many frames more for each frame above it."""
    formatted.clear()
    below(0, lambda: seed(3))
    top = sum(formatted)
    stacks = len(formatted)
    formatted.clear()
    below(depth, lambda: seed(3))
    return stacks, (sum(formatted) - top) / depth


traceback.extract_stack = counted
found = {
    "torch.manual_seed": frames_of(torch.manual_seed, 60),
    "the generator's manual_seed": frames_of(torch.default_generator.manual_seed, 60),
}
torch.manual_seed(3)
first = torch.rand(4)
torch.default_generator.manual_seed(3)
found["the same numbers"] = torch.equal(first, torch.rand(4))
for case, seen in found.items():
    print(f"{case}: {seen}")
wanted = {
    "torch.manual_seed": (3, 3.0),
    "the generator's manual_seed": (0, 0.0),
    "the same numbers": True,
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
