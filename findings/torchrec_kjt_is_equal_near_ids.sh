#!/usr/bin/env bash
# `kjt_is_equal` takes different ids for equal ones (torchrec 1.8.0, torch 2.13.0).
#
# A test of a reader compares the batch that it made with the one that it should make. `kjt_is_equal` documents that it is
# True "if both KeyedJaggedTensors have the same values". Guess: ids are whole numbers, so two batches with other ids
# are not equal. Seen: ids are compared by torch.allclose, which allows a difference of one in 100,000. Hashed ids of 63 bits
# may differ by 10 ** 13 and are equal, and so are row numbers beyond 100,000 that are off by one: the mistake that such a
# test is written for. It finds it in small tables alone. `jt_is_equal` is the same. What avoids it: torch.equal of
# values(), lengths() and weights().
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
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor
from torchrec.sparse.jagged_tensor import jt_is_equal, kjt_is_equal

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)


def equal(first, second):
    """Return what kjt_is_equal, jt_is_equal and torch.equal say of two ids."""
    tensors = [torch.tensor([value]) for value in (first, second)]
    one = torch.tensor([1])
    keyed = [KeyedJaggedTensor.from_lengths_sync(["item"], t, one) for t in tensors]
    jagged = [JaggedTensor(values=t, lengths=one) for t in tensors]
    return kjt_is_equal(*keyed), jt_is_equal(*jagged), torch.equal(*tensors)


PAIRS = ((7, 7), (7, 8), (99_000, 99_001), (100_000, 100_001), (2**62, 2**62 + 10**13))
found = {pair: equal(*pair) for pair in PAIRS}
for pair, answers in found.items():
    print(f"{pair}: kjt_is_equal, jt_is_equal, torch.equal say {answers}")
wanted = {
    (7, 7): (True, True, True),
    (7, 8): (False, False, False),
    (99_000, 99_001): (False, False, False),
    (100_000, 100_001): (True, True, False),
    (2**62, 2**62 + 10**13): (True, True, False),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
