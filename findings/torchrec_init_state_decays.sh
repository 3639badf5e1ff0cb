#!/usr/bin/env bash
# TorchRec's `init_state` changes weights and counts as a step (torchrec 1.8.0, torch 2.13.0).
#
# `KeyedOptimizer.init_state` is called before a checkpoint is loaded, since state can only be loaded into state that exists.
# It documents that it "runs a dummy optimizer step, which allows to initialize optimizer state". Guess: weights are the same
# afterwards, since the gradients of that step are zero. Seen: it is a full step of the optimiser, with its weight decay.
# Weights of AdamW and SGD shrink by lr x decay, and Adam and Adagrad, whose decay is part of the gradient, move each
# weight by the whole learning rate, however small it is and however weak the decay. Weights that were loaded before are no
# longer those of the checkpoint, and move again at each resume. A run that does not load state starts at step 1, with that
# step in its moments. What avoids it: to call it first and to load weights afterwards, and not to call it in a fresh run.
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
from torchrec.optim.keyed import KeyedOptimizerWrapper

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
RATE, DECAY = 0.01, 0.001


def after_init(kind, decay):
    """Return weights of 1 and 0.2 after init_state, and the number of steps that the state has."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 0.2]))
    optimizer = KeyedOptimizerWrapper(
        {"weight": weight}, lambda weights: kind(weights, lr=RATE, weight_decay=decay)
    )
    optimizer.init_state()
    state = optimizer.state_dict()["state"].get("weight", {})
    return [round(float(w), 5) for w in weight], int(state.get("step", 0))


found = {
    f"{kind.__name__}, weight_decay={decay}": after_init(kind, decay)
    for kind in (torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam, torch.optim.Adagrad)
    for decay in (0, DECAY)
}
for case, (weights, steps) in found.items():
    print(f"{case}: weights 1 and 0.2 become {weights}, steps in the state: {steps}")
same, shrunk, moved = [1.0, 0.2], [0.99999, 0.2], [0.99, 0.19]
wanted = {
    "SGD, weight_decay=0": (same, 0),
    f"SGD, weight_decay={DECAY}": (shrunk, 0),
    "AdamW, weight_decay=0": (same, 1),
    f"AdamW, weight_decay={DECAY}": (shrunk, 1),
    "Adam, weight_decay=0": (same, 1),
    f"Adam, weight_decay={DECAY}": (moved, 1),
    "Adagrad, weight_decay=0": (same, 1),
    f"Adagrad, weight_decay={DECAY}": (moved, 1),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
