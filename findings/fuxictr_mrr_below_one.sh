#!/usr/bin/env bash
# FuxiCTR's MRR of a perfect ranking is not 1, and a group without a click counts as 0 (fuxictr 2.3.10).
#
# A page of four items has two clicks, and the model puts both on top. Guess: its reciprocal rank is 1, by the first
# click, as torchmetrics has it. Seen: 0.75, a mean of 1 / rank over all clicks, so that a page with more clicks can
# reach less: with ten of them, 0.29 at most. A page without any click has MRR and NDCG 0 and counts, where gAUC and
# avgAUC leave it out. So at one page with a click in ten, a perfect model has MRR and NDCG 0.1, and two logs with other
# shares of such pages cannot be compared. One score for all items takes them from the last to the first: MRR 1 where
# the click is the last row, 0.25 where it is the first. What avoids it: groups with one click alone, and no ties.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 fuxictr==2.3.10 torchmetrics==1.9.0
cat > "$folder/run.py" <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import torch
from fuxictr.metrics import evaluate_metrics
from torchmetrics.retrieval import RetrievalMRR

METRICS = ["gAUC", "MRR", "NDCG(k=4)"]


def measured(pages):
    """Return the metrics of pages, each a list of clicks in the model's order, best first."""
    scores = np.concatenate([np.linspace(1.0, 0.0, len(page)) for page in pages])
    page_ids = np.repeat(np.arange(len(pages)), [len(page) for page in pages])
    values = evaluate_metrics(np.concatenate(pages), scores, METRICS, page_ids)
    other = RetrievalMRR(empty_target_action="skip")
    other.update(torch.tensor(scores), torch.tensor(np.concatenate(pages)), torch.tensor(page_ids))
    return tuple(round(float(values[name]), 2) for name in METRICS) + (round(float(other.compute()), 2),)


def tied(clicks):
    """Return the MRR where all items have one score."""
    values = evaluate_metrics(np.array(clicks), np.full(4, 0.5), ["MRR"], np.zeros(4))
    return round(float(values["MRR"]), 2)


if __name__ == "__main__":
    print("version: fuxictr", version("fuxictr"), "torchmetrics", version("torchmetrics"))
    found = {
        "one click, on top": measured([[1, 0, 0, 0]]),
        "two clicks, on top": measured([[1, 1, 0, 0]]),
        "ten clicks, on top": measured([[1] * 10 + [0]]),
        "one click, on top, and nine pages without": measured([[1, 0, 0, 0]] + [[0, 0, 0, 0]] * 9),
        "ties, the click is the first row": tied([1, 0, 0, 0]),
        "ties, the click is the last row": tied([0, 0, 0, 1]),
    }
    for case, value in found.items():
        names = "(gAUC, MRR, NDCG@4, MRR of torchmetrics without empty pages)"
        print(f"{case}: {names if isinstance(value, tuple) else 'MRR'} {value}")
    wanted = {
        "one click, on top": (1.0, 1.0, 1.0, 1.0),
        "two clicks, on top": (1.0, 0.75, 1.0, 1.0),
        "ten clicks, on top": (1.0, 0.29, 1.0, 1.0),
        "one click, on top, and nine pages without": (1.0, 0.1, 0.1, 1.0),
        "ties, the click is the first row": 0.25,
        "ties, the click is the last row": 1.0,
    }
    if found != wanted:
        sys.exit("the behaviour changed")
    print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/run.py"
