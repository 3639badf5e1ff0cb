#!/usr/bin/env bash
# WeightedRandomSampler without replacement draws rows of weight 0 (torch 2.13.0).
#
# Rows that are not to be drawn have weight 0: rows without a label, or of a domain that is left out. Guess: without
# replacement, a sampler that is asked for more rows than have a weight refuses, as NumPy's `choice` does, or stops
# after them. Seen: it takes the others as well, once the rows with a weight are used up, the same ones with each
# seed. An epoch over all rows, `num_samples=len(weights)`, has the rows that were masked at its end.
# `torch.multinomial`, which it calls, documents that it must not be asked for more, and does not look. With
# replacement, no such row is drawn. What avoids it: `num_samples=int((weights > 0).sum())`, or a `Subset` of the rows
# that count.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import numpy as np
import torch
from torch.utils.data import DataLoader, WeightedRandomSampler

print("version: torch", torch.__version__)
weights = torch.zeros(10)
weights[:3] = torch.tensor([1.0, 2.0, 3.0])


def drawn(seed, number, replacement):
    """Return how many rows of an epoch have weight 0, and whether they come last."""
    sampler = WeightedRandomSampler(
        weights, number, replacement, generator=torch.Generator().manual_seed(seed)
    )
    rows = [int(row) for row in DataLoader(range(10), batch_size=None, sampler=sampler)]
    zeros = [bool(weights[row] == 0) for row in rows]
    return sum(zeros), zeros == sorted(zeros)


def numpy_draws():
    """Return what NumPy makes of the same question."""
    shares = weights.double().numpy() / weights.double().numpy().sum()
    try:
        return np.random.default_rng(0).choice(10, 10, replace=False, p=shares).tolist()
    except ValueError as error:
        return str(error)


found = {
    "ten rows, without replacement": [drawn(seed, 10, False) for seed in range(3)],
    "five rows, without replacement": [drawn(seed, 5, False) for seed in range(3)],
    "three rows, without replacement": [drawn(seed, 3, False) for seed in range(3)],
    "ten rows, with replacement": [drawn(seed, 10, True) for seed in range(3)],
    "NumPy, ten rows without replacement": numpy_draws(),
}
for case, rows in found.items():
    print(f"{case}: (rows of weight 0, come last) {rows}")
wanted = {
    "ten rows, without replacement": 3 * [(7, True)],
    "five rows, without replacement": 3 * [(2, True)],
    "three rows, without replacement": 3 * [(0, True)],
    "ten rows, with replacement": 3 * [(0, True)],
    "NumPy, ten rows without replacement": "Fewer non-zero entries in p than size",
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
