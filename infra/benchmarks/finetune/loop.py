"""Run a loop of tuning steps, with and without Ray.

The loop does not depend on who started the workers. Its steps go through the frozen base, so that
they have all three kinds of work (products, memory, collectives). It reports progress after each.
"""

import time

from torch import distributed as dist

from iak.pipeline.base import published_base
from iak.pipeline.bench import iak_variants
from iak.pipeline.bench.iak_variants import InputVariant
from iak.pipeline.bench.setup import BenchSetup
from iak.pipeline.events import Report, WorkDone
from iak.pipeline.process import Worker
from iak.schemas.base import Spec

SECONDS = 20.0
"""Approximate time of the loop."""
_INPUTS = InputVariant(reads="hx", keeps="recompute")


class LoopResult(Spec):
    """Passes over the tuning rows."""

    passes: int
    seconds: float
    """Seconds between the first one's start and the last one's end."""


def loop_on_worker(worker: Worker, work: tuple[BenchSetup, int], report: Report) -> LoopResult:
    """Do one worker's part under a launcher; see `run_loop`."""
    return run_loop(worker, *work, report)


def run_loop(worker: Worker, setup: BenchSetup, wanted: int, report: Report) -> LoopResult:
    """Pass over the tuning rows.

    Args:
        worker: this process.
        setup: log, base and settings.
        wanted: number of passes; 0 takes as many as fill about SECONDS.
        report: called after each pass.
    """
    model = iak_variants.open_frozen(setup, worker, "int8")
    view = setup.view("tune")
    known = iak_variants.read_split(published_base.open_base(setup.base), view, "tune", worker)
    through = iak_variants.through_base(model, known, view, _INPUTS, worker)
    rows = iak_variants.tuning_rows(through, known, _INPUTS, worker)
    slices = iak_variants.slices_of(setup, through, rows, known.domains, worker)
    warm_up_s = _seconds(slices, 1, report)
    passes = wanted or _agreed(round(SECONDS / warm_up_s))
    return LoopResult(passes=passes, seconds=_seconds(slices, passes, report))


def _seconds(slices: iak_variants.Slices, passes: int, report: Report) -> float:
    dist.barrier()
    started = time.perf_counter()
    for done in range(passes):
        slices.epoch()
        report(WorkDone("passes", done + 1, passes))
    dist.barrier()
    return time.perf_counter() - started


def _agreed(passes: int) -> int:
    """Return worker 0's number; a collective call."""
    passes_of_all = [max(passes, 1)]
    dist.broadcast_object_list(passes_of_all, src=0)
    return passes_of_all[0]
