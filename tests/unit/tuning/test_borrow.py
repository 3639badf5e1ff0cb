"""Thin domains borrow: what is kept of a change follows from the gains of the whole level."""

import copy
import functools

import numpy as np
import pytest
import torch

from iak.pipeline.iak.bank import stack
from iak.pipeline.iak.kernel import fresh
from iak.pipeline.model.loss import task_losses
from iak.pipeline.stats.shrinkage import kept_shares
from iak.pipeline.tuning.borrow import borrow
from iak.pipeline.tuning.validation import predicted_batches
from tests.unit.iak.small import SHAPE, TASKS, context, moved_kernel, only
from tests.unit.tuning.test_tune import NAMES, TRAIN, VALID, tune
from tests.unit.workers import on_threads

PARENTS = stack(SHAPE, {name: fresh(SHAPE, seed=0) for name in NAMES})
LEVEL = 1
AROUND = context(TRAIN, VALID)
ALL = torch.ones(len(NAMES), dtype=torch.bool)


@functools.cache
def tuned_once():
    return tune({name: fresh(SHAPE, seed=0) for name in NAMES}, max_epochs=12, lr=0.02)


def tuned():
    return copy.deepcopy(tuned_once())


def borrowed(around=AROUND, is_fresh=ALL, parents=PARENTS):
    done = tuned()
    borrow(done, parents, is_fresh, LEVEL, around)
    return done


def row_gains(slot, before, rows=VALID):
    """Each labelled validation row's gain over the parent, row by row."""
    losses = []
    for bank in (PARENTS, before.bank):
        (batch,) = predicted_batches(bank, LEVEL, AROUND, rows, torch.arange(3) == slot)
        mask, labels = rows.mask_nT[batch.index_B], rows.labels_nT[batch.index_B]
        lost = task_losses(batch.logits_BT, labels, mask, TASKS)
        weights = torch.tensor([task.weight for task in TASKS])
        losses.append((lost * weights).sum(1)[mask.any(dim=1)].double().numpy())
    return losses[0] - losses[1]


def test_each_share_is_that_of_its_mean_gain_and_error_on_validation_rows():
    before, done = tuned(), borrowed()
    gains = [row_gains(slot, before) for slot in range(3)]
    means = np.array([g.mean() for g in gains])
    errors = np.array([g.std(ddof=1) / len(g) ** 0.5 for g in gains])
    expected = kept_shares(means, errors)
    assert list(done.own_share) == list(NAMES)
    assert list(done.own_share.values()) == pytest.approx(list(expected), rel=1e-4)
    for slot, share in enumerate(done.own_share.values()):
        moved = torch.lerp(PARENTS.flat_KN[slot], before.bank.flat_KN[slot], share)
        torch.testing.assert_close(done.bank.flat_KN[slot], moved)
    assert 0 < min(done.own_share.values()) < 1


def test_a_kernel_of_an_earlier_night_stays_as_it_is():
    before, done = tuned(), borrowed(is_fresh=torch.tensor([True, False, True]))
    assert list(done.own_share) == ["a", "c"]
    assert torch.equal(done.bank.flat_KN[1], before.bank.flat_KN[1])


def test_a_kernel_that_did_not_move_borrows_nothing_and_decides_nothing():
    before = tuned()
    parents = stack(SHAPE, {n: PARENTS.slot(i) for i, n in enumerate(NAMES)}).clone()
    parents.flat_KN[2] = before.bank.flat_KN[2]
    done = borrowed(parents=parents)
    assert list(done.own_share) == ["a", "b"]


def test_without_validation_rows_the_parents_kernel_is_all_that_is_known():
    done = borrowed(context(TRAIN, only(VALID, VALID.slots_nL[:, LEVEL] != 1)))
    assert done.own_share["b"] == 0
    assert torch.equal(done.bank.flat_KN[1], PARENTS.flat_KN[1])


def test_a_level_whose_changes_are_noise_falls_back_to_its_parents():
    """Random changes gain nothing, and often no more than their errors: then none is kept."""
    shares = []
    for seed in range(8):
        done = tuned()
        for slot, name in enumerate(NAMES):
            change = stack(SHAPE, {name: moved_kernel(10 * seed + slot)}).flat_KN[0]
            done.bank.flat_KN[slot] = torch.lerp(PARENTS.flat_KN[slot], change, 1e-3)
        borrow(done, PARENTS, ALL, LEVEL, AROUND)
        shares.append(sum(done.own_share.values()))
        if not shares[-1]:
            assert torch.equal(done.bank.flat_KN, PARENTS.flat_KN)
    assert 0 in shares


def test_two_workers_with_half_the_rows_each_keep_the_shares_of_one():
    # Before the threads start: else each of them tunes, and two tunings may round differently.
    tuned_once()

    def on_part(worker):
        part = only(VALID, torch.arange(len(VALID)) % worker.world == worker.rank)
        return borrowed(context(TRAIN, part, worker)).own_share

    one, other = on_threads(on_part, 2)
    assert one == other
    assert one == pytest.approx(borrowed().own_share, rel=1e-4)
