#!/usr/bin/env bash
# A Delta table as of a time before it existed has its first rows (deltalake 1.6.6, pyarrow 26.0.1).
#
# Features are read as they were when a label arose: `load_as_version(time)` loads the newest version that is not
# later. Guess: a time before the first version is refused, as a version that does not exist is. Seen: it loads
# version 0, rows that were written later, without a word. Rows from before the table are then trained on what was
# only known after them, and an offline gain has no counterpart online. What avoids it: to compare the time with the
# last entry of `history()`, the oldest, before.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check deltalake==1.6.6 pyarrow==26.0.1
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

print("version: deltalake", version("deltalake"), "pyarrow", pa.__version__)


def written(name):
    """Return the table's folder and the times before, between and after its two versions."""
    path, times = f"{sys.argv[1]}/{name}", [datetime.now(UTC) - timedelta(days=365)]
    for price in (10, 20):
        write_deltalake(path, pa.table({"price": [price]}), mode="overwrite")
        time.sleep(1.1)  # commits carry milliseconds, and so does a file's time on most disks
        times.append(datetime.now(UTC))
        time.sleep(1.1)
    return path, times


def loaded(path, when):
    """Return the version as of a time or a number, and its rows, or the error's class."""
    table = DeltaTable(path)
    try:
        table.load_as_version(when)
    except Exception as error:  # of no narrower class
        return type(error).__name__
    return table.version(), table.to_pyarrow_table()["price"].to_pylist()


path, (year_before, between, after) = written("prices")
oldest = datetime.fromtimestamp(DeltaTable(path).history()[-1]["timestamp"] / 1_000, UTC)
found = {
    "a year before the first version": loaded(path, year_before),
    "between the versions": loaded(path, between),
    "after the last": loaded(path, after),
    "version 7": loaded(path, 7),
    "history() tells that the first is later": oldest > year_before,
}
for case, value in found.items():
    print(f"{case}: {value}")
wanted = {
    "a year before the first version": (0, [10]),
    "between the versions": (0, [10]),
    "after the last": (1, [20]),
    "version 7": "DeltaError",
    "history() tells that the first is later": True,
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
