"""Tune a cohort of kernels together, each domain with its own steps and early stop.

Tuning has two phases. In *compression* the encoder and its prior are trained by a linear probe,
which adds to the frozen logits. In *matching* the probe is dropped, and encoder, prior and decoder
are trained.

A step gathers the rows of a few domains. Each domain's loss is the mean over its own rows. After
every epoch of matching each domain is validated and keeps its best weights. The weights from which
it started count too. A domain is finished when `patience` epochs did not improve it. After that it
costs nothing.

A kernel whose loss is infinite or not a number is set back to its start and given up. The other
kernels share nothing with it, and go on as they would without it.

An epoch is an iterator of steps (`CohortTuner.epoch`), so that a caller can drive it step by step.

Shapes: K slots of the cohort, P slots present in a step, T tasks, N units of a kernel's row, B rows
of a step on this worker; the other letters are those of kernel.py.
"""

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from iak.pipeline.collectives import total
from iak.pipeline.divergence import loss_words
from iak.pipeline.events import Numbers
from iak.pipeline.iak import bank as banks
from iak.pipeline.iak import noise
from iak.pipeline.iak.bank import Bank
from iak.pipeline.iak.kernel import DECODER, ENCODER, PRIOR, PROBE, Weights
from iak.pipeline.iak.loss import bottleneck_loss
from iak.pipeline.iak.noise import Phase
from iak.pipeline.tuning.beta import Beta
from iak.pipeline.tuning.context import Stage, TuningContext
from iak.pipeline.tuning.information import InformationPoint, information_sums, point_of
from iak.pipeline.tuning.optim import BankAdam, rate_shares
from iak.pipeline.tuning.schedule import Schedule, Step, make_schedule
from iak.pipeline.tuning.tuned_kernels import Tuned
from iak.pipeline.tuning.validation import Validated, valid_losses

_TRAINED: Mapping[Phase, tuple[str, ...]] = {
    "compression": (*ENCODER, *PRIOR, *PROBE),
    "matching": (*DECODER, *ENCODER, *PRIOR),
}


class StepLoss(NamedTuple):
    """The losses of one step of an epoch."""

    slots: list[int]
    """Slots of the kernels that moved."""
    loss_P: list[float]
    """This worker's share of the loss of each, before the move."""
    sums_PS: Tensor
    """Sums over this worker's rows, as `information_sums` returns them."""

    @property
    def loss(self) -> float:
        """Return this worker's share of their summed loss."""
        return sum(self.loss_P)

    @property
    def kernels(self) -> int:
        """Return how many kernels moved."""
        return len(self.slots)


@dataclass(slots=True)
class Progress:
    """Progress of a cohort: everything that a resumed run needs besides weights and moments.

    The tensors are empty until the untouched kernels are validated, at the start of matching.
    """

    phase: Phase = "compression"
    epoch: int = 0
    """Finished epochs of this phase."""
    best_loss_K: Tensor = field(default_factory=lambda: torch.zeros(0))
    start_loss_K: Tensor = field(default_factory=lambda: torch.zeros(0))
    best_epoch_K: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """Epoch after which a kernel validated best; 0 for one that never improved."""
    is_active_K: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    failed: dict[int, str] = field(default_factory=dict)
    """Slot of a kernel that was given up -> a sentence with the loss that was not finite."""
    path: dict[int, list[InformationPoint]] = field(default_factory=dict)
    """Slot of a kernel -> a point for each epoch, of both phases."""

    @property
    def is_validated(self) -> bool:
        """Return whether the untouched kernels have been validated."""
        return len(self.best_loss_K) > 0


class CohortTuner:
    """Tunes the kernels of one bank."""

    def __init__(self, bank: Bank, *, level: int, stage: Stage, context: TuningContext) -> None:
        """Start from the bank's weights, which stay as they are: they are the untouched candidate.

        Args:
            bank: kernels to start from. Where all start alike, its rows may share one memory.
            level: level whose slots are read, a column of `slots_nL`.
            stage: learning rate, epochs, batch bounds and early stop.
            context: the rows of these slots, the towers, the tasks and this worker.
        """
        self.start, self.bank = bank, bank.clone()
        self.level, self.stage = level, stage
        self._use_rows(context)
        # Not a copy: memory is touched only where kernels improve.
        self._improved = bank.like()
        self.progress = Progress(phase="compression" if stage.compression_epochs else "matching")
        self.adam = self.new_optimizer()
        self.beta = Beta(len(bank.names), start=stage.beta, target=stage.spec.target_rate)
        # Scratch memory of a step, grown by `_side_by_side` and used again by every step.
        self.gradients_PN = self.moved_PN = torch.zeros(0, 0)

    def _use_rows(self, context: TuningContext) -> None:
        """Read this context's rows: their slots, and the steps of every slot's epoch."""
        self.context = context
        self.slots_n = context.train.slots_nL[:, self.level]
        rows_K = torch.bincount(self.slots_n[self.slots_n >= 0], minlength=len(self.bank.names))
        self.rows_K = total(rows_K, context.worker)
        self.steps_K = self.stage.steps_of(self.rows_K)

    def on(self, context: TuningContext) -> "CohortTuner":
        """Return a tuner of the same kernels and moments, in the same memory, on other rows.

        A step of either one moves the kernels of both. A collective call.

        Args:
            context: rows of the same slots, with the towers that they go through.
        """
        other = copy.copy(self)
        other.progress = Progress(phase=self.progress.phase)
        other._use_rows(context)
        return other

    def run(
        self,
        *,
        report: Callable[[Numbers], None],
        save: Callable[["CohortTuner"], None] = lambda _: None,
        validated: Validated | None = None,
    ) -> Tuned:
        """Run both phases to their end.

        Args:
            report: called after each epoch, with its losses.
            save: called after each epoch, when the tuner's state can be written.
            validated: validation of the untouched bank; computed when absent.

        Returns:
            Every kernel at its best; one that diverged as it started, named in `failed`.
        """
        while self.progress.phase == "compression":
            loss = self._run_epoch()
            report({"phase": "compression", "epoch": self.progress.epoch, "train_loss": loss})
            if self.progress.epoch == self.stage.compression_epochs:
                known = self.progress
                self.progress = Progress(phase="matching", failed=known.failed, path=known.path)
                # Matching trains other weights: the moments of compression do not fit them.
                self.adam = self.new_optimizer()
            save(self)
        if not self.progress.is_validated:
            self._validate_untouched(validated)
        while self.progress.epoch < self.stage.max_epochs and self.progress.is_active_K.any():
            loss = self._run_epoch()
            self._keep_the_best()
            report(self._summary(loss))
            save(self)
        return self._tuned()

    def epoch(self, number: int) -> Iterator[StepLoss]:
        """Yield each step of one pass over the rows, after it moved its kernels.

        The caller may stop early. Every worker must take the same number of steps, for a step is a
        collective call.

        Args:
            number: number of the epoch in its phase, from 0. It seeds the order of rows and noise.
        """
        for step in self._schedule(number).steps():
            yield self._step(step)

    def mean_loss(self, steps: Sequence[StepLoss], number: int) -> float:
        """Return the mean training loss over kernels and their steps; a collective call.

        Kernels with a loss that is not finite are given up, and left out of the mean.

        Args:
            steps: steps of one epoch, in order.
            number: number of that epoch in its phase, from 0.
        """
        own = torch.tensor([loss for step in steps for loss in step.loss_P], dtype=torch.float64)
        # Sums over workers, so that all of them give up the same kernels.
        by_step = total(own, self.context.worker).split([step.kernels for step in steps])
        sums: dict[int, float] = {}
        for index, (step, loss_P) in enumerate(zip(steps, by_step, strict=True), start=1):
            where = f"the training loss of {self.progress.phase}, at step {index} of epoch"
            for slot, loss in zip(step.slots, loss_P.tolist(), strict=True):
                sums[slot] = sums.get(slot, 0.0) + loss
                if not math.isfinite(loss):
                    self._give_up(slot, loss, f"{where} {number + 1},")
        kept = {slot: loss for slot, loss in sums.items() if slot not in self.progress.failed}
        moves = sum(slot in kept for step in steps for slot in step.slots)
        return sum(kept.values()) / max(moves, 1)

    def state(self) -> dict[str, Tensor]:
        """Return everything a resumed run needs, as tensors."""
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
            # JSON text as bytes, since a checkpoint stores a tuner only as tensors.
            "failed": _json_tensor(progress.failed),
            "path": _json_tensor(progress.path),
            **self.beta.state(),
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
            failed=_by_slot(state, "failed"),
            path={
                slot: [InformationPoint(*point) for point in points]
                for slot, points in _by_slot(state, "path").items()
            },
        )
        self.beta.load(state)
        self.bank.flat_KN.copy_(state["bank.weights"])
        self._improved.flat_KN.copy_(state["bank.best"])
        self.adam = self.new_optimizer()  # the units it moves depend on the phase
        self.adam.load(
            {k.removeprefix("adam."): v for k, v in state.items() if k.startswith("adam.")}
        )

    @property
    def best(self) -> Bank:
        """Return every kernel at its best; one that never improved, as it started."""
        epochs_K = self.progress.best_epoch_K
        for slot in range(len(self.bank.names)):
            if not len(epochs_K) or epochs_K[slot] == 0:
                self._improved.flat_KN[slot] = self.start.flat_KN[slot]
        return self._improved

    def new_optimizer(self) -> BankAdam:
        """Return an optimiser of this phase's units, its moments zero."""
        return BankAdam(self.bank.flat_KN[:, self._tuned_units()], lr=self.stage.spec.lr)

    def _tuned_units(self) -> slice:
        return banks.range_of(self.bank.shape, _TRAINED[self.progress.phase])

    def _run_epoch(self) -> float:
        """Take every step of the next epoch, and return its mean training loss."""
        number = self.progress.epoch
        steps = list(self.epoch(number))
        loss = self.mean_loss(steps, number)
        self.progress.epoch += 1
        self._add_points(steps)
        return loss

    def _add_points(self, steps: Sequence[StepLoss]) -> None:
        """Add each kernel's point of the information plane of an epoch; a collective call."""
        if not steps:
            return
        progress = self.progress
        sums_KS = torch.zeros(len(self.bank.names), steps[0].sums_PS.shape[1], dtype=torch.float64)
        for step in steps:
            sums_KS[step.slots] += step.sums_PS
        sums_KS = total(sums_KS, self.context.worker)
        for slot in sorted({slot for step in steps for slot in step.slots} - set(progress.failed)):
            point = point_of(
                sums_KS[slot].tolist(),
                phase=progress.phase,
                epoch=progress.epoch,
                beta=float(self.beta.beta_K[slot]),
            )
            if point is not None:
                progress.path.setdefault(slot, []).append(point)

    def _schedule(self, number: int) -> Schedule:
        """Return the rows of each step of an epoch; a collective call."""
        rows, progress = self.context.train, self.progress
        is_run_K = progress.is_active_K if progress.is_validated else self.rows_K > 0
        is_run_K = is_run_K & ~self._has_failed()
        streams = [
            noise.stream(seed=self.stage.seed, domain=name, epoch=number, phase=progress.phase)
            for name in self.bank.names
        ]
        return make_schedule(
            rows.identity_n,
            rows.mask_nT,
            self.slots_n,
            streams_K=torch.tensor(streams, dtype=torch.int64),
            steps_K=torch.where(is_run_K, self.steps_K, 0),
            max_steps=self.stage.spec.max_steps_per_epoch,
            step_rows=self.stage.step_rows,
            worker=self.context.worker,
        )

    def _give_up(self, slot: int, loss: float, where: str) -> None:
        """Set a kernel back to its start for good; it is neither trained nor published.

        An earlier best epoch is dropped too: weights so close to divergence are not trusted.

        Args:
            slot: number of the kernel.
            loss: the loss over all workers, so that all of them give up the same kernels.
            where: which loss it is, and after which step or epoch.
        """
        progress = self.progress
        if slot in progress.failed:
            return  # the first sentence is nearest to the cause
        rate = "domain.lr" if self.level else "pooled.lr"
        what = loss_words(loss, where=where, rates={rate: self.stage.spec.lr})
        progress.failed[slot] = f"the kernel of {self.bank.names[slot]} diverged: {what}"
        self.bank.flat_KN[slot] = self.start.flat_KN[slot]
        if progress.is_validated:
            progress.is_active_K[slot] = False
            progress.best_epoch_K[slot] = 0
            progress.best_loss_K[slot] = progress.start_loss_K[slot]

    def _has_failed(self) -> Tensor:
        """Return whether each kernel was given up, (K,)."""
        is_failed_K = torch.zeros(len(self.bank.names), dtype=torch.bool)
        is_failed_K[list(self.progress.failed)] = True
        return is_failed_K

    def _step(self, step: Step) -> StepLoss:
        """Move the present kernels once, and return this worker's share of their losses."""
        weights = banks.views(present_rows(self.bank, step.slots), self.bank.shape)
        tuned = {name: weights[name].requires_grad_() for name in _TRAINED[self.progress.phase]}
        loss_P, sums_PS = self._losses(step, weights)
        # Adapters of rank 0, and those of a base without towers, have no elements, so that autograd
        # does not meet them.
        gradients = torch.autograd.grad(
            loss_P.sum(), list(tuned.values()), allow_unused=True, materialize_grads=True
        )
        gradients_PN = self._side_by_side(dict(zip(tuned, gradients, strict=True)))
        if self.context.worker.world > 1:
            # A sum, not a mean: each share is divided by the rows of all workers already.
            dist.all_reduce(gradients_PN)
        self._add_shrinkage(step.slots, gradients_PN)
        shares_P = self._rate_shares(step.slots)
        self._decay_encoders(step.slots, shares_P)
        self.adam.step(step.slots, gradients_PN, shares_P)
        if self.beta.target is not None:
            rows_P, nats_P = total(sums_PS[:, :2], self.context.worker).unbind(dim=1)
            self.beta.follow(step.slots, rows_P, nats_P)
        return StepLoss(step.slots, loss_P.detach().tolist(), sums_PS)

    def _add_shrinkage(self, slots: list[int], gradients_PN: Tensor) -> None:
        """Add the gradient of `shrink` times the squared distance to the start, in matching.

        This comes after the sum over workers, since every worker knows the whole distance.
        """
        shrink = self.stage.spec.shrink
        if not shrink or self.progress.phase == "compression":
            return
        units = self._tuned_units()
        now_PN, start_PN = (present_rows(b, slots)[:, units] for b in (self.bank, self.start))
        moved_PN = torch.sub(now_PN, start_PN, out=self.moved_PN[: len(slots)])
        gradients_PN.add_(moved_PN, alpha=2 * shrink)

    def _decay_encoders(self, slots: list[int], shares_P: Sequence[float]) -> None:
        """Shrink the first matrix of the present slots' encoders, before the step of Adam.

        The decay of an epoch is divided by its steps. A decay for each step would be many times
        stronger where a log is large.
        Source: Wang and Aitchison 2024, "How to set AdamW's weight decay as you scale model and
        dataset size".
        """
        spec = self.stage.spec
        if not spec.weight_decay:
            return
        span = banks.spans(self.bank.shape)["encode_w"]
        rows = [self.bank.flat_KN[slot, span.start : span.stop] for slot in slots]
        steps_P = self.steps_K[slots].clamp(max=spec.max_steps_per_epoch).tolist()
        kept = [
            1 - spec.weight_decay * share / steps
            for share, steps in zip(shares_P, steps_P, strict=True)
        ]
        torch._foreach_mul_(rows, kept)  # one call, however many slots there are

    def _rate_shares(self, slots: list[int]) -> list[float]:
        """Return the share of its rate that each slot has left. It falls only in matching."""
        if self.progress.phase == "compression":
            return [1.0] * len(slots)
        stage = self.stage
        steps_P = self.steps_K[slots].clamp(max=stage.spec.max_steps_per_epoch)
        return rate_shares(
            self.adam.steps_K[slots].cpu(),
            steps_P * stage.max_epochs,
            decay_share=stage.spec.decay_share,
        )

    def _side_by_side(self, gradients: Weights) -> Tensor:
        """Return gradients laid out as the bank lays out its weights, in memory that is reused.

        One tensor is one all-reduce and one optimiser call, whatever the number of weights.
        """
        units, spans = self._tuned_units(), banks.spans(self.bank.shape)
        slots = len(next(iter(gradients.values())))
        if len(self.gradients_PN) < slots or self.gradients_PN.shape[1] != units.stop - units.start:
            size = (slots, units.stop - units.start)
            # Zeros, since no gradient is written to the alignment gaps between weights.
            self.gradients_PN, self.moved_PN = (self.bank.flat_KN.new_zeros(size) for _ in range(2))
        for name, gradient in gradients.items():
            start, stop = spans[name].start - units.start, spans[name].stop - units.start
            self.gradients_PN[:slots, start:stop] = gradient.flatten(1)
        return self.gradients_PN[:slots]

    def _losses(self, step: Step, weights: Weights) -> tuple[Tensor, Tensor]:
        """Return this worker's share of the loss of each present kernel, and its sums."""
        context, rows, index_B = self.context, self.context.train, step.index_B
        device, segments = context.worker.device, step.segments(context.worker.device)
        h_BH, a_BA = rows.activations.of(index_B)
        noise_BC = noise.gaussian(rows.identity_n[index_B], step.streams_B, self.bank.shape.code)
        code = banks.encode(weights, a_BA, noise_BC.to(device), segments)
        if self.progress.phase == "compression":
            logits_BT = context.heads(h_BH) + banks.probe(weights, code.z_BC, segments)
        else:
            logits_BT = banks.decode(weights, context.heads, h_BH, code.z_BC, segments)
        labels_BT, mask_BT = rows.labels_nT[index_B].to(device), rows.mask_nT[index_B].to(device)
        loss = bottleneck_loss(
            logits_BT,
            code.rate_B,
            labels_BT=labels_BT,
            mask_BT=mask_BT,
            tasks=context.tasks,
            labelled_PT=step.labelled_PT.to(device),
            rows_P=step.rows_P.to(device),
            rows=segments,
            beta=self.beta.of(step.slots),
        )
        sums_PS = information_sums(code.rate_B, loss.losses_BT, labels_BT, mask_BT, segments)
        return loss.share_P, sums_PS

    def _validate_untouched(self, validated: Validated | None) -> None:
        """Validate the weights from before compression: the first candidate of every kernel."""
        everywhere_K = torch.ones(len(self.bank.names), dtype=torch.bool)
        if validated is None:
            validated = valid_losses(self.start, self.level, self.context, everywhere_K)
        loss_K, is_known_K = validated
        for slot in torch.nonzero(is_known_K & ~loss_K.isfinite()).flatten().tolist():
            self._give_up(slot, float(loss_K[slot]), "the validation loss before tuning")
        loss_K = torch.where(loss_K.isfinite(), loss_K, 0.0)  # JSON stores finite numbers only
        self.progress.start_loss_K = loss_K
        self.progress.best_loss_K = loss_K.clone()
        self.progress.best_epoch_K = torch.zeros(len(self.bank.names), dtype=torch.int64)
        # A kernel without a labelled validation row cannot be judged, and stays as it is.
        self.progress.is_active_K = is_known_K & (self.rows_K > 0) & ~self._has_failed()

    def _keep_the_best(self) -> None:
        """Validate the active kernels, keep what improved, and finish those out of patience."""
        progress = self.progress
        loss_K, _ = valid_losses(self.bank, self.level, self.context, progress.is_active_K)
        where = f"the validation loss after epoch {progress.epoch}"
        for slot in torch.nonzero(~loss_K.isfinite()).flatten().tolist():
            self._give_up(slot, float(loss_K[slot]), where)
        active_K = progress.is_active_K
        better_K = active_K & (loss_K < progress.best_loss_K)
        for slot in torch.nonzero(better_K).flatten().tolist():
            self._improved.flat_KN[slot] = self.bank.flat_KN[slot]
        progress.best_loss_K = torch.where(better_K, loss_K, progress.best_loss_K)
        progress.best_epoch_K = torch.where(better_K, progress.epoch, progress.best_epoch_K)
        waited_K = progress.epoch - progress.best_epoch_K
        progress.is_active_K = active_K & (waited_K < self.stage.spec.patience)

    def _summary(self, train_loss: float) -> Numbers:
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
            failed={self.bank.names[slot]: why for slot, why in sorted(progress.failed.items())},
            path={
                self.bank.names[slot]: tuple(points)
                for slot, points in sorted(progress.path.items())
                if slot not in progress.failed
            },
        )


def _json_tensor(by_slot: Mapping[int, Any]) -> Tensor:
    """Return a mapping as the bytes of its JSON text."""
    return torch.tensor(list(json.dumps(by_slot).encode()), dtype=torch.uint8)


def _by_slot(state: Mapping[str, Tensor], name: str) -> dict[int, Any]:
    """Return a mapping that `_json_tensor` wrote; empty in a state of an earlier version."""
    if name not in state:
        return {}
    stored = json.loads(bytes(state[name].tolist()))
    return {int(slot): value for slot, value in stored.items()}


def present_rows(bank: Bank, slots: list[int]) -> Tensor:
    """Return these slots' rows of the bank; the bank's own memory where they are neighbours."""
    first, last = slots[0], slots[-1]
    if slots == list(range(first, last + 1)):
        return bank.flat_KN[first : last + 1].detach()  # a view; a cohort is usually one block
    return bank.flat_KN[slots]
