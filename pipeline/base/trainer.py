"""Train the base on one worker: read, step, validate, and write the best weights.

Shapes: B rows of this worker, T tasks.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from iak.pipeline.base import build, checkpoint, optimizer_state, published_base
from iak.pipeline.base.best_weights import BestWeights, read_best
from iak.pipeline.base.pretrain_work import BEST, CHECKPOINTS, PretrainWork
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.base.train_state import TrainState, restored_state
from iak.pipeline.base.validation import Validation, validate
from iak.pipeline.collectives import total
from iak.pipeline.data import features
from iak.pipeline.data.batch import Batch, to_batch
from iak.pipeline.data.kept_steps import KeptSteps
from iak.pipeline.data.prefetch import prefetch
from iak.pipeline.data.reader import Cursor, Reader
from iak.pipeline.divergence import refuse_diverged
from iak.pipeline.events import BaseValidated, NotLoaded, Report, TrainingResumed, TrainingStep
from iak.pipeline.files import replace_folder
from iak.pipeline.model.loss import TaskShape, share_of_mean, task_losses
from iak.pipeline.process import Worker, seed_device
from iak.pipeline.sharding import base_weights
from iak.pipeline.sharding.placement_rule import describe, lay_out
from iak.pipeline.sharding.shard import (
    RowWiseAdagrad,
    ShardedModel,
    dense_state,
    digest_model,
    set_tables_lr,
    shard,
)
from iak.schemas.job import BaseOptimSpec
from iak.schemas.log import Catalog
from iak.schemas.training import TrainingResult, TunedTowers

_log = logging.getLogger(__name__)
_PREFETCHED = 4
"""Batches that are read ahead of the step."""
_REPORT_EVERY_S = 2.0


class Pretraining:
    """One worker's training, from the first batch to the best weights on disk."""

    def __init__(self, work: PretrainWork, *, worker: Worker, report: Report) -> None:
        """Build and shard the model; continue from the newest checkpoint where there is one.

        Args:
            work: log, settings and folders.
            worker: this process.
            report: called with progress events.
        """
        self.work, self.worker, self.report = work, worker, report
        self.catalog: Catalog = work.view.catalog
        self.tasks: tuple[TaskShape, ...] = published_base.task_shapes(
            self.catalog, work.task_weights
        )
        shapes = published_base.table_shapes(self.catalog, work.encoding, work.model)
        self.plan = lay_out(shapes, work.placement, worker=worker)
        self.model = self._sharded_model()
        self.dense = {
            n: p for n, p in dense_state(self.model).items() if isinstance(p, nn.Parameter)
        }
        self.adam = torch.optim.AdamW(
            self.dense.values(), lr=work.optim.dense_lr, weight_decay=work.optim.dense_decay
        )
        self.local_rows = local_rows(work, worker)
        self.train = reader_of(work, "pretrain", worker)
        self.valid = KeptSteps(reader_of(work, validation_split(work), worker))
        self.steps_per_epoch = self.train.steps(self.local_rows)
        self.steps = self.steps_per_epoch * work.epochs
        self.state = TrainState(steps_per_epoch=self.steps_per_epoch)
        self._load()

    def _sharded_model(self) -> ShardedModel:
        """Build the model with its first values, and shard it."""
        work, optim = self.work, self.work.optim
        model = build.build_model(
            self.catalog,
            work.encoding,
            work.model,
            seed=work.seed,
            with_twins=optim.table_decay > 0 and self.worker.device.type == "cpu",
        )
        if work.rates:
            model.heads.start_at(work.rates)
        adagrad = RowWiseAdagrad(
            lr=optim.table_lr,
            eps=optim.table_eps,
            weight_decay=optim.table_decay,
            penalty=optim.table_penalty,
        )
        return shard(model, self.plan, worker=self.worker, tables_optimizer=adagrad)

    def run(self) -> TrainingResult:
        """Train to the end; a collective call.

        Returns:
            What the run measured, the same on every worker.
        """
        state = self.state
        if self.work.from_base is not None and state.validations == 0:
            self._validate_parent()
        while state.step < self.steps and not state.is_over:
            self._finish_epoch()
        return TrainingResult(
            steps=state.step,
            steps_planned=self.steps,
            rows=state.rows,
            labelled=dict(zip((t.name for t in self.tasks), state.labelled, strict=False)),
            best_step=state.best_step,
            best_valid_loss=state.best_loss,
            best_tasks=state.best_tasks,
            parent_valid_loss=state.parent_loss,
            is_parent_best=state.parent_loss is not None and state.best_step == 0,
            best_child_loss=state.child_loss if math.isfinite(state.child_loss) else None,
            stopped_early=state.is_over,
            improving_at_the_end=state.best_step == state.step,
            loaded=tuple(state.loaded),
            plan=tuple(describe(self.plan)),
        )

    def _finish_epoch(self) -> None:
        """Train the rest of the epoch; between steps report, validate and write checkpoints."""
        state = self.state
        reported, started_rows = time.monotonic(), state.rows
        for loss in self.train_steps():
            now = time.monotonic()
            if now - reported > _REPORT_EVERY_S:
                self._report_step(loss, (state.rows - started_rows) / (now - reported))
                reported, started_rows = now, state.rows
            if state.step % self.validate_every() == 0 or state.step == self.steps:
                self._validate()
            if state.is_over:
                return
            if state.step % self.work.checkpoint_every_steps == 0:
                self.save()

    def train_steps(self) -> Iterator[float]:
        """Train the rest of the current epoch, and yield the loss after each step.

        Between two steps the caller may validate or write a checkpoint: `state` is that of all
        steps so far. Every worker takes the same number of steps.

        Raises:
            Diverged: a loss is infinite or not a number.
        """
        state = self.state
        for batch, cursor in prefetch(self.rest_of_epoch(), depth=_PREFETCHED):
            loss = self.step(batch)
            state.step += 1
            self._refuse_diverged(loss, "training")
            is_last = state.step % self.steps_per_epoch == 0
            state.cursor = self.train.start_of(self.epoch) if is_last else cursor
            yield loss

    @property
    def epoch(self) -> int:
        """Return the epoch of the next step, from 0."""
        return self.state.step // self.steps_per_epoch

    def rest_of_epoch(self) -> Iterator[tuple[Batch, Cursor]]:
        """Yield the epoch's batches that are left, and where reading continues after each.

        Every worker has the same number. The last ones are empty where this worker's rows are used
        up.
        """
        epoch, start = self.epoch, self.state.cursor
        left = (epoch + 1) * self.steps_per_epoch - self.state.step
        if start.epoch == epoch:
            shuffled = self.train.shuffled(
                seed=self.work.seed,
                epoch=epoch,
                batch_rows=self.local_rows,
                block_rows=self.work.shuffle_rows,
                start=start,
            )
            for table, cursor in shuffled:
                left -= 1
                yield to_batch(table, self.catalog), cursor
        following = self.train.start_of(epoch + 1)
        for _ in range(left):
            yield to_batch(features.no_rows(self.catalog), self.catalog), following

    def step(self, batch: Batch) -> float:
        """Update tables and dense parameters once; a collective call.

        Args:
            batch: this worker's rows; it may be empty.

        Returns:
            The loss over all workers' rows.
        """
        work, state = self.work, self.state
        # Dropout is a function of step and rank, so that a resumed run draws the same masks.
        seed = (work.seed << 32) + state.step * self.worker.world + self.worker.rank
        seed_device(seed, self.worker.device)
        table_lr, dense_lr = learning_rates(work.optim, state.step, self.steps)
        set_tables_lr(self.model, table_lr)
        self.adam.param_groups[0]["lr"] = dense_lr
        batch = batch.to(self.worker.device)
        self.model.train()
        self.adam.zero_grad(set_to_none=True)
        with self._autocast():
            logits_BT = self.model(batch.ids, batch.numeric_BN)
        losses_BT = task_losses(logits_BT.float(), batch.labels_BT, batch.mask_BT, self.tasks)
        # One call for all sums: a call costs more than the few numbers that it sends.
        rows = losses_BT.new_tensor([batch.rows])
        sums = torch.cat([batch.mask_BT.sum(0), losses_BT.detach().sum(0), rows])
        sums = total(sums, self.worker)
        labelled_T, summed_T = sums[:-1].chunk(2)
        loss = share_of_mean(
            losses_BT, counts_T=labelled_T, tasks=self.tasks, world=self.worker.world
        )
        loss.backward()  # also updates the tables: fbgemm's optimiser runs inside it
        self.adam.step()
        state.rows += int(sums[-1])
        before = state.labelled or [0] * len(self.tasks)
        state.labelled = [a + int(b) for a, b in zip(before, labelled_T, strict=True)]
        return float((summed_T / labelled_T.clamp(min=1)).sum())

    def _autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass: bfloat16 products where the settings say so."""
        if not self.work.bf16:
            return nullcontext()
        return torch.autocast(self.worker.device.type, dtype=torch.bfloat16)

    def validate_every(self) -> int:
        """Return the number of steps between two validations."""
        return max(math.ceil(self.steps_per_epoch / self.work.validations_per_epoch), 1)

    def _validate(self) -> None:
        """Write the weights where they are the best so far; end the run when patience is spent."""
        state, result = self.state, self.measure()
        state.validations += 1
        state.child_loss = min(state.child_loss, result.loss)
        is_best = result.loss < state.best_loss
        self._report_validation("validated", result, best=is_best)
        if is_best:
            state.best_loss, state.best_step, state.waited = result.loss, state.step, 0
            state.best_tasks = result.tasks
            self.write_best()
            return
        state.waited += 1
        state.is_over = state.waited >= self.work.patience

    def _validate_parent(self) -> None:
        """Measure the base that is continued, and take it as the best so far."""
        state, result = self.state, self.measure()
        state.validations += 1
        state.best_loss, state.best_step = result.loss, 0
        state.best_tasks, state.parent_loss = result.tasks, result.loss
        self._report_validation("parent", result, best=True)

    def measure(self) -> Validation:
        """Measure the model on validation rows; a collective call.

        Raises:
            Diverged: the loss on them is infinite or not a number.
        """
        result = validate(
            self.model, self.valid, self.tasks, batch_rows=self.local_rows, worker=self.worker
        )
        self._refuse_diverged(result.loss, "validation")
        return result

    def _refuse_diverged(self, loss: float, which: str) -> None:
        """Raise Diverged on every worker alike, since the loss is over all workers' rows."""
        step, optim = self.state.step, self.work.optim
        refuse_diverged(
            loss,
            where=f"the {which} loss at step {step} of {self.steps}",
            rates={"optim.table_lr": optim.table_lr, "optim.dense_lr": optim.dense_lr},
        )

    def _report_validation(
        self, of: Literal["validated", "parent"], result: Validation, *, best: bool
    ) -> None:
        """Report a validation, of a step or of the parent."""
        self.report(
            BaseValidated(
                of=of,
                step=self.state.step,
                valid_loss=result.loss,
                best=best,
                tasks=[quality.model_dump() for quality in result.tasks],
            )
        )

    def write_best(self, tuned: TunedTowers | None = None) -> None:
        """Write the weights in their published form, and replace the best ones so far.

        A collective call. The folder is complete whenever it exists.

        Args:
            tuned: result of training the towers further; None where that was not done.
        """
        built, best = self.work.scratch / f"{BEST}.part", self.work.scratch / BEST
        checkpoint.make_folder(built, self.worker)
        files = base_weights.write_base_weights(self.model, built, self.worker)
        adam = checkpoint.optimizer_tensors(self.adam, self.dense)
        optimizer = optimizer_state.write_state(self.model, adam, built, self.worker)
        digest = digest_model(self.model, self.worker)
        if self.worker.rank == 0:
            written = BestWeights(
                files=files, optimizer=optimizer, digest=dict(digest.by_name), tuned=tuned
            )
            written.write(built)
        checkpoint.gather(built, self.worker)
        if self.worker.rank == 0:
            self.worker.files.call_on_driver(replace_folder, built, best)
        checkpoint.barrier(self.worker)

    def load_best(self) -> BestWeights:
        """Load the best weights and their optimisers' state; a collective call.

        Returns:
            The document that was written beside them.
        """
        best = self.work.scratch / BEST
        self.worker.files.fetch(best)
        written = read_best(best)
        base_weights.read_base_weights(self.model, best, written.files, self.worker)
        adam = checkpoint.optimizer_tensors(self.adam, self.dense)
        optimizer_state.read_state(self.model, adam, best, written.optimizer, self.worker)
        return written

    def _report_step(self, loss: float, rows_per_s: float) -> None:
        """Report a step."""
        self.report(
            TrainingStep(step=self.state.step, of=self.steps, loss=loss, rows_per_s=rows_per_s)
        )

    def save(self) -> None:
        """Write a checkpoint; a collective call."""
        folder = self.work.scratch / CHECKPOINTS
        adam = checkpoint.optimizer_tensors(self.adam, self.dense)
        checkpoint.save(folder, self.model, adam, self.state, worker=self.worker)

    def _load(self) -> None:
        """Load the newest sound checkpoint of this run, else the base that it continues, if any."""
        paths = checkpoint.list_complete(self.work.scratch / CHECKPOINTS, worker=self.worker)
        if paths:
            adam = checkpoint.optimizer_tensors(self.adam, self.dense)
            written, lines = checkpoint.resume(paths, self.model, adam, worker=self.worker)
            self.state, moved = restored_state(written, self.steps_per_epoch, self.worker)
            self.report(TrainingResumed(self.state.step))
            self._note_loaded([*lines, *moved])
        elif self.work.from_base is not None:
            self.worker.files.fetch(self.work.from_base)
            self._load_base(published_base.open_base(self.work.from_base))

    def _load_base(self, opened: PublishedBase) -> None:
        """Load a published base's weights, and its optimisers' state where it has one."""
        growth = build.growth_from(opened, self.catalog, self.work.encoding)
        lines = base_weights.read_base_weights(
            self.model,
            opened.folder,
            published_base.files_of(opened),
            self.worker,
            allow=self.work.allow,
            growth=growth,
        )
        if opened.has_optimizer:
            adam = checkpoint.optimizer_tensors(self.adam, self.dense)
            lines += optimizer_state.read_state(
                self.model,
                adam,
                opened.folder,
                published_base.optimizer_files_of(opened),
                self.worker,
                sizes_before={t.name: (t.rows, t.width) for t in opened.manifest.tables},
                growth=growth,
            )
        else:
            lines.append(
                "weights only: the base has no optimiser's state, so Adagrad and Adam start at zero"
            )
        self._note_loaded(lines)

    def _note_loaded(self, lines: Sequence[str]) -> None:
        """Log, report and record the parts that were not loaded unchanged."""
        self.state.loaded += lines
        for line in lines if self.worker.rank == 0 else ():
            _log.warning("%s", line)
            self.report(NotLoaded(line))


def local_rows(work: PretrainWork, worker: Worker) -> int:
    """Return the rows of this worker's batch."""
    return max(work.batch_rows // worker.world, 1)


def validation_split(work: PretrainWork) -> str:
    """Return the split by which the best weights are chosen."""
    return "pretrain_valid" if "pretrain_valid" in work.view.selections else "valid"


def reader_of(work: PretrainWork, split: str, worker: Worker) -> Reader:
    """Return the reader of this worker's rows of a split."""
    return Reader(
        selection=work.view.selections[split],
        catalog=work.view.catalog,
        encoding=work.encoding,
        rank=worker.rank,
        world=worker.world,
        as_of=work.view.as_of,
    )


def learning_rates(optim: BaseOptimSpec, step: int, steps: int) -> tuple[float, float]:
    """Return the learning rates of tables and dense parameters at a step.

    They grow linearly during warm-up, and fall linearly during the last `decay_share` of the steps.

    Args:
        optim: full rates, warm-up and decay.
        step: from 0.
        steps: steps of the whole run. Warm-up takes at most a tenth of them.
    """
    warmup = min(optim.warmup_steps, steps // 10)
    share = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if optim.decay_share:
        share *= min(1.0, (steps - step) / (optim.decay_share * steps))
    return optim.table_lr * share, optim.dense_lr * share
