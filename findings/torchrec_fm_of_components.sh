#!/usr/bin/env bash
# TorchRec's factorization machine multiplies components, not embeddings (torchrec 1.8.0, torch 2.13.0).
#
# FactorizationMachine is "the FM part" of DeepFM, whose second-order term is the sum of the dot products of each pair
# of fields. Guess: two fields with embeddings u and v have the term u.v, as the paper says, and orthogonal ones have 0.
# Seen: all embeddings are laid side by side and each component is taken for a field of its own: the term is the sum of
# the products of each pair of components, of one embedding too, and of other places. One field alone has a term,
# orthogonal fields have one, and a turn of both embeddings, which no dot product sees, changes it. Its documentation
# does say that embeddings are flattened, and not that the dot products are gone. FMInteractionArch and the model
# SimpleDeepFMNN use it. So a comparison with DeepFM is one with another model. What avoids it: to stack embeddings as
# (rows, fields, width), and to sum over fields before squaring.
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
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import torch
from torchrec.modules.deepfm import FactorizationMachine

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)


def terms(*fields):
    """Return the module's term and the paper's, of one row whose fields have these embeddings."""
    rows = [torch.tensor([field]) for field in fields]
    stacked = torch.stack(rows, dim=1)
    squared_sum = stacked.sum(dim=1).square()
    paper = 0.5 * (squared_sum - stacked.square().sum(dim=1)).sum(dim=1)
    return round(float(FactorizationMachine()(rows)), 3), round(float(paper), 3)


found = {
    "(1, 0) and (1, 0)": terms([1.0, 0.0], [1.0, 0.0]),
    "(1, 0) and (0, 1), which are orthogonal": terms([1.0, 0.0], [0.0, 1.0]),
    "(0, 1) and (-1, 0), the same turned": terms([0.0, 1.0], [-1.0, 0.0]),
    "(2, 3) and (0, 0)": terms([2.0, 3.0], [0.0, 0.0]),
    "(1, 1) and (1, 1)": terms([1.0, 1.0], [1.0, 1.0]),
    "(1, -1) and (1, -1), the same turned": terms([1.0, -1.0], [1.0, -1.0]),
}
for case, pair in found.items():
    print(f"{case}: (module, dot product) {pair}")
wanted = {
    "(1, 0) and (1, 0)": (1.0, 1.0),
    "(1, 0) and (0, 1), which are orthogonal": (1.0, 0.0),
    "(0, 1) and (-1, 0), the same turned": (-1.0, 0.0),
    "(2, 3) and (0, 0)": (6.0, 0.0),
    "(1, 1) and (1, 1)": (6.0, 2.0),
    "(1, -1) and (1, -1), the same turned": (-2.0, 2.0),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
