#!/usr/bin/env bash
# A null among partition values comes back from Ray Data as a text (ray 2.60.0, pyarrow 26.0.1).
#
# A log is written by domain, and some rows have none. Guess: `write_parquet(partition_cols=["domain"])` and `read_parquet`
# return the rows that were written. Seen: null is written into the folder that Hive has for it, and read as a domain of its
# name, "__HIVE_DEFAULT_PARTITION__". It is counted, grouped, encoded and trained as one more domain, and
# MissingValuePercentage is 0. pyarrow with a schema, polars and DuckDB read null there. Numbers come back as texts as
# well, so that a domain 7 is "7". What avoids it: to replace the text after reading, or a name of one's own for "no
# domain" before writing.
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
import tempfile

import pyarrow as pa
import pyarrow.dataset as ds
import ray
from ray.data.aggregate import MissingValuePercentage

print("version: ray", ray.__version__, "pyarrow", pa.__version__)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.disable()


def read_back(domains, kind):
    """Return the domains that Ray and pyarrow read, and Ray's share of missing ones in percent."""
    rows = pa.table({"row": list(range(len(domains))), "domain": pa.array(domains, kind)})
    place = tempfile.mkdtemp(dir=sys.argv[1])
    ray.data.from_arrow(rows).write_parquet(place, partition_cols=["domain"])
    back = ray.data.read_parquet(place)
    by_ray = [row["domain"] for row in sorted(back.take_all(), key=lambda row: row["row"])]
    hive = ds.partitioning(pa.schema([("domain", kind)]), flavor="hive")
    by_arrow = ds.dataset(place, partitioning=hive).to_table().sort_by("row")["domain"].to_pylist()
    share = back.aggregate(MissingValuePercentage(on="domain"))["missing_pct(domain)"]
    return by_ray, by_arrow, share


found = {
    "domains a, null": read_back(["a", None], pa.string()),
    "domains 7, null": read_back([7, None], pa.int64()),
}
ray.shutdown()
for case, (by_ray, by_arrow, share) in found.items():
    print(f"{case}: Ray reads {by_ray}, pyarrow {by_arrow}, missing by Ray: {share} %")
wanted = {
    "domains a, null": (["a", "__HIVE_DEFAULT_PARTITION__"], ["a", None], 0.0),
    "domains 7, null": (["7", "__HIVE_DEFAULT_PARTITION__"], [7, None], 0.0),
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" -W ignore run.py "$folder" 2> "$folder/errors" \
  || { code=$?; tail -20 "$folder/errors"; exit $code; }
