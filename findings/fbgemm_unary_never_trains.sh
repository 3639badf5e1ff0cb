#!/usr/bin/env bash
# BatchedUnaryEmbeddingBag is never trained on a CPU (fbgemm_gpu_cpu 1.8.0, torch 2.13.0).
#
# The module holds one weight for each id, the linear part of a wide model or of a factorization machine. Guess: it
# trains as an EmbeddingBag of one column. Seen: its output says that it requires a gradient, and `backward()` leaves
# `weight.grad` at None. An optimiser skips such a weight, so that it stays as it began, and the rest of the model
# trains around it. There is no error, but one warning of torch, once in a process. The operator's source for a GPU
# has a backward pass, so that a test on a CPU trains another model than a run on a GPU. `segment_sum_csr`,
# `masked_select_jagged_1d` and `jagged_1d_to_truncated_values` give their values no gradient on a CPU either. What
# avoids it: an EmbeddingBag with one column, and a test that each weight moves.
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
from fbgemm_gpu.batched_unary_embeddings_ops import BatchedUnaryEmbeddingBag

print("version: fbgemm-gpu-cpu", version("fbgemm-gpu-cpu"), "torch", torch.__version__)
ROWS = 4
IDS = torch.tensor([0, 0, 2, 1, 3, 3])
STARTS = torch.tensor([0, 2, 3, 5, 6])  # one feature, four bags


class Bags(torch.nn.Module):
    """The same with torch's EmbeddingBag."""

    def __init__(self):
        super().__init__()
        self.bag = torch.nn.EmbeddingBag(ROWS, 1, mode="sum", include_last_offset=True)

    @property
    def weight(self):
        return self.bag.weight

    def forward(self, starts, ids):
        return self.bag(ids, starts).view(1, -1, 1)


torch.manual_seed(0)
unary, bags = BatchedUnaryEmbeddingBag(1, [ROWS], long_index=True), Bags()
with torch.no_grad():
    bags.bag.weight.copy_(unary.weight[0])
same = torch.allclose(unary(STARTS, IDS), bags(STARTS, IDS))
found = {"the outputs are the same": same}
for name, module in (("BatchedUnaryEmbeddingBag", unary), ("EmbeddingBag", bags)):
    dense = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD([*module.parameters(), *dense.parameters()], lr=0.1)
    before = module.weight.detach().clone(), dense.weight.detach().clone()
    output = module(STARTS, IDS)
    (dense(output) - 5).square().sum().backward()
    optimizer.step()
    found[name] = {
        "requires_grad": output.requires_grad,
        "has a gradient": module.weight.grad is not None,
        "moves": not torch.equal(module.weight, before[0]),
        "the dense layer moves": not torch.equal(dense.weight, before[1]),
    }
values = torch.ones(6, requires_grad=True)
lengths = torch.tensor([2, 1, 2, 1])
mask = torch.tensor([True, False, True, True, False, True])
operators = torch.ops.fbgemm
outputs = {
    "segment_sum_csr": operators.segment_sum_csr(1, STARTS, values),
    "masked_select_jagged_1d": operators.masked_select_jagged_1d(values, lengths, mask)[0],
    "jagged_1d_to_truncated_values": operators.jagged_1d_to_truncated_values(values, lengths, 1),
}
for name, output in outputs.items():
    values.grad = None
    (output.sum() + (0 * values).sum()).backward()
    found[name] = f"gradients of its values: {values.grad.tolist()}"
for case, value in found.items():
    print(f"{case}: {value}")
of_none = "gradients of its values: [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]"
trained = dict.fromkeys(["requires_grad", "has a gradient", "moves", "the dense layer moves"], True)
wanted = {
    "the outputs are the same": True,
    "BatchedUnaryEmbeddingBag": trained | {"has a gradient": False, "moves": False},
    "EmbeddingBag": trained,
    **dict.fromkeys(outputs, of_none),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
