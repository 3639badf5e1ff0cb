"""Tune one level of kernels together: compression, then matching, each domain at its own pace.

An epoch of a domain with n rows takes about n / batch steps; which step uses a row is a function of
the row alone (iak/noise.py). A step gathers the rows of every domain that still has steps, each
domain's loss being the mean over its own rows. After an epoch each domain is validated; it keeps
its best state (the untouched one is a candidate) and is finished when `patience` epochs did not
better it. A finished domain costs nothing further.

Shapes: K slots of the level, P present in a step, S steps of an epoch, T tasks, L levels; the
letters of kernel.py.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.iak import bank as banks
from pipeline.iak import noise
from pipeline.iak.bank import Bank
from pipeline.iak.grouped import slot_sums
from pipeline.iak.kernel import DECODER, ENCODER, PRIOR, PROBE, Weights
from pipeline.iak.loss import bottleneck_loss
from pipeline.iak.noise import Phase
from pipeline.model.heads import Heads
from pipeline.model.loss import TaskShape, task_losses
from pipeline.process import Worker
from pipeline.training.activations import TuningRows, most, total
from pipeline.training.optim import BankAdam

_TRAINED: Mapping[Phase, tuple[str, ...]] = {
    "compression": (*ENCODER, *PRIOR, *PROBE),
    "matching": (*ENCODER, *PRIOR, *DECODER),
}
_VALID_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How a level is tuned; fields as in schemas.job.StageSpec, with the price and the seed."""

    lr: float
    compression_epochs: int
    max_epochs: int
    patience: int
    shrink: float
    min_batch: int
    max_batch: int
    steps_per_epoch: int
    beta: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """Mean and deviation of the encoder's inputs over the tuning rows; frozen, in every bundle."""

    mean_A: Tensor
    scale_A: Tensor
    reads_x: bool

    def __call__(self, h_BH: Tensor, x_BX: Tensor) -> Tensor:
        """Standardised encoder inputs a_BA."""
        a_BA = torch.cat([h_BH, x_BX], dim=1) if self.reads_x else h_BH
        return (a_BA - self.mean_A) / self.scale_A


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What stays the same over all levels of a run."""

    heads: Heads
    tasks: Sequence[TaskShape]
    standard: Standard
    train: TuningRows
    valid: TuningRows
    worker: Worker


@dataclass(slots=True)
class Progress:
    """Where a level stands; everything that a resumed run needs besides the adapted weights."""

    phase: Phase = "compression"
    epoch: int = 0
    best_loss_K: Tensor = field(default_factory=lambda: torch.zeros(0))
    start_loss_K: Tensor = field(default_factory=lambda: torch.zeros(0))
    best_epoch_K: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    is_active_K: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A level's kernels at their best, and how they got there (one number a slot)."""

    bank: Bank
    start_loss: list[float]
    best_loss: list[float]
    best_epoch: list[int]
    epochs: int
    stopped_at_cap: list[str]
    """Domains still improving when the epochs ran out."""


class LevelTuner:
    """Tunes the slots of one bank."""

    def __init__(self, bank: Bank, *, level: int, stage: Stage, setting: Setting) -> None:
        """Start from the bank's weights, which become the untouched candidate.

        Args:
            bank: kernels to tune, changed in place.
            level: which column of `slots_nL` names a row's slot.
            stage: how.
            setting: data, towers and worker.
        """
        self.bank, self.level, self.stage, self.setting = bank, level, stage, setting
        self.slots_n = setting.train.slots_nL[:, level]
        rows_K = torch.bincount(self.slots_n[self.slots_n >= 0], minlength=len(bank.names))
        self.rows_K = total(rows_K, setting.worker)
        self.steps_K = steps_per_epoch(self.rows_K, stage)
        self.start = {name: w.clone() for name, w in bank.weights.items()}
        self.best = {name: w.clone() for name, w in bank.weights.items()}
        self.progress = Progress(phase="compression" if stage.compression_epochs else "matching")
        self.adam = self._rest()

    def run(
        self,
        *,
        report: Callable[[dict[str, Any]], None],
        save: Callable[["LevelTuner"], None] = lambda _: None,
    ) -> Tuned:
        """Both phases to their end.

        Args:
            report: given what each epoch came to.
            save: called after each epoch, when the tuner's state can be kept.
        """
        while self.progress.phase == "compression":
            rate = self._epoch("compression", self.progress.epoch)
            self.progress.epoch += 1
            report({"phase": "compression", "epoch": self.progress.epoch, "train_loss": rate})
            if self.progress.epoch == self.stage.compression_epochs:
                self.progress = Progress(phase="matching")
                self.adam = self._rest()
            save(self)
        if not len(self.progress.best_loss_K):
            self._judge_untouched()
        while self.progress.epoch < self.stage.max_epochs and self.progress.is_active_K.any():
            loss = self._epoch("matching", self.progress.epoch)
            self.progress.epoch += 1
            self._keep_the_best()
            report(self._summary(loss))
            save(self)
        return self._tuned()

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, as tensors."""
        progress = self.progress
        state = {f"weights.{n}": t for n, t in self.bank.weights.items()}
        state |= {f"start.{n}": t for n, t in self.start.items()}
        state |= {f"best.{n}": t for n, t in self.best.items()}
        state |= {f"adam.{n}": t for n, t in self.adam.state().items()}
        place = torch.tensor([progress.phase == "matching", progress.epoch])
        return state | {
            "place": place,
            "best_loss": progress.best_loss_K,
            "start_loss": progress.start_loss_K,
            "best_epoch": progress.best_epoch_K,
            "is_active": progress.is_active_K,
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        is_matching, epoch = state["place"].tolist()
        self.progress = Progress(
            phase="matching" if is_matching else "compression",
            epoch=int(epoch),
            best_loss_K=state["best_loss"],
            start_loss_K=state["start_loss"],
            best_epoch_K=state["best_epoch"],
            is_active_K=state["is_active"],
        )
        for held, prefix in (
            (self.bank.weights, "weights"),
            (self.start, "start"),
            (self.best, "best"),
        ):
            for name, tensor in held.items():
                tensor.copy_(state[f"{prefix}.{name}"])
        self.adam = self._rest()
        self.adam.load(
            {k.removeprefix("adam."): v for k, v in state.items() if k.startswith("adam.")}
        )

    def _rest(self) -> BankAdam:
        names = _TRAINED[self.progress.phase]
        return BankAdam(self.bank.weights, names, lr=self.stage.lr)

    def _epoch(self, phase: Phase, epoch: int) -> float:
        """One pass of every active domain; the mean training loss over domains and steps."""
        active = self.progress.is_active_K if phase == "matching" else self.rows_K > 0
        streams = [
            noise.stream(seed=self.stage.seed, domain=name, epoch=epoch, phase=phase)
            for name in self.bank.names
        ]
        schedule = make_schedule(
            self.setting.train,
            self.slots_n,
            streams_K=torch.tensor(streams, dtype=torch.int64),
            steps_K=torch.where(active, self.steps_K, 0),
            worker=self.setting.worker,
        )
        losses = [self._step(phase, step) for step in schedule.steps()]
        mean_loss = total(torch.tensor(sum(losses)), self.setting.worker)
        return float(mean_loss) / max(int(schedule.steps_K.sum()), 1)

    def _step(self, phase: Phase, step: "Step") -> float:
        """One move of the present domains, and this worker's share of their summed loss."""
        names, device = _TRAINED[phase], self.setting.worker.device
        slots_P = step.slots_P.to(device)
        weights = self.bank.take(slots_P, names)
        loss = self._loss(phase, step, weights)
        gradients = torch.autograd.grad(loss, [weights[n] for n in names])
        summed = _summed(dict(zip(names, gradients, strict=True)), self.setting.worker)
        if self.stage.shrink and phase == "matching":
            for name in names:
                moved = weights[name].detach() - self.start[name][slots_P]
                summed[name].add_(moved, alpha=2 * self.stage.shrink)
        self.adam.step(self.bank.weights, slots_P, summed)
        return float(loss.detach())

    def _loss(self, phase: Phase, step: "Step", weights: Weights) -> Tensor:
        """This worker's share of the present domains' summed loss."""
        setting, rows = self.setting, self.setting.train
        device, places_B = setting.worker.device, step.places_B
        h_BH, x_BX = rows.activations.of(places_B)
        noise_BC = noise.gaussian(rows.identity_n[places_B], step.streams_B, self.bank.shape.code)
        output = banks.run(
            weights,
            setting.heads,
            h_BH,
            setting.standard(h_BH, x_BX),
            noise_BC.to(device),
            step.bounds,
        )
        return bottleneck_loss(
            output,
            phase=phase,
            frozen_BT=setting.heads(h_BH) if phase == "compression" else None,
            labels_BT=rows.labels_nT[places_B].to(device),
            mask_BT=rows.mask_nT[places_B].to(device),
            tasks=setting.tasks,
            labelled_PT=step.labelled_PT.to(device),
            rows_P=step.rows_P.to(device),
            bounds=step.bounds,
            beta=self.stage.beta,
        )

    def _judge_untouched(self) -> None:
        """Validate the weights from before compression: they are what `best` still holds."""
        untouched = Bank(shape=self.bank.shape, names=self.bank.names, weights=self.start)
        loss_K, is_known_K = valid_losses(untouched, self.level, self.setting)
        self.progress.start_loss_K = loss_K
        self.progress.best_loss_K = loss_K.clone()
        self.progress.best_epoch_K = torch.zeros(len(self.bank.names), dtype=torch.int64)
        self.progress.is_active_K = is_known_K & (self.rows_K > 0)

    def _keep_the_best(self) -> None:
        """Keep what got better; finish what has not for `patience` epochs."""
        progress = self.progress
        loss_K, _ = valid_losses(self.bank, self.level, self.setting)
        better_K = progress.is_active_K & (loss_K < progress.best_loss_K)
        for name, weights in self.bank.weights.items():
            self.best[name][better_K] = weights[better_K]
        progress.best_loss_K = torch.where(better_K, loss_K, progress.best_loss_K)
        progress.best_epoch_K = torch.where(better_K, progress.epoch, progress.best_epoch_K)
        waited_K = progress.epoch - progress.best_epoch_K
        progress.is_active_K = progress.is_active_K & (waited_K < self.stage.patience)

    def _summary(self, train_loss: float) -> dict[str, Any]:
        progress = self.progress
        gain = (progress.start_loss_K - progress.best_loss_K).to(torch.float64)
        return {
            "phase": "matching",
            "epoch": progress.epoch,
            "train_loss": train_loss,
            "mean_valid_gain": float(gain.mean()),
            "active": int(progress.is_active_K.sum()),
            "kernels": len(self.bank.names),
        }

    def _tuned(self) -> Tuned:
        progress = self.progress
        at_cap = progress.is_active_K & (progress.best_epoch_K == self.stage.max_epochs)
        return Tuned(
            bank=Bank(shape=self.bank.shape, names=self.bank.names, weights=self.best),
            start_loss=progress.start_loss_K.tolist(),
            best_loss=progress.best_loss_K.tolist(),
            best_epoch=progress.best_epoch_K.tolist(),
            epochs=progress.epoch,
            stopped_at_cap=[
                n for n, cap in zip(self.bank.names, at_cap.tolist(), strict=True) if cap
            ],
        )


def steps_per_epoch(rows_K: Tensor, stage: Stage) -> Tensor:
    """Steps of each domain's epoch: rows over a batch of clip(2^round(log2(rows / steps)))."""
    steps = []
    for rows in rows_K.tolist():
        wanted = 2 ** round(math.log2(max(rows / stage.steps_per_epoch, 1)))
        batch = min(max(wanted, stage.min_batch), stage.max_batch)
        steps.append(max(round(rows / batch), 1) if rows else 0)
    return torch.tensor(steps, dtype=torch.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The rows of one step on this worker, sorted by slot, and their counts over all workers."""

    slots_P: Tensor
    places_B: Tensor
    streams_B: Tensor
    bounds: list[int]
    rows_P: Tensor
    labelled_PT: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """An epoch's rows in the order of their steps."""

    steps_K: Tensor
    order_n: Tensor
    """Places of this worker's rows, by step, then slot."""
    streams_n: Tensor
    own_SK: Tensor
    """Rows of this worker."""
    rows_SK: Tensor
    """Rows of all workers."""
    labelled_SKT: Tensor
    """Labelled rows of all workers."""

    def steps(self) -> Iterator[Step]:
        """The steps, the same number on every worker."""
        done = 0
        for step in range(self.rows_SK.shape[0]):
            slots_P = torch.nonzero(self.steps_K > step).squeeze(1)
            ends = self.own_SK[step][slots_P].cumsum(0).tolist()
            places_B = self.order_n[done : done + ends[-1]]
            done += ends[-1]
            yield Step(
                slots_P=slots_P,
                places_B=places_B,
                streams_B=self.streams_n[places_B],
                bounds=ends,
                rows_P=self.rows_SK[step][slots_P],
                labelled_PT=self.labelled_SKT[step][slots_P],
            )


def make_schedule(
    rows: TuningRows, slots_n: Tensor, *, streams_K: Tensor, steps_K: Tensor, worker: Worker
) -> Schedule:
    """Give each of this worker's rows its step, and count every step's rows over all workers.

    Args:
        rows: this worker's rows.
        slots_n: each row's slot, -1 for none.
        streams_K: key of each slot's draws in this epoch.
        steps_K: steps of each slot; 0 leaves it out.
        worker: this process.
    """
    slots, count = len(steps_K), int(steps_K.max()) if len(steps_K) else 0
    used = torch.nonzero(slots_n >= 0).squeeze(1)
    used = used[steps_K[slots_n[used]] > 0]
    slot_B = slots_n[used]
    streams_n = torch.zeros(len(slots_n), dtype=torch.int64)
    streams_n[used] = streams_K[slot_B]
    step_B = noise.steps_of(rows.identity_n[used], streams_n[used], steps_K[slot_B])
    cell_B = step_B * slots + slot_B
    order = torch.argsort(cell_B, stable=True)
    own = torch.bincount(cell_B, minlength=count * slots).view(count, slots)
    labelled = torch.stack(
        [
            torch.bincount(cell_B[mask[used]], minlength=count * slots).view(count, slots)
            for mask in rows.mask_nT.unbind(1)
        ],
        dim=2,
    )
    return Schedule(
        steps_K=steps_K,
        order_n=used[order],
        streams_n=streams_n,
        own_SK=own,
        rows_SK=total(own, worker),
        labelled_SKT=total(labelled, worker),
    )


@torch.no_grad()
def valid_losses(bank: Bank, level: int, setting: Setting) -> tuple[Tensor, Tensor]:
    """Each slot's validation loss over all workers' rows, and whether it has a labelled row there.

    A loss is the weighted sum over tasks of mean nats a labelled row.
    """
    slots = len(bank.names)
    sums_KT = torch.zeros(slots, len(setting.tasks), dtype=torch.float64)
    counts_KT = torch.zeros(slots, len(setting.tasks), dtype=torch.float64)
    rows = setting.valid
    device = setting.worker.device
    for places_B, bounds in by_slot(rows.slots_nL[:, level], slots, setting.worker):
        _, logits_BT = candidate_logits(bank.weights, setting, places_B, bounds, rows)
        mask_BT = rows.mask_nT[places_B].to(device)
        labels_BT = rows.labels_nT[places_B].to(device)
        losses_BT = task_losses(logits_BT, labels_BT, mask_BT, setting.tasks)
        sums_KT += slot_sums(losses_BT.double(), bounds).cpu()
        counts_KT += slot_sums(mask_BT.double(), bounds).cpu()
    sums_KT, counts_KT = total(sums_KT, setting.worker), total(counts_KT, setting.worker)
    weights_T = torch.tensor([t.weight for t in setting.tasks], dtype=torch.float64)
    loss_K = (weights_T * sums_KT / counts_KT.clamp(min=1)).sum(dim=1)
    return loss_K, counts_KT.sum(dim=1) > 0


def by_slot(slots_n: Tensor, slots: int, worker: Worker) -> Iterator[tuple[Tensor, list[int]]]:
    """Rows that have a slot, sorted by it, in batches; every worker gets as many batches."""
    order = torch.argsort(slots_n, stable=True)
    order = order[slots_n[order] >= 0]
    for batch in range(most(-(-len(order) // _VALID_ROWS), worker)):
        places_B = order[batch * _VALID_ROWS : (batch + 1) * _VALID_ROWS]
        counts = torch.bincount(slots_n[places_B], minlength=slots)
        yield places_B, counts.cumsum(0).tolist()


def standard_of(rows: TuningRows, *, reads_x: bool, worker: Worker) -> Standard:
    """Mean and deviation of the encoder's inputs over the rows of all workers."""
    parts: list[Tensor] = []
    for batch in range(most(-(-len(rows) // _VALID_ROWS), worker)):
        places = torch.arange(len(rows))[batch * _VALID_ROWS : (batch + 1) * _VALID_ROWS]
        h_BH, x_BX = rows.activations.of(places)
        a_BA = (torch.cat([h_BH, x_BX], dim=1) if reads_x else h_BH).double()
        parts.append(torch.stack([a_BA.sum(0), a_BA.square().sum(0)]))
    sums = total(torch.stack(parts).sum(0), worker)
    count = total(torch.tensor(float(len(rows)), dtype=torch.float64), worker).clamp(min=1)
    mean = sums[0] / count
    deviation = (sums[1] / count - mean.square()).clamp(min=0).sqrt()
    scale = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
    return Standard(mean_A=mean.float(), scale_A=scale.float(), reads_x=reads_x)


def _summed(gradients: Mapping[str, Tensor], worker: Worker) -> dict[str, Tensor]:
    """Gradients summed over workers, in one message."""
    if worker.world == 1:
        return dict(gradients)
    flat = total(torch.cat([g.reshape(-1) for g in gradients.values()]), worker)
    pieces = flat.split([g.numel() for g in gradients.values()])
    return {n: p.view_as(g) for (n, g), p in zip(gradients.items(), pieces, strict=True)}


@torch.no_grad()
def candidate_logits(
    weights: Weights, setting: Setting, places_B: Tensor, bounds: Sequence[int], rows: TuningRows
) -> tuple[Tensor, Tensor]:
    """The base's and the kernels' logits of the same rows, both on rows sorted by slot."""
    h_BH, x_BX = rows.activations.of(places_B)
    output = banks.run(weights, setting.heads, h_BH, setting.standard(h_BH, x_BX), None, bounds)
    return setting.heads(h_BH), output.logits_BT
