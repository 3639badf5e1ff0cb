#!/usr/bin/env bash
# DuckDB finds no NaN in Parquet files of pyarrow, even with isnan (duckdb 2.0.1, pyarrow 26.0.1).
#
# Logs that pyarrow writes are looked at with DuckDB, also for scores that are NaN. For DuckDB, NaN is a number
# greater than all others. Guess: a query of a file gives what it gives of the same rows in a table. Seen: `isnan(x)`
# and `x = 'nan'` find nothing where the row group has a number as well, `x > 5` and `NOT x <= 5` lose the NaN rows
# where its numbers are at most 5, `x != 5` where all of them are 5, and `max(x)` is 5. Statistics of Parquet leave
# NaN out, and DuckDB takes them for bounds of all rows. A file that DuckDB wrote has no statistics where a column has
# NaN, and gives them all. So the check of a log for NaN passes. What avoids it: to copy the column to a table first.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.1 pyarrow==26.0.1
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

print("version: duckdb", duckdb.__version__, "pyarrow", pa.__version__)
folder = sys.argv[1]
NAN = float("nan")
database = duckdb.connect()


def asked(values):
    """Return the rows that each filter finds: in a file of pyarrow, in one of DuckDB, in a table."""
    rows = pa.table({"row": range(len(values)), "x": pa.array(values, pa.float64())})
    pq.write_table(rows, f"{folder}/pyarrow.parquet")
    database.execute(f"CREATE OR REPLACE TABLE log AS FROM '{folder}/pyarrow.parquet'")
    database.execute(f"COPY log TO '{folder}/duckdb.parquet' (FORMAT parquet)").fetchall()
    places = (f"'{folder}/pyarrow.parquet'", f"'{folder}/duckdb.parquet'", "log")
    filters = ("isnan(x)", "x = 'nan'", "x > 5", "x != 5", "NOT x <= 5")
    answers = {}
    for text in filters:
        query = f"SELECT list(row ORDER BY row) FROM {{}} WHERE {text}"
        answers[text] = tuple(database.execute(query.format(p)).fetchone()[0] for p in places)
    maxima = [database.execute(f"SELECT max(x) FROM {place}").fetchone()[0] for place in places]
    return answers | {"max(x)": tuple(map(str, maxima))}


found = {"5, 5, NaN, 5": asked([5.0, 5.0, NAN, 5.0]), "1, 5, NaN, 5": asked([1.0, 5.0, NAN, 5.0])}
for values, answers in found.items():
    for text, rows in answers.items():
        print(f"{values}: {text} in (a file of pyarrow, one of DuckDB, a table): {rows}")
lost, other = (None, [2], [2]), ([0, 2], [0, 2], [0, 2])
maximum = {"max(x)": ("5.0", "nan", "nan")}
all_lost = dict.fromkeys(["isnan(x)", "x = 'nan'", "x > 5", "x != 5", "NOT x <= 5"], lost) | maximum
wanted = {"5, 5, NaN, 5": all_lost, "1, 5, NaN, 5": all_lost | {"x != 5": other}}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
