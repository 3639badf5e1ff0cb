#!/usr/bin/env bash
# Ray Data's MultiHotEncoder counts instead of marking (ray 2.60.0, pandas 3.1.1).
#
# Histories of categories become columns of zeros and ones. MultiHotEncoder documents a "binary list", whose i-th
# element "is 1 if category i is in the input list and 0 otherwise", and names scikit-learn's MultiLabelBinarizer.
# Guess: a category that is named twice has 1. Seen: it has 2, and one that a user saw 5,000 times has 5,000. Columns
# for which no scaler is planned, since they are binary, reach the model with the counts of its heaviest users, and an
# exported model that marks, as the documentation says, scores other rows. With `max_categories` it is the same. What
# avoids it: set(...) of each list before, or a minimum with 1 after.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0 "ray[data]" pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6 scikit-learn==1.9.1
cat > "$folder/run.py" <<'PYTHON'
import logging
import sys

import pandas as pd
import ray
from ray.data.preprocessors import MultiHotEncoder
from sklearn.preprocessing import MultiLabelBinarizer

print("version: ray", ray.__version__, "pandas", pd.__version__)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.disable()
HISTORIES = [["action", "comedy"], ["comedy", "action", "comedy"], ["drama"] * 5_000, []]


def encoded(**settings):
    """Return Ray's columns of the histories."""
    dataset = ray.data.from_pandas(pd.DataFrame({"seen": HISTORIES}))
    encoder = MultiHotEncoder(columns=["seen"], **settings)
    return [list(map(int, row["seen"])) for row in encoder.fit_transform(dataset).take_all()]


found = {
    "MultiHotEncoder": encoded(),
    "MultiHotEncoder, max_categories": encoded(max_categories={"seen": 2}),
    "MultiLabelBinarizer": MultiLabelBinarizer().fit_transform(HISTORIES).tolist(),
}
ray.shutdown()
for encoder, rows in found.items():
    print(f"{encoder}: {rows}")
wanted = {
    "MultiHotEncoder": [[1, 1, 0], [1, 2, 0], [0, 0, 5_000], [0, 0, 0]],
    "MultiHotEncoder, max_categories": [[1, 0], [2, 0], [0, 5_000], [0, 0]],
    "MultiLabelBinarizer": [[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]],
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" -W ignore run.py 2> "$folder/errors" \
  || { code=$?; tail -20 "$folder/errors"; exit $code; }
