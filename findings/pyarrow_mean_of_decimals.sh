#!/usr/bin/env bash
# The mean of decimals is rounded to their own digits (pyarrow 26.0.1).
#
# Warehouses export flags and counts as DECIMAL(1, 0) or NUMERIC(18, 0). The share of clicks is the mean of such a
# column. Guess: a mean has more digits than its values, as those of `quantile` and `variance` have. Seen:
# `pyarrow.compute.mean`, and "mean" of `Table.group_by`, give a decimal of the column's own scale, rounded. One click
# in ten is a mean of 0, six in ten are 1, and the mean of 1 and 2 is 2. All domains of a log then have a click rate
# of 0 or of 1. With two digits, prices lose what lies below a cent. What avoids it: a cast to float64 before the
# mean.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

print("version: pyarrow", pa.__version__)


def means(values, kind):
    """Return the mean of the decimals, alone and in a group, and that of floats."""
    column = pa.array([Decimal(value) for value in values], kind)
    groups = pa.table({"domain": ["a"] * len(column), "x": column}).group_by("domain")
    grouped = groups.aggregate([("x", "mean")])["x_mean"][0].as_py()
    return str(pc.mean(column)), str(grouped), pc.mean(column.cast(pa.float64())).as_py()


clicks = pa.array([Decimal(1)] + 9 * [Decimal(0)], pa.decimal128(1, 0))
found = {
    "one click in ten, DECIMAL(1, 0)": means([1] + 9 * [0], pa.decimal128(1, 0)),
    "six in ten": means(6 * [1] + 4 * [0], pa.decimal128(1, 0)),
    "1 and 2, NUMERIC(18, 0)": means([1, 2], pa.decimal128(18, 0)),
    "0.00 and 0.01": means(["0.00", "0.01"], pa.decimal128(9, 2)),
    "variance of one click in ten": round(pc.variance(clicks).as_py(), 6),
}
for case, value in found.items():
    print(f"{case}: {value}")
wanted = {
    "one click in ten, DECIMAL(1, 0)": ("0", "0", 0.1),
    "six in ten": ("1", "1", 0.6),
    "1 and 2, NUMERIC(18, 0)": ("2", "2", 1.5),
    "0.00 and 0.01": ("0.01", "0.01", 0.005),
    "variance of one click in ten": 0.09,
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
