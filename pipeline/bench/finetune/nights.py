"""Two nights of `iak finetune`: the first, with nothing kept and nothing live, and a steady one.

The steady night comes a day later: six of its seven days lie in the cache that the first one
wrote, and its kernels start from those that serve since.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import distributed as dist

from pipeline.bench.finetune.ours import ROW_WISE_FROM_ROWS, stage_of
from pipeline.bench.finetune.prepare import Ground
from pipeline.bench.progress import Report, writer
from pipeline.process import Worker
from pipeline.training import base
from pipeline.training.finetune import Finetuned, FinetuneWork, Keeping, Live, finetune
from pipeline.training.precision import ANYTHING
from schemas.job import FrozenTablesSpec

_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a night is run, besides what the bench's spec says."""

    name: str
    products: Literal["fp32", "bf16"] = "fp32"
    """Of the trunk, and of the encoder's first layer."""
    narrow: int | None = None
    """Components of x; as the spec has it when absent."""


EQUAL = Way(name="")
LEAN = Way(name="x to 128, products in bf16", products="bf16", narrow=128)


def nights_on_worker(worker: Worker, ground: Ground, way: Way) -> tuple["Night", "Night"]:
    """The first night and the steady one after it."""
    folder, report = ground.base.parent / "nights", writer(ground.progress, worker)
    if worker.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    dist.barrier()
    run = partial(night, ground, worker, folder=folder, way=way, report=report)
    first, live = run(nights_ago=1, live=None)
    steady, _ = run(nights_ago=0, live=live)
    dist.barrier()
    if worker.rank == 0:
        shutil.rmtree(folder)
    return first, steady


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """What a night took, from the moment at which the frozen base stood ready."""

    seconds: float
    """Reading, the base where the cache has nothing, every level to its end; not the gate."""
    to_best_s: float
    """The same without the epochs at a level's end that bettered no kernel; one at least stays."""
    rows_from_cache: int
    rows_computed: int
    rows_to_best: float
    """Rows that passed through kernels up to each one's best step, all levels together."""
    epochs: tuple[int, ...]
    gain: float
    """Nats a row by which the validation loss fell, over both levels, weighted by rows."""
    stopped_at_cap: int
    parts: Mapping[str, float]
    """Seconds by what the night was at; together, `seconds`."""


@dataclass(slots=True)
class _Clock:
    """Notes when the run said what, and hands it on."""

    report: Report
    told: list[tuple[float, str]] = field(default_factory=list)

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.told.append((time.perf_counter(), str(event.get("event"))))
        self.report(event)

    def seconds(self) -> float:
        """From the base to the end of the last level."""
        return max(at for at, what in self.told if what.startswith("level")) - self._start()

    def parts(self) -> dict[str, float]:
        """Seconds of reading, and of each level's first epoch and its later ones.

        A level's first epoch has what comes before it as well: its kernels' memory, and of the
        pooled one the base's pass over rows that the cache lacks.
        """
        read = next(at for at, what in self.told if what == "rows")
        found, before = {"reading": read - self._start()}, read
        for depth, name in enumerate(("pooled", "domains")):
            ends = [at for at, what in self.told if what == f"level {depth}"]
            if ends:
                found[f"{name}, first epoch"] = ends[0] - before
                found[f"{name}, later epochs"] = ends[-1] - ends[0]
                before = ends[-1]
        return found

    def idle_s(self, level: int, *, used: int) -> float:
        """What a level's epochs took after its first `used` ones."""
        ends = [at for at, what in self.told if what == f"level {level}"]
        return ends[-1] - ends[min(max(used, 1), len(ends)) - 1] if ends else 0.0

    def _start(self) -> float:
        return next(at for at, what in self.told if what in ("base", "rows"))


def night(
    ground: Ground,
    worker: Worker,
    *,
    nights_ago: int,
    folder: Path,
    live: Live | None,
    way: Way,
    report: Report,
) -> tuple[Night, Live]:
    """`iak finetune` of one night, and the kernels that serve after it."""
    spec, clock = ground.spec, _Clock(report)
    run_dir = folder / f"night-{nights_ago}"
    run_dir.mkdir(parents=True, exist_ok=True)
    changes = {"precision": way.products} | ({"narrow": way.narrow} if way.narrow else {})
    work = FinetuneWork(
        view=ground.view("tune", "valid", "gate", nights_ago=nights_ago),
        base=base.open_base(ground.base),
        kernel=spec.kernel.model_copy(update=changes),
        pooled=stage_of(ground, spec.pooled),
        domain=stage_of(ground, spec.domain),
        run_dir=run_dir,
        tables=FrozenTablesSpec(tolerance=ANYTHING, products=way.products),
        keeping=Keeping(
            kind="cache",
            precision="bf16",
            folder=folder / "activations",
            budget_bytes=50 * _GIB,
            memory_bytes=6 * _GIB,
        ),
        live=live,
        checkpoint_every_s=600.0,
        sharding={},
        row_wise_from_rows=ROW_WISE_FROM_ROWS,
    )
    done = finetune(work, worker=worker, report=clock)
    kernels = {
        name: level.tuned.bank.slot(slot)
        for level in done.levels
        for slot, name in enumerate(level.tuned.bank.names)
    }
    standard = done.standard
    return _told(done, work, clock), Live(kernels=kernels, standard=standard)


def _told(done: Finetuned, work: FinetuneWork, clock: _Clock) -> Night:
    seen = gain = idle_s = 0.0
    for depth, level in enumerate(done.levels):
        stage = work.domain if depth else work.pooled
        tuned, rows = level.tuned, [level.rows[name] for name in level.tuned.bank.names]
        before = 0 if work.live else stage.compression_epochs
        seen += sum(n * (best + before) for n, best in zip(rows, tuned.best_epoch, strict=True))
        idle_s += clock.idle_s(depth, used=before + max(tuned.best_epoch, default=0))
        won = zip(rows, tuned.start_loss, tuned.best_loss, strict=True)
        gain += sum(n * (start - best) for n, start, best in won) / max(sum(rows), 1)
    return Night(
        seconds=clock.seconds(),
        to_best_s=clock.seconds() - idle_s,
        rows_from_cache=int(done.cache.get("rows_read", 0)),
        rows_computed=int(done.cache.get("rows_computed", 0)),
        rows_to_best=seen,
        epochs=tuple(level.tuned.epochs for level in done.levels),
        gain=gain,
        stopped_at_cap=sum(len(level.tuned.stopped_at_cap) for level in done.levels),
        parts=clock.parts(),
    )
