"""A point of the information plane is what a hand computes, and no weight depends on it."""

import json
import math

import pytest
import torch

from iak.pipeline.iak.bank import stack
from iak.pipeline.iak.grouped import Segments
from iak.pipeline.tuning import tune as tuning
from iak.pipeline.tuning.information import InformationPoint, information_sums, point_of
from iak.pipeline.tuning.tune import CohortTuner
from tests.unit.iak.small import SHAPE, context, only, stage
from tests.unit.tuning.test_tune import (
    NAMES,
    SIZES,
    TRAIN,
    VALID,
    parents,
    steps_of,
    tune,
    tuner,
)
from tests.unit.workers import on_threads

LN_2 = math.log(2)


def sums(rate, losses, labels, mask, lengths):
    return information_sums(
        torch.tensor(rate), torch.tensor(losses), torch.tensor(labels), torch.tensor(mask),
        Segments.of(lengths),
    )  # fmt: skip


def test_the_sums_of_a_step_are_those_of_its_labelled_rows():
    """Two slots; the third row has no second label, whose value is then not read."""
    found = sums(
        [1.0, 2.0, 4.0],
        [[0.5, 0.25], [0.25, 0.5], [1.0, 0.0]],
        [[1.0, 0.0], [0.0, 1.0], [1.0, math.nan]],
        [[True, True], [True, True], [True, False]],
        (2, 1),
    )
    assert found.tolist() == [
        [2.0, 3.0, 2.0, 2.0, 0.75, 0.75, 1.0, 1.0],
        [1.0, 4.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0],
    ]


def test_label_nats_are_the_entropy_less_the_loss_summed_over_tasks():
    """Four rows keep 3 nats; half of the first task's labels are 1, a quarter of the other's."""
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    point = point_of((4.0, 3.0, 4.0, 4.0, 2.0, 1.0, 2.0, 1.0), phase="matching", epoch=2, beta=0.5)
    assert point[:4] == ("matching", 2, 0.5, 0.75)
    assert point.label_nats == pytest.approx((LN_2 - 2 / 4) + (quarter - 1 / 4))


@pytest.mark.parametrize(
    ("sums_S", "expected"),
    [
        pytest.param((2.0, 1.0, 2.0, 0.3, 0.0), None, id="no positive"),
        pytest.param((2.0, 1.0, 2.0, 0.3, 2.0), None, id="no negative"),
        pytest.param((2.0, 1.0, 0.0, 0.0, 0.0), None, id="no label"),
        pytest.param((2.0, 1.0, 2.0, 2.0, 1.0), LN_2 - 1, id="worse than the rate alone"),
    ],
)
def test_a_task_without_both_classes_tells_nothing(sums_S, expected):
    point = point_of(sums_S, phase="matching", epoch=1, beta=0.0)
    assert point.rate == 0.5
    assert point.label_nats == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("sums_S", [(0.0,) * 5, (2.0, math.nan, 2.0, 1.0, 1.0)])
def test_there_is_no_point_without_rows_or_of_numbers_that_are_not_finite(sums_S):
    assert point_of(sums_S, phase="matching", epoch=1, beta=0.0) is None


def test_every_kernel_has_a_point_for_each_epoch_it_was_trained_in():
    done = tune(max_epochs=3, patience=9)
    expected = [("compression", 1), ("compression", 2), *(("matching", e) for e in (1, 2, 3))]
    assert {name: [p[:2] for p in points] for name, points in done.path.items()} == dict.fromkeys(
        NAMES, expected
    )
    assert {p.beta for points in done.path.values() for p in points} == {1e-3}
    assert all(p.rate > 0 for points in done.path.values() for p in points)


def test_the_points_are_means_over_every_row_of_the_epoch():
    whole = tuner(compression_epochs=0)
    steps = list(whole.epoch(0))
    rows_K = [0.0] * len(NAMES)
    for step in steps:
        for slot, count in zip(step.slots, step.sums_PS[:, 0].tolist(), strict=True):
            rows_K[slot] += count
    assert rows_K == list(SIZES)
    assert len(steps) <= sum(steps_of(rows, whole.stage) for rows in SIZES)


def test_no_weight_depends_on_what_is_measured(monkeypatch):
    expected = tune()
    nothing = torch.zeros(0)
    monkeypatch.setattr(tuning, "information_sums", lambda *_: nothing)
    monkeypatch.setattr(tuning.CohortTuner, "_add_points", lambda *_: None)
    found = tune()
    assert torch.equal(found.bank.flat_KN, expected.bank.flat_KN)
    assert (found.path, found.best_loss) == ({}, expected.best_loss)
    assert expected.path


def test_a_resumed_run_has_the_points_of_an_uninterrupted_one():
    states, whole = [], tuner()
    expected = whole.run(report=lambda _: None, save=lambda t: states.append(t.state()["path"]))
    resumed, kept = tuner(), {}
    resumed.run(
        report=lambda _: None,
        save=lambda t: kept or kept.update({n: w.clone() for n, w in t.state().items()}),
    )
    again = tuner()
    again.load(kept)
    assert again.run(report=lambda _: None).path == expected.path
    stored = json.loads(bytes(states[-1].tolist()))
    assert {s: InformationPoint(*points[-1]) for s, points in stored.items()} == {
        str(slot): expected.path[name][-1] for slot, name in enumerate(NAMES)
    }


def test_two_workers_with_half_the_rows_each_have_the_points_of_one():
    """The target is followed as well, by the rates of all workers' rows."""
    how = stage(target_rate=1.0, max_epochs=2, patience=9)

    def on_part(worker):
        part = only(TRAIN, torch.arange(len(TRAIN)) % worker.world == worker.rank)
        around = context(part, VALID, worker)
        whole = CohortTuner(stack(SHAPE, parents()), level=1, stage=how, context=around)
        return whole.run(report=lambda _: None).path

    one, other = on_threads(on_part, 2)
    (alone,) = on_threads(on_part, 1)
    assert one == other
    for name, points in alone.items():
        for point, expected in zip(one[name], points, strict=True):
            assert point[:2] == expected[:2]
            assert point[2:] == pytest.approx(expected[2:], rel=1e-3)
