#!/usr/bin/env bash
# In expressions of Ray Data, 1 / 2 is 0 (ray 2.60.0, pyarrow 26.0.1).
#
# A click rate is `col("clicks") / col("shows")`, in `with_column` or in a filter. Guess: as in Python, NumPy, pandas
# and polars, `/` of whole numbers has a fraction. Seen: it is a whole number, cut towards zero. A domain with one
# click in two has a click rate of 0, a filter `rate > 0.1` finds only what has 1, and the same counts as floats have
# the right rates. `//` is cut after that division as well, so that -3 // 2 is -1 instead of -2: days before 1970, or
# offsets to an event, fall into the next one. A SimpleImputer in `mean` mode fills a column of whole numbers with a
# whole number: 1 between 1 and 2. What avoids it: `col("clicks").cast(DataType.float64())`, or `map_batches` with
# NumPy.
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
import ray
from ray.data.datatype import DataType
from ray.data.expressions import col, lit
from ray.data.preprocessors import SimpleImputer

print("version: ray", ray.__version__, "pyarrow", pa.__version__)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
context = ray.data.DataContext.get_current()
context.enable_progress_bars, context.execution_options.preserve_order = False, True
logging.disable()
CLICKS, SHOWS = [1, 3, -3, 5], [2, 4, 2, 5]
whole = ray.data.from_arrow(pa.table({"clicks": CLICKS, "shows": SHOWS}))
floats = ray.data.from_arrow(pa.table({"clicks": pa.array(CLICKS, pa.float64()), "shows": SHOWS}))
rate = col("clicks") / col("shows")


def values(dataset):
    """Return the new column."""
    return [float(row["new"]) for row in dataset.take_all()]


def imputed():
    """Return what stands for a missing count beside 1 and 2."""
    counts = ray.data.from_arrow(pa.table({"new": pa.array([1, 2, None], pa.int64())}))
    return values(SimpleImputer(["new"], strategy="mean").fit_transform(counts))


found = {
    "clicks / shows": values(whole.with_column("new", rate)),
    "clicks / 2": values(whole.with_column("new", col("clicks") / lit(2))),
    "rows with clicks / shows > 0.1": whole.filter(expr=rate > 0.1).count(),
    "clicks / shows of floats": values(floats.with_column("new", rate)),
    "clicks / shows with a cast": values(
        whole.with_column("new", col("clicks").cast(DataType.float64()) / col("shows"))
    ),
    "clicks // shows": values(whole.with_column("new", col("clicks") // col("shows"))),
    "NumPy: clicks // shows": (np.array(CLICKS) // np.array(SHOWS)).astype(float).tolist(),
    "SimpleImputer of 1, 2 and a null": imputed(),
}
ray.shutdown()
for case, value in found.items():
    print(f"{case}: {value}")
wanted = {
    "clicks / shows": [0.0, 0.0, -1.0, 1.0],
    "clicks / 2": [0.0, 1.0, -1.0, 2.0],
    "rows with clicks / shows > 0.1": 1,
    "clicks / shows of floats": [0.5, 0.75, -1.5, 1.0],
    "clicks / shows with a cast": [0.5, 0.75, -1.5, 1.0],
    "clicks // shows": [0.0, 0.0, -1.0, 1.0],
    "NumPy: clicks // shows": [0.0, 0.0, -2.0, 1.0],
    "SimpleImputer of 1, 2 and a null": [1.0, 2.0, 1.0],
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" -W ignore run.py 2> "$folder/errors" \
  || { code=$?; tail -20 "$folder/errors"; exit $code; }
