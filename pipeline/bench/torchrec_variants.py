"""Define the variants that train or read TorchRec's sharded tables, as the field does today.

One sharded model stands for all of them in turn: (a) plain DistributedModelParallel, every weight
trained; (b) the base's own pre-training step, continued; (c) a frozen trunk between trained kernels
and tables at learning rate 0, whose backward pass still runs.

Shapes: B rows of this worker, C code units, T tasks; the letters of pipeline.iak.kernel.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from iak.pipeline.base import published_base
from iak.pipeline.base.train_state import TrainState
from iak.pipeline.base.trainer import Pretraining, learning_rates
from iak.pipeline.base.validation import mean_loss
from iak.pipeline.bench.setup import BenchSetup, pretrain_work, renamed
from iak.pipeline.data.batch import Batch, to_batch
from iak.pipeline.data.prefetch import prefetch
from iak.pipeline.data.reader import Cursor
from iak.pipeline.events import BenchAdvanced, Report
from iak.pipeline.iak import kernel
from iak.pipeline.iak.kernel import PROBE, KernelShape
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.loss import task_losses
from iak.pipeline.process import Worker
from iak.pipeline.sharding import base_weights
from iak.pipeline.sharding.shard import local_shards, set_tables_lr, table_modules, unwrap
from iak.schemas.job import KernelSpec

_PATIENCE = 2
"""Validations without improvement after which a run ends."""
_PREFETCHED = 4


@dataclass(slots=True)
class Trajectory:
    """Course of a run up to its best validation step."""

    steps: int = 0
    trained_s: float = 0.0
    """Seconds of reading and stepping, without validations and writing."""
    best_loss: float = math.inf
    best_step: int = 0
    best_s: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)
    """(step, validation loss), from before the first step on."""

    def judged(self, loss: float) -> bool:
        """Record a validation loss; return whether patience is spent."""
        self.losses.append((self.steps, loss))
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.best_s = loss, self.steps, self.trained_s
        return sum(step > self.best_step for step, _ in self.losses) >= _PATIENCE

    @property
    def is_cut_short(self) -> bool:
        """Return whether the run was still improving when its passes ended."""
        return self.best_step == self.steps

    @property
    def gain(self) -> float:
        """Return the nats per row by which the validation loss fell."""
        return self.losses[0][1] - self.best_loss


class Continued(Pretraining):
    """Continued training on the tuning window, (b): the clock stops while it validates."""

    def __init__(self, setup: BenchSetup, *, worker: Worker, report: Report) -> None:
        """Open the base sharded and trained, at the start of the tuning window."""
        spec = setup.spec
        view = renamed(setup.view("tune", "valid"), pretrain="tune", valid="valid")
        work = pretrain_work(
            setup,
            view,
            setup.base.parent / "continued",
            from_base=setup.base,
            epochs=spec.continued_epochs,
            validations=spec.continued_validations,
        )
        super().__init__(work, worker=worker, report=report)
        self.setup, self.trajectory = setup, Trajectory()

    def batches(self, count: int) -> list[Batch]:
        """Return this worker's first `count` whole batches, of one size on every worker."""
        tables = self.train.shuffled(
            seed=0, epoch=0, batch_rows=self.local_rows, block_rows=self.work.shuffle_rows
        )
        batches = [to_batch(table, self.catalog) for table, _ in _first(tables, count)]
        return [batch for batch in batches if batch.rows == self.local_rows]

    def to_the_base(self) -> None:
        """Go back to the published weights, with fresh optimisers."""
        opened = published_base.open_base(self.setup.base)
        files = published_base.files_of(opened)
        base_weights.read_base_weights(self.model, opened.folder, files, self.worker)
        with torch.no_grad():
            for state in tables_state(self.model):
                state.zero_()
        self.adam.state.clear()
        self.state = TrainState(steps_per_epoch=self.steps_per_epoch)
        self.trajectory = Trajectory()

    def continue_training(self) -> Trajectory:
        """Run (b) to its end, with the reading, steps and schedule of `iak pretrain`."""
        self.trajectory.judged(self._loss())
        dist.barrier()
        self.started = time.perf_counter()
        self.run()
        return self.trajectory

    def _validate_parent(self) -> None:
        """Do nothing: the trajectory has measured the base already, off the clock."""

    def _validate(self) -> None:
        dist.barrier()
        trajectory, state = self.trajectory, self.state
        trajectory.trained_s += time.perf_counter() - self.started
        trajectory.steps = state.step
        loss = self._loss()
        state.is_over = trajectory.judged(loss)
        state.best_loss, state.best_step = trajectory.best_loss, trajectory.best_step
        self.report(BenchAdvanced("continued", {"step": state.step, "valid_loss": loss}))
        self.started = time.perf_counter()

    def fine_tune(self) -> Trajectory:
        """Run (a) to its end: a plain loop over the same rows, same order, same rates."""
        full, trajectory = FullFineTune(self), self.trajectory
        trajectory.judged(self._loss())
        for epoch in range(self.work.epochs):
            self.state.cursor = Cursor(epoch=epoch)
            if self._passed(full):
                break
        return trajectory

    def _passed(self, full: "FullFineTune") -> bool:
        """Take one pass of (a), with validations; return whether its patience is spent."""
        trajectory, every = self.trajectory, self.validate_every()
        dist.barrier()
        started = time.perf_counter()
        for batch, _ in prefetch(self.rest_of_epoch(), depth=_PREFETCHED):
            full.set_rates(*learning_rates(self.work.optim, trajectory.steps, self.steps))
            full.step(batch)
            self.state.step = trajectory.steps = trajectory.steps + 1
            if trajectory.steps % every == 0 or trajectory.steps == self.steps:
                dist.barrier()
                trajectory.trained_s += time.perf_counter() - started
                loss = self._loss()
                numbers = {"step": trajectory.steps, "valid_loss": loss}
                self.report(BenchAdvanced("fine-tuned", numbers))
                if trajectory.judged(loss):
                    return True
                started = time.perf_counter()
        return False

    def _loss(self) -> float:
        return mean_loss(self.model, self.valid, self.tasks, self.local_rows, self.worker)


class FullFineTune:
    """(a): a plain loop over a DistributedModelParallel, every weight trained."""

    def __init__(self, trainer: Continued) -> None:
        """Take the sharded model of `trainer`, with an optimiser of its own."""
        self.model, self.tasks = trainer.model, trainer.tasks
        self.adam = torch.optim.AdamW(trainer.dense.values())
        self.set_rates(trainer.work.optim.table_lr, trainer.work.optim.dense_lr)

    def set_rates(self, tables: float, dense: float) -> None:
        """Set both rates from the next step on."""
        set_tables_lr(self.model, tables)
        self.adam.param_groups[0]["lr"] = dense

    def step(self, batch: Batch) -> Tensor:
        """Update all weights once, on the mean loss of this worker's rows."""
        self.model.train()
        self.adam.zero_grad(set_to_none=True)
        logits_BT = self.model(batch.ids, batch.numeric_BN)
        losses_BT = task_losses(logits_BT, batch.labels_BT, batch.mask_BT, self.tasks)
        loss = (losses_BT.sum(0) / batch.mask_BT.sum(0).clamp(min=1)).sum()
        loss.backward()
        self.adam.step()
        return loss.detach()


class TorchRecKernel:
    """(c): one kernel on a frozen trunk, the tables at learning rate 0 under autograd.

    One kernel for all rows, without standardisation: what costs least in this approach.
    """

    def __init__(self, trainer: Continued, spec: KernelSpec, *, seed: int) -> None:
        """Put a fresh kernel on the sharded model of `trainer`."""
        self.model, self.tasks, self.worker = trainer.model, trainer.tasks, trainer.worker
        self.inner, self.beta, self.code = unwrap(trainer.model), spec.beta, spec.code
        self.frozen, self.table_lr = list(trainer.dense.values()), trainer.work.optim.table_lr
        self.shape = kernel_shape(self.inner.heads, spec, x_units=self.inner.attach_points["x"])
        self.weights = kernel.fresh(self.shape, seed=seed)
        self.tuned = [w.requires_grad_() for n, w in self.weights.items() if n not in PROBE]
        self.adam = torch.optim.Adam(self.tuned, lr=1e-3)

    def step(self, batch: Batch) -> Tensor:
        """Update the kernel once. Gradients reach the tables, which a rate of 0 does not change."""
        with self._trunk_is_frozen():
            h_BH, x_BX = self.inner.represent(batch.ids, batch.numeric_BN)
            a_BA = torch.cat([h_BH, x_BX], dim=1)
            noise_BC = torch.randn(batch.rows, self.code)
            output = kernel.run(self.weights, self.inner.heads, h_BH, a_BA, noise_BC)
            losses_BT = task_losses(output.logits_BT, batch.labels_BT, batch.mask_BT, self.tasks)
            loss = (losses_BT.sum(0) / batch.mask_BT.sum(0).clamp(min=1)).sum()
            self.adam.zero_grad(set_to_none=True)
            (loss + self.beta * output.rate_B.mean()).backward()
        self._average_gradients()
        self.adam.step()
        return loss.detach()

    @contextmanager
    def _trunk_is_frozen(self) -> Iterator[None]:
        set_tables_lr(self.model, 0.0)
        for parameter in self.frozen:
            parameter.requires_grad = False
        try:
            yield
        finally:
            set_tables_lr(self.model, self.table_lr)
            for parameter in self.frozen:
                parameter.requires_grad = True

    def _average_gradients(self) -> None:
        """Average the kernel's gradients over workers in one message, as DDP does."""
        gradients = [w.grad for w in self.tuned if w.grad is not None]
        flat = nn.utils.parameters_to_vector(gradients)
        dist.all_reduce(flat)
        nn.utils.vector_to_parameters(flat / self.worker.world, gradients)


def kernel_shape(heads: Heads, spec: KernelSpec, *, x_units: int) -> KernelShape:
    """Return the shape of the kernel of `spec` on a base with these heads."""
    inputs = heads.tasks * heads.width + (x_units if spec.reads == "hx" else 0)
    return KernelShape.on(heads, spec, inputs=inputs)


def tables_bytes(model: nn.Module) -> int:
    """Return the bytes of this worker's shards."""
    return sum(s.tensor_RW.numel() * s.tensor_RW.element_size() for s in local_shards(model))


def tables_state(model: Any) -> list[Tensor]:  # noqa: ANN401 - DMP, as table_modules wants it
    """Return the state of the tables' fused optimiser."""
    return [
        state
        for module in table_modules(model)
        for states in module.split_optimizer_states()
        for state in states
    ]


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of an optimiser's tensors."""
    states = [t for state in optimizer.state.values() for t in state.values()]
    return sum(t.numel() * t.element_size() for t in states if isinstance(t, Tensor))


def _first(items: Iterator[Any], count: int) -> Sequence[Any]:
    return [item for item, _ in zip(items, range(count), strict=False)]
