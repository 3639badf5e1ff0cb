#!/usr/bin/env bash
# A float32 in the first file rounds the float64 of all others (pyarrow 26.0.1).
#
# A folder of Parquet files grows by a file a day. A column of times in seconds or of amounts in cents was float32 on
# the first day, and is float64 since. Guess: read as one dataset, the column is widened, or the files are refused, as
# is an int64 after an int32 that it does not fit into, or a time in us after one in ms. Seen: the first file's type is
# the dataset's, and float64 is rounded to it. Times of today are then 128 s apart: events of one minute have one time,
# and 10 ** 39 is infinite. Values in lists are rounded too. Neither `dataset` nor `read_table` warns, and which file is
# the first is a matter of its name. What avoids it: a schema of one's own, or `unify_schemas([...],
# promote_options="permissive")` over all files, which widens.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

print("version: pyarrow", pa.__version__)
TODAY = 1_790_000_000  # September 2026


def read(first, later, *, widen=False):
    """Return what a folder's column holds of the second of two files, or the error's class."""
    place = Path(tempfile.mkdtemp(dir=sys.argv[1]))
    pq.write_table(pa.table({"value": first}), place / "day=1.parquet")
    pq.write_table(pa.table({"value": later}), place / "day=2.parquet")
    try:
        if widen:
            schemas = [pq.read_schema(file) for file in sorted(place.iterdir())]
            schema = pa.unify_schemas(schemas, promote_options="permissive")
            return ds.dataset(place, schema=schema).to_table()["value"].to_pylist()[1:]
        whole = pq.read_table(place)["value"]
        same = whole.equals(ds.dataset(place).to_table()["value"])
        return whole.to_pylist()[1:] if same else "two answers"
    except pa.ArrowInvalid:
        return "ArrowInvalid"


minute = pa.array([float(TODAY + second) for second in (0, 20, 40)])
single = pa.array([1.0], pa.float32())
micro = pa.array([1_500], pa.timestamp("us"))
found = {
    "float32, then float64": read(single, minute),
    "float32, then 1e39": read(single, pa.array([1e39])),
    "float32, then float64, widened": read(single, minute, widen=True),
    "lists of them": read(pa.array([[1.0]], pa.list_(pa.float32())), pa.array([[float(TODAY + 20)]])),
    "int32, then 2 ** 40": read(pa.array([1], pa.int32()), pa.array([2**40])),
    "float32, then int64": read(single, pa.array([2**24 + 1])),
    "int64, then 4.7": read(pa.array([1]), pa.array([4.7])),
    "time in ms, then in us": read(pa.array([1], pa.timestamp("ms")), micro),
}
for case, values in found.items():
    print(f"{case}: {values}")
wanted = {
    "float32, then float64": [TODAY, TODAY, TODAY],
    "float32, then 1e39": [float("inf")],
    "float32, then float64, widened": [TODAY, TODAY + 20, TODAY + 40],
    "lists of them": [[TODAY]],
    "int32, then 2 ** 40": "ArrowInvalid",
    "float32, then int64": "ArrowInvalid",
    "int64, then 4.7": "ArrowInvalid",
    "time in ms, then in us": "ArrowInvalid",
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
