#!/usr/bin/env bash
# The gradient of a popular row of a bf16 table stops at 256 times one id's (torch 2.13.0, on a CPU).
#
# A batch names one id 5,000 times, as a popular item or a default id is. Guess: its row's gradient is the sum over all of
# them, rounded to bf16 once, as `sum` and a matrix product of bf16 are. Seen: nn.Embedding and nn.EmbeddingBag add them up
# in bf16 itself, one after the other, and a sum of 256 no longer changes by 1. So the row gets 256 instead of 5,000, dense
# or sparse, and a row of 200 ids is right: rare ids learn at full speed and popular ones do not. In fp16 the sum ends at
# 2,048. `index_add` and the gradient of `weight[ids]` do the same, and `scatter_add` does not. What avoids it: tables in
# fp32 under autocast, whose gradient is right.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import torch

print("version: torch", torch.__version__)
torch.set_num_threads(1)


def gradients(times, kind):
    """Return the gradient of a row that occurs so many times, each with a gradient of 1."""
    ids = torch.zeros(times, dtype=torch.int64)
    made = {}
    for sparse in (False, True):
        bag = torch.nn.EmbeddingBag(2, 4, mode="sum", dtype=kind, sparse=sparse)
        rows = torch.nn.Embedding(2, 4, dtype=kind, sparse=sparse)
        bag(ids, torch.arange(times)).sum().backward()
        rows(ids).sum().backward()
        for name, module in (("EmbeddingBag", bag), ("Embedding", rows)):
            slope = module.weight.grad.coalesce().to_dense() if sparse else module.weight.grad
            made[name, "sparse" if sparse else "dense"] = int(slope[0, 0])
    ones, zeros = torch.ones(times, dtype=kind), torch.zeros(2, dtype=kind)
    made["index_add"] = int(zeros.index_add(0, ids, ones)[0])
    made["scatter_add"] = int(zeros.scatter_add(0, ids, ones)[0])
    made["sum"] = int(ones.sum())
    return made


CASES = [
    (kind, times)
    for kind in (torch.float32, torch.bfloat16, torch.float16)
    for times in (200, 5000)
]
found = {case: gradients(case[1], case[0]) for case in CASES}
for (kind, times), sums in found.items():
    print(f"{times} ids in {kind}: {sums}")


def stopped(most, once):
    """Return what is expected where sums stop at `most`, and a sum that is rounded once gives `once`."""
    names = [(n, s) for s in ("dense", "sparse") for n in ("EmbeddingBag", "Embedding")]
    sums = dict.fromkeys(names, most)
    return {**sums, "index_add": most, "scatter_add": once, "sum": once}


wanted = {
    (torch.float32, 200): stopped(200, 200),
    (torch.float32, 5000): stopped(5000, 5000),
    (torch.bfloat16, 200): stopped(200, 200),
    (torch.bfloat16, 5000): stopped(256, 4992),
    (torch.float16, 200): stopped(200, 200),
    (torch.float16, 5000): stopped(2048, 5000),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
