#!/usr/bin/env bash
# A filter on a Delta table loses long decimals, and rows beside an infinity (deltalake 1.6.6, pyarrow 26.0.1).
#
# Ids or amounts were exported as DECIMAL(20, 0), as NUMBER of a warehouse is. Guess: a filter returns the same rows
# from the table as from its rows in memory. Seen: rows with decimals of more than 15 digits are lost. The smallest and
# the largest value of a file are written into the log as floating-point numbers, so that the smallest may be rounded up
# and the largest down, and the file is skipped for a value that it holds. `to_pyarrow_dataset`,
# `to_pyarrow_table(filters=...)` and SQL lose the rows, and delete() deletes none of them, so that a user whose rows
# were to be deleted stays. All without an error. A file with an infinite number has `null` for its largest one, and a
# comparison then finds nothing in it by `to_pyarrow_dataset`, not by `x <= 1` either, which holds for the other rows.
# int64 is exact. What avoids it: ids as int64 or text, or a table without statistics (delta.dataSkippingNumIndexedCols
# = 0).
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
from decimal import Decimal
from importlib.metadata import version

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, QueryBuilder, write_deltalake

print("version: deltalake", version("deltalake"), "pyarrow", pa.__version__)
DIGITS_20 = pa.decimal128(20, 0)


WITHOUT = {"delta.dataSkippingNumIndexedCols": "0"}


def written(values, kind, configuration=None):
    """Return a table with one column, in one file."""
    place = tempfile.mkdtemp(dir=sys.argv[1])
    rows = pa.table({"id": pa.array(values, kind)})
    write_deltalake(place, rows, configuration=configuration)
    return DeltaTable(place)


def rows_of(first, kind, configuration=None):
    """Return how many of three ids the first one finds: in memory, in the table, by SQL, deleted."""
    values = [first, first + 1, first + 2]
    table = written(values, kind, configuration)
    is_first = pc.field("id") == pa.scalar(first, kind)
    sql = f"select id from log where id = arrow_cast('{first}', '{arrow_name(kind)}')"
    return (
        table.to_pyarrow_table().filter(is_first).num_rows,
        table.to_pyarrow_dataset().to_table(filter=is_first).num_rows,
        table.to_pyarrow_table(filters=[("id", "=", first)]).num_rows,
        pa.table(QueryBuilder().register("log", table).execute(sql).read_all()).num_rows,
        table.delete(f"id = {first}")["num_deleted_rows"],
    )


def arrow_name(kind):
    """Return a type as SQL's arrow_cast writes it."""
    return "Decimal128(20, 0)" if kind == DIGITS_20 else "Int64"


def beside_infinity(condition):
    """Return how many rows of (1, infinity) meet a condition: in memory, and in the table."""
    table = written([1.0, float("inf")], pa.float64())
    return (
        table.to_pyarrow_table().filter(condition).num_rows,
        table.to_pyarrow_dataset().to_table(filter=condition).num_rows,
    )


number = pc.field("id")
found = {
    "decimal of 10 digits": rows_of(Decimal(10**9 + 1), DIGITS_20),
    "decimal of 18 digits": rows_of(Decimal(10**17 + 1), DIGITS_20),
    "the same without statistics": rows_of(Decimal(10**17 + 1), DIGITS_20, WITHOUT),
    "int64 of 18 digits": rows_of(10**17 + 1, pa.int64()),
    "x > 1 of (1, inf)": beside_infinity(number > 1),
    "x <= 1 of (1, inf)": beside_infinity(number <= 1),
    "x == 1 of (1, inf)": beside_infinity(number == 1),
    "x >= 1 of (1, inf)": beside_infinity(number >= 1),
}
for case, counts in found.items():
    said = "memory, dataset, filters, SQL, deleted" if len(counts) == 5 else "memory, dataset"
    print(f"{case}: ({said}) {counts}")
wanted = {
    "decimal of 10 digits": (1, 1, 1, 1, 1),
    "decimal of 18 digits": (1, 0, 0, 0, 0),
    "the same without statistics": (1, 1, 1, 1, 1),
    "int64 of 18 digits": (1, 1, 1, 1, 1),
    "x > 1 of (1, inf)": (1, 0),
    "x <= 1 of (1, inf)": (1, 0),
    "x == 1 of (1, inf)": (1, 0),
    "x >= 1 of (1, inf)": (2, 2),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
