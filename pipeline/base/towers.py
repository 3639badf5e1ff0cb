"""Train each task's tower to its own best, on the frozen tables and trunk of the best step.

Two tasks may be best at different steps. A tower of one step does not fit the trunk of another, so
that towers cannot be taken from different steps. Instead tables and trunk are frozen at the step
with the best summed loss. From there each tower is trained further, by its own loss and to its own
early stop. A conversion is multiplied by the click of the best step's tower, so that no tower
changes the loss of another.

Shapes: B rows of a batch, T tasks.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch import distributed as dist

from iak.pipeline.base.trainer import Pretraining
from iak.pipeline.collectives import total
from iak.pipeline.data.batch import Batch, to_batch
from iak.pipeline.data.prefetch import prefetch
from iak.pipeline.data.reader import Cursor
from iak.pipeline.divergence import refuse_diverged
from iak.pipeline.events import TowersValidated
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.loss import TaskShape, share_of_mean, task_losses
from iak.pipeline.sharding.shard import unwrap
from iak.schemas.training import TowerResult, TunedTowers

MAX_EPOCHS = 2
"""Epochs over the training rows at most. They are cheap: no backward pass below the towers."""
_PREFETCHED = 4
"""Batches that are read ahead of the step."""


@dataclass(slots=True)
class Best:
    """The best tower of every task so far."""

    heads: Heads
    losses_T: Tensor
    """Validation loss of each task with that tower, in nats per row."""
    start_T: Tensor
    """Validation loss of each task with the tower of the best step."""
    waited_T: Tensor
    """Validations since each tower was best."""
    steps_T: list[int] = field(default_factory=list)
    """Step at which each tower was best; 0 is the tower of the best step."""

    def judge(self, heads: Heads, losses_T: Tensor, step: int, *, patience: int) -> bool:
        """Copy the towers that improved, and return whether any tower may still improve.

        Args:
            heads: the towers now.
            losses_T: their validation losses.
            step: number of steps that they were trained.
            patience: validations without improvement after which a tower is finished.
        """
        is_better_T = losses_T < self.losses_T
        # A tower that has waited `patience` validations is finished, even where it improves later.
        for task, is_better in enumerate(is_better_T.tolist()):
            if is_better and int(self.waited_T[task]) < patience:
                copy_tower(heads, self.heads, task)
                self.steps_T[task] = step
                self.losses_T[task] = losses_T[task]
        self.waited_T = torch.where(is_better_T & (self.waited_T < patience), 0, self.waited_T + 1)
        return bool((self.waited_T < patience).any())


def tune_towers(training: Pretraining) -> TunedTowers:
    """Train every tower further from the best weights; a collective call.

    Args:
        training: a run that is over. Its best weights are loaded, and written again with the best
            tower of each task.

    Returns:
        What changes in the run's result.
    """
    worker, tasks = training.worker, training.tasks
    written = training.load_best()
    # A worker may have died after the towers were written.
    if written.tuned is not None:
        return written.tuned
    model = unwrap(training.model)
    model.eval()
    heads = copy.deepcopy(model.heads).requires_grad_(True)
    adam = torch.optim.Adam(heads.parameters(), lr=training.work.optim.dense_lr)
    start_T = _validation_losses(training, heads)
    best = Best(
        copy.deepcopy(heads), start_T.clone(), start_T, torch.zeros(len(tasks)), [0] * len(tasks)
    )
    every = training.validate_every()
    step, goes_on = 0, True
    for epoch in range(MAX_EPOCHS):
        # The epoch that `rest_of_epoch` reads follows from these.
        training.state.step = epoch * training.steps_per_epoch
        training.state.cursor = Cursor(epoch=epoch)
        for batch, _ in prefetch(training.rest_of_epoch(), depth=_PREFETCHED) if goes_on else ():
            _step(training, heads, adam, batch.to(worker.device))
            step += 1
            if step % every == 0:
                losses_T = _validation_losses(training, heads)
                refuse_diverged(
                    float(losses_T.sum()),
                    where=f"the towers' validation loss at step {step} of their own",
                    rates={"optim.dense_lr": training.work.optim.dense_lr},
                )
                goes_on = best.judge(heads, losses_T, step, patience=training.work.patience)
                _report(training, step, losses_T)
            if not goes_on:
                break
    return _write_best_towers(training, best)


def _write_best_towers(training: Pretraining, best: Best) -> TunedTowers:
    """Put the best tower of each task into the model, measure it, and write the best weights."""
    heads = unwrap(training.model).heads
    with torch.no_grad():
        for task in range(len(training.tasks)):
            copy_tower(best.heads, heads, task)
    result = training.measure()
    towers = tuple(
        TowerResult(task=task.name, step=at, loss_before=float(before), loss=float(loss))
        for task, at, before, loss in zip(
            training.tasks, best.steps_T, best.start_T, best.losses_T, strict=True
        )
    )
    tuned = TunedTowers(towers=towers, best_valid_loss=result.loss, best_tasks=result.tasks)
    training.write_best(tuned)
    return tuned


def copy_tower(source: Heads, target: Heads, task: int) -> None:
    """Copy one task's tower from `source` to `target`."""
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter[task].copy_(source.get_parameter(name)[task])


def losses_of_towers(
    heads: Heads, fixed: Heads, h_BH: Tensor, batch: Batch, tasks: Sequence[TaskShape]
) -> Tensor:
    """Return each tower's loss on each row, (B, T).

    Args:
        heads: the towers that are trained.
        fixed: the towers of the best step. A conversion's loss takes the click from these.
        h_BH: the base's representation.
        batch: labels and masks of the same rows.
        tasks: one per tower.
    """
    logits_BT = heads(h_BH)
    # `detach` and not no_grad, under which towers compute by other products and round differently
    # (batch_invariant.py).
    fixed_BT = fixed(h_BH).detach()
    is_conversion_T = torch.tensor([t.given is not None for t in tasks], device=h_BH.device)
    # Two losses: that of a click needs its trained tower, that of a conversion the fixed click.
    mixed_BT = torch.where(is_conversion_T, logits_BT, fixed_BT)
    own_BT = task_losses(logits_BT, batch.labels_BT, batch.mask_BT, tasks)
    given_BT = task_losses(mixed_BT, batch.labels_BT, batch.mask_BT, tasks)
    return torch.where(is_conversion_T, given_BT, own_BT)


def _step(training: Pretraining, heads: Heads, adam: torch.optim.Optimizer, batch: Batch) -> None:
    """Update the towers alone, once; a collective call."""
    worker, model = training.worker, unwrap(training.model)
    with torch.no_grad():
        h_BH = model.represent(batch.ids, batch.numeric_BN).h_BH
    losses_BT = losses_of_towers(heads, model.heads, h_BH, batch, training.tasks)
    counts_T = total(batch.mask_BT.sum(0), worker)
    loss = share_of_mean(losses_BT, counts_T=counts_T, tasks=training.tasks, world=worker.world)
    adam.zero_grad(set_to_none=True)
    loss.backward()
    if worker.world > 1:  # these heads are a copy, which DDP does not know
        for parameter in heads.parameters():
            dist.all_reduce(parameter.grad)
            assert parameter.grad is not None
            parameter.grad /= worker.world
    adam.step()


@torch.no_grad()
def _validation_losses(training: Pretraining, heads: Heads) -> Tensor:
    """Return each tower's mean loss on all workers' validation rows; a collective call."""
    model = unwrap(training.model)
    sums = torch.zeros(2, len(training.tasks), dtype=torch.float64)
    for table in training.valid.in_step(training.local_rows):
        batch = to_batch(table, training.catalog).to(training.worker.device)
        h_BH = model.represent(batch.ids, batch.numeric_BN).h_BH
        losses_BT = losses_of_towers(heads, model.heads, h_BH, batch, training.tasks)
        sums += torch.stack([losses_BT.sum(0), batch.mask_BT.sum(0)]).double().cpu()
    means_T: Tensor = torch.div(*total(sums, training.worker).clamp(min=1e-30))
    return means_T


def _report(training: Pretraining, step: int, losses_T: Tensor) -> None:
    """Report a validation of the towers."""
    losses = {task.name: float(loss) for task, loss in zip(training.tasks, losses_T, strict=True)}
    training.report(TowersValidated(step, losses))
