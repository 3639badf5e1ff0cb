#!/usr/bin/env bash
# KeyedJaggedTensor.from_jt_dict gives a feature's weights to another feature (torchrec 1.8.0, torch 2.13.0).
#
# Of several features one brings weights for its ids, the others have none. Guess: refused, as `concat` refuses it
# ("Can't merge weighted KJT with unweighted KJT"), or 1 for ids without weights. Seen: the weights that are there are put
# one after the other and cut by the lengths of all features, so that a feature without weights takes those of the next
# one, and that one has too few or none. It is right by chance where weighted features come first. Nothing is said when
# the tensor is made: what reads `weights()` of a feature has another feature's, and what reads those of the weighted
# one fails far from here, or not at all where nothing checks lengths. What avoids it: weights of 1 for all other ids.
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
from torchrec import JaggedTensor, KeyedJaggedTensor

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
PLAIN = JaggedTensor(torch.tensor([1, 2, 3]), lengths=torch.tensor([1, 2]))
WEIGHTED = JaggedTensor(
    torch.tensor([4, 5, 6]), lengths=torch.tensor([2, 1]), weights=torch.tensor([0.5, 2.0, 8.0])
)


def weights(**features):
    """Return the weights of each feature of the tensor that is made of them."""
    joined = KeyedJaggedTensor.from_jt_dict(features)
    return {name: joined[name].weights().tolist() for name in features}


def concatenated():
    """Return what `concat` says to the same two features."""
    parts = [KeyedJaggedTensor.from_jt_dict({"x": part}) for part in (PLAIN, WEIGHTED)]
    try:
        KeyedJaggedTensor.concat(parts)
    except ValueError as error:
        return str(error)


WORDS = JaggedTensor(torch.tensor([7]), lengths=torch.tensor([0, 1]))
found = {
    "the weighted feature first": weights(history=WEIGHTED, item=PLAIN),
    "the weighted feature last": weights(item=PLAIN, history=WEIGHTED),
    "a feature of one id before it": weights(word=WORDS, history=WEIGHTED),
    "concat": concatenated(),
}
for case, value in found.items():
    print(f"{case}: {value}")
wanted = {
    "the weighted feature first": {"history": [0.5, 2.0, 8.0], "item": []},
    "the weighted feature last": {"item": [0.5, 2.0, 8.0], "history": []},
    "a feature of one id before it": {"word": [0.5], "history": [2.0, 8.0]},
    "concat": "Can't merge weighted KJT with unweighted KJT",
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
