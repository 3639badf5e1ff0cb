"""Tuning a level: together is one by one, resumed is uninterrupted, the best state is kept."""

import copy
import dataclasses
import math
import re
from itertools import pairwise

import pytest
import torch

from iak.pipeline.iak import kernel, noise
from iak.pipeline.iak.bank import stack
from iak.pipeline.iak.grouped import Segments
from iak.pipeline.iak.kernel import DECODER, ENCODER, PRIOR, PROBE, fresh
from iak.pipeline.iak.loss import bottleneck_loss
from iak.pipeline.model.loss import task_losses
from iak.pipeline.tuning.tune import CohortTuner
from iak.pipeline.tuning.validation import valid_losses
from tests.unit.iak.small import (
    SHAPE,
    TASKS,
    context,
    moved_kernel,
    normal,
    only,
    stage,
    tuning_rows,
)
from tests.unit.workers import on_threads

NAMES = ("a", "b", "c")
SIZES = (90, 40, 170)
SLOTS = torch.repeat_interleave(torch.tensor([0, 1, 2, -1]), torch.tensor([*SIZES, 20]))
TRAIN = tuning_rows(len(SLOTS), 3, slots=SLOTS[normal(len(SLOTS)).argsort()])
VALID = tuning_rows(150, 3, seed=0)


def parents():
    return {name: moved_kernel(seed) for seed, name in enumerate(NAMES)}


def tuner(kernels=None, *, train=TRAIN, valid=VALID, level=1, **changes):
    return CohortTuner(
        stack(SHAPE, kernels or parents()), level=level, stage=stage(**changes),
        context=context(train, valid),
    )  # fmt: skip


def tune(kernels=None, **changes):
    return tuner(kernels, **changes).run(report=lambda _: None)


def steps_of(rows, how):
    return int(how.steps_of(torch.tensor([rows])))


def all_losses(bank, around):
    return valid_losses(bank, 1, around, torch.ones(len(bank.names), dtype=torch.bool))


def tuned_alone(name, start, *, epochs, **changes):
    """One domain by `kernel.run` and torch's Adam, its rows and steps spelled out."""
    how, slot, around = stage(**changes), NAMES.index(name), context(TRAIN, VALID)
    rows = only(TRAIN, TRAIN.slots_nL[:, 1] == slot)
    count = steps_of(len(rows), how)
    weights = {n: w.clone() for n, w in start.items()}
    for phase, passes in (("compression", how.compression_epochs), ("matching", epochs)):
        trained = [*ENCODER, *PRIOR, *(PROBE if phase == "compression" else DECODER)]
        leaves = [weights[n].requires_grad_() for n in trained]
        adam = torch.optim.Adam(leaves, lr=how.spec.lr)
        for epoch in range(passes):
            key = noise.stream(seed=how.seed, domain=name, epoch=epoch, phase=phase)
            keys = torch.full((len(rows),), key)
            step_n = noise.steps_of(rows.identity_n, keys, torch.full((len(rows),), count))
            for step in range(count):
                at = torch.nonzero(step_n == step).squeeze(1)
                h_BH, a_BA = rows.activations.of(at)
                draws = noise.gaussian(rows.identity_n[at], keys[at], SHAPE.code)
                output = kernel.run(weights, around.heads, h_BH, a_BA, draws)
                probed = around.heads(h_BH) + output.probe_BT
                loss = bottleneck_loss(
                    probed if phase == "compression" else output.logits_BT, output.rate_B,
                    labels_BT=rows.labels_nT[at], mask_BT=rows.mask_nT[at], tasks=TASKS,
                    labelled_PT=rows.mask_nT[at].sum(0)[None], rows_P=torch.tensor([len(at)]),
                    rows=Segments.of([len(at)]), beta=how.beta,
                ).share_P.sum()  # fmt: skip
                if phase == "matching":
                    moved = (leaf - start[n] for n, leaf in zip(trained, leaves, strict=True))
                    loss = loss + how.spec.shrink * sum(m.square().sum() for m in moved)
                adam.zero_grad()
                loss.backward()
                if phase == "matching" and how.spec.decay_share:
                    left = 1 - (epoch * count + step) / (passes * count)
                    adam.param_groups[0]["lr"] = how.spec.lr * min(left / how.spec.decay_share, 1)
                with torch.no_grad():
                    share = adam.param_groups[0]["lr"] / how.spec.lr
                    weights["encode_w"].mul_(1 - how.spec.weight_decay * share / count)
                adam.step()
        weights = {n: w.detach() for n, w in weights.items()}
    return weights


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="both phases"),
        pytest.param({"compression_epochs": 0, "shrink": 0.05}, id="a delta, shrunk"),
        pytest.param(
            {"min_batch": 1, "max_batch": 8, "steps_per_epoch": 99}, id="many small steps"
        ),
        pytest.param({"decay_share": 0.7}, id="a rate that falls"),
        pytest.param({"decay_share": 0.7, "weight_decay": 0.5}, id="encoders that decay"),
    ],
)
def test_a_bank_tuned_together_is_its_kernels_tuned_alone(changes):
    epochs = 2
    together = tuner(**changes, max_epochs=epochs, patience=99)
    together.run(report=lambda _: None)
    for slot, (name, start) in enumerate(parents().items()):
        alone = tuned_alone(name, start, epochs=epochs, **changes)
        for weight, expected in alone.items():
            result = together.bank.weights[weight][slot]
            torch.testing.assert_close(result, expected, atol=2e-5, rtol=1e-4)
        assert not torch.equal(alone["skip_w"], start["skip_w"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"compression_epochs": 0, "shrink": 0.05},
        {"decay_share": 1.0},
        {"decay_share": 1.0, "weight_decay": 0.5},
    ],
)
def test_resumed_after_any_epoch_is_uninterrupted(changes):
    states = []
    whole = tuner(**changes)
    expected = whole.run(
        report=lambda _: None, save=lambda t: states.append(copy.deepcopy(t.state()))
    )
    assert len(states) == expected.epochs + whole.stage.compression_epochs > 2
    for state in states:
        resumed = tuner(**changes)
        resumed.load(state)
        assert same(resumed.run(report=lambda _: None), expected)
        assert all(torch.equal(t, whole.state()[n]) for n, t in resumed.state().items())


def same(one, other):
    fields = ("start_loss", "best_loss", "best_epoch", "epochs", "stopped_at_cap")
    return all(getattr(one, f) == getattr(other, f) for f in fields) and all(
        torch.equal(w, other.bank.weights[n]) for n, w in one.bank.weights.items()
    )


def test_tuning_learns_and_keeps_the_epoch_that_validated_best():
    kernels = {name: fresh(SHAPE, seed=0) for name in NAMES}
    done = tune(kernels, max_epochs=12, lr=0.02)
    losses, _ = all_losses(done.bank, context(TRAIN, VALID))
    assert losses.tolist() == pytest.approx(done.best_loss, abs=1e-7)
    assert all(best < start for best, start in zip(done.best_loss, done.start_loss, strict=True))


@pytest.mark.parametrize("compression_epochs", [0, 2])
def test_a_domain_that_never_validates_better_keeps_its_ancestors_weights_exactly(
    compression_epochs,
):
    """Good ancestors, and training rows whose labels are reversed."""
    kernels = {name: fresh(SHAPE, seed=0) for name in NAMES}
    good = tune(kernels, max_epochs=40, patience=9, lr=0.02).bank
    wrong = dataclasses.replace(TRAIN, labels_nT=1 - TRAIN.labels_nT)
    ancestors = {name: good.slot(slot) for slot, name in enumerate(NAMES)}
    done = tune(ancestors, train=wrong, compression_epochs=compression_epochs, lr=0.02)
    assert done.best_epoch == [0, 0, 0]
    assert done.best_loss == done.start_loss
    for weight, stacked in good.weights.items():
        assert torch.equal(done.bank.weights[weight], stacked)


@pytest.mark.parametrize("compression_epochs", [0, 2])
def test_the_untouched_loss_is_that_of_the_weights_it_stands_for(compression_epochs):
    done = tune(compression_epochs=compression_epochs)
    untouched, _ = all_losses(stack(SHAPE, parents()), context(TRAIN, VALID))
    assert done.start_loss == untouched.tolist()


def test_a_domain_without_validation_rows_is_left_alone():
    done = tune(valid=only(VALID, VALID.slots_nL[:, 1] != 1))
    for weight, value in parents()["b"].items():
        assert torch.equal(done.bank.weights[weight][1], value)
    assert done.best_epoch[1] == 0


def test_a_domain_without_training_rows_is_left_alone():
    done = tune(train=only(TRAIN, TRAIN.slots_nL[:, 1] != 1))
    for weight, value in parents()["b"].items():
        assert torch.equal(done.bank.weights[weight][1], value)
    assert done.best_epoch[1] == 0
    assert max(done.best_epoch) > 0


def test_a_finished_domain_no_longer_moves_and_the_others_do():
    """Every label of domain b's validation rows is 1, so b is finished before the others."""
    is_b = VALID.slots_nL[:, 1:] == 1
    valid = dataclasses.replace(VALID, labels_nT=torch.where(is_b, 1.0, VALID.labels_nT))
    states = []
    around = tuner(valid=valid, max_epochs=8, patience=1, lr=0.003)
    around.run(
        report=lambda _: None,
        save=lambda t: states.append(
            (t.progress.phase, t.progress.is_active_K.clone(), copy.deepcopy(t.bank.weights))
        ),
    )
    matching = [(active, weights) for phase, active, weights in states if phase == "matching"]
    frozen = 0
    for (active, before), (_, after) in pairwise(matching):
        for slot, is_active in enumerate(active.tolist()):
            moved = any(not torch.equal(w[slot], after[n][slot]) for n, w in before.items())
            assert moved == is_active
            frozen += not is_active
    assert frozen


def test_a_domain_still_improving_at_the_cap_is_reported():
    kernels = {name: fresh(SHAPE, seed=0) for name in NAMES}
    short, long = (tune(kernels, max_epochs=epochs, lr=0.002) for epochs in (1, 60))
    assert set(short.stopped_at_cap) == {
        name for name, best in zip(NAMES, short.best_epoch, strict=True) if best == 1
    }
    assert short.stopped_at_cap
    assert not set(long.stopped_at_cap) or long.epochs == 60


def test_a_best_last_epoch_is_reported_although_the_rate_has_fallen_to_zero():
    kernels = {name: fresh(SHAPE, seed=0) for name in NAMES}
    result = tune(kernels, max_epochs=1, lr=0.002, decay_share=1.0)
    best = dict(zip(NAMES, result.best_epoch, strict=True))
    assert result.stopped_at_cap == [name for name, epoch in best.items() if epoch == 1]
    assert result.stopped_at_cap


def test_an_epoch_driven_step_by_step_is_the_epoch_of_a_run():
    changes = {"compression_epochs": 0, "max_epochs": 1, "patience": 9}
    losses = []
    run = tuner(**changes)
    run.run(report=lambda line: losses.append(line["train_loss"]))
    driven = tuner(**changes)
    steps = []
    for step in driven.epoch(0):
        steps.append(step)
        assert math.isfinite(step.loss)
    assert torch.equal(driven.bank.flat_KN, run.bank.flat_KN)
    moves = sum(step.kernels for step in steps)
    assert losses == [driven.mean_loss(steps, 0)]
    assert losses == pytest.approx([sum(step.loss for step in steps) / moves])
    assert moves == sum(steps_of(rows, run.stage) for rows in SIZES)


def test_an_epoch_that_is_left_early_has_moved_only_the_kernels_of_its_steps():
    driven = tuner(compression_epochs=0, step_rows=1)
    next(driven.epoch(0))
    moved_K = (driven.bank.flat_KN != driven.start.flat_KN).any(dim=1)
    assert moved_K.sum() == 1  # a step of one row takes one domain


def test_two_tuners_of_the_same_kernels_move_them_both():
    one = tuner(compression_epochs=0)
    other = one.on(context(only(TRAIN, TRAIN.slots_nL[:, 1] == 1), VALID))
    assert other.rows_K.tolist() == [0, SIZES[1], 0]
    steps = list(other.epoch(0))
    assert sum(step.kernels for step in steps) == steps_of(SIZES[1], one.stage)
    moved_K = (one.bank.flat_KN != one.start.flat_KN).any(dim=1)
    assert moved_K.tolist() == [False, True, False]
    assert one.adam.steps_K.tolist() == [0, len(steps), 0]


def test_kernels_that_serve_already_skip_compression_and_have_their_own_cap():
    how = stage(compression_epochs=2, max_epochs=4, live_epochs=3)
    live = dataclasses.replace(how, starts_live=True)
    assert (how.compression_epochs, how.max_epochs) == (2, 4)
    assert (live.compression_epochs, live.max_epochs) == (0, 3)


def test_a_kernel_takes_as_many_steps_as_its_rate_falls_over():
    around = tuner(max_epochs=2, patience=9, decay_share=0.5, compression_epochs=0)
    around.run(report=lambda _: None)
    steps = [steps_of(rows, around.stage) for rows in SIZES]
    assert around.adam.steps_K.tolist() == [2 * count for count in steps]


IS_B = TRAIN.slots_nL[:, 1] == 1
WITHOUT_B = only(TRAIN, ~IS_B)
ENDLESS = torch.full((1, 1), math.inf)


def labels_of_b(rows, value):
    """Rows of which those of domain b have this label."""
    labels_nT = torch.where(rows.slots_nL[:, 1:] == 1, value, rows.labels_nT)
    return dataclasses.replace(rows, labels_nT=labels_nT)


def broken_by_labels(**changes):
    return tuner(train=labels_of_b(TRAIN, ENDLESS), **changes)


def broken_by_rate(**changes):
    """Domain b moves by a rate that no setting allows, from its first step of matching on."""
    result = tuner(**changes | {"compression_epochs": 0})
    result.adam.lr_K[1] = 1e30
    return result


def broken_from_its_start(**changes):
    """Domain b cannot be validated even as it starts."""
    return tuner(valid=labels_of_b(VALID, ENDLESS), **changes | {"compression_epochs": 0})


@pytest.mark.parametrize(
    ("broken", "compression_epochs", "step_rows", "tolerance", "seen"),
    [
        (
            broken_by_labels,
            2,
            10**6,
            0,
            "the training loss of compression, at step 1 of epoch 1, is",
        ),
        (broken_by_labels, 0, 20, 0, r"the training loss of matching, at step \d+ of epoch 1, is"),
        # Domain b takes part in a step here. A product of more rows may round a row otherwise: on
        # an Intel Xeon with AVX-512 a weight differs by 6e-8.
        (broken_by_rate, 0, 10**6, 1e-6, "the training loss of matching, at step 2 of epoch 1, is"),
        (broken_from_its_start, 0, 20, 0, "the validation loss before tuning is"),
    ],
)
def test_a_kernel_that_diverges_is_given_up_and_the_others_are_as_without_it(
    broken, compression_epochs, step_rows, tolerance, seen
):
    changes = {"compression_epochs": compression_epochs, "step_rows": step_rows}
    lines = []
    done = broken(**changes).run(report=lines.append)
    without = tune(train=WITHOUT_B, **changes)
    torch.testing.assert_close(
        done.bank.flat_KN[[0, 2]], without.bank.flat_KN[[0, 2]], atol=tolerance, rtol=tolerance
    )
    assert (done.epochs, max(done.best_epoch) > 0) == (without.epochs, True)
    assert done.best_epoch[::2] == without.best_epoch[::2]
    for losses in ("start_loss", "best_loss"):
        expected = pytest.approx(getattr(without, losses)[::2], rel=tolerance, abs=0)
        assert getattr(done, losses)[::2] == expected
    assert torch.equal(done.bank.flat_KN[1], stack(SHAPE, parents()).flat_KN[1])
    assert (done.best_epoch[1], done.start_loss[1]) == (0, done.best_loss[1])
    assert list(done.failed) == ["b"]
    sentence = rf"the kernel of b diverged: {seen} (nan|inf) under domain\.lr=0\.01"
    assert re.fullmatch(sentence, done.failed["b"])
    assert all(math.isfinite(v) for line in lines for v in line.values() if v != line["phase"])


def test_a_kernel_whose_last_step_breaks_it_is_given_up_by_its_validation():
    """One step an epoch: what it breaks is seen when the epoch is over."""
    done = broken_by_rate(steps_per_epoch=1, min_batch=64, max_batch=1024).run(
        report=lambda _: None
    )
    assert "the validation loss after epoch 1 is nan" in done.failed["b"]
    assert done.best_epoch[1] == 0


@pytest.mark.parametrize("compression_epochs", [0, 2])
def test_a_resumed_run_knows_which_kernels_it_gave_up(compression_epochs):
    states = []
    changes = {"compression_epochs": compression_epochs}
    expected = broken_by_labels(**changes).run(
        report=lambda _: None, save=lambda t: states.append(copy.deepcopy(t.state()))
    )
    for state in states:
        resumed = broken_by_labels(**changes)
        resumed.load(state)
        done = resumed.run(report=lambda _: None)
        assert same(done, expected)
        assert done.failed == expected.failed


def test_all_workers_give_up_the_same_kernel_although_one_alone_saw_it_break():
    is_first = torch.arange(len(TRAIN)) % 2 == 0
    first_valid = torch.arange(len(VALID)) % 2 == 0

    def tuned_on(worker):
        mine = worker.rank == 0
        train = labels_of_b(TRAIN, ENDLESS) if mine else TRAIN
        around = context(only(train, is_first == mine), only(VALID, first_valid == mine), worker)
        how = stage(compression_epochs=1, max_epochs=2)
        together = CohortTuner(stack(SHAPE, parents()), level=1, stage=how, context=around)
        return together.run(report=lambda _: None)

    one, other = on_threads(tuned_on, 2)
    assert list(one.failed) == ["b"]
    assert one.failed == other.failed
    assert same(one, other)
    assert min(one.best_epoch[::2]) > 0


def test_where_all_kernels_diverge_all_are_as_they_started():
    endless = dataclasses.replace(TRAIN, labels_nT=torch.full_like(TRAIN.labels_nT, math.inf))
    done = tune(train=endless)
    assert list(done.failed) == list(NAMES)
    assert torch.equal(done.bank.flat_KN, stack(SHAPE, parents()).flat_KN)


def test_a_level_without_domains_is_done_at_once():
    empty = CohortTuner(
        stack(SHAPE, {}), level=1, stage=stage(),
        context=context(only(TRAIN, TRAIN.slots_nL[:, 1] < 0), VALID),
    )  # fmt: skip
    nobody = dataclasses.replace(VALID, slots_nL=torch.full_like(VALID.slots_nL, -1))
    empty.context = dataclasses.replace(empty.context, valid=nobody)
    done = empty.run(report=lambda _: None)
    assert (done.bank.names, done.best_loss, done.epochs) == ((), [], 0)


def test_validation_is_a_plain_mean_over_labelled_rows():
    bank, around = stack(SHAPE, parents()), context(TRAIN, VALID)
    result, is_known = all_losses(bank, around)
    for slot in range(3):
        rows = only(VALID, VALID.slots_nL[:, 1] == slot)
        h_BH, a_BA = rows.activations.of(torch.arange(len(rows)))
        logits = kernel.run(bank.slot(slot), around.heads, h_BH, a_BA, None).logits_BT
        losses = task_losses(logits, rows.labels_nT, rows.mask_nT, TASKS).double().sum(0)
        expected = (losses / rows.mask_nT.sum(0)) @ torch.tensor([1.0, 0.5]).double()
        assert float(result[slot]) == pytest.approx(float(expected), rel=1e-6)
    assert is_known.all()
