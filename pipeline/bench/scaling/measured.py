"""Measure each case on groups of workers in turns, and merge the workers' results."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import distributed as dist

from iak.pipeline.bench.scaling.links import Counted, Timed, share_sent
from iak.pipeline.bench.scaling.timeline import Profile, Timeline, parts_of, profile_of
from iak.pipeline.bench.scaling.turns import Turns
from iak.pipeline.bench.scaling.workloads import Case, Took, open_cases
from iak.pipeline.bench.setup import BenchSetup
from iak.pipeline.events import WorkDone
from iak.pipeline.process import Worker, run_on_workers
from iak.pipeline.progress import worker_report
from iak.schemas.bench import BenchScalingSpec

_MESSAGE_BYTES = (2**10, 2**14, 2**18, 2**22, 2**24)
_ROUNDS = 7
_COUNTED_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One case on one worker."""

    name: str
    rows: int
    """Wanted of each worker in a step."""
    took: tuple[Took, ...]
    """A slice a repeat."""
    profile: Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerResult:
    """Results of one worker."""

    cases: tuple[CaseResult, ...]
    alone: tuple[Timed, ...]
    """Times of collectives alone, where there are several workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One case on a number of workers."""

    name: str
    workers: int
    wanted_rows: int
    """Of each worker in a step."""
    rows: float
    """Mean rows of each worker in a step. Tuning cuts its rows into whole steps."""
    step_s: float
    """Seconds of a step on the slowest worker, median of the slices."""
    rows_per_s: float
    """Rows per second over all workers."""
    spread: float
    """Ratio of the slowest slice to the fastest."""
    parts: Mapping[str, float]
    """Seconds of the step by part, a mean over workers; they add up to `step_s`."""
    sent: Mapping[str, float]
    """Bytes out of a worker in a step, by collective."""
    calls: Mapping[str, float]
    profiled_s: float
    """Seconds of a step while it was profiled."""


def grid_of(spec: BenchScalingSpec) -> list[int]:
    """Return rows of a worker's step: the weak law's, then the strong law's for each number.

    The last are the fewest that are simulated, so that no curve is extrapolated to fewer rows.
    """
    counts = [*spec.workers, max(spec.simulated, default=1)]
    return list(dict.fromkeys(max(spec.batch_rows // workers, 1) for workers in counts))


def measure_in_turns(spec: BenchScalingSpec, setup: BenchSetup) -> dict[int, list[WorkerResult]]:
    """Run every number of workers at the same time, slices in turns; return results by number."""
    turns = Turns(len(spec.workers))
    with ThreadPoolExecutor(len(spec.workers)) as pool:
        running = {
            pool.submit(run_on_workers, _on_worker, count, spec, setup, turns, group): count
            for group, count in enumerate(spec.workers)
        }
        turns.start()
        try:
            return {running[done]: done.result() for done in as_completed(running)}
        except BaseException:
            turns.stop()
            raise


def _on_worker(
    worker: Worker, spec: BenchScalingSpec, setup: BenchSetup, turns: Turns, group: int
) -> WorkerResult:
    """Run one worker's whole part."""
    report = worker_report(setup.progress, worker.rank)
    steps = spec.slice_steps * spec.workers[-1]
    cases = open_cases(setup, grid_of(spec), pass_steps=steps, worker=worker, report=report)
    with turns.turn(group, worker):
        pass  # a first round, in which all groups wait until the last one has opened its base
    took: list[list[Took]] = [[] for _ in cases]
    for repeat in range(spec.repeats):
        for case, slices in zip(cases, took, strict=True):
            with turns.turn(group, worker):
                slices.append(_slice(case))
            if worker.world == spec.workers[-1]:
                what = f"{case.name}, {case.rows} rows a worker"
                report(WorkDone(what, repeat + 1, spec.repeats))
    case_results = []
    for case, slices in zip(cases, took, strict=True):
        with turns.turn(group, worker):
            profile = _profiled(case)
        case_results.append(
            CaseResult(name=case.name, rows=case.rows, took=tuple(slices), profile=profile)
        )
    with turns.turn(group, worker):
        alone = _collectives_alone(worker) if worker.world > 1 else ()
    return WorkerResult(cases=tuple(case_results), alone=tuple(alone))


def _slice(case: Case) -> Took:
    """Warm up, start all workers together, and take a slice."""
    case.work.warm_up()
    dist.barrier()
    return case.work.take()


def _profiled(case: Case) -> Profile:
    """Run a slice under a timeline."""
    case.work.warm_up()
    dist.barrier()
    with Timeline() as timeline:
        took = case.work.take()
    return profile_of(timeline, seconds=took.seconds, input_s=took.input_s, steps=took.steps)


def _collectives_alone(worker: Worker) -> list[Timed]:
    """Time messages of several sizes while nothing else runs."""
    points = []
    for size in _MESSAGE_BYTES:
        message = torch.zeros(size // 4)
        answer = torch.empty_like(message)
        calls: Mapping[str, Callable[[], object]] = {
            "allreduce": partial(dist.all_reduce, message),
            "alltoall_base": partial(dist.all_to_all_single, answer, message),
        }
        for name, call in calls.items():
            sent = share_sent(name, worker.world) * size
            seconds = _median_s(call)
            points.append(Timed(name=name, workers=worker.world, sent=sent, seconds=seconds))
    return points


def _median_s(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_ROUNDS + 1):
        dist.barrier()
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def count_on_workers(
    spec: BenchScalingSpec, setup: BenchSetup, workers: int
) -> dict[str, tuple[float, dict[str, float]]]:
    """Count each workload's bytes on more workers than are timed, at the most workers' strong rows.

    Returns:
        By workload: the rows of a worker's step, and what it sent in one by collective, both means
        over the workers.
    """
    results = run_on_workers(_counting_worker, workers, spec, setup)
    return {
        name: (
            statistics.fmean(one[name][0] for one in results),
            {
                kind: statistics.fmean(one[name][1][kind] for one in results)
                for kind in results[0][name][1]
            },
        )
        for name in results[0]
    }


def _counting_worker(
    worker: Worker, spec: BenchScalingSpec, setup: BenchSetup
) -> dict[str, tuple[float, dict[str, float]]]:
    rows = max(spec.batch_rows // spec.workers[-1], 1)
    report = worker_report(setup.progress, worker.rank)
    few = replace(setup, spec=setup.spec.model_copy(update={"slice_steps": _COUNTED_STEPS}))
    steps, sent = _COUNTED_STEPS * worker.world, {}
    for case in open_cases(few, [rows], pass_steps=steps, worker=worker, report=report):
        case.work.warm_up()
        with Timeline() as timeline:
            took = case.work.take()
        by_name = {name: num / took.steps for name, num in timeline.sent_by.items()}
        sent[case.name] = (took.rows / took.steps / worker.world, by_name)
    return sent


def together(by_count: Mapping[int, Sequence[WorkerResult]]) -> list[Measured]:
    """Merge the results of the workers, for each number of them, case by case."""
    return [
        _merged(workers, parts)
        for workers, results in sorted(by_count.items())
        for parts in zip(*(one.cases for one in results), strict=True)
    ]


def _merged(workers: int, parts: Sequence[CaseResult]) -> Measured:
    steps, passed = parts[0].took[0].steps, parts[0].took[0].rows
    slices = list(zip(*(part.took for part in parts), strict=True))
    times = [max(took.seconds for took in together) / steps for together in slices]
    inputs = [statistics.fmean(took.input_s for took in together) / steps for together in slices]
    profiles = [part.profile for part in parts]
    step_s = statistics.median(times)
    names = list(dict.fromkeys(name for p in profiles for name in p.calls))
    return Measured(
        name=parts[0].name,
        workers=workers,
        wanted_rows=parts[0].rows,
        rows=passed / steps / workers,
        step_s=step_s,
        rows_per_s=passed / steps / step_s,
        spread=max(times) / min(times),
        parts=parts_of(profiles, step_s=step_s, input_s=statistics.median(inputs)),
        sent={n: statistics.fmean(p.sent.get(n, 0.0) for p in profiles) for n in names},
        calls={n: statistics.fmean(p.calls.get(n, 0.0) for p in profiles) for n in names},
        profiled_s=max(p.step_s for p in profiles),
    )


def slowest(results: Sequence[WorkerResult]) -> list[Timed]:
    """Return each collective alone, on the worker that took longest for it."""
    return [
        max(points, key=lambda point: point.seconds)
        for points in zip(*(one.alone for one in results), strict=True)
    ]


def counted_of(measured: Sequence[Measured], name: str, collective: str) -> list[Counted]:
    """Return what was counted of a workload's collectives while it was measured."""
    return [
        Counted(workers=m.workers, rows=m.rows, sent=m.sent.get(collective, 0.0))
        for m in measured
        if m.name == name and m.workers > 1
    ]
