#!/usr/bin/env bash
# torch-rechub's Hit@k is no hit rate, and one user without a click makes its GAUC NaN (torch-rechub 0.9.0).
#
# Guess: Hit@k is the share of users with a hit among their k items, and GAUC leaves out users of one class, as its paper
# has it. Seen: Hit is the number of hits of all users by the number of all their items, a recall that heavy users
# decide. Where every user has a hit, one of them with 99 items, Hit@2 is 0.02. A better model for those with one item
# hardly moves it. A user without any item counts as 0 in NDCG, MRR and recall, and not at all in Hit. One user of one
# class has AUC NaN (scikit-learn warns), and so has the GAUC of all. What avoids it: Hit by hand, and to take such
# users out before.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 pandas==3.1.1 scikit-learn==1.9.1 torch_rechub==0.9.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

from torch_rechub.basic.metric import gauc_score, topk_metrics

print("version: torch-rechub", version("torch-rechub"), "scikit-learn", version("scikit-learn"))


def of_two(bought, shown):
    """Return Hit, recall and NDCG of the two items shown to each user."""
    values = topk_metrics(bought, shown, topKs=[2])
    return tuple(float(values[name][0].split()[1]) for name in ("Hit", "Recall", "NDCG"))


MANY = list(range(100, 199))
found = {
    "all of ten users have a hit, each bought one item": of_two(
        {user: [user] for user in range(10)}, {user: [user, 50] for user in range(10)}
    ),
    "both users have a hit, one bought 99 items": of_two({1: [1], 2: MANY}, {1: [1, 50], 2: [100, 50]}),
    "only the one with 99 items has hits": of_two({1: [1], 2: MANY}, {1: [51, 50], 2: [100, 101]}),
    "a second user bought nothing": of_two({1: [1], 2: []}, {1: [1, 50], 2: [51, 50]}),
    "GAUC of a user": str(gauc_score([1, 0], [0.9, 0.1], ["a", "a"])),
    "GAUC with a user without a click": str(gauc_score([1, 0, 0, 0], [0.9, 0.1, 0.2, 0.3], list("aabb"))),
}
for case, value in found.items():
    print(f"{case}: {'(Hit@2, Recall@2, NDCG@2) ' if isinstance(value, tuple) else ''}{value}")
wanted = {
    "all of ten users have a hit, each bought one item": (1.0, 1.0, 1.0),
    "both users have a hit, one bought 99 items": (0.02, 0.5051, 0.8066),
    "only the one with 99 items has hits": (0.02, 0.0101, 0.5),
    "a second user bought nothing": (1.0, 0.5, 0.5),
    "GAUC of a user": "1.0",
    "GAUC with a user without a click": "nan",
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
