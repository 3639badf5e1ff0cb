"""Tune one level of kernels, a cohort at a time, each cohort to its end.

Kernels of a level do not touch each other, so their order is free. A cohort is as many as fill a
step with rows. Only its kernels have moments, gradients and weights besides their best: what
tuning holds for that hangs on the size of a step, not on the number of domains.

Shapes: K slots of the level, n rows of this worker.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from iak.pipeline.activations.buffer import Chosen
from iak.pipeline.activations.rows import TuningRows
from iak.pipeline.collectives import total
from iak.pipeline.iak.bank import Bank
from iak.pipeline.tuning.schedule import steps_per_epoch
from iak.pipeline.tuning.tune import CohortTuner, Setting, Stage, Tuned, Validated, valid_losses

Report = Callable[[Mapping[str, Any]], None]
Save = Callable[[Tuned, CohortTuner | None], None]


def tune_level(
    start: Bank,
    *,
    level: int,
    stage: Stage,
    setting: Setting,
    report: Report,
    save: Save = lambda _level, _tuner: None,
    rival: Bank | None = None,
    tuned: Tuned | None = None,
    current: Mapping[str, Tensor] | None = None,
) -> Tuned:
    """Every kernel of a level at its best; a collective call.

    Args:
        start: where each kernel starts; those with most rows first.
        level: which column of `slots_nL` names a row's slot.
        stage: how.
        setting: data, towers and worker.
        report: given what each epoch came to.
        save: called after each epoch, with the level as far as it is tuned and the tuner, and after
            each cohort, with None.
        rival: where each kernel may start as well: it does where that validates better.
        tuned: what a run that is resumed had tuned already.
        current: the state of the tuner that it was at.
    """
    tuned = tuned or Tuned.nothing(start)
    slots = len(start.names)
    train, valid = (_BySlot(rows, level, slots) for rows in (setting.train, setting.valid))
    rows_K = total(train.counts(), setting.worker).tolist()
    cohorts = cohorts_of(rows_K, stage)
    for cohort in cohorts:
        if cohort.start < tuned.kernels:
            continue
        part = replace(setting, train=train.of(cohort), valid=valid.of(cohort))
        first, judged = start.part(cohort), None
        if rival is not None:
            first, judged = _better(first, rival.part(cohort), level, part)
        tuner = CohortTuner(first, level=level, stage=stage, setting=part)
        if current is not None:
            tuner.load(current)
            current = None
            report({"event": "resumed", "level": level, "epoch": tuner.progress.epoch})
        done = tuner.run(
            report=_reporter(report, level, cohort, slots),
            save=lambda tuner: save(tuned, tuner),
            judged=judged,
        )
        tuned.take(done)
        save(tuned, None)
    report({"event": f"level {level}", **_summary(tuned, cohorts)})
    return tuned


def cohorts_of(rows: Sequence[int], stage: Stage) -> list[slice]:
    """Neighbouring slots whose steps fill a step, and of those with few rows no more than would."""
    most = max(1, stage.step_rows // stage.min_batch)
    steps_K = steps_per_epoch(
        torch.tensor(rows),
        wanted_steps=stage.steps_per_epoch,
        min_batch=stage.min_batch,
        max_batch=stage.max_batch,
    )
    cohorts: list[slice] = []
    held = float(stage.step_rows)
    for slot, (count, steps) in enumerate(zip(rows, steps_K.tolist(), strict=True)):
        a_step = count / max(steps, 1)
        is_full = held + a_step / 2 >= stage.step_rows
        if not cohorts or is_full or slot - cohorts[-1].start >= most:
            cohorts.append(slice(slot, slot))
            held = 0.0
        cohorts[-1] = slice(cohorts[-1].start, slot + 1)
        held += a_step
    return cohorts


def _better(one: Bank, other: Bank, level: int, setting: Setting) -> tuple[Bank, Validated]:
    """Each kernel as it validates better, as in `one` where neither does; and how it does."""
    everywhere_K = torch.ones(len(one.names), dtype=torch.bool)
    (one_K, is_known_K), (other_K, _) = (
        valid_losses(bank, level, setting, everywhere_K) for bank in (one, other)
    )
    is_other_K = other_K < one_K
    is_other_K1 = is_other_K.unsqueeze(1).to(one.flat_KN.device)
    better = replace(one, flat_KN=torch.where(is_other_K1, other.flat_KN, one.flat_KN))
    return better, Validated(torch.where(is_other_K, other_K, one_K), is_known_K)


class _BySlot:
    """This worker's rows of a split, to be had slot by slot."""

    def __init__(self, rows: TuningRows, level: int, slots: int) -> None:
        self.rows, self.level = rows, level
        slots_n = rows.slots_nL[:, level]
        self.order_n = torch.argsort(slots_n, stable=True)
        self.ends_K1 = torch.searchsorted(slots_n[self.order_n], torch.arange(slots + 1))

    def counts(self) -> Tensor:
        """Rows of each slot, (K,)."""
        return self.ends_K1.diff()

    def of(self, cohort: slice) -> TuningRows:
        """The rows of some slots, which are numbered from zero, in the order in which they lie."""
        first, last = self.ends_K1[[cohort.start, cohort.stop]].tolist()
        places = self.order_n[first:last].sort().values
        slots_nL = self.rows.slots_nL[places]
        slots_nL[:, self.level] -= cohort.start
        return TuningRows(
            activations=Chosen(self.rows.activations, places),
            labels_nT=self.rows.labels_nT[places],
            mask_nT=self.rows.mask_nT[places],
            slots_nL=slots_nL,
            identity_n=self.rows.identity_n[places],
        )


def _reporter(report: Report, level: int, cohort: slice, slots: int) -> Report:
    """Epochs of the only cohort one by one; of many cohorts, how far the level is."""
    if cohort == slice(0, slots):
        return lambda line: report({"event": f"level {level}", **line})
    place = {"event": "step", "what": f"level {level}", "step": cohort.start, "of": slots}
    return lambda line: report({**place, **line})


def _summary(tuned: Tuned, cohorts: Sequence[slice]) -> dict[str, Any]:
    gains = [start - best for start, best in zip(tuned.start_loss, tuned.best_loss, strict=True)]
    return {
        "kernels": tuned.kernels,
        "at_once": max((part.stop - part.start for part in cohorts), default=0),
        "epochs": tuned.epochs,
        "mean_valid_gain": sum(gains) / max(len(gains), 1),
    }
