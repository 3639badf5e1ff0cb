#!/usr/bin/env bash
# pyarrow 26.0.1: a date and a timestamp with a time zone are compared in UTC, but cast in local time.
#
# A day of a log is cut out of an event time with a time zone in two usual ways: `time >= day`, with a
# date, or `cast(time, date32) == day`. Guess: both cut the same rows, since casting to a date takes the
# day on the wall clock. Seen: the comparison takes the date as midnight in UTC. East of Greenwich the
# first hours of the day are lost, west of it hours of the day before come in. For the same cause
# date -> timestamp -> date comes back one day earlier west of Greenwich.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 tzdata
"$place/venv/bin/python" - <<'PYTHON'
import sys
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

print("version: pyarrow", pa.__version__)
day, after = date(2026, 10, 29), date(2026, 10, 30)


def rows_of_the_day(zone):
    """Hours on the wall clock, of 28 October 22:00 to 29 October 22:00, that each way keeps."""
    local = [datetime(2026, 10, 28, 22), *(datetime(2026, 10, 29, h) for h in (2, 12, 22))]
    times = pa.array([t.replace(tzinfo=ZoneInfo(zone)) for t in local], pa.timestamp("s", zone))
    rows = pa.table({"time": times, "clock": [f"{t:%d %H:00}" for t in local]})
    time = pc.field("time")
    compared = rows.filter((time >= day) & (time < after))["clock"].to_pylist()
    by_cast = rows.filter(time.cast(pa.date32()) == day)["clock"].to_pylist()
    back = pa.array([day]).cast(pa.timestamp("s", zone)).cast(pa.date32())[0].as_py()
    return compared, by_cast, back


found = {zone: rows_of_the_day(zone) for zone in ("Asia/Shanghai", "America/New_York")}
for zone, (compared, by_cast, back) in found.items():
    print(f"{zone}: compared {compared}; cast {by_cast}; {day} to timestamp and back {back}")
whole = ["29 02:00", "29 12:00", "29 22:00"]
expected = {
    "Asia/Shanghai": (["29 12:00", "29 22:00"], whole, day),
    "America/New_York": (["28 22:00", "29 02:00", "29 12:00"], whole, date(2026, 10, 28)),
}
print("as described" if found == expected else f"CHANGED: expected {expected}")
sys.exit(found != expected)
PYTHON
