#!/usr/bin/env bash
# Ray Data's mean of whole numbers wraps around with their sum (ray 2.60.0, pyarrow 26.0.1).
#
# A column holds times as whole numbers. Guess: `Dataset.mean` of it lies between the smallest and the largest value, as
# pyarrow's mean of the same column does. Seen: it is the sum as int64, divided by the number of rows, and the sum wraps
# around beyond 2 ** 63 without a word. Times of today in nanoseconds pass that with six rows, in microseconds with
# 5,153, in milliseconds with five million. The mean is then far off, mostly negative, and a StandardScaler takes it
# for its own and shifts the feature by it. A sample of fewer rows shows nothing. What avoids it: to cast the
# column to float64 before, or to count times from the start of the log.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0 "ray[data]" pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import logging
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data.preprocessors import StandardScaler

print("version: ray", ray.__version__, "pyarrow", pa.__version__)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.disable()
FIRST = 1_790_000_000 * 10**6  # September 2026, in microseconds


def means(rows, kind):
    """Return the mean by Ray and by pyarrow, and the scaler's, in seconds since 1970."""
    times = pa.table({"time": (FIRST + np.arange(rows)).astype(kind)})
    dataset = ray.data.from_arrow(times)
    scaler = StandardScaler(columns=["time"]).fit(dataset)
    values = (dataset.mean("time"), pc.mean(times["time"]).as_py(), scaler.stats_["mean(time)"])
    return tuple(round(value / 10**6) for value in values)


found = {
    "5,000 rows, int64": means(5000, np.int64),
    "6,000 rows, int64": means(6000, np.int64),
    "6,000 rows, float64": means(6000, np.float64),
}
ray.shutdown()
for case, values in found.items():
    print(f"{case}: (Ray's mean, pyarrow's, the scaler's) {values}")
right = (1_790_000_000,) * 3
wrapped = round((6000 * FIRST - 2**64) / 6000 / 10**6)
wanted = {
    "5,000 rows, int64": right,
    "6,000 rows, int64": (wrapped, right[1], wrapped),
    "6,000 rows, float64": right,
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" -W ignore run.py "$folder" 2> "$folder/errors" \
  || { code=$?; tail -20 "$folder/errors"; exit $code; }
