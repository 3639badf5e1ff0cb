"""One worker's part in pre-training the base: read, step, validate, keep the best, publish.

Shapes: B rows of this worker, T tasks.
"""

import gc
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from iak.pipeline.base import checkpoint, optimizer_state, precision, published_base, towers
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.base.validation import Validation, validate
from iak.pipeline.collectives import total
from iak.pipeline.data import features
from iak.pipeline.data.batch import Batch, to_batch
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.prefetch import prefetch
from iak.pipeline.data.reader import Cursor, Reader
from iak.pipeline.data.view import LogView
from iak.pipeline.divergence import refuse_diverged
from iak.pipeline.files import put_file
from iak.pipeline.model import frozen
from iak.pipeline.model.loss import TaskShape, share_of_mean, task_losses
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.process import Worker
from iak.pipeline.sharding import base_weights
from iak.pipeline.sharding.placement_rule import describe, lay_out
from iak.pipeline.sharding.shard import (
    RowWiseAdagrad,
    dense_state,
    local_shards,
    set_tables_lr,
    shard,
)
from iak.schemas.job import BaseOptimSpec, ModelSpec, Precision
from iak.schemas.log import Catalog
from iak.schemas.plan import PlanDocument

Report = Callable[[Mapping[str, Any]], None]
_log = logging.getLogger(__name__)
_PREFETCHED = 4
WEIGHTS = "weights.json"
_REPORT_EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainWork:
    """What every worker of a pre-training run is handed."""

    view: LogView
    encoding: Encoding
    rates: tuple[float, ...] | None
    """Where the tasks of a fresh base start."""
    model: ModelSpec
    optim: BaseOptimSpec
    run_dir: Path
    from_base: Path | None
    allow: tuple[str, ...] = ()
    """Differences from that base that are meant (audit.py)."""
    seed: int
    batch_rows: int
    epochs: int
    patience: int
    validations_per_epoch: int
    shuffle_rows: int
    bf16: bool
    sharding: Mapping[str, str]
    row_wise_from_rows: int
    checkpoint_every_steps: int
    task_weights: Mapping[str, float] = field(default_factory=dict)
    """By task, where they differ from the catalogue's."""
    early_stop: Literal["sum", "per_task"] = "sum"
    plan: PlanDocument | None = None
    """Where tables lie; by the rule when absent."""


@dataclass(slots=True)
class TrainState:
    """How far training has come, and how good it was."""

    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    best_loss: float = math.inf
    best_step: int = -1
    waited: int = 0
    validations: int = 0
    rows: int = 0
    labelled: list[int] = field(default_factory=list)
    """Rows trained on that have the label, by task."""
    child_loss: float = math.inf
    """Best validation loss after a step."""
    parent_loss: float | None = None
    """Validation loss of the base that is continued, before the first step."""
    best_tasks: list[dict[str, Any]] = field(default_factory=list)
    """Each task on validation rows, at the best step."""
    is_over: bool = False
    loaded: list[str] = field(default_factory=list)
    """What was not loaded as it was, from a base or under another plan."""


def pretrain(work: PretrainWork, *, worker: Worker, report: Report) -> dict[str, Any]:
    """Train to the end, then measure what lower precision costs the best weights.

    What training held is let go first: the check needs no more memory than fp32 tables.
    """
    training = Pretraining(work, worker=worker, report=report)
    result, plan = training.run(), training.plan
    if result["is_parent_best"]:
        return result
    if work.early_stop == "per_task":
        result |= towers.tune_towers(training)
    del training
    gc.collect()
    catalog, best = work.view.catalog, work.run_dir / ".best"
    weights = json.loads((best / WEIGHTS).read_text())

    def base_in(kind: Precision) -> Recommender:
        model = published_base.build_model(catalog, work.encoding, work.model, seed=0)
        return base_weights.read_frozen_base(
            model,
            plan,
            precisions=dict.fromkeys(model.table_sizes, kind),
            directory=best,
            entries=weights["files"],
            worker=worker,
        )

    measured = precision.measure(
        base_in,
        _rows_of(work, _validation(work), worker),
        tasks=published_base.task_shapes(catalog),
        titles=[task.entire_space_title or task.title for task in catalog.tasks],
        batch_rows=_local_rows(work, worker),
        worker=worker,
        report=report,
    )
    return result | {"precisions": measured}


class Pretraining:
    """The state of one worker, from its first batch to the published weights."""

    def __init__(self, work: PretrainWork, *, worker: Worker, report: Report) -> None:
        """Build, shard and place everything; continue from the last checkpoint if there is one."""
        self.work, self.worker, self.report = work, worker, report
        self.catalog: Catalog = work.view.catalog
        self.tasks: tuple[TaskShape, ...] = published_base.task_shapes(
            self.catalog, work.task_weights
        )
        shapes = published_base.table_shapes(self.catalog, work.encoding, width=work.model.width)
        self.plan = lay_out(
            shapes,
            worker=worker,
            document=work.plan,
            overrides=work.sharding,
            row_wise_from_rows=work.row_wise_from_rows,
        )
        model = published_base.build_model(
            self.catalog,
            work.encoding,
            work.model,
            seed=work.seed,
            with_twins=work.optim.table_decay > 0 and worker.device.type == "cpu",
        )
        if work.rates:
            model.heads.start_at(work.rates)
        self.model = shard(
            model,
            self.plan,
            worker=worker,
            tables_optimizer=RowWiseAdagrad(
                lr=work.optim.table_lr,
                eps=work.optim.table_eps,
                weight_decay=work.optim.table_decay,
                penalty=work.optim.table_penalty,
            ),
        )
        self.dense = {
            n: p for n, p in dense_state(self.model).items() if isinstance(p, nn.Parameter)
        }
        self.adam = torch.optim.AdamW(
            self.dense.values(), lr=work.optim.dense_lr, weight_decay=work.optim.dense_decay
        )
        self.local_rows = _local_rows(work, worker)
        self.train = _rows_of(work, "pretrain", worker)
        self.valid = _rows_of(work, _validation(work), worker)
        self.steps_per_epoch = self.train.steps(self.local_rows)
        self.steps = self.steps_per_epoch * work.epochs
        self.standing = TrainState()
        self._start()

    def run(self) -> dict[str, Any]:
        """Train to the end, and publish the best weights; what rank 0 records."""
        standing = self.standing
        if self.work.from_base is not None and standing.validations == 0:
            self._judge_parent()
        while standing.step < self.steps and not standing.is_over:
            self._epoch()
        return {
            "steps": standing.step,
            "steps_planned": self.steps,
            "rows": standing.rows,
            "labelled": dict(zip((t.name for t in self.tasks), standing.labelled, strict=False)),
            "best_step": standing.best_step,
            "best_valid_loss": standing.best_loss,
            "best_tasks": standing.best_tasks,
            "parent_valid_loss": standing.parent_loss,
            "is_parent_best": standing.parent_loss is not None and standing.best_step == 0,
            "best_child_loss": standing.child_loss,
            "stopped_early": standing.is_over,
            "improving_at_the_end": standing.best_step == standing.step,
            "loaded": standing.loaded,
            "plan": describe(self.plan),
        }

    def _epoch(self) -> None:
        """The rest of the current epoch, from the cursor on."""
        work, standing = self.work, self.standing
        reported, started_rows = time.monotonic(), standing.rows
        for batch, cursor in prefetch(self.rest_of_epoch(), depth=_PREFETCHED):
            loss = self._step(batch)
            standing.step += 1
            self._refuse_diverged(loss, "training")
            is_last = standing.step % self.steps_per_epoch == 0
            standing.cursor = self.train.start_of(self.epoch) if is_last else cursor
            now = time.monotonic()
            if now - reported > _REPORT_EVERY_S:
                self._report_step(loss, (standing.rows - started_rows) / (now - reported))
                reported, started_rows = now, standing.rows
            if standing.step % self.validate_every() == 0 or standing.step == self.steps:
                self._validate()
            if standing.is_over:
                return
            if standing.step % work.checkpoint_every_steps == 0:
                self._save()

    @property
    def epoch(self) -> int:
        """The pass that the next step belongs to."""
        return self.standing.step // self.steps_per_epoch

    def rest_of_epoch(self) -> Iterator[tuple[Batch, Cursor]]:
        """What is left of the epoch: as many batches as every other worker has.

        The last ones are empty where this worker has run out of rows.
        """
        epoch, start = self.epoch, self.standing.cursor
        left = (epoch + 1) * self.steps_per_epoch - self.standing.step
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

    def _step(self, batch: Batch) -> float:
        """One update of tables and dense parameters; the mean loss over all workers' rows."""
        work, standing = self.work, self.standing
        torch.manual_seed((work.seed << 32) + standing.step * self.worker.world + self.worker.rank)
        rates = learning_rates(work.optim, standing.step, self.steps)
        set_tables_lr(self.model, rates[0])
        self.adam.param_groups[0]["lr"] = rates[1]
        batch = batch.to(self.worker.device)
        self.model.train()
        self.adam.zero_grad(set_to_none=True)
        with self._precision():
            logits_BT = self.model(batch.ids, batch.numeric_BN)
        losses_BT = task_losses(logits_BT.float(), batch.labels_BT, batch.mask_BT, self.tasks)
        rows = losses_BT.new_tensor([batch.rows])
        counted = torch.cat([batch.mask_BT.sum(0), losses_BT.detach().sum(0), rows])
        counted = total(counted, self.worker)
        labelled_T, summed_T = counted[:-1].chunk(2)
        loss = share_of_mean(
            losses_BT, counts_T=labelled_T, tasks=self.tasks, world=self.worker.world
        )
        loss.backward()
        self.adam.step()
        standing.rows += int(counted[-1])
        before = standing.labelled or [0] * len(self.tasks)
        standing.labelled = [a + int(b) for a, b in zip(before, labelled_T, strict=True)]
        return float((summed_T / labelled_T.clamp(min=1)).sum())

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.work.bf16:
            return nullcontext()
        return torch.autocast(self.worker.device.type, dtype=torch.bfloat16)

    def validate_every(self) -> int:
        """Return the steps between two validations."""
        return max(math.ceil(self.steps_per_epoch / self.work.validations_per_epoch), 1)

    def _validate(self) -> None:
        """Keep the weights if they are the best yet; stop when patience is spent."""
        standing, found = self.standing, self.measured()
        standing.validations += 1
        standing.child_loss = min(standing.child_loss, found.loss)
        is_best = found.loss < standing.best_loss
        self._report_validation("validated", found, best=is_best)
        if is_best:
            standing.best_loss, standing.best_step, standing.waited = found.loss, standing.step, 0
            standing.best_tasks = found.as_documents()
            self.keep()
            return
        standing.waited += 1
        standing.is_over = standing.waited >= self.work.patience

    def _judge_parent(self) -> None:
        """Let the untouched parent be the first state that may be the best."""
        standing, found = self.standing, self.measured()
        standing.validations += 1
        standing.best_loss, standing.best_step = found.loss, 0
        standing.best_tasks, standing.parent_loss = found.as_documents(), found.loss
        self._report_validation("parent", found, best=True)

    def measured(self) -> Validation:
        """Look at the validation rows; a collective call.

        Raises:
            Diverged: the loss on them is infinite or no number.
        """
        found = validate(
            self.model, self.valid, self.tasks, batch_rows=self.local_rows, worker=self.worker
        )
        self._refuse_diverged(found.loss, "validation")
        return found

    def _refuse_diverged(self, loss: float, which: str) -> None:
        """Stop on every worker alike: the loss is that of all workers' rows."""
        step, optim = self.standing.step, self.work.optim
        refuse_diverged(
            loss,
            where=f"the {which} loss at step {step} of {self.steps}",
            rates={"optim.table_lr": optim.table_lr, "optim.dense_lr": optim.dense_lr},
        )

    def _report_validation(self, event: str, found: Validation, *, best: bool) -> None:
        self.report(
            {
                "event": event,
                "step": self.standing.step,
                "valid_loss": found.loss,
                "best": best,
                "tasks": found.as_documents(),
            }
        )

    def keep(self, **facts: object) -> None:
        """Write the weights in their published form, in the place of the best ones before.

        Args:
            facts: plain data to keep with them.
        """
        built, best = self.work.run_dir / ".best.part", self.work.run_dir / ".best"
        if self.worker.rank == 0:
            shutil.rmtree(built, ignore_errors=True)
            built.mkdir(parents=True)
        checkpoint.barrier(self.worker)
        files = base_weights.write_base_weights(self.model, built, self.worker)
        adam = checkpoint.optimizer_tensors(self.adam, self.dense)
        optimizer = optimizer_state.write_state(self.model, adam, built, self.worker)
        proof = frozen.digest(local_shards(self.model), dense_state(self.model), worker=self.worker)
        if self.worker.rank == 0:
            document: dict[str, object] = {
                "files": files,
                "optimizer": optimizer,
                "digest": dict(proof.by_name),
            }
            document |= facts
            put_file(built / WEIGHTS, json.dumps(document))
            published_base.move_into_place(built, best)
        checkpoint.barrier(self.worker)

    def to_the_best(self) -> dict[str, Any]:
        """Go back to the best state, optimisers included; a collective call.

        Returns:
            What was written down with it.
        """
        best = self.work.run_dir / ".best"
        document: dict[str, Any] = json.loads((best / WEIGHTS).read_text())
        base_weights.read_base_weights(self.model, best, document["files"], self.worker)
        adam = checkpoint.optimizer_tensors(self.adam, self.dense)
        optimizer_state.read_state(self.model, adam, best, document["optimizer"], self.worker)
        return document

    def _report_step(self, loss: float, rows_per_s: float) -> None:
        self.report(
            {
                "event": "step",
                "step": self.standing.step,
                "of": self.steps,
                "loss": loss,
                "rows_per_s": rows_per_s,
            }
        )

    def _save(self) -> None:
        meta = asdict(self.standing) | {"steps_per_epoch": self.steps_per_epoch}
        folder = self.work.run_dir / "checkpoints"
        adam = checkpoint.optimizer_tensors(self.adam, self.dense)
        checkpoint.save(folder, self.standing.step, self.model, adam, meta, worker=self.worker)

    def _start(self) -> None:
        """Continue this run from its newest sound checkpoint, or a published base, or fresh."""
        folder = self.work.run_dir / "checkpoints"
        places = checkpoint.found_in(folder, worker=self.worker)
        if places:
            adam = checkpoint.optimizer_tensors(self.adam, self.dense)
            metas, left = checkpoint.resume(places, self.model, adam, worker=self.worker)
            self.standing, moved = standing_of(metas, self.steps_per_epoch, self.worker)
            self.report({"event": "resumed", "step": self.standing.step})
            self._tell([*left, *moved])
        elif self.work.from_base is not None:
            self._start_from(published_base.open_base(self.work.from_base))

    def _start_from(self, opened: PublishedBase) -> None:
        """Take a published base's weights, and its optimisers' state where it brings it."""
        growth = published_base.growth_from(opened, self.catalog, self.work.encoding)
        told = base_weights.read_base_weights(
            self.model,
            opened.folder,
            published_base.files_of(opened),
            self.worker,
            allow=self.work.allow,
            growth=growth,
        )
        if optimizer_state.has_state(opened):
            adam = checkpoint.optimizer_tensors(self.adam, self.dense)
            told += optimizer_state.read_state(
                self.model,
                adam,
                opened.folder,
                [entry.model_dump() for entry in opened.manifest.optimizer],
                self.worker,
                sizes_before={t.name: (t.rows, t.width) for t in opened.manifest.tables},
                growth=growth,
            )
        else:
            told.append(
                "weights only: the base brings no optimiser's state, so Adagrad and Adam start anew"
            )
        self._tell(told)

    def _tell(self, lines: Sequence[str]) -> None:
        """Say aloud, and keep for the record, what was not loaded as it was."""
        self.standing.loaded += lines
        for line in lines if self.worker.rank == 0 else ():
            _log.warning("%s", line)
            self.report({"event": "loaded", "told": line})


def standing_of(
    metas: Sequence[Mapping[str, Any]], steps_per_epoch: int, worker: Worker
) -> tuple[TrainState, list[str]]:
    """Where this worker stands, by what the workers that wrote a checkpoint said.

    A place in the log is one worker's of so many. Other workers keep all that was learned, and
    start the epoch again that had begun: its rows are dealt out anew, and each is read whole.

    Args:
        metas: what each of them said, by rank.
        steps_per_epoch: of this run.
        worker: this process.

    Returns:
        The standing, and what must be said aloud about it.
    """
    meta = dict(metas[worker.rank if worker.rank < len(metas) else 0])
    per_epoch = meta.pop("steps_per_epoch")
    standing = TrainState(**meta | {"cursor": Cursor(**meta["cursor"])})
    if len(metas) == worker.world:
        return standing, []
    epoch, begun = divmod(standing.step, per_epoch)
    standing.step = epoch * steps_per_epoch
    standing.cursor = Cursor(epoch=epoch, selection=standing.cursor.selection)
    told = f"{len(metas)} workers wrote the checkpoint, {worker.world} go on"
    if begun:
        told += (
            f"; epoch {epoch} starts again, and with it {begun} steps' rows are trained on twice"
        )
    return standing, [told]


def _local_rows(work: PretrainWork, worker: Worker) -> int:
    """Rows of this worker's batch."""
    return max(work.batch_rows // worker.world, 1)


def _validation(work: PretrainWork) -> str:
    """The split that tells the best weights."""
    return "pretrain_valid" if "pretrain_valid" in work.view.selections else "valid"


def _rows_of(work: PretrainWork, split: str, worker: Worker) -> Reader:
    """This worker's rows of a split."""
    return Reader(
        selection=work.view.selections[split],
        catalog=work.view.catalog,
        encoding=work.encoding,
        rank=worker.rank,
        world=worker.world,
        as_of=work.view.as_of,
    )


def learning_rates(optim: BaseOptimSpec, step: int, steps: int) -> tuple[float, float]:
    """Rates of tables and dense parameters at a step of a run of `steps`."""
    warmup = min(optim.warmup_steps, steps // 10)
    share = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if optim.decay_share:
        share *= min(1.0, (steps - step) / (optim.decay_share * steps))
    return optim.table_lr * share, optim.dense_lr * share
