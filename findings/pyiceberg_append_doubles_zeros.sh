#!/usr/bin/env bash
# An append writes rows twice where the partition column has 0.0 and -0.0 (pyiceberg 0.12.0, pyarrow 26.0.1).
#
# A log is partitioned by a discount, a price or a grade, which is a float. A discount of nothing is -0.0 where it was
# computed, as in -1 * 0.0, and 0.0 elsewhere. Guess: both are one partition, as they are equal, or two, as Iceberg
# orders them. Seen: they are two, and each gets the rows of both. Each row with a zero is in the table twice, and the
# snapshot counts it twice. So it is in `append`, `overwrite` and `dynamic_partition_overwrite`. A table without
# partitions keeps each row once. pyiceberg takes the values of the partition apart by their bits and selects their
# rows by equality. Where the column has a NaN, the append raises a ZeroDivisionError, for the same reason: nothing is
# equal to it. What avoids it: to add 0.0 to the column before, which makes all zeros positive.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyiceberg==0.12.0 pyarrow==26.0.1 sqlalchemy
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
from importlib.metadata import version

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog.memory import InMemoryCatalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import DoubleType, LongType, NestedField

print("version: pyiceberg", version("pyiceberg"), "pyarrow", pa.__version__)
folder = sys.argv[1]
catalog = InMemoryCatalog("log", warehouse=f"file://{folder}")
catalog.create_namespace("log")
BY_DISCOUNT = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "discount"))
NAN = float("nan")


def written(name, values, partitions=BY_DISCOUNT, how="append", add=None):
    """Return the numbers of the rows in a new table, and what its snapshot counts."""
    schema = Schema(
        NestedField(1, "discount", DoubleType(), required=False),
        NestedField(2, "row", LongType(), required=False),
    )
    table = catalog.create_table(f"log.{name}", schema=schema, partition_spec=partitions)
    column = pa.array(values, pa.float64())
    column = column if add is None else pc.add(column, add)
    rows = pa.table({"discount": column, "row": pa.array(range(len(values)), pa.int64())})
    try:
        getattr(table, how)(rows)
    except ZeroDivisionError as error:
        return repr(error)
    numbers = sorted(table.scan().to_arrow()["row"].to_pylist())
    return numbers, table.current_snapshot().summary["total-records"]


zeros = [0.0, -0.0, 0.2, -0.0]
found = {
    "append": written("appended", zeros),
    "overwrite": written("overwritten", zeros, how="overwrite"),
    "dynamic_partition_overwrite": written("dynamic", zeros, how="dynamic_partition_overwrite"),
    "append, no partitions": written("plain", zeros, PartitionSpec()),
    "append of discount + 0.0": written("positive", zeros, add=0.0),
    "append with a NaN": written("nan", [0.0, NAN, 0.2]),
}
for case, value in found.items():
    print(f"{case}: (rows 0 to 3, total-records) {value}")
twice = ([0, 0, 1, 1, 2, 3, 3], "7")
once = ([0, 1, 2, 3], "4")
wanted = {
    "append": twice,
    "overwrite": twice,
    "dynamic_partition_overwrite": twice,
    "append, no partitions": once,
    "append of discount + 0.0": once,
    "append with a NaN": "ZeroDivisionError('division by zero')",
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
