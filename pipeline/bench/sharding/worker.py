"""A worker's part: every way of holding a table, measured in turns; the same under any launcher.

All ways of one table are held at once and step in slices, one way after the other, in another
order each time: whatever else the machine does falls on all of them. An error of one way is kept
and the others go on. Workers agree on it after each stage; what only one of them meets between
two collective calls still leaves the others waiting until the group's time is over.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

from torch import distributed as dist

from iak.pipeline.bench.counters import Wire
from iak.pipeline.bench.progress import Report
from iak.pipeline.bench.sharding import constants
from iak.pipeline.bench.sharding.layouts import WAYS, Place, Way, check, ids_of
from iak.pipeline.bench.sharding.sizes import Size
from iak.pipeline.process import Worker
from iak.schemas.bench import BenchShardingSpec

R = TypeVar("R")
_COUNTED_STEP = 10**6
"""Number of the step whose bytes are counted; no timed step has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the workers are to do."""

    spec: BenchShardingSpec
    sizes: tuple[Size, ...]
    progress: str
    """File to which worker 0 writes, where no launcher reports by itself."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """What this worker saw of one way."""

    kind: str
    mode: str
    precision: str
    error: str = ""
    held_bytes: int = 0
    sent_bytes: float = 0.0
    received_bytes: float = 0.0
    collectives: dict[str, int] = field(default_factory=dict)
    step_s: list[list[float]] = field(default_factory=list)
    """By slice."""


def on_worker(worker: Worker, work: Work, report: Report) -> dict[str, Any]:
    """Measure everything; the same answer on every worker, in what JSON can hold.

    Returns:
        `workers`: by rank, what it saw by table and way; `constants`: of this machine;
        `hosts`: what it is; `seconds`: of the whole, the start left out.
    """
    started = time.perf_counter()
    largest = max(work.sizes, key=lambda size: (size.rows * size.width, size.name))
    measured = constants.of_machine(worker, link_bytes=int(work.spec.link_mib * 2**20))
    tables = []
    for size in work.sizes:
        seen, places = _measure_table(worker, work.spec, size, report)
        if size is largest:
            measured |= _of_steps(places, worker, work.spec)
        del places
        tables.append([asdict(line) for line in seen])
    workers: list[Any] = [None] * worker.world
    dist.all_gather_object(workers, tables)
    return {
        "workers": workers,
        "constants": constants.agreed(measured, worker),
        "hosts": constants.hosts(worker),
        "seconds": time.perf_counter() - started,
    }


def _measure_table(
    worker: Worker, spec: BenchShardingSpec, size: Size, report: Report
) -> tuple[list[Seen], Mapping[Way, Place]]:
    """All ways of one table."""
    seen = {way: Seen(kind=way.kind, mode=way.mode, precision=way.precision) for way in WAYS}
    places: dict[Way, Place] = {}
    for number, way in enumerate(WAYS):
        place, seen[way].error = _built(worker, spec, size, way)
        if place is not None:
            places[way] = place
            _count(place, seen[way], spec)
        report(_told(size, "built", number + 1, len(WAYS)))
    for turn in range(spec.repeats):
        for way in _rotated(list(places), turn):
            work = partial(_slice, places[way], spec, turn)
            seconds, error = _together(work, worker)
            if seconds is None:
                seen[way].error = error
                del places[way]
            else:
                seen[way].step_s.append(seconds)
        report(_told(size, "slices", turn + 1, spec.repeats))
    return list(seen.values()), places


def _built(
    worker: Worker, spec: BenchShardingSpec, size: Size, way: Way
) -> tuple[Place | None, str]:
    """The table held in this way, after a first step; or why it cannot be."""
    _, error = _together(partial(check, size, way, worker), worker)
    if error:
        return None, error

    def build() -> Place:
        place = Place(size, way, worker, seed=spec.seed)
        place.step(_step_ids(place, spec, turn=0, step=_COUNTED_STEP))
        return place

    return _together(build, worker)


def _count(place: Place, seen: Seen, spec: BenchShardingSpec) -> None:
    """What a step moves, and what is held for it."""
    ids = _step_ids(place, spec, turn=0, step=_COUNTED_STEP)
    wire = Wire()
    with wire:
        place.step(ids)
    seen.sent_bytes, seen.received_bytes = wire.sent, wire.received
    seen.collectives, seen.held_bytes = dict(wire.calls), place.held_bytes


def _slice(place: Place, spec: BenchShardingSpec, turn: int) -> list[float]:
    """Seconds of some steps, each from a common start, after some that are not counted."""
    seconds = []
    for step in range(spec.warmup_steps + spec.slice_steps):
        ids = _step_ids(place, spec, turn=turn, step=step)
        dist.barrier()
        started = time.perf_counter()
        place.step(ids)
        seconds.append(time.perf_counter() - started)
    return seconds[spec.warmup_steps :]


def _step_ids(place: Place, spec: BenchShardingSpec, *, turn: int, step: int) -> Any:  # noqa: ANN401 - torchrec ships no types
    """A step's ids: the same for every way, never the same twice."""
    rows = max(spec.batch_rows // place.worker.world, 1)
    seed = hash((spec.seed, turn, step)) % 2**31
    return ids_of(place.size, rows=rows, worker=place.worker, seed=seed)


def _of_steps(
    places: Mapping[Way, Place], worker: Worker, spec: BenchShardingSpec
) -> dict[str, float]:
    """What only a trained table tells, where one cut by rows could be built."""
    rows_trained = (p for w, p in places.items() if (w.kind, w.mode) == ("row_wise", "trained"))
    place = next(rows_trained, None)
    if place is None:
        return {}
    return constants.of_steps(place, worker, rows=max(spec.batch_rows // worker.world, 1))


def _together(work: Callable[[], R], worker: Worker) -> tuple[R | None, str]:
    """What `work` returned, or an error that any worker met; every worker calls it."""
    result, error = None, ""
    try:
        result = work()
    except Exception as failure:  # noqa: BLE001 - a way that fails is a line of the table
        error = f"{type(failure).__name__}: {failure}"
    told: list[Any] = [None] * worker.world
    dist.all_gather_object(told, error)
    by_rank = {rank: text for rank, text in enumerate(told) if text}
    if not by_rank:
        return result, ""
    if len(set(told)) == 1:
        return None, str(told[0])
    return None, "; ".join(f"worker {rank}: {text}" for rank, text in by_rank.items())


def _rotated(ways: Sequence[Way], turn: int) -> list[Way]:
    """The ways, beginning with another one each time."""
    first = turn * 7 % max(len(ways), 1)
    return [*ways[first:], *ways[:first]]


def _told(size: Size, what: str, step: int, of: int) -> dict[str, Any]:
    return {"event": "step", "what": f"{size.title} {what}", "step": step, "of": of}
