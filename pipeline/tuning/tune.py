"""Tune a cohort of kernels together: compression, then matching, each domain at its own pace.

A step gathers the rows of a few domains, each domain's loss being the mean over its own rows. After
an epoch each domain is validated; it keeps its best state (the untouched one is a candidate), and
is finished when `patience` epochs did not better it. A finished domain costs nothing further.

Shapes: K slots of the cohort, P present in a step, T tasks, N units of a kernel's row; the letters
of kernel.py.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from iak.pipeline.activations.rows import TuningRows
from iak.pipeline.collectives import total
from iak.pipeline.divergence import broken_names, first_broken, refuse_diverged
from iak.pipeline.iak import bank as banks
from iak.pipeline.iak import noise
from iak.pipeline.iak.bank import Bank
from iak.pipeline.iak.grouped import Segments, slot_sums
from iak.pipeline.iak.kernel import DECODER, ENCODER, PRIOR, PROBE, Weights
from iak.pipeline.iak.loss import bottleneck_loss
from iak.pipeline.iak.noise import Phase
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.loss import TaskShape, task_losses
from iak.pipeline.process import Worker
from iak.pipeline.tuning.optim import BankAdam
from iak.pipeline.tuning.schedule import Step, by_slot, make_schedule, steps_per_epoch

_TRAINED: Mapping[Phase, tuple[str, ...]] = {
    "compression": (*ENCODER, *PRIOR, *PROBE),
    "matching": (*DECODER, *ENCODER, *PRIOR),
}
_VALID_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How kernels are tuned; fields as in schemas.job.StageSpec, with the price and the seed."""

    lr: float
    compression_epochs: int
    max_epochs: int
    live_epochs: int
    patience: int
    decay_share: float
    shrink: float
    min_batch: int
    max_batch: int
    steps_per_epoch: int
    max_steps_per_epoch: int
    step_rows: int
    beta: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What kernels are tuned with; all but the rows stays the same over a run."""

    heads: Heads
    tasks: Sequence[TaskShape]
    train: TuningRows
    valid: TuningRows
    worker: Worker


class Validated(NamedTuple):
    """How each slot of a bank validates."""

    loss_K: Tensor
    """Weighted sum over tasks of mean nats a labelled row."""
    is_known_K: Tensor
    """Whether it has a labelled row."""


@dataclass(slots=True)
class Progress:
    """Where a cohort stands; everything that a resumed run needs besides the adapted weights."""

    phase: Phase = "compression"
    epoch: int = 0
    best_loss_K: Tensor = field(default_factory=lambda: torch.zeros(0))
    start_loss_K: Tensor = field(default_factory=lambda: torch.zeros(0))
    best_epoch_K: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    is_active_K: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))


@dataclass(slots=True, kw_only=True)
class Tuned:
    """Kernels at their best, and how they got there: one number a slot, of those tuned so far."""

    bank: Bank
    start_loss: list[float]
    best_loss: list[float]
    best_epoch: list[int]
    epochs: int
    """Of the kernel that took most."""
    stopped_at_cap: list[str]
    """Domains whose last epoch was their best: more of them may serve these better."""

    @classmethod
    def nothing(cls, start: Bank) -> "Tuned":
        """None of these kernels, whose memory is not yet written."""
        return cls(
            bank=start.like(),
            start_loss=[],
            best_loss=[],
            best_epoch=[],
            epochs=0,
            stopped_at_cap=[],
        )

    @property
    def kernels(self) -> int:
        """How many are tuned."""
        return len(self.best_epoch)

    def take(self, following: "Tuned") -> None:
        """Kernels that were tuned after these."""
        done = self.kernels
        self.bank.flat_KN[done : done + following.kernels] = following.bank.flat_KN
        self.start_loss += following.start_loss
        self.best_loss += following.best_loss
        self.best_epoch += following.best_epoch
        self.epochs = max(self.epochs, following.epochs)
        self.stopped_at_cap += following.stopped_at_cap

    def how(self) -> dict[str, Any]:
        """All but the weights, as JSON can hold it."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "bank"}


class CohortTuner:
    """Tunes the kernels of one bank."""

    def __init__(self, bank: Bank, *, level: int, stage: Stage, setting: Setting) -> None:
        """Start from the bank's weights, which stay as they are: they are the untouched candidate.

        Args:
            bank: kernels to start from; where all start alike, one may stand for all of them.
            level: which column of `slots_nL` names a row's slot.
            stage: how.
            setting: the rows of these slots, towers and worker.
        """
        self.start, self.bank = bank, bank.clone()
        self.level, self.stage, self.setting = level, stage, setting
        self.slots_n = setting.train.slots_nL[:, level]
        rows_K = torch.bincount(self.slots_n[self.slots_n >= 0], minlength=len(bank.names))
        self.rows_K = total(rows_K, setting.worker)
        self.steps_K = steps_per_epoch(
            self.rows_K,
            wanted_steps=stage.steps_per_epoch,
            min_batch=stage.min_batch,
            max_batch=stage.max_batch,
        )
        self._bettered = bank.like()  # memory that is touched as kernels get better
        self.progress = Progress(phase="compression" if stage.compression_epochs else "matching")
        self.adam = self._rest()
        self.gradients_PN = self.moved_PN = torch.zeros(0, 0)

    def run(
        self,
        *,
        report: Callable[[dict[str, Any]], None],
        save: Callable[["CohortTuner"], None] = lambda _: None,
        judged: Validated | None = None,
    ) -> Tuned:
        """Both phases to their end.

        Args:
            report: given what each epoch came to.
            save: called after each epoch, when the tuner's state can be kept.
            judged: how the untouched bank validates, where that is known already.
        """
        while self.progress.phase == "compression":
            loss = self._epoch("compression", self.progress.epoch)
            self.progress.epoch += 1
            report({"phase": "compression", "epoch": self.progress.epoch, "train_loss": loss})
            if self.progress.epoch == self.stage.compression_epochs:
                self.progress = Progress(phase="matching")
                self.adam = self._rest()
            save(self)
        if not len(self.progress.best_loss_K):
            self._judge_untouched(judged)
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
        return {
            "bank.weights": self.bank.flat_KN,
            "bank.best": self.best.flat_KN,
            **{f"adam.{name}": tensor for name, tensor in self.adam.state().items()},
            "place": torch.tensor([progress.phase == "matching", progress.epoch]),
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
        self.bank.flat_KN.copy_(state["bank.weights"])
        self._bettered.flat_KN.copy_(state["bank.best"])
        self.adam = self._rest()
        self.adam.load(
            {k.removeprefix("adam."): v for k, v in state.items() if k.startswith("adam.")}
        )

    @property
    def best(self) -> Bank:
        """Every kernel at its best; one that never got better, as it started."""
        epochs_K = self.progress.best_epoch_K
        for slot in range(len(self.bank.names)):
            if not len(epochs_K) or epochs_K[slot] == 0:
                self._bettered.flat_KN[slot] = self.start.flat_KN[slot]
        return self._bettered

    def _rest(self) -> BankAdam:
        return BankAdam(self.bank.flat_KN[:, self._tuned_units()], lr=self.stage.lr)

    def _tuned_units(self) -> slice:
        return banks.range_of(self.bank.shape, _TRAINED[self.progress.phase])

    def _epoch(self, phase: Phase, epoch: int) -> float:
        """One pass of every active domain; the mean training loss over domains and steps."""
        rows = self.setting.train
        active = self.progress.is_active_K if phase == "matching" else self.rows_K > 0
        streams = [
            noise.stream(seed=self.stage.seed, domain=name, epoch=epoch, phase=phase)
            for name in self.bank.names
        ]
        schedule = make_schedule(
            rows.identity_n,
            rows.mask_nT,
            self.slots_n,
            streams_K=torch.tensor(streams, dtype=torch.int64),
            steps_K=torch.where(active, self.steps_K, 0),
            most_steps=self.stage.max_steps_per_epoch,
            step_rows=self.stage.step_rows,
            worker=self.setting.worker,
        )
        losses = [self._step(phase, step) for step in schedule.steps()]
        summed = float(total(torch.tensor(sum(losses)), self.setting.worker))
        if not math.isfinite(summed):  # on every worker alike
            step = first_broken(losses, self.setting.worker) + 1
            told = f"the training loss of {phase}, at step {step} of epoch {epoch + 1},"
            self._refuse_diverged(summed, told)
        return summed / max(int(schedule.steps_K.sum()), 1)

    def _refuse_diverged(self, loss: float, where: str) -> None:
        name = "domain.lr" if self.level else "pooled.lr"
        refuse_diverged(loss, where=where, rates={name: self.stage.lr})

    def _step(self, phase: Phase, step: Step) -> float:
        """One move of the present domains, and this worker's share of their summed loss."""
        weights = banks.views(present(self.bank, step.slots), self.bank.shape)
        tuned = {name: weights[name].requires_grad_() for name in _TRAINED[phase]}
        loss = self._loss(phase, step, weights)
        gradients = torch.autograd.grad(loss, list(tuned.values()))
        gradients_PN = self._side_by_side(dict(zip(tuned, gradients, strict=True)))
        if self.setting.worker.world > 1:
            dist.all_reduce(gradients_PN)
        if self.stage.shrink and phase == "matching":
            units = self._tuned_units()
            here_PN, start_PN = (present(b, step.slots)[:, units] for b in (self.bank, self.start))
            moved_PN = torch.sub(here_PN, start_PN, out=self.moved_PN[: len(step.slots)])
            gradients_PN.add_(moved_PN, alpha=2 * self.stage.shrink)
        self.adam.step(step.slots, gradients_PN, self._falling(phase, step.slots))
        return float(loss.detach())

    def _falling(self, phase: Phase, slots: list[int]) -> list[float]:
        """What is left of each slot's rate, by the steps that it has done of all it may do."""
        stage = self.stage
        if not stage.decay_share or phase == "compression":
            return [1.0] * len(slots)
        steps_P = self.steps_K[slots].clamp(max=stage.max_steps_per_epoch)
        left_P = 1 - self.adam.steps_K[slots].cpu() / (steps_P * stage.max_epochs)
        return (left_P / stage.decay_share).clamp(0, 1).tolist()

    def _side_by_side(self, gradients: Weights) -> Tensor:
        """Gradients as the bank's rows have their weights, in memory that every step uses again."""
        units, places = self._tuned_units(), banks.spans(self.bank.shape)
        slots = len(next(iter(gradients.values())))
        if len(self.gradients_PN) < slots or self.gradients_PN.shape[1] != units.stop - units.start:
            size = (slots, units.stop - units.start)
            self.gradients_PN, self.moved_PN = (self.bank.flat_KN.new_zeros(size) for _ in range(2))
        for name, gradient in gradients.items():
            start, stop = places[name].start - units.start, places[name].stop - units.start
            self.gradients_PN[:slots, start:stop] = gradient.flatten(1)
        return self.gradients_PN[:slots]

    def _loss(self, phase: Phase, step: Step, weights: Weights) -> Tensor:
        """This worker's share of the present domains' summed loss."""
        setting, rows, places_B = self.setting, self.setting.train, step.places_B
        device, segments = setting.worker.device, step.segments(setting.worker.device)
        h_BH, a_BA = rows.activations.of(places_B)
        noise_BC = noise.gaussian(rows.identity_n[places_B], step.streams_B, self.bank.shape.code)
        code = banks.encode(weights, a_BA, noise_BC.to(device), segments)
        if phase == "compression":
            logits_BT = setting.heads(h_BH) + banks.probe(weights, code.z_BC, segments)
        else:
            logits_BT = banks.decode(weights, setting.heads, h_BH, code.z_BC, segments)
        return bottleneck_loss(
            logits_BT,
            code.rate_B,
            labels_BT=rows.labels_nT[places_B].to(device),
            mask_BT=rows.mask_nT[places_B].to(device),
            tasks=setting.tasks,
            labelled_PT=step.labelled_PT.to(device),
            rows_P=step.rows_P.to(device),
            rows=segments,
            beta=self.stage.beta,
        )

    def _judge_untouched(self, judged: Validated | None) -> None:
        """Validate the weights from before compression."""
        everywhere_K = torch.ones(len(self.bank.names), dtype=torch.bool)
        if judged is None:
            judged = valid_losses(self.start, self.level, self.setting, everywhere_K)
        loss_K, is_known_K = judged
        self.progress.start_loss_K = loss_K
        self.progress.best_loss_K = loss_K.clone()
        self.progress.best_epoch_K = torch.zeros(len(self.bank.names), dtype=torch.int64)
        self.progress.is_active_K = is_known_K & (self.rows_K > 0)

    def _keep_the_best(self) -> None:
        """Keep what got better, and finish what has not for long enough."""
        progress = self.progress
        active_K = progress.is_active_K
        loss_K, _ = valid_losses(self.bank, self.level, self.setting, active_K)
        names = broken_names(loss_K, active_K, self.bank.names)
        where = f"the validation loss of {names} after epoch {progress.epoch}"
        self._refuse_diverged(float(loss_K[active_K].sum()), where)
        better_K = active_K & (loss_K < progress.best_loss_K)
        for slot in torch.nonzero(better_K).flatten().tolist():
            self._bettered.flat_KN[slot] = self.bank.flat_KN[slot]
        progress.best_loss_K = torch.where(better_K, loss_K, progress.best_loss_K)
        progress.best_epoch_K = torch.where(better_K, progress.epoch, progress.best_epoch_K)
        waited_K = progress.epoch - progress.best_epoch_K
        progress.is_active_K = active_K & (waited_K < self.stage.patience)

    def _summary(self, train_loss: float) -> dict[str, Any]:
        progress = self.progress
        gain = (progress.start_loss_K - progress.best_loss_K).to(torch.float64)
        return {
            "phase": "matching",
            "epoch": progress.epoch,
            "train_loss": train_loss,
            "mean_valid_gain": float(gain.mean()),
            "bettered": int((progress.best_epoch_K == progress.epoch).sum()),
            "active": int(progress.is_active_K.sum()),
            "kernels": len(self.bank.names),
        }

    def _tuned(self) -> Tuned:
        progress = self.progress
        at_cap = progress.is_active_K & (progress.best_epoch_K == self.stage.max_epochs)
        return Tuned(
            bank=self.best,
            start_loss=progress.start_loss_K.tolist(),
            best_loss=progress.best_loss_K.tolist(),
            best_epoch=progress.best_epoch_K.tolist(),
            epochs=progress.epoch,
            stopped_at_cap=[
                n for n, cap in zip(self.bank.names, at_cap.tolist(), strict=True) if cap
            ],
        )


def present(bank: Bank, slots: list[int]) -> Tensor:
    """These slots' rows of the bank; where they are neighbours, the rows themselves."""
    first, last = slots[0], slots[-1]
    if slots == list(range(first, last + 1)):
        return bank.flat_KN[first : last + 1].detach()
    return bank.flat_KN[slots]


@torch.no_grad()
def valid_losses(bank: Bank, level: int, setting: Setting, wanted_K: Tensor) -> Validated:
    """Each wanted slot's validation over all workers' rows."""
    slots = len(bank.names)
    sums_KT = torch.zeros(slots, len(setting.tasks), dtype=torch.float64)
    counts_KT = torch.zeros(slots, len(setting.tasks), dtype=torch.float64)
    rows, device = setting.valid, setting.worker.device
    for batch in judged_batches(bank, level, setting, rows, wanted_K):
        places_B, present, segments = batch.places_B, batch.present, batch.segments
        mask_BT = rows.mask_nT[places_B].to(device)
        labels_BT = rows.labels_nT[places_B].to(device)
        losses_BT = task_losses(batch.logits_BT, labels_BT, mask_BT, setting.tasks)
        sums_KT[present] += slot_sums(losses_BT.double(), segments).cpu()
        counts_KT[present] += slot_sums(mask_BT.double(), segments).cpu()
    sums_KT, counts_KT = total(torch.stack([sums_KT, counts_KT]), setting.worker)
    weights_T = torch.tensor([t.weight for t in setting.tasks], dtype=torch.float64)
    loss_K = (weights_T * sums_KT / counts_KT.clamp(min=1)).sum(dim=1)
    return Validated(loss_K, counts_KT.sum(dim=1) > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedBatch:
    """Rows sorted by slot under their kernels."""

    places_B: Tensor
    present: slice
    """Slots from the first to the last that has rows here."""
    segments: Segments
    h_BH: Tensor
    logits_BT: Tensor


@torch.no_grad()
def judged_batches(
    bank: Bank, level: int, setting: Setting, rows: TuningRows, wanted_K: Tensor
) -> Iterator[JudgedBatch]:
    """The wanted slots' rows under their kernels, without noise."""
    for places_B, present, lengths_P in by_slot(
        rows.slots_nL[:, level], wanted_K, batch_rows=_VALID_ROWS, worker=setting.worker
    ):
        h_BH, a_BA = rows.activations.of(places_B)
        segments = Segments.of(lengths_P, setting.worker.device)
        weights = banks.views(bank.flat_KN[present].contiguous(), bank.shape)
        code = banks.encode(weights, a_BA, None, segments)
        logits_BT = banks.decode(weights, setting.heads, h_BH, code.z_BC, segments)
        yield JudgedBatch(
            places_B=places_B, present=present, segments=segments, h_BH=h_BH, logits_BT=logits_BT
        )
