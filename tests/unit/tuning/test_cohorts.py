"""A level by cohorts is the level at once; resumed is uninterrupted; only a cohort has moments."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.iak.bank import stack
from iak.pipeline.tuning import cohorts
from iak.pipeline.tuning.cohorts import cohorts_of, tune_level
from iak.pipeline.tuning.tuned_kernels import Tuned
from iak.pipeline.tuning.validation import valid_losses
from tests.unit.iak.small import SHAPE, context, moved_kernel, normal, stage, tuning_rows

NAMES = ("a", "b", "c", "d", "e")
SIZES = (120, 90, 64, 30, 9)
SLOTS = torch.repeat_interleave(torch.arange(-1, 5), torch.tensor([20, *SIZES]))
TRAIN = tuning_rows(len(SLOTS), 5, slots=SLOTS[normal(len(SLOTS)).argsort()])
VALID = tuning_rows(200, 5, seed=0)
HOW = ("start_loss", "best_loss", "best_epoch", "epochs", "stopped_at_cap")


def start():
    return stack(SHAPE, {name: moved_kernel(seed) for seed, name in enumerate(NAMES)})


def tune(events=None, save=lambda _level, _tuner: None, **changes):
    given = ("tuned", "current", "may_begin")
    others = {n: changes.pop(n) for n in given if n in changes}
    return tune_level(
        start(), level=1, stage=stage(**changes), context=context(TRAIN, VALID),
        report=(events if events is not None else []).append, save=save, **others,
    )  # fmt: skip


@settings(max_examples=10)
@given(step_rows=st.integers(1, 400), decay_share=st.sampled_from([0.0, 1.0]))
def test_a_level_by_cohorts_is_the_level_at_once(step_rows, decay_share):
    changes = {"min_batch": 1, "decay_share": decay_share}
    whole = tune(**changes, step_rows=10**6)
    result = tune(**changes, step_rows=step_rows)
    assert (result.best_epoch, result.epochs) == (whole.best_epoch, whole.epochs)
    assert result.stopped_at_cap == whole.stopped_at_cap
    assert result.start_loss == pytest.approx(whole.start_loss, rel=1e-6)
    assert result.best_loss == pytest.approx(whole.best_loss, rel=1e-5)
    torch.testing.assert_close(result.bank.flat_KN, whole.bank.flat_KN, atol=2e-5, rtol=1e-4)
    assert max(whole.best_epoch) > 1


def test_resumed_after_any_epoch_of_any_cohort_is_uninterrupted():
    kept = []
    expected = tune(
        step_rows=20,
        save=lambda level, tuner: kept.append(
            (copy.deepcopy(level), copy.deepcopy(tuner.state()) if tuner else None)
        ),
    )
    ends = [level for level, state in kept if state is None]
    assert [level.kernels for level in ends] == [2, 4, 5]
    for level, state in kept:
        result = tune(step_rows=20, tuned=copy.deepcopy(level), current=state)
        assert [getattr(result, f) for f in HOW] == [getattr(expected, f) for f in HOW]
        assert torch.equal(result.bank.flat_KN, expected.bank.flat_KN)


def test_only_a_cohort_has_moments(monkeypatch):
    moments = []

    class Seen(cohorts.CohortTuner):
        def __init__(self, bank, **how):
            super().__init__(bank, **how)
            moments.append(tuple(t.shape[0] for t in (self.adam.first_KN, self.adam.second_KN)))

    monkeypatch.setattr(cohorts, "CohortTuner", Seen)
    events = []
    tune(events, step_rows=20)
    assert moments == [(2, 2), (2, 2), (1, 1)]
    assert events[-1]["kernels"] == 5
    assert events[-1]["at_once"] == 2
    assert [e["step"] for e in events if e["event"] == "step"] == sorted(
        e["step"] for e in events if e["event"] == "step"
    )


@given(
    rows=st.lists(st.integers(0, 2000), max_size=30),
    step_rows=st.integers(1, 1000),
    min_batch=st.sampled_from([1, 8, 64]),
)
def test_a_cohort_fills_a_step_and_no_more(rows, step_rows, min_batch):
    rows = sorted(rows, reverse=True)
    how = stage(step_rows=step_rows, min_batch=min_batch)
    parts = cohorts_of(rows, how)
    assert [slot for part in parts for slot in range(part.start, part.stop)] == list(
        range(len(rows))
    )
    steps_K = how.steps_of(torch.tensor(rows, dtype=torch.int64))
    a_step = [n / max(s, 1) for n, s in zip(rows, steps_K.tolist(), strict=True)]
    most = max(1, step_rows // min_batch)
    for part in parts:
        assert part.stop - part.start <= most
        assert part.stop - part.start == 1 or sum(a_step[part]) <= 1.5 * step_rows
    for part in parts[:-1]:
        filled = sum(a_step[part]) + a_step[part.stop] / 2
        assert (
            part.stop - part.start == most or filled >= step_rows or math.isclose(filled, step_rows)
        )


def test_nothing_tuned_yet_takes_kernels_in_their_order():
    bank = start()
    tuned = Tuned.nothing(bank)
    for first, last in ((0, 2), (2, 5)):
        part = bank.part(slice(first, last))
        tuned.take(
            Tuned(
                bank=part, start_loss=[1.0] * (last - first), best_loss=[0.5] * (last - first),
                best_epoch=[first] * (last - first), epochs=first + 1, stopped_at_cap=[],
            )
        )  # fmt: skip
    assert torch.equal(tuned.bank.flat_KN, bank.flat_KN)
    assert (tuned.kernels, tuned.epochs) == (5, 3)
    assert tuned.best_epoch == [0, 0, 2, 2, 2]


@pytest.mark.parametrize("step_rows", [20, 10**6])
def test_a_kernel_starts_where_it_validates_better(step_rows):
    one, other = start(), stack(SHAPE, {name: moved_kernel(13) for name in NAMES})
    around = context(TRAIN, VALID)
    everywhere_K = torch.ones(5, dtype=torch.bool)
    one_K, other_K = (valid_losses(b, 1, around, everywhere_K)[0] for b in (one, other))
    is_other_K = other_K < one_K
    assert 0 < int(is_other_K.sum()) < 5
    result = tune_level(
        one, level=1, stage=stage(step_rows=step_rows, lr=1e-12), context=around,
        report=lambda _: None, rival=other,
    )  # fmt: skip
    assert result.start_loss == pytest.approx(torch.minimum(one_K, other_K).tolist(), rel=1e-6)
    expected_KN = torch.where(is_other_K[:, None], other.flat_KN, one.flat_KN)
    torch.testing.assert_close(result.bank.flat_KN, expected_KN, atol=1e-9, rtol=0)
    assert torch.equal(one.flat_KN, start().flat_KN)


def test_a_level_ends_with_the_cohorts_that_were_begun():
    expected = tune(step_rows=20)
    answers = iter([True, True, False])
    result = tune(step_rows=20, may_begin=lambda: next(answers))
    assert result.kernels == 4
    cut = result.reached().bank
    assert cut.names == expected.bank.names[:4]
    assert torch.equal(cut.flat_KN, expected.bank.flat_KN[:4])
