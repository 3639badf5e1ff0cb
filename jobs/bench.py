"""`iak bench NAME`: measure, compare with the targets, write a record and a picture."""

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from iak.jobs.figures import Picture, draw
from iak.jobs.figures_bench import picture_of
from iak.jobs.progress import console, print_event
from iak.jobs.tables import show_facts, show_table
from iak.pipeline.events import AnyEvent, Event, Report
from iak.pipeline.files import put_file
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.runs.record import commit, machine, versions
from iak.schemas.bench import BenchScalingSpec, BenchShardingSpec, BenchSpec
from iak.schemas.record import BenchmarkRecord, BenchmarkResult, Target

Measure = Callable[[Report], BenchmarkResult]
PictureOf = Callable[[BenchmarkRecord], Picture]
"""Returns how a record is drawn."""
MISSED = 1
_IN_THE_RECORD = {
    "quality": {
        *("what", "is_first", "lowest_seed", "highest_seed", "delta_log_loss", "ne"),
        *("parameters", "copies", "cpu_s", "at_cap", "domains"),
    },
    "sharding": {"sharding", "held", "precision", "planner_ms", "here_ms", "planner_mib"},
}
"""Columns that would make a benchmark's table too wide for a terminal. The record has them."""


def main(spec: BenchSpec) -> int:
    """Run `iak bench NAME`."""
    measure: Measure
    match spec:
        case BenchShardingSpec():
            name, measure = "sharding", lambda report: _sharding(spec, report)
        case BenchScalingSpec():
            name, measure = "scaling", lambda report: _scaling(spec, report)
        case _:
            raise TypeError(f"iak bench has no benchmark of {type(spec).__name__}")
    return run_benchmark(name, spec, measure, picture_of, shlex.join(["iak", *sys.argv[1:]]))


def _sharding(spec: BenchShardingSpec, report: Report) -> BenchmarkResult:
    """Measure `sharding`, with the catalogue that the settings name, and Ray where they ask."""
    from iak.pipeline.bench import sharding

    catalog = load_catalog(spec.catalog) if spec.catalog else None
    if not spec.as_ray:
        return sharding.measure(spec, report, catalog=catalog)
    from iak.jobs.ray_launcher import RayLauncher  # Ray takes seconds to import

    return sharding.measure(spec, report, catalog=catalog, ray=RayLauncher())


def _scaling(spec: BenchScalingSpec, report: Report) -> BenchmarkResult:
    """Measure `scaling`."""
    from iak.pipeline.bench import scaling

    return scaling.measure(spec, report)


def run_benchmark(
    name: str, spec: BenchSpec, measure: Measure, picture_of: PictureOf, command: str
) -> int:
    """Measure, show the result, and write it.

    Args:
        name: name of the benchmark, and of its files in `spec.out`: NAME.json and NAME.png.
        spec: its settings, which the record keeps.
        measure: called once with a function that shows progress.
        picture_of: called with the record.
        command: the command that the user typed, for the record.

    Returns:
        Exit code: 1 where a target is missed and the settings ask to check targets, else 0.
    """
    spec.out.mkdir(parents=True, exist_ok=True)
    record = record_of(name, spec, measure, command)
    path, picture = spec.out / f"{name}.json", spec.out / f"{name}.png"
    put_file(path, record.model_dump_json(indent=1) + "\n")
    draw(record, picture_of(record), picture)
    show(record)
    console.print(f"record: {path}\npicture: {picture}")
    is_missed = any(not target.is_met for target in record.targets)
    is_checked = spec.check_targets or getattr(spec, "check_baseline", None) is not None
    return MISSED if is_checked and is_missed else 0


def record_of(name: str, spec: BenchSpec, measure: Measure, command: str) -> BenchmarkRecord:
    """Measure, and return the record: results, settings, machine, versions."""
    started_at, started = datetime.now(UTC).replace(microsecond=0), time.monotonic()
    result = measure(_report)
    return BenchmarkRecord(
        bench=name,
        spec=spec.model_dump(mode="json"),
        is_smoke=spec.smoke,
        command=command,
        started_at=started_at,
        seconds=round(time.monotonic() - started, 1),
        commit=commit(),
        machine=machine(),
        limits=result.limits,
        versions=versions(),
        rows=result.rows,
        targets=result.targets,
        notes=result.notes,
    )


def _report(event: AnyEvent) -> None:
    if not isinstance(event, Event):  # the driver's: start and end of workers, for instance
        print_event("bench", event)


def show(record: BenchmarkRecord) -> None:
    """Print the lines by table, the targets and the notes."""
    by_table: dict[str, list[dict[str, Any]]] = {}
    for row in record.rows:
        by_table.setdefault(str(row.get("table", record.bench)), []).append(row)
    for title, rows in by_table.items():
        left_out = _IN_THE_RECORD.get(record.bench, set())
        columns = [name for name in _columns(rows) if name not in left_out]
        heads = [name.replace("_", " ") for name in columns]
        show_table(title, heads, [[_cell(row.get(name)) for name in columns] for row in rows])
    show_table("targets", ("what", "wanted", "measured", ""), [_line(t) for t in record.targets])
    for note in record.notes:
        console.print(f"- {note}", markup=False)
    show_facts("limits", {name: f"{value:.3g}" for name, value in record.limits.items()})
    if record.is_smoke:
        console.print("a smoke run: it shows that the benchmark works; its numbers mean nothing")


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns that have values, all of them short. The record has the others too."""
    names = dict.fromkeys(name for row in rows for name in row if name != "table")
    filled = [name for name in names if any(row.get(name) not in (None, "") for row in rows)]
    return [name for name in filled if all(_is_short(row.get(name)) for row in rows)]


def _line(target: Target) -> tuple[str, str, str, str]:
    is_met = "met" if target.is_met else f"missed: {target.note}"
    return target.name, target.wanted, f"{target.measured:,.4g}", is_met


def _is_short(value: object) -> bool:
    """Return whether a value fits a table's cell."""
    return value is None or (isinstance(value, int | float | str) and len(str(value)) < 60)


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
