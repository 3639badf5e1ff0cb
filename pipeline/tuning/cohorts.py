"""Tune one level of kernels, a cohort at a time, each cohort to its end.

Kernels of a level share nothing, so they may be tuned in any order. A cohort is as many kernels as
fill a step with rows. Only the kernels of the cohort have moments, gradients and weights besides
their best ones. So the memory of tuning depends on the size of a step, not on the number of
domains.

Shapes: K slots of the level, n rows of this worker.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from iak.pipeline.activations.buffer import ChosenRows
from iak.pipeline.activations.rows import TuningRows
from iak.pipeline.collectives import total
from iak.pipeline.events import KernelFailed, LevelAdvanced, LevelResumed, Numbers, Report, WorkDone
from iak.pipeline.iak.bank import Bank
from iak.pipeline.tuning.context import Stage, TuningContext
from iak.pipeline.tuning.tune import CohortTuner
from iak.pipeline.tuning.tuned_kernels import Tuned
from iak.pipeline.tuning.validation import Validated, valid_losses

Save = Callable[[Tuned, CohortTuner | None], None]


def tune_level(
    start: Bank,
    *,
    level: int,
    stage: Stage,
    context: TuningContext,
    report: Report,
    save: Save = lambda _level, _tuner: None,
    rival: Bank | None = None,
    tuned: Tuned | None = None,
    current: Mapping[str, Tensor] | None = None,
    may_begin: Callable[[], bool] = lambda: True,
    cohorts: Sequence[slice] = (),
) -> Tuned:
    """Tune every kernel of a level and return each at its best; a collective call.

    Args:
        start: start of each kernel, those with most rows first unless `cohorts` has its own order.
        level: level whose slots are read, a column of `slots_nL`.
        stage: learning rate, epochs, batch bounds and early stop of this level.
        context: rows, towers, tasks and this worker.
        report: called with a progress event after each epoch.
        save: called after each epoch with the level as far as it is tuned and the tuner, and after
            each cohort with None in place of the tuner.
        rival: another start. A kernel starts from it where it validates better.
        tuned: kernels that a resumed run had tuned already; none when absent.
        current: state of the tuner of the cohort that follows them, if it had begun.
        may_begin: called before each cohort, on every worker alike. False ends the level there.
        cohorts: slots that are tuned together, in the order in which they begin; empty makes them
            of neighbouring slots.

    Returns:
        The level. A kernel that diverged is as it started, and named in `failed`.
    """
    tuned = tuned or Tuned.nothing(start)
    slots = len(start.names)
    train, valid = (_RowsBySlot(rows, level, slots) for rows in (context.train, context.valid))
    cohorts = cohorts or cohorts_of(total(train.counts(), context.worker).tolist(), stage)
    for cohort in cohorts:
        if cohort.start < tuned.kernels:
            continue
        if not may_begin():
            break
        part = replace(context, train=train.of(cohort), valid=valid.of(cohort))
        first, validated = _start_of(cohort, start, rival, level, part)
        tuner = CohortTuner(first, level=level, stage=stage, context=part)
        if current is not None:
            tuner.load(current)
            current = None  # it belongs to the first cohort that is not tuned yet
            report(LevelResumed(level, tuner.progress.epoch))
        done = tuner.run(
            report=_reporter(report, level, cohort, slots),
            save=lambda tuner: save(tuned, tuner),
            validated=validated,
        )
        tuned.take(done)
        _report_failed(done, report, level)
        save(tuned, None)
    report(LevelAdvanced(level, _summary(tuned, cohorts)))
    return tuned


def _report_failed(done: Tuned, report: Report, level: int) -> None:
    for sentence in done.failed.values():
        report(KernelFailed(level, sentence))


def cohorts_of(rows: Sequence[int], stage: Stage) -> list[slice]:
    """Return cohorts of neighbouring slots: as many as fill a step with rows.

    Slots with few rows do not fill a step. Of these a cohort has no more than would fill one with
    batches of `min_batch` rows, so that its moments stay within bounds.

    Args:
        rows: rows of each slot over all workers, most first.
        stage: settings of the level, among them the rows of a step and the bounds of a batch.
    """
    most = max(1, stage.step_rows // stage.spec.min_batch)
    steps_K = stage.steps_of(torch.tensor(rows))
    cohorts: list[slice] = []
    filled = float(stage.step_rows)  # as if a cohort before the first were full
    for slot, (count, steps) in enumerate(zip(rows, steps_K.tolist(), strict=True)):
        rows_a_step = count / max(steps, 1)
        # A slot joins where the step comes nearer to `step_rows` with its rows than without.
        is_full = filled + rows_a_step / 2 >= stage.step_rows
        if not cohorts or is_full or slot - cohorts[-1].start >= most:
            cohorts.append(slice(slot, slot))
            filled = 0.0
        cohorts[-1] = slice(cohorts[-1].start, slot + 1)
        filled += rows_a_step
    return cohorts


def _start_of(
    cohort: slice, start: Bank, rival: Bank | None, level: int, context: TuningContext
) -> tuple[Bank, Validated | None]:
    """Return the kernels that a cohort starts from, and their validation where it is known."""
    if rival is None:
        return start.part(cohort), None
    return _better(start.part(cohort), rival.part(cohort), level, context)


def _better(one: Bank, other: Bank, level: int, context: TuningContext) -> tuple[Bank, Validated]:
    """Return each kernel from the bank where it validates better, with its validation.

    Where both validate alike, or neither can, the kernel comes from `one`.
    """
    everywhere_K = torch.ones(len(one.names), dtype=torch.bool)
    (one_K, is_known_K), (other_K, _) = (
        valid_losses(bank, level, context, everywhere_K) for bank in (one, other)
    )
    is_other_K = other_K < torch.where(one_K.isnan(), torch.inf, one_K)
    is_other_K1 = is_other_K.unsqueeze(1).to(one.flat_KN.device)
    better = replace(one, flat_KN=torch.where(is_other_K1, other.flat_KN, one.flat_KN))
    return better, Validated(torch.where(is_other_K, other_K, one_K), is_known_K)


class _RowsBySlot:
    """This worker's rows of a split, sorted by slot once, so that a cohort's are one slice."""

    def __init__(self, rows: TuningRows, level: int, slots: int) -> None:
        """Sort the rows by their slot at this level.

        Args:
            rows: this worker's rows of a split.
            level: level whose slots are read, a column of `slots_nL`.
            slots: K.
        """
        self.rows, self.level = rows, level
        slots_n = rows.slots_nL[:, level]
        self.order_n = torch.argsort(slots_n, stable=True)
        # O = K + 1: where each slot begins, then the end of the last one. Rows without a slot have
        # -1, and come before all slots.
        self.offsets_O = torch.searchsorted(slots_n[self.order_n], torch.arange(slots + 1))

    def counts(self) -> Tensor:
        """Return the rows of each slot, (K,)."""
        return self.offsets_O.diff()

    def of(self, cohort: slice) -> TuningRows:
        """Return a cohort's rows in the order they were read, its slots numbered from zero."""
        first, last = self.offsets_O[[cohort.start, cohort.stop]].tolist()
        index = self.order_n[first:last].sort().values
        slots_nL = self.rows.slots_nL[index]
        slots_nL[:, self.level] -= cohort.start
        return TuningRows(
            activations=ChosenRows(self.rows.activations, index),
            labels_nT=self.rows.labels_nT[index],
            mask_nT=self.rows.mask_nT[index],
            slots_nL=slots_nL,
            identity_n=self.rows.identity_n[index],
        )


def _reporter(report: Report, level: int, cohort: slice, slots: int) -> Callable[[Numbers], None]:
    """Return a function that reports a level's epochs, or its cohorts where it has several."""
    if cohort == slice(0, slots):
        return lambda line: report(LevelAdvanced(level, line))
    return lambda line: report(WorkDone(f"level {level}", cohort.start, slots, line))


def _summary(tuned: Tuned, cohorts: Sequence[slice]) -> Numbers:
    gains = [start - best for start, best in zip(tuned.start_loss, tuned.best_loss, strict=True)]
    return {
        "kernels": tuned.kernels,
        "at_once": max((part.stop - part.start for part in cohorts), default=0),
        "epochs": tuned.epochs,
        "mean_valid_gain": sum(gains) / max(len(gains), 1),
    }
