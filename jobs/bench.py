"""`iak bench NAME`: measure, say whether the targets are met, keep a record and a picture."""

import importlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from iak.jobs import _figures
from iak.jobs._progress import console, print_event
from iak.jobs._tables import show_facts, show_table
from iak.pipeline.files import put_file
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.runs.record import commit, machine, versions
from iak.schemas.bench import (
    BenchDataSpec,
    BenchFaultsSpec,
    BenchFinetuneSpec,
    BenchScalingSpec,
    BenchShardingSpec,
    BenchSpec,
    BenchTablesSpec,
)
from iak.schemas.record import BenchmarkRecord, Target

NAMES: dict[type[BenchSpec], str] = {
    BenchDataSpec: "data",
    BenchFinetuneSpec: "finetune",
    BenchShardingSpec: "sharding",
    BenchTablesSpec: "tables",
    BenchScalingSpec: "scaling",
    BenchFaultsSpec: "faults",
}
MISSED = 1
_IN_THE_RECORD = {
    "sharding": {"sharding", "held", "precision", "planner_ms", "here_ms", "planner_mib"}
}
"""Columns that would make a bench's table too wide for a terminal, and are said otherwise in it."""


def main(spec: BenchSpec) -> int:
    """Measure, show, keep."""
    name = NAMES[type(spec)]
    spec.out.mkdir(parents=True, exist_ok=True)
    record = measured(name, spec)
    place, picture = spec.out / f"{name}.json", spec.out / f"{name}.png"
    put_file(place, record.model_dump_json(indent=1) + "\n")
    _figures.draw(record, picture)
    show(record)
    console.print(f"record: {place}\npicture: {picture}")
    is_missed = any(not target.is_met for target in record.targets)
    is_checked = spec.check_targets or getattr(spec, "check_baseline", None) is not None
    return MISSED if is_checked and is_missed else 0


def measured(name: str, spec: BenchSpec) -> BenchmarkRecord:
    """What the bench found on this machine."""
    started_at, started = datetime.now(UTC).replace(microsecond=0), time.monotonic()
    body = importlib.import_module(f"iak.pipeline.bench.{name}")
    rows, targets, notes, limits = body.measure(spec, _report, **_brought(spec))
    if isinstance(spec, BenchFinetuneSpec):
        from iak.jobs import _bench_ray

        lines, target = _bench_ray.ray_share(spec, _report)
        rows, targets = [*rows, *lines], [*targets, target]
    return BenchmarkRecord(
        bench=name,
        spec=spec.model_dump(mode="json"),
        is_smoke=spec.smoke,
        command=shlex.join(["iak", *sys.argv[1:]]),
        started_at=started_at,
        seconds=round(time.monotonic() - started, 1),
        commit=commit(),
        machine=machine(),
        limits=limits,
        versions=versions(),
        rows=rows,
        targets=targets,
        notes=notes,
    )


def _brought(spec: BenchSpec) -> dict[str, Any]:
    """What a body cannot reach by itself: a catalogue by its name, verbs, and Ray."""
    if isinstance(spec, BenchFaultsSpec):
        from iak.jobs._bad_inputs import run_bad_inputs
        from iak.jobs._faults import attempt

        return {"attempt": attempt, "bad_inputs": run_bad_inputs}
    if not isinstance(spec, BenchShardingSpec):
        return {}
    brought: dict[str, Any] = {"catalog": load_catalog(spec.catalog) if spec.catalog else None}
    if spec.as_ray:
        from iak.jobs import _bench_ray

        brought["on_ray"] = _bench_ray.sharding_on_ray
    return brought


def _report(event: Mapping[str, Any]) -> None:
    print_event("bench", event)


def show(record: BenchmarkRecord) -> None:
    """The lines by table, the targets, and what one must know to read them."""
    by_table: dict[str, list[dict[str, Any]]] = {}
    for row in record.rows:
        by_table.setdefault(str(row.get("table", record.bench)), []).append(row)
    for title, rows in by_table.items():
        aside = _IN_THE_RECORD.get(record.bench, set())
        columns = [name for name in _columns(rows) if name not in aside]
        heads = [name.replace("_", " ") for name in columns]
        show_table(title, heads, [[_told(row.get(name)) for name in columns] for row in rows])
    show_table("targets", ("what", "wanted", "measured", ""), [_line(t) for t in record.targets])
    for note in record.notes:
        console.print(f"- {note}", markup=False)
    show_facts("limits", {name: f"{value:.3g}" for name, value in record.limits.items()})
    if record.is_smoke:
        console.print("a smoke run: it shows that the bench runs; its numbers say nothing")


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns that say something, in what a cell can show; the record has the others too."""
    names = dict.fromkeys(name for row in rows for name in row if name != "table")
    said = [name for name in names if any(row.get(name) not in (None, "") for row in rows)]
    return [name for name in said if all(_is_short(row.get(name)) for row in rows)]


def _line(target: Target) -> tuple[str, str, str, str]:
    is_met = "met" if target.is_met else f"missed: {target.note}"
    return target.name, target.wanted, f"{target.measured:,.4g}", is_met


def _is_short(value: object) -> bool:
    """Whether a value fits a table's cell."""
    return value is None or (isinstance(value, int | float | str) and len(str(value)) < 60)


def _told(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
