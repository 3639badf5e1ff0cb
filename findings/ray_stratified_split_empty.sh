#!/usr/bin/env bash
# A stratified split of Ray Data leaves small groups out of the test (ray 2.60.0, pyarrow 26.0.1).
#
# A log has 300 domains of three rows. `train_test_split(0.25, stratify="domain")` documents that both parts "maintain the
# same proportions of each class". Guess: a quarter of the rows is for the test, and where groups are too small for their
# share, some are rounded up and some down, or the split is refused, as by scikit-learn. Seen: the number of rows of each
# group is rounded down, so that no group of less than four rows has any in the test. Of these 900 rows the test has
# none, and nothing says so. Rare groups among large ones, for which one stratifies, are missing in the test, which is
# smaller than was asked for. What avoids it: a look at the number of rows, or a split by a hash.
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

import pyarrow as pa
import ray

print("version: ray", ray.__version__, "pyarrow", pa.__version__)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
ray.data.DataContext.get_current().enable_progress_bars = False
ray.data.DataContext.get_current().default_hash_shuffle_parallelism = 2
logging.disable()


def tested(sizes):
    """Return the rows in the test, and how many groups they are from, for groups of these sizes."""
    domains = [f"d{group}" for group, size in enumerate(sizes) for _ in range(size)]
    rows = ray.data.from_arrow(pa.table({"domain": domains}))
    _, test = rows.train_test_split(0.25, stratify="domain")
    kept = [row["domain"] for row in test.take_all()]
    return len(kept), len(set(kept))


CASES = {"two of 60 rows": [60] * 2, "one of 97 and one of 3": [97, 3], "300 of 3": [3] * 300}
found = {case: tested(sizes) for case, sizes in CASES.items()}
ray.shutdown()
for case, (rows, groups) in found.items():
    asked = sum(CASES[case]) // 4
    print(f"groups: {case}. The test has {rows} rows of {groups} groups, asked for: {asked}")
wanted = {
    "two of 60 rows": (30, 2),
    "one of 97 and one of 3": (24, 1),
    "300 of 3": (0, 0),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" -W ignore run.py "$folder" 2> "$folder/errors" \
  || { code=$?; tail -20 "$folder/errors"; exit $code; }
