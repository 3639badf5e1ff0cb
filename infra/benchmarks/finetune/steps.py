"""Measure a step of every variant, interleaved: rows per second, bytes, memory, and lower bound.

All variants read the same rows of the tuning window, in fp32, with the same rows per step and one
thread per worker. Rows are decoded and encoded before, so this is the cost of a step without the
data path, which the benchmark `data` measures.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Literal

import torch
from torch import distributed as dist
from torch import nn

from iak.pipeline.activations.rows import TuningRows
from iak.pipeline.base import published_base
from iak.pipeline.bench import iak_variants, torchrec_variants
from iak.pipeline.bench.counters import Cost, cost_of
from iak.pipeline.bench.iak_variants import InputVariant, Slices
from iak.pipeline.bench.setup import BenchSetup
from iak.pipeline.bench.torchrec_variants import (
    Continued,
    FullFineTune,
    TorchRecKernel,
    Trajectory,
)
from iak.pipeline.data.batch import Batch
from iak.pipeline.events import WorkDone
from iak.pipeline.process import Worker
from iak.pipeline.progress import worker_report
from iak.pipeline.sharding.shard import unwrap
from iak.schemas.job import Precision
from infra.benchmarks.finetune import roofline
from infra.benchmarks.finetune.roofline import Floor, Sizes

_COUNTED_STEPS = 2
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int4")
_ENTRY_BYTES = {"fp32": 4.0, "int8": 1.0, "int4": 0.5}
_KEPT = {
    "e[hx]": InputVariant(reads="hx", keeps="bf16"),
    "e[hx] kept in fp32": InputVariant(reads="hx", keeps="fp32"),
    "e[hx] encoded in bf16": InputVariant(reads="hx", keeps="bf16", product="bf16"),
    "e[h, x to 256]": InputVariant(reads="hx", keeps="bf16", narrow=256),
    "e[h]": InputVariant(reads="h", keeps="bf16"),
    "e[h] kept in fp32": InputVariant(reads="h", keeps="fp32"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A variant of training, ready to take a slice."""

    name: str
    title: str
    slice: Callable[[], int]
    """Takes a slice, and returns the rows that it trained on, over all workers."""
    some: Callable[[], int]
    """Takes a few steps, and returns their number."""
    memory: Callable[[], Mapping[str, int]]
    """Bytes of this worker for the variant, by kind."""
    floor: Floor
    """Lower bound of one row on this worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Measurements of a variant on one worker."""

    name: str
    title: str
    rows_per_s: float
    spread: float
    """Slowest over fastest slice."""
    cost: Cost
    memory: Mapping[str, int]
    """The largest of all workers, by kind."""
    floor: Floor
    """Lower bound of one row."""
    first_pass_s: float = 0.0
    """Seconds of the pass that fills the cache, for as many rows as a slice has."""
    slice_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Measurements of all variants, and runs to convergence of those that train the base."""

    variants: tuple[Measured, ...]
    full: Trajectory
    continued: Trajectory
    parameters_per_kernel: int
    domains: int
    """Domains in a slice."""


def steps_on_worker(worker: Worker, setup: BenchSetup) -> Steps:
    """Do one worker's part of the whole comparison."""
    report = worker_report(setup.progress, worker.rank)
    trainer = Continued(setup, worker=worker, report=report)
    baselines = _baselines(trainer)
    mine = _IakVariants(setup, trainer, worker)
    variants = [*baselines, *mine.variants]
    times: dict[str, list[float]] = {v.name: [] for v in variants}
    rows: dict[str, int] = {}
    for variant in variants:
        variant.some()
    repeats = setup.spec.repeats
    for repeat in range(repeats):
        for variant in variants:
            report(WorkDone(variant.name, repeat + 1, repeats))
            seconds, rows[variant.name] = _timed(variant.slice)
            times[variant.name].append(seconds)
    measured = tuple(
        Measured(
            name=v.name,
            title=v.title,
            rows_per_s=rows[v.name] / statistics.median(times[v.name]),
            spread=max(times[v.name]) / min(times[v.name]),
            cost=_cost(v),
            memory=_largest(v.memory()),
            floor=v.floor,
            first_pass_s=mine.first_pass_s.get(v.name, 0.0),
            slice_rows=rows[v.name],
        )
        for v in variants
    )
    parameters = mine.twins["hx"].bank.flat_KN.shape[1]
    domains = len(mine.domains)
    del mine, variants, baselines
    gc.collect()  # banks and frozen tables, before the runs to convergence
    trainer.to_the_base()
    full = trainer.fine_tune()
    trainer.to_the_base()
    continued = trainer.continue_training()
    return Steps(
        variants=measured,
        full=full,
        continued=continued,
        parameters_per_kernel=parameters,
        domains=domains,
    )


def _timed(work: Callable[[], int]) -> tuple[float, int]:
    """Return the seconds of the slowest worker, and the result of the work."""
    dist.barrier()
    started = time.perf_counter()
    done = work()
    seconds = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return float(seconds), done


def _cost(variant: Variant) -> Cost:
    """Return the cost of one step; `some` takes several, whose bytes are averaged."""
    return cost_of(variant.some, steps=variant.some())


def _largest(bytes_by_kind: Mapping[str, int]) -> dict[str, int]:
    """Return each kind's bytes on the worker that has most of it."""
    kinds = list(bytes_by_kind)
    most = torch.tensor([bytes_by_kind[kind] for kind in kinds], dtype=torch.int64)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return dict(zip(kinds, most.tolist(), strict=True))


def _baselines(trainer: Continued) -> list[Variant]:
    """Return (a), (b) and (c), on the one sharded model."""
    spec = trainer.setup.spec
    batches = trainer.batches(spec.slice_steps)
    full, kernel = FullFineTune(trainer), TorchRecKernel(trainer, spec.kernel, seed=spec.seed)
    sizes = _sizes(trainer, batches)
    lookups = roofline.lookups(sizes, row_bytes=sizes.width * roofline.FP32, trained=True)
    everything = lookups + roofline.trunk(sizes, passes=("forward", "inputs", "weights"))
    under_kernel = lookups + roofline.trunk(sizes, passes=("forward", "inputs"))
    on_top = roofline.kernels(
        kernel.shape, rows=sizes.rows, present=1, inputs_have_gradients=True, kept_bytes=0
    )

    def bytes_by_kind(adam: torch.optim.Optimizer) -> dict[str, int]:
        state = sum(
            t.numel() * t.element_size() for t in torchrec_variants.tables_state(trainer.model)
        )
        return {
            "tables": torchrec_variants.tables_bytes(trainer.model),
            "optimiser": state + torchrec_variants.state_bytes(adam),
            "kernels": 0,
            "cache": 0,
        }

    def variant(
        name: str,
        title: str,
        step: Callable[[Batch], object],
        adam: torch.optim.Optimizer,
        floor: Floor,
    ) -> Variant:
        endless = cycle(batches)

        def take(count: int) -> int:
            for _ in range(count):
                step(next(endless))
            return count

        return Variant(
            name=name,
            title=title,
            slice=lambda: take(spec.slice_steps) * sizes.rows * trainer.worker.world,
            some=lambda: take(_COUNTED_STEPS),
            memory=lambda: bytes_by_kind(adam),
            floor=_per_row(floor, sizes.rows),
        )

    return [
        variant("a", "full fine-tune, plain TorchRec DMP", full.step, full.adam, everything),
        variant("b", "continued training of everything", trainer.step, trainer.adam, everything),
        variant(
            "c",
            "frozen trunk, tables in DMP at rate 0, one kernel",
            kernel.step,
            kernel.adam,
            under_kernel + on_top,
        ),
    ]


def _sizes(trainer: Continued, batches: list[Batch]) -> Sizes:
    batch = batches[0]
    return Sizes(
        rows=batch.rows,
        ids=len(batch.ids.values()) / batch.rows,
        width=trainer.work.model.width,
        x_units=unwrap(trainer.model).attach_points["x"],
        mlp=trainer.work.model.mlp,
    )


def _per_row(floor: Floor, rows: int) -> Floor:
    return Floor(flops=floor.flops / rows, num_bytes=floor.num_bytes / rows)


class _IakVariants:
    """Variants (d) and (e): the same domains and rows, activations recomputed or stored."""

    def __init__(self, setup: BenchSetup, trainer: Continued, worker: Worker) -> None:
        spec = setup.spec
        self.setup, self.worker = setup, worker
        self.view = setup.view("tune")
        known = iak_variants.read_split(
            published_base.open_base(setup.base), self.view, "tune", worker
        )
        self.domains = iak_variants.some_of(known, spec.slice_steps * spec.batch_rows)
        self.known = iak_variants.only(known, self.domains)
        self.sizes = _sizes(trainer, trainer.batches(1))
        self.first_pass_s: dict[str, float] = {}
        self.twins: dict[str, Slices] = {}
        self.rows: dict[InputVariant, TuningRows] = {}
        self.variants = []
        for precision in PRECISIONS:
            model = iak_variants.open_frozen(setup, worker, precision)
            self.variants.append(self._uncached(model, precision))
            if precision == "int8":
                self.variants.append(self._uncached(model, precision, trunk="bf16"))
            if precision == "fp32":
                for name, inputs in _KEPT.items():
                    self.variants.append(self._cached(name, model, inputs))
                self.variants.append(self._bank(model))

    def _uncached(
        self, model: nn.Module, precision: Precision, *, trunk: Literal["fp32", "bf16"] = "fp32"
    ) -> Variant:
        slices = self._slices(model, InputVariant(reads="hx", keeps="recompute", trunk=trunk))
        is_lower = trunk != "fp32"
        row_bytes = _ENTRY_BYTES[precision] * self.sizes.width
        floor = roofline.lookups(self.sizes, row_bytes=row_bytes, trained=False)
        floor += roofline.trunk(self.sizes, passes=("forward",))
        return self._variant(
            f"d[{precision}] trunk in {trunk}" if is_lower else f"d[{precision}]",
            f"ours, nothing kept, tables in {precision}, trunk's products in {trunk}",
            slices,
            floor + self._kernels(slices, kept_bytes=0),
            tables=iak_variants.frozen_bytes(model),
        )

    def _cached(self, name: str, model: nn.Module, inputs: InputVariant) -> Variant:
        slices = self._slices(model, inputs)
        seconds, _ = _timed(slices.epoch)
        is_first = inputs.product == "fp32"
        self.first_pass_s[name] = seconds if is_first else self.first_pass_s["e[hx]"]
        return self._variant(
            name,
            f"ours, {inputs.reads} kept in {inputs.keeps}, encoder's product in {inputs.product}",
            slices,
            self._kernels(slices, kept_bytes=2 if inputs.keeps == "bf16" else 4),
            tables=0,
        )

    def _bank(self, model: nn.Module) -> Variant:
        """Return the variant with a kernel for each domain; the others tune one for all."""
        inputs, name = _KEPT["e[hx]"], "e[hx], a kernel a domain"
        through = iak_variants.through_base(model, self.known, self.view, inputs, self.worker)
        rows = iak_variants.with_inputs(self.rows[inputs], through)
        slices = iak_variants.slices_of(self.setup, through, rows, self.domains, self.worker)
        self.first_pass_s[name], _ = _timed(slices.epoch)
        return self._variant(
            name,
            f"ours, hx kept in bf16, a bank of {len(self.domains)}",
            slices,
            self._kernels(slices, kept_bytes=2),
            tables=0,
        )

    def _slices(self, model: nn.Module, inputs: InputVariant) -> Slices:
        """Return slices of kernels with these inputs.

        Kernels with the same inputs share one bank. Those stored alike also share one memory.
        """
        through = iak_variants.through_base(model, self.known, self.view, inputs, self.worker)
        kept = replace(inputs, product="fp32")
        if inputs == kept:
            rows = iak_variants.tuning_rows(through, self.known, inputs, self.worker)
            self.rows[kept] = rows
        else:
            rows = iak_variants.with_inputs(self.rows[kept], through)
        slices = iak_variants.slices_of(
            self.setup,
            through,
            rows,
            self.domains,
            self.worker,
            twin=self.twins.get(inputs.inputs),
            pooled=True,
        )
        self.twins.setdefault(inputs.inputs, slices)
        return slices

    def _kernels(self, slices: Slices, *, kept_bytes: int) -> Floor:
        """Return the lower bound of one worker's step, in which Adam moves every present kernel."""
        rows = self.sizes.rows
        present = max(1.0, len(slices.bank.names) * rows * self.worker.world / slices.rows)
        return roofline.kernels(
            slices.bank.shape,
            rows=rows,
            present=present,
            inputs_have_gradients=False,
            kept_bytes=kept_bytes,
        )

    def _variant(
        self, name: str, title: str, slices: Slices, floor: Floor, *, tables: int
    ) -> Variant:
        def whole() -> int:
            slices.epoch()
            return slices.rows

        return Variant(
            name=name,
            title=title,
            slice=whole,
            some=lambda: slices.some_steps(_COUNTED_STEPS),
            memory=lambda: {"tables": tables, **slices.held_bytes()},
            floor=_per_row(floor, self.sizes.rows),
        )
