#!/usr/bin/env bash
# jagged_softmax leaves what a longer history has beyond max_L unset (fbgemm_gpu_cpu 1.8.0, torch 2.13.0).
#
# Attention over histories of different length is a softmax over each, of at most `max_L` items. Guess: items beyond
# it have weight 0, as `jagged_dense_elementwise_mul` gives them, or the call is refused. Seen: on a CPU, the output
# has room for all items and nothing is written beyond `max_L`. What stands there is whatever the memory held before,
# and so does the gradient. Mostly it is 0 or tiny, so that tests pass, and now and then it is a number as large as
# 1e37, which a sum over the history takes over. This script asks torch to fill new memory with NaN, which shows it
# each time. `pack_segments_v2` does the same in its gradient. `jagged_dense_elementwise_mul` writes all items. What
# avoids it: to cut histories before, or a `max_L` that no history exceeds.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 fbgemm_gpu_cpu==1.8.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import fbgemm_gpu  # registers the operators
import torch

print("version: fbgemm-gpu-cpu", version("fbgemm-gpu-cpu"), "torch", torch.__version__)
torch.use_deterministic_algorithms(True, warn_only=True)  # torch fills new memory with NaN
LENGTHS = torch.tensor([2, 4])
STARTS = torch.tensor([0, 2, 6])
operators = torch.ops.fbgemm


def unset(operator):
    """Return which of the six items are unset in the output, and in the gradient."""
    values = torch.ones(6, 1, requires_grad=True)
    output = operator(values)
    output[~output.isnan()].sum().backward()
    of_items = output.flatten().isnan() if output.numel() == 6 else torch.zeros(6, dtype=bool)
    return of_items.nonzero().flatten().tolist(), values.grad.isnan().nonzero()[:, 0].tolist()


found = {
    "jagged_softmax, max_L 4": unset(lambda x: operators.jagged_softmax(x, STARTS, 4)[0]),
    "jagged_softmax, max_L 2": unset(lambda x: operators.jagged_softmax(x, STARTS, 2)[0]),
    "jagged_dense_elementwise_mul, 2": unset(
        lambda x: operators.jagged_dense_elementwise_mul(x, [STARTS], torch.ones(2, 2, 1))[0]
    ),
    "pack_segments_v2, 2": unset(lambda x: operators.pack_segments_v2(x, LENGTHS, 2)[0]),
    "jagged_to_padded_dense, 2": unset(
        lambda x: operators.jagged_to_padded_dense(x, [STARTS], [2])
    ),
}
for case, items in found.items():
    print(f"{case}: (unset in the output, in the gradient) {items}")
wanted = {
    "jagged_softmax, max_L 4": ([], []),
    "jagged_softmax, max_L 2": ([4, 5], [4, 5]),
    "jagged_dense_elementwise_mul, 2": ([], []),
    "pack_segments_v2, 2": ([], [4, 5]),
    "jagged_to_padded_dense, 2": ([], []),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
