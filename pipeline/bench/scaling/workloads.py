"""Define the workloads: pre-training, tuning through the base, tuning from stored activations.

Each takes slices of steps, and measures how long the steps waited for their rows. Pre-training
reads, encodes and batches its rows ahead of the steps, as `iak pretrain` does. Tuning has read its
rows before, as `iak finetune` has, so its input is the gathering of a step's rows.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa
from torch import Tensor

from iak.pipeline.activations.buffer import Activations, Recomputed
from iak.pipeline.activations.standardizer import KernelInputs
from iak.pipeline.base import published_base
from iak.pipeline.bench import iak_variants
from iak.pipeline.bench.iak_variants import InputVariant, Slices
from iak.pipeline.bench.setup import BenchSetup
from iak.pipeline.bench.torchrec_variants import Continued
from iak.pipeline.data.batch import Batch, to_batch
from iak.pipeline.data.prefetch import prefetch
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import Report
from iak.pipeline.process import Worker

PRETRAINING, UNCACHED, CACHED = "pre-training", "tuning, nothing kept", "tuning, kept"
NAMES = (PRETRAINING, UNCACHED, CACHED)
_INPUTS = {
    UNCACHED: InputVariant(reads="hx", keeps="recompute"),
    CACHED: InputVariant(reads="hx", keeps="bf16"),
}
_PREFETCHED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """A slice on one worker."""

    steps: int
    rows: int
    """Over all workers."""
    seconds: float
    input_s: float


class Workload(Protocol):
    """A workload with a number of rows in each worker's step."""

    def warm_up(self) -> None:
        """Take the steps that are not measured."""
        ...

    def take(self) -> Took:
        """Take a slice, and measure it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A workload at a size."""

    name: str
    rows: int
    """Wanted of each worker in a step."""
    work: Workload


def open_cases(
    setup: BenchSetup, grid: Sequence[int], *, pass_steps: int, worker: Worker, report: Report
) -> list[Case]:
    """Return every workload at every size of the grid.

    Args:
        setup: log and base of the benchmark.
        grid: rows of a worker's step.
        pass_steps: steps of a worker in a pass of tuning, approximately.
        worker: this process.
        report: called with progress events.
    """
    return [
        *_pretraining(setup, grid, worker, report),
        *_tuning(setup, grid, pass_steps, worker),
    ]


def _pretraining(
    setup: BenchSetup, grid: Sequence[int], worker: Worker, report: Report
) -> Iterator[Case]:
    trainer = Continued(setup, worker=worker, report=report)
    for rows in grid:
        work = PretrainSteps(trainer, rows=rows, steps=setup.spec.slice_steps)
        yield Case(name=PRETRAINING, rows=rows, work=work)


class PretrainSteps:
    """Steps of `iak pretrain` on rows that a thread reads and encodes ahead of them."""

    def __init__(self, trainer: Continued, *, rows: int, steps: int) -> None:
        """Start reading; all sizes train the one sharded model of `trainer`.

        Raises:
            BadRequest: the log is too short for a single batch.
        """
        if trainer.train.rows < rows:
            raise BadRequest(
                f"a worker has {trainer.train.rows:,} rows of the tuning window and would need "
                f"{rows:,} for a step; ask for more rows or smaller batch_rows"
            )
        self.trainer, self.rows, self.steps = trainer, rows, steps
        self.batches = prefetch(_whole_batches(trainer, rows), depth=_PREFETCHED)

    def warm_up(self) -> None:
        """Take one step more than there are batches ready, so that no later step finds a store."""
        self._take(_PREFETCHED + 1)

    def take(self) -> Took:
        """Take a slice of steps, and measure it."""
        started = time.perf_counter()
        waited = self._take(self.steps)
        return Took(
            steps=self.steps,
            rows=self.steps * self.rows * self.trainer.worker.world,
            seconds=time.perf_counter() - started,
            input_s=waited,
        )

    def _take(self, steps: int) -> float:
        """Take steps; return the seconds that they waited for their batches."""
        waited = 0.0
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(self.batches)
            waited += time.perf_counter() - asked
            self.trainer.step(batch)
        return waited


def _whole_batches(trainer: Continued, rows: int) -> Iterator[Batch]:
    """Yield batches of one size, epoch after epoch, each epoch in another order."""
    for epoch in itertools.count():
        tables = trainer.train.shuffled(
            seed=trainer.work.seed,
            epoch=epoch,
            batch_rows=rows,
            block_rows=trainer.work.shuffle_rows,
        )
        for table, _ in tables:
            if len(table) == rows:
                yield to_batch(table, trainer.catalog)


def _tuning(
    setup: BenchSetup, grid: Sequence[int], pass_steps: int, worker: Worker
) -> Iterator[Case]:
    """Yield cases of one pooled kernel on int8 tables, activations recomputed or kept in bf16."""
    view = setup.view("tune")
    whole = iak_variants.read_split(published_base.open_base(setup.base), view, "tune", worker)
    model = iak_variants.open_frozen(setup, worker, "int8")
    for name, inputs in _INPUTS.items():
        for size in grid:
            known = iak_variants.only(whole, iak_variants.some_of(whole, pass_steps * size))
            through = iak_variants.through_base(model, known, view, inputs, worker)
            rows = iak_variants.tuning_rows(through, known, inputs, worker)
            gathered = Gathered(rows.activations)
            slices = iak_variants.slices_of(
                _with_step_rows(setup, size * worker.world),
                through,
                replace(rows, activations=gathered),
                known.domains,
                worker,
                pooled=True,
            )
            yield Case(name=name, rows=size, work=TuneSteps(slices, gathered))


def _with_step_rows(setup: BenchSetup, rows: int) -> BenchSetup:
    """Return the same setup for steps of `rows` rows over all workers."""
    return replace(setup, spec=setup.spec.model_copy(update={"batch_rows": rows}))


class Gathered:
    """Activations whose rows are timed as they are gathered, before anything is computed."""

    def __init__(self, inner: Activations) -> None:
        self.inner, self.seconds = inner, 0.0

    def of(self, index_B: Tensor) -> KernelInputs:
        """Return what kernels read of these rows."""
        started = time.perf_counter()
        if isinstance(self.inner, Recomputed):
            rows = self.inner.rows.take(pa.array(index_B.numpy()))
            self.seconds += time.perf_counter() - started
            through = self.inner.base
            return through.read(through.look_up(rows).to(self.inner.dtype))
        read = self.inner.of(index_B)
        self.seconds += time.perf_counter() - started
        return read


class TuneSteps:
    """Passes of tuning over the rows that this worker holds."""

    def __init__(self, slices: Slices, gathered: Gathered) -> None:
        self.slices, self.gathered = slices, gathered
        self.is_warm = False

    def warm_up(self) -> None:
        """Take a step; the first time a whole pass, which fills the buffer of activations."""
        if self.is_warm:
            self.slices.some_steps(1)
        else:
            self.slices.epoch()
        self.is_warm = True

    def take(self) -> Took:
        """Take a pass over the rows, and measure it."""
        started, waited = time.perf_counter(), self.gathered.seconds
        steps = self.slices.epoch()
        return Took(
            steps=steps,
            rows=self.slices.rows,
            seconds=time.perf_counter() - started,
            input_s=self.gathered.seconds - waited,
        )
