#!/usr/bin/env bash
# A filter that NaN passes loses it where a file has statistics (pyarrow 26.0.1).
#
# Prices of a log are NaN where they were missing. A check counts them with `is_nan`, and a job takes the rows whose price is
# not 0. Guess: a filter returns the same rows from a Parquet file as from a table in memory. Seen: it does not where NaN
# passes it. Statistics leave NaN out, as the format asks, and the scan takes them for bounds of every value: with a
# minimum and a maximum, no row can be NaN. So `is_nan` finds nothing at all in a file, however many there are;
# `price != 0` and `~(price > 5)` lose NaN rows of row groups whose other values fail. A row group of NaN alone has no
# bounds and is read, so that what is lost depends on neighbours. `count_rows` errs the other way too: where the bounds alone
# prove `price > 5`, it counts the NaN rows as well, which no read returns. What avoids it: to read and then filter in
# memory, or null instead of NaN.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import math
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

print("version: pyarrow", pa.__version__)
price, nan = pc.field("price"), math.nan
filters = {
    "is_nan(price)": price.is_nan(),
    "is_null(price, nan_is_null=True)": price.is_null(nan_is_null=True),
    "price != 0": price != 0.0,
    "~(price > 5)": ~(price > 5.0),
    "price > 5": price > 5.0,
}


def rows_of(prices):
    """Return the rows that each filter finds in memory, in a file of one row group, and counts there."""
    rows = pa.table({"row": list(range(1, len(prices) + 1)), "price": prices})
    path = f"{sys.argv[1]}/rows.parquet"
    pq.write_table(rows, path)
    return {
        name: (
            rows.filter(wanted)["row"].to_pylist(),
            pq.read_table(path, filters=wanted)["row"].to_pylist(),
            ds.dataset(path).count_rows(filter=wanted),
        )
        for name, wanted in filters.items()
    }


found = {str(prices): rows_of(prices) for prices in ([0.0, nan], [9.0, nan], [nan, nan])}
for prices, by_filter in found.items():
    for name, rows in by_filter.items():
        print(f"prices {prices}, {name}: (in memory, from the file, counted) {rows}")
whole = ([1, 2], [1, 2], 2)
wanted = {
    "[0.0, nan]": {
        "is_nan(price)": ([2], [], 0),
        "is_null(price, nan_is_null=True)": ([2], [], 0),
        "price != 0": ([2], [], 0),
        "~(price > 5)": whole,
        "price > 5": ([], [], 0),
    },
    "[9.0, nan]": {
        "is_nan(price)": ([2], [], 0),
        "is_null(price, nan_is_null=True)": ([2], [], 0),
        "price != 0": whole,
        "~(price > 5)": ([2], [], 0),
        "price > 5": ([1], [1], 2),
    },
    "[nan, nan]": {
        "is_nan(price)": whole,
        "is_null(price, nan_is_null=True)": whole,
        "price != 0": whole,
        "~(price > 5)": whole,
        "price > 5": ([], [], 0),
    },
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
