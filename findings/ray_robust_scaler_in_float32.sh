#!/usr/bin/env bash
# Ray Data's RobustScaler rounds a column of times to zeros (ray 2.60.0, datasketches 5.2.0).
#
# A column holds times in seconds since 1970, or ids, or amounts in cents, as float64 or int64. Guess: RobustScaler takes the
# median and the quartiles of it, approximate by rank as documented, so that of a column that fits into one sketch they
# are values of the column. Seen: the sketch holds float32, whatever the column is. Numbers of today's times are 128 apart
# there: all times of one minute have one median and one quartile, and the column becomes zeros. Over an hour the median
# is off by up to a minute, and by the same in microseconds. Where the differences matter and the values are large, the
# feature is coarse or gone, and nothing warns. `ApproximateQuantile` is the same. What avoids it: to count times from the
# start of the log before, or `Quantile`, which is exact.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0 "ray[data]" pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6 datasketches==5.2.0
cat > "$folder/run.py" <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import pyarrow as pa
import ray
from ray.data.aggregate import ApproximateQuantile, Quantile
from ray.data.preprocessors import RobustScaler

print("version: ray", ray.__version__, "datasketches", version("datasketches"))
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.disable()
FIRST = 1_790_000_000  # September 2026


def scaled(times):
    """Return the exact median, the approximate one, and the least and the largest scaled time."""
    dataset = ray.data.from_arrow(pa.table({"time": times}))
    exact = dataset.aggregate(Quantile(on="time"))["quantile(time)"]
    near = dataset.aggregate(ApproximateQuantile(on="time", quantiles=[0.5]))
    values = [r["time"] for r in RobustScaler(columns=["time"]).fit_transform(dataset).take_all()]
    off = round(near["approx_quantile(time)"][0] - exact, 1)
    return off, round(min(values), 2), round(max(values), 2)


found = {
    "61 s from 0": scaled([float(t) for t in range(61)]),
    "61 s of today": scaled([float(FIRST + t) for t in range(61)]),
    "601 s of today": scaled([float(FIRST + t) for t in range(601)]),
}
ray.shutdown()
for case, values in found.items():
    print(f"{case}: (approximate - exact median, least and largest scaled time) {values}")
wanted = {
    "61 s from 0": (0.0, -1.0, 1.0),
    "61 s of today": (-30.0, 0.0, 0.0),
    "601 s of today": (-44.0, -0.67, 0.9),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" -W ignore run.py "$folder" 2> "$folder/errors" \
  || { code=$?; tail -20 "$folder/errors"; exit $code; }
