"""Write records of the benchmark `faults` into tests/faults/README.md, between its markers.

    python -m infra.benchmarks faults_readme infra/benchmarks/cpu-2-cores/faults.json \
        infra/benchmarks/cpu-2-cores/faults-before.json

The second record, of an earlier build, gives the column `wrong or lost before`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from iak.schemas.base import JsonObject
from infra.benchmarks.readme import table_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "tests" / "faults" / "README.md"
RECORD = ROOT / "infra/benchmarks/cpu-2-cores/faults.json"
BEFORE = RECORD.with_name("faults-before.json")
_COLUMNS = (
    "fault", "where", "injected", "survived", "refused_by_name", "wrong", "lost", "rows_lost",
    "rows_repeated", "seconds_to_recover", "times_undamaged",
)  # fmt: skip
_SUMS = ("injected", "survived", "refused_by_name", "wrong", "lost")


def written(page: str, record: JsonObject, before: JsonObject) -> str:
    """Return the page with the records in it."""
    begin, end = "<!-- faults -->", "<!-- /faults -->"
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{chapter(record, before)}\n{end}{tail}"


def chapter(record: JsonObject, before: JsonObject) -> str:
    """Return the targets and every class, as Markdown.

    Args:
        record: what was measured.
        before: record of an earlier build, for the last column.
    """
    machine = record["machine"]
    heads = [name.replace("_", " ") for name in _COLUMNS]
    lines = [
        f"`{record['command']}`: {record['seconds'] / 60:.0f} minutes on {machine.get('cores')} "
        f"cores, {machine.get('processor')}, commit {record['commit']}.",
        "",
        *table_of(
            ("target", "wanted", "measured"),
            [
                (t["name"], t["wanted"], f"{t['measured']:,.0f}" + ("" if t["is_met"] else " ✗"))
                for t in record["targets"]
            ],
        ),
        *table_of(
            [*heads, "wrong or lost before"],
            [_line(row, before) for row in [*record["rows"], _total(record["rows"])]],
        ),
        f"Before: `{before['command']}`, commit {before['commit']}.",
        *(["", "What came out wrong or lost:", ""] if any(map(_is_bad, record["rows"])) else []),
        *(f"- {note}" for note in record["notes"]),
    ]
    return "\n".join(lines).rstrip()


def _line(row: JsonObject, before: JsonObject) -> list[str]:
    """Return a class's cells; a number that must be zero and is not is emphasised."""
    cells = []
    for name in _COLUMNS:
        cell = "-" if row[name] is None else f"{row[name]:,}" if name in _SUMS else str(row[name])
        cells.append(f"**{cell}**" if name in ("wrong", "lost") and row[name] else cell)
    rows = before["rows"] if row["fault"] != _ALL else [_total(before["rows"])]
    same = [r for r in rows if (r["fault"], r["where"]) == (row["fault"], row["where"])]
    counts = [f"{r['wrong']}, {r['lost']} of {r['injected']}" for r in same if r["injected"]]
    return [*cells, "; ".join(counts) or "-"]


_ALL = "all"


def _total(rows: Sequence[JsonObject]) -> JsonObject:
    sums = {name: sum(row[name] for row in rows) for name in _SUMS}
    return {**dict.fromkeys(_COLUMNS), "fault": _ALL, "where": "", **sums}


def _is_bad(row: JsonObject) -> bool:
    return bool(row["wrong"] or row["lost"])


def main(words: Sequence[str]) -> int:
    """Read the records that the words name, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.benchmarks faults_readme", description=__doc__
    )
    parser.add_argument("record", type=Path, help="record of this build")
    parser.add_argument("before", type=Path, help="record of an earlier build, to compare with")
    options = parser.parse_args(words)
    paths = (options.record, options.before)
    PAGE.write_text(written(PAGE.read_text(), *(json.loads(path.read_text()) for path in paths)))
    return 0
