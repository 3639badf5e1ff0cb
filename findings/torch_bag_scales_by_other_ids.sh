#!/usr/bin/env bash
# EmbeddingBag with `scale_grad_by_freq` divides a row's gradient by how often another id occurs (torch 2.13.0, on a CPU).
#
# `scale_grad_by_freq=True` divides the gradient of a row by how often its id occurs in the batch, so that popular ids
# take no larger steps than rare ones. Guess: each row is divided by the number of its own id, as in Embedding.
# Seen: on a CPU, EmbeddingBag sorts the ids of the batch and divides the k-th distinct id by the number of the k-th id of
# this sorted list. Where id 0 occurs 1,000 times, the next 999 ids that occur once are divided by 1,000 too: they are
# hardly trained. Where id 0 occurs twice and id 1 a thousand times, the latter is divided by 2. So it is for sum and
# mean, with weights of ids and with a padding_idx. What avoids it: Embedding and a sum, or weights of ids of 1 / number.
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
from torch.nn.functional import embedding, embedding_bag

print("version: torch", torch.__version__)


def gradient(lookup, counts):
    """Return the gradient of a table's rows where each id occurs as often as counts say."""
    ids = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    table = torch.ones(len(counts), 1, requires_grad=True)
    lookup(ids, table).sum().backward()
    return [round(value, 3) for value in table.grad[:, 0].tolist()]


def in_one_bag(ids, table):
    return embedding_bag(ids[None], table, mode="sum", scale_grad_by_freq=True)


def in_weighted_bag(ids, table):
    weights = torch.ones_like(ids[None], dtype=torch.float32)
    return embedding_bag(
        ids[None], table, mode="sum", scale_grad_by_freq=True, per_sample_weights=weights
    )


def one_by_one(ids, table):
    return embedding(ids, table, scale_grad_by_freq=True)


few = [1, 2, 3, 4]
popular_first = [1000] + 999 * [1]
found = {
    "counts 1, 2, 3, 4; Embedding": gradient(one_by_one, few),
    "counts 1, 2, 3, 4; EmbeddingBag": gradient(in_one_bag, few),
    "counts 1, 2, 3, 4; EmbeddingBag with weights of 1": gradient(in_weighted_bag, few),
    "id 0 a thousand times, 999 others once; Embedding": sorted(set(gradient(one_by_one, popular_first))),
    "the same; EmbeddingBag": sorted(set(gradient(in_one_bag, popular_first))),
    "id 0 twice, id 1 a thousand times; EmbeddingBag": gradient(in_one_bag, [2, 1000]),
}
for case, value in found.items():
    print(f"{case}: gradients {value}")
wanted = {
    "counts 1, 2, 3, 4; Embedding": [1.0, 1.0, 1.0, 1.0],
    "counts 1, 2, 3, 4; EmbeddingBag": [1.0, 1.0, 1.5, 1.333],
    "counts 1, 2, 3, 4; EmbeddingBag with weights of 1": [1.0, 1.0, 1.5, 1.333],
    "id 0 a thousand times, 999 others once; Embedding": [1.0],
    "the same; EmbeddingBag": [0.001, 1.0],
    "id 0 twice, id 1 a thousand times; EmbeddingBag": [1.0, 500.0],
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
