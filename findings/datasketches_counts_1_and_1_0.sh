#!/usr/bin/env bash
# Sketches count the id 1 and the id 1.0 as two (datasketches 5.2.0, pandas 3.1.1).
#
# Unique users of each day are counted by a sketch, and days are joined by a union. Guess: equal numbers are one value,
# as for Python, SQL and numpy. Seen: HLL, CPC and theta sketches take 1, 1.0 and "1" for three values. On the day on
# which one row has no user, pandas reads the column as floats: 1,000 users who come on both days count as 2,000, and
# retention, the intersection of both days, is 0. True counts as 1, float32 0.1 as another than 0.1. Sizes of tables of
# ids that are taken from such a sketch double. What avoids it: one conversion of ids before update(), to int or to
# text.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasketches==5.2.0 pandas==3.1.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import io
import sys
from importlib.metadata import version

import datasketches as sketches
import pandas as pd

print("version: datasketches", version("datasketches"), "pandas", pd.__version__)
USERS = range(1, 1_001)


def day(users):
    """Return the users of a day as pandas reads them from a file: None becomes an empty field."""
    text = "user,clicks\n" + "".join(f"{'' if u is None else u},1\n" for u in users)
    return pd.read_csv(io.StringIO(text))["user"].dropna().tolist()


def theta(users):
    sketch = sketches.update_theta_sketch()
    for user in users:
        sketch.update(user)
    return sketch


def counted(first, second):
    """Return the users of two days together, by HLL, CPC and theta, and those of both days."""
    hll, cpc = sketches.hll_sketch(14, sketches.HLL_8), sketches.cpc_sketch(14)
    for user in [*first, *second]:
        hll.update(user)
        cpc.update(user)
    either, both = sketches.theta_union(), sketches.theta_intersection()
    for users in (first, second):
        either.update(theta(users))
        both.update(theta(users))
    numbers = (hll, cpc, either.get_result(), both.get_result())
    return tuple(round(sketch.get_estimate(), -2) for sketch in numbers)


monday, tuesday = day(USERS), day([*USERS, None])
found = {
    "types of ids": (type(monday[0]).__name__, type(tuesday[0]).__name__, monday == tuesday),
    "monday and monday": counted(monday, monday),
    "monday and tuesday, which has a row without a user": counted(monday, tuesday),
    "both as int": counted(monday, [int(user) for user in tuesday]),
    "int and text": counted(monday, [str(user) for user in monday]),
}
for case, values in found.items():
    print(f"{case}: {values}")
print("numbers are (HLL, CPC, theta of either day, theta of both)")
wanted = {
    "types of ids": ("int", "float", True),
    "monday and monday": (1_000, 1_000, 1_000, 1_000),
    "monday and tuesday, which has a row without a user": (2_000, 2_000, 2_000, 0),
    "both as int": (1_000, 1_000, 1_000, 1_000),
    "int and text": (2_000, 2_000, 2_000, 0),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
