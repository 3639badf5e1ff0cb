#!/usr/bin/env bash
# pyarrow 26.0.1 refuses to cast decimal32 to any 64-bit integer, whatever the value.
#
# An id column exported as DECIMAL(9, 0) is decimal32 in a file that pyarrow wrote, and comes back as
# decimal32. Guess: the cast to int64, the wider type, succeeds as it does from decimal64 and
# decimal128. Seen: ArrowInvalid "Integer value out of bounds" for 0, 1 and -5 alike, for int64 and
# uint64, while the narrower int32 takes the same values. A detour over decimal128 works.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
"$place/venv/bin/python" - "$place/ids.parquet" <<'PYTHON'
import sys
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

print("version: pyarrow", pa.__version__)
ids = pa.array([Decimal(0), Decimal(1), Decimal(-5)], pa.decimal32(9, 0))
pq.write_table(pa.table({"item_id": ids}), sys.argv[1])
read = pq.read_table(sys.argv[1]).column("item_id").combine_chunks()
print("read back as:", read.type)


def cast(values, kind):
    try:
        return values.cast(kind).to_pylist()
    except pa.ArrowInvalid as error:
        return f"ArrowInvalid: {error}"


wide = {kind: cast(read.slice(1, 1), kind) for kind in (pa.int64(), pa.uint64())}
found = {
    "int32": cast(read, pa.int32()),
    "int64": wide[pa.int64()],
    "uint64": wide[pa.uint64()],
    "int64 over decimal128": cast(read.cast(pa.decimal128(9, 0)), pa.int64()),
    "int64 from decimal64": cast(read.cast(pa.decimal64(9, 0)), pa.int64()),
}
for name, value in found.items():
    print(f"{name}: {value}")
expected = {
    "int32": [0, 1, -5],
    "int64": "ArrowInvalid: Integer value out of bounds",
    "uint64": "ArrowInvalid: Integer value out of bounds",
    "int64 over decimal128": [0, 1, -5],
    "int64 from decimal64": [0, 1, -5],
}
if read.type != pa.decimal32(9, 0) or found != expected:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
