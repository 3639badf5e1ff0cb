#!/usr/bin/env bash
# One NaN in a Parquet column, and Ray Data's StandardScaler empties the column (ray 2.60.0, pyarrow 26.0.1).
#
# Features lie in Parquet files, and one value of many is NaN. `Dataset.mean` documents that it "considers np.nan, None, and
# pd.NaT to be null values", which are left out by default, and so do sum and std. Guess: it does, and a StandardScaler that
# is fitted by them scales all other values. Seen: with a null that is so, and with a NaN that came by way of pandas. Read
# from Parquet or Arrow, one NaN makes mean, sum and std None, while min and max leave it out. A scaler with such a
# mean replaces every value of the column by null, in any data that it transforms later, and nothing warns. So
# the same rows train a model with a feature or without it, by the way that they came in. pandas writes its NaN as null, but
# Spark, Polars and numpy's arrays in Arrow keep it. What avoids it: to turn NaN into null before the scaler is fitted.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0 "ray[data]" pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import logging
import math
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data.preprocessors import StandardScaler

print("version: ray", ray.__version__, "pyarrow", pa.__version__)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.disable()
SECONDS = [1.0, 2.0, math.nan, 3.0, 5.0]


def from_parquet(name, missing):
    """Return the values, read from a file, with this for the one that is missing."""
    values = [missing if math.isnan(value) else value for value in SECONDS]
    path = f"{sys.argv[1]}/{name}.parquet"
    pq.write_table(pa.table({"seconds": pa.array(values, pa.float64())}), path)
    return ray.data.read_parquet(path)


def shown(value):
    """Return a number that can be compared and printed."""
    return None if value is None or math.isnan(value) else round(value, 2)


def seen(rows):
    """Return mean and largest value, and two complete rows as a scaler that was fitted to all rows gives them."""
    scaler = StandardScaler(columns=["seconds"]).fit(rows)
    later = ray.data.from_arrow(pa.table({"seconds": [2.0, 5.0]}))
    scaled = [shown(row["seconds"]) for row in scaler.transform(later).take_all()]
    return shown(rows.mean("seconds")), shown(rows.max("seconds")), scaled


found = {
    "a null, from Parquet": seen(from_parquet("null", None)),
    "a NaN, from pandas": seen(ray.data.from_pandas(pd.DataFrame({"seconds": SECONDS}))),
    "a NaN, from Parquet": seen(from_parquet("nan", math.nan)),
}
ray.shutdown()
for case, (mean, largest, scaled) in found.items():
    print(f"{case}: mean {mean}, max {largest}, 2 and 5 seconds scaled to {scaled}")
right = (2.75, 5.0, [-0.51, 1.52])
wanted = {
    "a null, from Parquet": right,
    "a NaN, from pandas": right,
    "a NaN, from Parquet": (None, 5.0, [None, None]),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" -W ignore run.py "$folder" 2> "$folder/errors" \
  || { code=$?; tail -20 "$folder/errors"; exit $code; }
