#!/usr/bin/env bash
# pyarrow 26.0.1: an `in` filter on zeros silently loses the row groups that hold nothing but zeros.
#
# A price, a discount or a count is 0.0 in a whole row group. Guess: reading the file with the filter
# ("discount", "in", [0.0, 1.0]) returns the same rows as reading everything and filtering in memory.
# Seen: the row groups of zeros alone are left out, without a word. The statistics of such a group are
# written as min -0.0, max 0.0 (the Parquet format asks for that). The scan takes min == max as "every
# value is -0.0", and `is_in` tells -0.0 from 0.0 although `==` does not. A group with any other value
# in it, or a filter by `==`, loses nothing.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
"$place/venv/bin/python" - "$place/rows.parquet" <<'PYTHON'
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

print("version: pyarrow", pa.__version__)
rows = pa.table({"row": [1, 2, 3, 4], "discount": [0.0, 0.0, 1.0, 0.0]})
pq.write_table(rows, sys.argv[1], row_group_size=2)
groups = [
    pq.read_metadata(sys.argv[1]).row_group(g).column(1).statistics for g in range(2)
]
print("statistics (min, max) by row group:", [(s.min, s.max) for s in groups])

wanted = pc.field("discount").isin([0.0, 1.0])
found = {
    "in memory": rows.filter(wanted)["row"].to_pylist(),
    "in, from the file": pq.read_table(
        sys.argv[1], filters=[("discount", "in", [0.0, 1.0])]
    )["row"].to_pylist(),
    "== 0.0, from the file": pq.read_table(
        sys.argv[1], filters=[("discount", "==", 0.0)]
    )["row"].to_pylist(),
}
for what, which in found.items():
    print(f"rows, {what}: {which}")
expected = {
    "in memory": [1, 2, 3, 4],
    "in, from the file": [3, 4],
    "== 0.0, from the file": [1, 2, 4],
}
print("as described" if found == expected else f"CHANGED: expected {expected}")
sys.exit(found != expected)
PYTHON
