"""Measure two nights of `iak finetune`: a first one, and a steady one with cache and live kernels.

The steady night comes a day later. Six of its seven days are in the cache that the first one wrote,
and its kernels start from the live ones.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from torch import distributed as dist

from iak.pipeline.base import published_base
from iak.pipeline.base.precision import ANYTHING
from iak.pipeline.bench.iak_variants import stage_of
from iak.pipeline.bench.setup import BenchSetup
from iak.pipeline.events import AnyEvent, Report
from iak.pipeline.process import Worker
from iak.pipeline.progress import worker_report
from iak.pipeline.tuning.finetune import finetune
from iak.pipeline.tuning.gate_rows import PairedRows
from iak.pipeline.tuning.work import ActivationCacheConfig, Finetuned, FinetuneWork, Live
from iak.schemas.job import FrozenTablesSpec
from iak.schemas.plan import ResolvedPlacement

_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """Settings of a night that differ from the benchmark's."""

    name: str
    products: Literal["fp32", "bf16"] = "fp32"
    """Type of the products of the trunk and of the encoder's first layer."""
    narrow: int | None = None
    """Components of x that kernels read; the spec's when absent."""


EQUAL = Variation(name="")
OTHERS = (Variation(name="products in bf16", products="bf16"), Variation(name="x whole", narrow=0))
"""Ways that no target is about: a lower precision, and kernels that read all of x."""


def nights_on_worker(
    worker: Worker, setup: BenchSetup, variation: Variation
) -> tuple["Night", "Night"]:
    """Run the first night and the steady one after it."""
    folder, report = setup.base.parent / "nights", worker_report(setup.progress, worker.rank)
    if worker.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    dist.barrier()
    run = partial(night, setup, worker, folder=folder, variation=variation, report=report)
    first, live = run(nights_ago=1, live=None)
    steady, _ = run(nights_ago=0, live=live)
    dist.barrier()
    if worker.rank == 0:
        shutil.rmtree(folder)
    return first, steady


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """Time and gain of a night, from the moment when the frozen base was loaded."""

    seconds: float
    """Seconds of reading, of the base for rows that the cache lacks, and of all levels; without the
    gate."""
    to_best_s: float
    """These seconds without a level's last epochs that improved no kernel; one epoch at least
    stays."""
    rows_from_cache: int
    rows_computed: int
    rows_to_best: float
    """Rows that passed through kernels up to each one's best step, all levels together."""
    epochs: tuple[int, ...]
    gain: float
    """Nats per row by which the domains' kernels improve on the base, on unused rows."""
    pooled_gain: float
    """Nats per row by which the pooled kernel improves on the base."""
    stopped_at_cap: int
    at_once: int
    """Most kernels that had moments at the same time."""
    moment_bytes: int
    """Bytes of these moments, on every worker."""
    parts: Mapping[str, float]
    """Seconds by phase, which add up to `seconds`."""


@dataclass(slots=True)
class _Clock:
    """A report that notes the time of each event, and passes it on."""

    report: Report
    events: list[tuple[float, AnyEvent]] = field(default_factory=list)

    def __call__(self, event: AnyEvent) -> None:
        self.events.append((time.perf_counter(), event))
        self.report(event)

    def seconds(self) -> float:
        """Return the seconds from the loaded base to the end of the last level."""
        return self._of_level(1)[-1][0] - self._start()

    def parts(self) -> dict[str, float]:
        """Seconds of reading, of the pooled kernel's first and later epochs, and of the domains.

        The first epoch includes the base's pass over rows that the cache lacks.
        """
        read = next(at for at, event in self.events if event["event"] == "rows")
        pooled = [at for at, _ in self._of_level(0)]
        return {
            "reading": read - self._start(),
            "pooled, first epoch": pooled[0] - read,
            "pooled, later epochs": pooled[-1] - pooled[0],
            "domains": self._of_level(1)[-1][0] - pooled[-1],
        }

    def idle_s(self, level: int) -> float:
        """Return the seconds of epochs after the last one that improved a kernel of a cohort."""
        cohorts: dict[int, list[tuple[float, int]]] = {}
        for at, event in self._of_level(level):
            if "epoch" in event:
                ends = cohorts.setdefault(event.get("step", 0), [])
                ends.append((at, event.get("bettered", 0)))
        idle_s = 0.0
        for ends in cohorts.values():
            used = max((i for i, (_, bettered) in enumerate(ends) if bettered), default=0)
            idle_s += ends[-1][0] - ends[used][0]
        return idle_s

    def at_once(self) -> int:
        """Return the number of kernels in the largest cohort."""
        return max(int(e.get("at_once", 0)) for _, e in self._of_level(0) + self._of_level(1))

    def _of_level(self, level: int) -> list[tuple[float, AnyEvent]]:
        """Return the events of a level: its epochs and its end."""
        name = f"level {level}"
        return [(at, e) for at, e in self.events if name in (e["event"], e.get("what"))]

    def _start(self) -> float:
        return next(at for at, event in self.events if event["event"] in ("base", "rows"))


def night(
    setup: BenchSetup,
    worker: Worker,
    *,
    nights_ago: int,
    folder: Path,
    live: Live | None,
    variation: Variation,
    report: Report,
) -> tuple[Night, Live]:
    """Run `iak finetune` for one night; return its measurements and the kernels that serve then."""
    spec, clock = setup.spec, _Clock(report)
    narrow = spec.kernel.narrow if variation.narrow is None else variation.narrow
    run_dir = folder / f"night-{nights_ago}"
    run_dir.mkdir(parents=True, exist_ok=True)
    work = FinetuneWork(
        view=setup.view("tune", "valid", "gate", nights_ago=nights_ago),
        base=published_base.open_base(setup.base),
        kernel=spec.kernel.model_copy(update={"precision": variation.products, "narrow": narrow}),
        pooled=stage_of(setup, spec.pooled),
        domain=stage_of(setup, spec.domain),
        run_dir=run_dir,
        tables=FrozenTablesSpec(tolerance=ANYTHING, products=variation.products),
        cache=ActivationCacheConfig(
            kind="cache",
            precision="bf16",
            folder=folder / "activations",
            budget_bytes=50 * _GIB,
            memory_bytes=6 * _GIB,
        ),
        live=live,
        checkpoint_every_s=600.0,
        placement=ResolvedPlacement(),
    )
    done = finetune(work, worker=worker, report=clock)
    kernels = {
        name: level.tuned.bank.slot(slot)
        for level in done.levels
        for slot, name in enumerate(level.tuned.bank.names)
    }
    standard = done.standard
    return _measured(done, work, clock), Live(kernels=kernels, standard=standard)


def _measured(done: Finetuned, work: FinetuneWork, clock: _Clock) -> Night:
    rows_to_best = idle_s = 0.0
    for depth, level in enumerate(done.levels):
        stage = work.domain if depth else work.pooled
        tuned, rows = level.tuned, [level.rows[name] for name in level.tuned.bank.names]
        before = 0 if work.live else stage.compression_epochs
        rows_to_best += sum(
            n * (best + before) for n, best in zip(rows, tuned.best_epoch, strict=True)
        )
        idle_s += clock.idle_s(depth)
    pooled_gain, gain = (_gain(level.gate_rows) for level in (done.levels[0], done.levels[-1]))
    return Night(
        seconds=clock.seconds(),
        to_best_s=clock.seconds() - idle_s,
        rows_from_cache=done.cache.rows_read,
        rows_computed=done.cache.rows_computed,
        rows_to_best=rows_to_best,
        epochs=tuple(level.tuned.epochs for level in done.levels),
        gain=gain,
        pooled_gain=pooled_gain,
        stopped_at_cap=sum(len(level.tuned.stopped_at_cap) for level in done.levels),
        at_once=clock.at_once(),
        moment_bytes=clock.at_once() * 2 * 4 * done.parameters_per_kernel,
        parts=clock.parts(),
    )


def _gain(kernels: Mapping[str, PairedRows]) -> float:
    """Return the mean over all gate rows on worker 0, which has them; 0 elsewhere."""
    gains = [rows.base_loss - rows.candidate_loss for rows in kernels.values()]
    return float(np.concatenate(gains).mean()) if gains else 0.0
