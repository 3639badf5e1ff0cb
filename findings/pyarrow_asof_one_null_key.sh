#!/usr/bin/env bash
# One null among the keys, and join_asof finds nothing any more (pyarrow 26.0.1).
#
# `Table.join_asof` gives each row of a log what was known of its user at that time: a price, a count, a rate. Both
# sides are sorted by time, as it asks. Guess: a row without a user matches no user, and the others are as before.
# Seen, where `by` is one column of numbers: one null among 20,000 keys on the right, and no row of the left with a
# user finds anything, instead of 99.8 % of them. No error is raised, and the column reads as if nothing were known.
# On the left, a row without a user gets what belongs to user 0. Text keys, and two columns of keys, are right. Times
# on both sides of zero do not match either: days since a launch, or years before 1970. In one column they are refused
# as out of order, although they are sorted. What avoids it: to drop rows without a key on the right and to put them
# back on the left after the join, to cast the key to text, and to add a constant to times that go below zero.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import random
import sys

import pyarrow as pa

print("version: pyarrow", pa.__version__)


def joined(left, right, key_type=None, tolerance=-100_000):
    """Return what each (time, user) of the left is given of (time, user, value) of the right."""
    times, users = zip(*left)
    asked = pa.table({"time": pa.array(times, pa.int64()), "user": pa.array(users, key_type)})
    times, users, values = zip(*right)
    known = pa.table(
        {
            "time": pa.array(times, pa.int64()),
            "user": pa.array(users, key_type),
            "value": pa.array(values, pa.int64()),
        }
    )
    try:
        table = asked.join_asof(known, on="time", by="user", tolerance=tolerance)
    except pa.ArrowInvalid as error:
        return str(error)
    return table["value"].to_pylist()


def share(nulls):
    """Return the share of 20,000 rows that find a value, where some of the known have no user."""
    draw = random.Random(0)
    known = [(time, draw.randrange(1, 50), time) for time in range(20_000)]
    known[:nulls] = [(time, None, value) for time, _, value in known[:nulls]]
    asked = [(time, draw.randrange(1, 50)) for time in range(20_000)]
    values = joined(asked, known, pa.int64())
    return round(sum(value is not None for value in values) / len(values), 3)


number, text = pa.int64(), pa.string()
found = {
    "share of 20,000 rows that find a value": share(0),
    "the same, one null key on the right": share(1),
    "two users": joined([(1, 7), (2, 8)], [(0, 7, 70), (0, 8, 80)], number),
    "two users and a null": joined([(1, 7), (2, 8)], [(0, 7, 70), (0, 8, 80), (0, None, 1)], number),
    "the same as text": joined([(1, "7"), (2, "8")], [(0, "7", 70), (0, "8", 80), (0, None, 1)], text),
    "left: user 0 and a null": joined([(1, 0), (2, None)], [(0, 0, 70)], number),
    "times 1 after 0": joined([(1, 7)], [(0, 7, 70)], number),
    "times 1 after -1": joined([(1, 7)], [(-1, 7, 70)], number),
    "times -1 and 1 after -3": joined([(-1, 7), (1, 7)], [(-3, 7, 70)], number),
}
for case, value in found.items():
    print(f"{case}: {value}")
wanted = {
    "share of 20,000 rows that find a value": 0.998,
    "the same, one null key on the right": 0.0,
    "two users": [70, 80],
    "two users and a null": [None, None],
    "the same as text": [70, 80],
    "left: user 0 and a null": [70, 70],
    "times 1 after 0": [70],
    "times 1 after -1": [None],
    "times -1 and 1 after -3": "AsofJoin does not allow out-of-order on-key values",
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
