"""Write records of the benchmark `faults` into tests/faults/README.md, between its markers.

    python -m infra.benchmarks faults_readme infra/benchmarks/cpu-2-cores/faults.json \
        infra/benchmarks/cpu-2-cores/faults-before.json

The second record, of an earlier build, gives the column `wrong or lost before`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from iak.schemas.record import BenchmarkRecord
from infra.benchmarks.readme import table_of
from infra.benchmarks.record_lines import FaultLine

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "tests" / "faults" / "README.md"
RECORD = ROOT / "infra/benchmarks/cpu-2-cores/faults.json"
BEFORE = RECORD.with_name("faults-before.json")
_HEADS = (
    "fault", "where", "injected", "survived", "refused by name", "wrong", "lost", "rows lost",
    "rows repeated", "seconds to recover", "times undamaged", "wrong or lost before",
)  # fmt: skip
_ALL = "all"


def written(page: str, record: BenchmarkRecord, before: BenchmarkRecord) -> str:
    """Return the page with the records in it."""
    begin, end = "<!-- faults -->", "<!-- /faults -->"
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{chapter(record, before)}\n{end}{tail}"


def chapter(record: BenchmarkRecord, before: BenchmarkRecord) -> str:
    """Return the targets and every class, as Markdown.

    Args:
        record: what was measured.
        before: record of an earlier build, for the last column.
    """
    machine = record.machine
    faults, earlier = (_with_total(r.lines(FaultLine)) for r in (record, before))
    is_bad = any(fault.wrong or fault.lost for fault in faults)
    lines = [
        f"`{record.command}`: {record.seconds / 60:.0f} minutes on {machine.cores} "
        f"cores, {machine.processor}, commit {record.commit}.",
        "",
        *table_of(
            ("target", "wanted", "measured"),
            [
                (t.name, t.wanted, f"{t.measured:,.0f}" + ("" if t.is_met else " ✗"))
                for t in record.targets
            ],
        ),
        *table_of(_HEADS, [_cells(fault, earlier) for fault in faults]),
        f"Before: `{before.command}`, commit {before.commit}.",
        *(["", "What came out wrong or lost:", ""] if is_bad else []),
        *(f"- {note}" for note in record.notes),
    ]
    return "\n".join(lines).rstrip()


def _cells(fault: FaultLine, earlier: Sequence[FaultLine]) -> list[str]:
    """Return a class's cells; a number that must be zero and is not is emphasised.

    Args:
        fault: the class.
        earlier: all classes of the earlier build.
    """
    same = [e for e in earlier if (e.fault, e.where) == (fault.fault, fault.where)]
    counts = [f"{e.wrong}, {e.lost} of {e.injected}" for e in same if e.injected]
    measured = (
        fault.rows_lost, fault.rows_repeated, fault.seconds_to_recover, fault.times_undamaged
    )  # fmt: skip
    return [
        fault.fault,
        fault.where,
        *(f"{count:,}" for count in (fault.injected, fault.survived, fault.refused_by_name)),
        *(f"**{count:,}**" if count else "0" for count in (fault.wrong, fault.lost)),
        *("-" if number is None else str(number) for number in measured),
        "; ".join(counts) or "-",
    ]


def _with_total(faults: Sequence[FaultLine]) -> list[FaultLine]:
    """Return the classes, and their sums as one more."""
    total = FaultLine(
        table="",
        fault=_ALL,
        where="",
        injected=sum(fault.injected for fault in faults),
        survived=sum(fault.survived for fault in faults),
        refused_by_name=sum(fault.refused_by_name for fault in faults),
        wrong=sum(fault.wrong for fault in faults),
        lost=sum(fault.lost for fault in faults),
    )
    return [*faults, total]


def record_at(path: Path) -> BenchmarkRecord:
    """Return the record in a file."""
    return BenchmarkRecord.model_validate_json(path.read_bytes())


def main(words: Sequence[str]) -> int:
    """Read the records that the words name, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.benchmarks faults_readme", description=__doc__
    )
    parser.add_argument("record", type=Path, help="record of this build")
    parser.add_argument("before", type=Path, help="record of an earlier build, to compare with")
    options = parser.parse_args(words)
    paths = (options.record, options.before)
    PAGE.write_text(written(PAGE.read_text(), *map(record_at, paths)))
    return 0
