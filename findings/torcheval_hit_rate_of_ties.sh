#!/usr/bin/env bash
# A model with one score for all items has hit rate 1 and MRR 1 in torcheval (torcheval 0.0.7, torch 2.13.0).
#
# A row has the scores of all candidates, and the target is one of them. Guess: a model that gives all the same score is
# about as good as chance, 1 in 100 for the first of 100 candidates. Seen: `hit_rate` and `reciprocal_rank` count only the
# candidates with a greater score, so that tied items share the best of their ranks: a hit at k=1 in each row, and MRR 1.
# Scores that saturate get there by themselves: in float32 the sigmoids of logits around 25 are all 1.0. A model that broke
# down, all scores 0, is then the best of all. What avoids it: to rank by logits, and to count the candidates that share
# the target's score.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torcheval==0.0.7
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from torcheval.metrics import HitRate, ReciprocalRank

print("version: torcheval", version("torcheval"), "torch", torch.__version__)
torch.manual_seed(0)
ROWS, CANDIDATES = 10_000, 100
TARGETS = torch.randint(CANDIDATES, (ROWS,))
LOGITS = torch.randn(ROWS, CANDIDATES)  # they know nothing of the targets


def measured(scores):
    """Return the mean hit rate at 1 and the mean reciprocal rank."""
    hits, ranks = HitRate(k=1), ReciprocalRank()
    hits.update(scores, TARGETS)
    ranks.update(scores, TARGETS)
    return tuple(round(metric.compute().double().mean().item(), 2) for metric in (hits, ranks))


found = {
    "random logits": measured(LOGITS),
    "all scores 0": measured(torch.zeros(ROWS, CANDIDATES)),
    "sigmoids of the logits": measured(torch.sigmoid(LOGITS)),
    "sigmoids of the logits + 25": measured(torch.sigmoid(LOGITS + 25)),
}
for scores, value in found.items():
    print(f"{scores}: (hit rate at 1, MRR) {value}")
wanted = {
    "random logits": (0.01, 0.05),
    "all scores 0": (1.0, 1.0),
    "sigmoids of the logits": (0.01, 0.05),
    "sigmoids of the logits + 25": (1.0, 1.0),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
