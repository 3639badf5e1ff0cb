#!/usr/bin/env bash
# A frozen TorchRec CrossNet multiplies a matrix and a vector for each row (torchrec 1.8.0, torch 2.13.0).
#
# A trained DCN-v2 is frozen (`requires_grad_(False)`) to serve, or as the base of a fine-tune. Guess: freezing changes
# neither the operators of the forward pass nor its cost. Seen: CrossNet calls matmul(kernel, x[:, :, None]). With a kernel
# that has a gradient torch folds this into one `mm` of all rows. With a frozen one it calls `bmm`: as many products of a
# matrix and a vector as there are rows, which read the whole matrix for each row. torch.no_grad() alone does not bring
# this about: what counts is the kernel's requires_grad. linear(x, kernel) + bias computes the same by one product, frozen
# or not. The script counts operators, and no times.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 tensordict iopath tqdm torchmetrics pyre-extensions
# torchrec asks for fbgemm-gpu, whose build for a CPU has another name.
"${pip[@]}" --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from collections import Counter
from importlib.metadata import version

import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode
from torchrec.modules.crossnet import CrossNet

print("version: torchrec", version("torchrec"), "torch", torch.__version__)


class Products(TorchDispatchMode):
    """Count the matrix products that are called."""

    def __init__(self):
        super().__init__()
        self.called = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm"):
            self.called[name] += 1
        return func(*args, **(kwargs or {}))


def products(forward):
    """Return the products of a forward pass, by name."""
    with Products() as counted:
        forward()
    return dict(counted.called)


torch.manual_seed(0)
cross, rows = CrossNet(in_features=64, num_layers=2), torch.randn(512, 64)


def by_linear():
    """Compute the same crosses by one product of all rows each."""
    crossed = rows
    for kernel, bias in zip(cross.kernels, cross.bias):
        crossed = rows * (linear(crossed, kernel) + bias.squeeze(1)) + crossed
    return crossed


found = {"trained": products(lambda: cross(rows))}
with torch.no_grad():
    found["trained, no_grad"] = products(lambda: cross(rows))
cross.requires_grad_(False)
found["frozen"] = products(lambda: cross(rows))
found["frozen, by linear"] = products(by_linear)
for name, counts in found.items():
    print(f"{name}: {counts}")
torch.testing.assert_close(by_linear(), cross(rows))
wanted = {
    "trained": {"mm": 2},
    "trained, no_grad": {"mm": 2},
    "frozen": {"bmm": 2},
    "frozen, by linear": {"mm": 2},
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
