#!/usr/bin/env bash
# int64 times and a Python float meet in float32 in torch, where seconds of today are 128 s apart (torch 2.13.0).
#
# Times in seconds are an int64 tensor, and a bound is a Python float, as `datetime.timestamp()` gives it. Guess: they are
# compared exactly, and a difference has the digits of NumPy's. Seen: both become float32, also in a comparison, since a
# Python float does not count as float64. With `times < split`, rows up to 64 s from the split are on the wrong side.
# `times - start` knows only multiples of 128 s, the second of the day is off in 99 rows of 100, `times == bound` is true
# for others, and `clamp(min=bound)` moves rows that are above the bound. So it is for any whole numbers above 2 ** 24,
# hashed ids among them, and in `bucketize` with bounds in float32. NumPy takes float64. What avoids it: a whole number as
# the bound, `times.double()`, or a tensor of float64.
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

print("version: torch", torch.__version__)
BOUND = 1_733_000_030.0
times = torch.tensor([1_733_000_001, 1_733_000_050, 1_733_000_061])
day = torch.arange(1_733_011_200, 1_733_011_200 + 86_400)  # each second of a day
exact_bounds = torch.tensor([BOUND], dtype=torch.float64)
off = (day % 86_400.0).double().numpy() != day.numpy() % 86_400.0
found = {
    "times < bound": (times < BOUND).tolist(),
    "in NumPy": (times.numpy() < BOUND).tolist(),
    "times == 1733000001.0": (times == 1_733_000_001.0).tolist(),
    "times - 1733000000.0": (times - 1_733_000_000.0).tolist(),
    "times - 1733000000": (times - 1_733_000_000).tolist(),
    "clamp(min=bound), less the bound": (times.clamp(min=BOUND).double() - BOUND).tolist(),
    "share of a day's seconds that % 86400.0 gets wrong": round(float(off.mean()), 2),
    "bucketize, float32": torch.bucketize(times, torch.tensor([BOUND])).tolist(),
    "bucketize, float64": torch.bucketize(times, exact_bounds).tolist(),
    "times.double() < bound": (times.double() < BOUND).tolist(),
    "times < a tensor of float64": (times < torch.tensor(BOUND, dtype=torch.float64)).tolist(),
}
for case, value in found.items():
    print(f"{case}: {value}")
wanted = {
    "times < bound": [False, False, False],
    "in NumPy": [True, False, False],
    "times == 1733000001.0": [True, True, True],
    "times - 1733000000.0": [128.0, 128.0, 128.0],
    "times - 1733000000": [1, 50, 61],
    "clamp(min=bound), less the bound": [34.0, 34.0, 34.0],
    "share of a day's seconds that % 86400.0 gets wrong": 0.99,
    "bucketize, float32": [0, 0, 0],
    "bucketize, float64": [0, 1, 1],
    "times.double() < bound": [True, False, False],
    "times < a tensor of float64": [True, False, False],
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
