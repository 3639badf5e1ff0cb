"""Measure every layout of a table in turns: one worker's part, the same under any launcher.

All layouts of one table are in memory at once and step in slices, one layout after the other, in
another order each time. So other work on the machine falls on all of them. An error of one layout
is recorded and the others go on. Workers agree on errors after each stage. An error of only one
worker between two collective calls still makes the others wait until the group's timeout.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from torch import distributed as dist

from iak.pipeline.bench.counters import Wire
from iak.pipeline.bench.sharding import constants
from iak.pipeline.bench.sharding.layouts import LAYOUTS, Layout, PlacedTable, check, ids_of
from iak.pipeline.bench.sharding.sizes import Size
from iak.pipeline.events import Report, WorkDone
from iak.pipeline.process import Worker
from iak.schemas.bench import BenchShardingSpec
from iak.schemas.sharding_result import LayoutResult, ShardingResult

R = TypeVar("R")
_COUNTED_STEP = 10**6
"""Number of the step whose bytes are counted; no timed step has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work of all workers."""

    spec: BenchShardingSpec
    sizes: tuple[Size, ...]


def on_worker(worker: Worker, work: Work, report: Report) -> ShardingResult:
    """Measure everything; the result is the same on every worker."""
    started = time.perf_counter()
    largest = max(work.sizes, key=lambda size: (size.rows * size.width, size.name))
    measured = constants.of_machine(worker, link_bytes=int(work.spec.link_mib * 2**20))
    tables = []
    for size in work.sizes:
        results, placed = _measure_table(worker, work.spec, size, report)
        if size is largest:
            measured |= _of_steps(placed, worker, work.spec)
        del placed
        tables.append(results)
    workers: list[Any] = [None] * worker.world
    dist.all_gather_object(workers, tuple(tables))
    return ShardingResult(
        workers=tuple(workers),
        rates=constants.agreed(measured, worker),
        hosts=constants.hosts(worker),
        seconds=time.perf_counter() - started,
    )


def _measure_table(
    worker: Worker, spec: BenchShardingSpec, size: Size, report: Report
) -> tuple[tuple[LayoutResult, ...], Mapping[Layout, PlacedTable]]:
    """Measure all layouts of one table; return the tables that still step as well."""
    results: dict[Layout, LayoutResult] = {}
    placed: dict[Layout, PlacedTable] = {}
    for number, layout in enumerate(LAYOUTS, 1):
        table, error = _built(worker, spec, size, layout)
        results[layout] = _result(layout, error) if table is None else _counted(table, spec)
        if table is not None:
            placed[layout] = table
        report(_progress(size, "built", number, len(LAYOUTS)))
    for turn in range(spec.repeats):
        for layout in _rotated(list(placed), turn):
            work = partial(_slice, placed[layout], spec, turn)
            seconds, error = _together(work, worker)
            before = results[layout]
            if seconds is None:
                results[layout] = before.model_copy(update={"error": error})
                del placed[layout]
            else:
                slices = (*before.step_s, tuple(seconds))
                results[layout] = before.model_copy(update={"step_s": slices})
        report(_progress(size, "slices", turn + 1, spec.repeats))
    return tuple(results.values()), placed


def _result(layout: Layout, error: str) -> LayoutResult:
    """Return the result of a layout that could not be built."""
    return LayoutResult(kind=layout.kind, mode=layout.mode, precision=layout.precision, error=error)


def _built(
    worker: Worker, spec: BenchShardingSpec, size: Size, layout: Layout
) -> tuple[PlacedTable | None, str]:
    """Return the table in this layout after a first step, or the reason why there is none."""
    _, error = _together(partial(check, size, layout, worker), worker)
    if error:
        return None, error

    def build() -> PlacedTable:
        table = PlacedTable(size, layout, worker, seed=spec.seed)
        table.step(_step_ids(table, spec, turn=0, step=_COUNTED_STEP))
        return table

    return _together(build, worker)


def _counted(table: PlacedTable, spec: BenchShardingSpec) -> LayoutResult:
    """Count the bytes that a step sends, and the memory that the table takes."""
    ids = _step_ids(table, spec, turn=0, step=_COUNTED_STEP)
    wire = Wire()
    with wire:
        table.step(ids)
    return LayoutResult(
        kind=table.layout.kind,
        mode=table.layout.mode,
        precision=table.layout.precision,
        held_bytes=table.held_bytes,
        sent_bytes=wire.sent,
        received_bytes=wire.received,
        collectives=dict(wire.calls),
    )


def _slice(table: PlacedTable, spec: BenchShardingSpec, turn: int) -> list[float]:
    """Return the seconds of some steps, each from a common start, after warm-up steps."""
    seconds = []
    for step in range(spec.warmup_steps + spec.slice_steps):
        ids = _step_ids(table, spec, turn=turn, step=step)
        dist.barrier()
        started = time.perf_counter()
        table.step(ids)
        seconds.append(time.perf_counter() - started)
    return seconds[spec.warmup_steps :]


def _step_ids(table: PlacedTable, spec: BenchShardingSpec, *, turn: int, step: int) -> Any:  # noqa: ANN401 - torchrec ships no types
    """Return a step's ids: the same for every layout, and others in each step."""
    rows = max(spec.batch_rows // table.worker.world, 1)
    seed = hash((spec.seed, turn, step)) % 2**31
    return ids_of(table.size, rows=rows, worker=table.worker, seed=seed)


def _of_steps(
    placed: Mapping[Layout, PlacedTable], worker: Worker, spec: BenchShardingSpec
) -> dict[str, float]:
    """Measure the constants that need a trained table, where one cut by rows could be built."""
    rows_trained = (p for w, p in placed.items() if (w.kind, w.mode) == ("row_wise", "trained"))
    table = next(rows_trained, None)
    if table is None:
        return {}
    return constants.of_steps(table, worker, rows=max(spec.batch_rows // worker.world, 1))


def _together(work: Callable[[], R], worker: Worker) -> tuple[R | None, str]:
    """Return what `work` returned, or an error that any worker met; a collective call."""
    result, error = None, ""
    try:
        result = work()
    except Exception as failure:  # noqa: BLE001 - a layout that fails is a line of the table
        error = f"{type(failure).__name__}: {failure}"
    errors: list[Any] = [None] * worker.world
    dist.all_gather_object(errors, error)
    by_rank = {rank: text for rank, text in enumerate(errors) if text}
    if not by_rank:
        return result, ""
    if len(set(errors)) == 1:
        return None, str(errors[0])
    return None, "; ".join(f"worker {rank}: {text}" for rank, text in by_rank.items())


def _rotated(layouts: Sequence[Layout], turn: int) -> list[Layout]:
    """Return the layouts, beginning with another one each time."""
    first = turn * 7 % max(len(layouts), 1)
    return [*layouts[first:], *layouts[:first]]


def _progress(size: Size, what: str, step: int, of: int) -> WorkDone:
    return WorkDone(f"{size.title} {what}", step, of)
