#!/usr/bin/env bash
# An append to a Delta table cuts floats to whole numbers without a word (deltalake 1.6.6, pyarrow 26.0.1).
#
# A count or a rating was whole on the first days, and its column is an int32. One night a writer brings 4.7. Guess:
# `write_deltalake(mode="append")` refuses another type, or widens the column. Seen: it takes the rows and stores 4,
# negative numbers towards zero, and a text "3" as 3. A whole number that is too large for the column is
# refused. A share of 0.3 in a column that began with zeros is 0 from then on. With
# `schema_mode="merge"` it is the same. What avoids it: to compare the schema with the table's before, or
# `rows.cast(schema)` of pyarrow, which refuses to lose a fraction.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check deltalake==1.6.6 pyarrow==26.0.1
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
import tempfile
from importlib.metadata import version

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

print("version: deltalake", version("deltalake"), "pyarrow", pa.__version__)


def stored(value, **more):
    """Return what is stored of a value that is appended to a column of int32, or the error's class."""
    place = tempfile.mkdtemp(dir=sys.argv[1])
    write_deltalake(place, pa.table({"row": [1], "shown": pa.array([0], pa.int32())}))
    try:
        write_deltalake(place, pa.table({"row": [2], "shown": [value]}), mode="append", **more)
    except Exception as error:  # of no narrower class
        return type(error).__name__
    rows = DeltaTable(place).to_pyarrow_table().sort_by("row")
    return rows["shown"][-1].as_py()


def cast(value):
    """Return what pyarrow makes of it."""
    try:
        return pa.array([value]).cast(pa.int32())[0].as_py()
    except pa.ArrowInvalid:
        return "ArrowInvalid"


found = {
    "4.0": (stored(4.0), cast(4.0)),
    "4.7": (stored(4.7), cast(4.7)),
    "4.7, schema_mode=merge": (stored(4.7, schema_mode="merge"), cast(4.7)),
    "-4.7": (stored(-4.7), cast(-4.7)),
    "0.3": (stored(0.3), cast(0.3)),
    "'3'": (stored("3"), cast("3")),
    "2 ** 40": (stored(2**40), cast(2**40)),
}
for value, kept in found.items():
    print(f"{value} in a column of int32: (deltalake stores, pyarrow casts) {kept}")
wanted = {
    "4.0": (4, 4),
    "4.7": (4, "ArrowInvalid"),
    "4.7, schema_mode=merge": (4, "ArrowInvalid"),
    "-4.7": (-4, "ArrowInvalid"),
    "0.3": (0, "ArrowInvalid"),
    "'3'": (3, 3),
    "2 ** 40": ("Exception", "ArrowInvalid"),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
