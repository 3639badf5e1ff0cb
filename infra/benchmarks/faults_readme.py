"""Write a record of `iak bench faults` into tests/faults/README.md, between its two markers.

    python infra/benchmarks/faults_readme.py infra/benchmarks/cpu-2-cores/faults.json \
        infra/benchmarks/cpu-2-cores/faults-before.json

The second record, of an earlier build, gives the column `wrong or lost before`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "tests" / "faults" / "README.md"
RECORD = ROOT / "infra/benchmarks/cpu-2-cores/faults.json"
BEFORE = RECORD.with_name("faults-before.json")
BEGIN, END = "<!-- faults -->", "<!-- /faults -->"
Record = Mapping[str, Any]
_COLUMNS = (
    "fault", "where", "injected", "survived", "refused_by_name", "wrong", "lost", "rows_lost",
    "rows_repeated", "seconds_to_recover", "times_undamaged",
)  # fmt: skip
_SUMS = ("injected", "survived", "refused_by_name", "wrong", "lost")


def written(page: str, record: Record, before: Record) -> str:
    """Return the page with the record in it."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{chapter(record, before)}\n{END}{tail}"


def chapter(record: Record, before: Record) -> str:
    """Return the targets and every class, as Markdown."""
    machine = record["machine"]
    lines = [
        f"`{record['command']}`: {record['seconds'] / 60:.0f} minutes on {machine.get('cores')} "
        f"cores, {machine.get('processor')}, commit {record['commit']}.",
        "",
        *_table(
            ("target", "wanted", "measured"),
            [
                (t["name"], t["wanted"], f"{t['measured']:,.0f}" + ("" if t["is_met"] else " ✗"))
                for t in record["targets"]
            ],
        ),
        *_table(
            [*(name.replace("_", " ") for name in _COLUMNS), "wrong or lost before"],
            [_line(row, before) for row in [*record["rows"], _total(record["rows"])]],
        ),
        f"Before: `{before['command']}`, commit {before['commit']}.",
        *(["", "What came out wrong or lost:", ""] if any(map(_is_bad, record["rows"])) else []),
        *(f"- {note}" for note in record["notes"]),
    ]
    return "\n".join(lines).rstrip()


def _line(row: Record, before: Record) -> list[str]:
    """Return a class's cells; a number that must be zero and is not is emphasised."""
    cells = []
    for name in _COLUMNS:
        told = "-" if row[name] is None else f"{row[name]:,}" if name in _SUMS else str(row[name])
        cells.append(f"**{told}**" if name in ("wrong", "lost") and row[name] else told)
    rows = before["rows"] if row["fault"] != _ALL else [_total(before["rows"])]
    same = [r for r in rows if (r["fault"], r["where"]) == (row["fault"], row["where"])]
    told = [f"{r['wrong']}, {r['lost']} of {r['injected']}" for r in same if r["injected"]]
    return [*cells, "; ".join(told) or "-"]


_ALL = "all"


def _total(rows: Sequence[Record]) -> dict[str, Any]:
    sums = {name: sum(row[name] for row in rows) for name in _SUMS}
    return {**dict.fromkeys(_COLUMNS), "fault": _ALL, "where": "", **sums}


def _is_bad(row: Record) -> bool:
    return bool(row["wrong"] or row["lost"])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines] + [""]


def main() -> None:
    """Read the records that are named, and write the page."""
    record, before = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
    PAGE.write_text(written(PAGE.read_text(), record, before))


if __name__ == "__main__":
    main()
