"""The gate reads each kernel's rows once, under base and candidate, on worker 0 alone."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.iak import kernel
from iak.pipeline.iak.bank import stack
from iak.pipeline.model.loss import probabilities, task_losses
from iak.pipeline.tuning.gate_rows import collect_gate_rows
from tests.unit.iak.small import SHAPE, TASKS, context, moved_kernel, only, tuning_rows
from tests.unit.workers import on_threads

NAMES = ("a", "b", "c")
ROWS = 80
WEIGHTS_T = torch.tensor([task.weight for task in TASKS])


def bank():
    return stack(SHAPE, {name: moved_kernel(seed) for seed, name in enumerate(NAMES)})


def rows_of(count=ROWS, seed=4):
    rows = tuning_rows(count, len(NAMES), seed)
    return dataclasses.replace(rows, user_n=torch.arange(count) // 3)


def judged_by(*parts, rival=None):
    """What each worker gets of the gate, where each brings its part of the rows."""
    whole = context(parts[0], parts[0])  # made before the threads: its heads follow torch's seed

    def ask(worker):
        own = dataclasses.replace(whole, worker=worker)
        return collect_gate_rows(bank(), 1, own, parts[worker.rank], rival=rival)

    return on_threads(ask, len(parts))


def judged(rows, rival=None):
    (found,) = judged_by(rows, rival=rival)
    return found


def code_of(slot, a_BA):
    """The means of a kernel's code, by the formulas of kernel.py."""
    weights = bank().slot(slot)
    e_BO = (a_BA @ weights["encode_w"].T + weights["encode_b"]).relu()
    return (e_BO @ weights["mean_w"].T + weights["mean_b"]).double().numpy()


@pytest.fixture(scope="module")
def found():
    return judged(rows_of())


def assert_close(one, other, name=""):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=name)


def assert_columns(columns, expected):
    for field in (f for f in dataclasses.fields(columns) if f.name != "code"):
        one, other = getattr(columns, field.name), expected.get(field.name)
        if one is None or other is None:
            assert one is other
            continue
        assert_close(one, other, field.name)


@pytest.mark.parametrize("slot", range(3))
def test_a_kernel_s_rows_are_those_of_its_domain_under_base_and_candidate(found, slot):
    """The candidate is the kernel run alone, without noise."""
    rows, heads = rows_of(), context(rows_of(), rows_of()).heads
    places = torch.nonzero(rows.slots_nL[:, 1] == slot).flatten()
    h_BH, a_BA = rows.activations.of(places)
    labels_BT, mask_BT = rows.labels_nT[places], rows.mask_nT[places]
    expected = {"labels_nT": labels_BT, "mask_nT": mask_BT, "user_n": rows.user_n[places]}
    own = kernel.run(bank().slot(slot), heads, h_BH, a_BA, None)
    expected["rate_n"] = own.rate_B.detach()
    for who, logits_BT in (("base", heads(h_BH)), ("candidate", own.logits_BT)):
        p = probabilities(logits_BT, TASKS)
        losses_BT = task_losses(logits_BT, labels_BT, mask_BT, TASKS) * WEIGHTS_T
        expected |= {f"{who}_loss_nT": losses_BT.detach()}
        expected |= {f"{who}_own_nT": p.own_BT.detach(), f"{who}_entire_nT": p.entire_BT.detach()}
    assert len(places) > 5
    assert_columns(found[NAMES[slot]], expected)
    code_BC = code_of(slot, a_BA)
    assert found[NAMES[slot]].code.rows == len(places)
    assert_close(found[NAMES[slot]].code.variances(), code_BC.var(0))


def test_a_loss_is_that_of_all_tasks_and_nothing_where_a_label_is_missing(found):
    for part in found.values():
        assert not part.base_loss_nT[~part.mask_nT].any()
        np.testing.assert_allclose(part.base_loss, part.base_loss_nT.sum(1), rtol=1e-6)
        np.testing.assert_allclose(part.candidate_loss, part.candidate_loss_nT.sum(1), rtol=1e-6)
        assert part.base_loss.dtype == part.candidate_loss.dtype == np.float64
    assert any(not part.mask_nT.all() for part in found.values())


@settings(max_examples=6)
@given(ends=st.lists(st.integers(0, ROWS), max_size=3))
def test_worker_0_has_every_worker_s_rows_and_the_others_none(ends):
    rows, bounds = rows_of(), [0, *sorted(ends), ROWS]
    parts = [tuning_part(rows, first, last) for first, last in itertools.pairwise(bounds)]
    by_rank = judged_by(*parts)
    assert by_rank[1:] == [{}] * (len(parts) - 1)
    whole = judged(rows)
    assert by_rank[0].keys() == whole.keys() == set(NAMES)
    for name, columns in by_rank[0].items():
        assert_columns(columns, dataclasses.asdict(whole[name]))
        assert columns.code.rows == whole[name].code.rows == len(columns.labels_nT)
        assert_close(columns.code.variances(), whole[name].code.variances())


def tuning_part(rows, first, last):
    keep = torch.zeros(len(rows), dtype=torch.bool)
    keep[first:last] = True
    return dataclasses.replace(only(rows, keep), user_n=rows.user_n[keep])


def test_a_kernel_without_gate_rows_is_left_out():
    rows = rows_of()
    found = judged(only(rows, rows.slots_nL[:, 1] != 1))
    assert set(found) == {"a", "c"}


def test_a_log_that_declares_no_user_has_none_to_give():
    rows = dataclasses.replace(rows_of(), user_n=None)
    assert all(part.user_n is None for part in judged(rows).values())


def test_a_rival_takes_the_place_of_the_base_on_the_same_rows(found):
    rival = stack(SHAPE, {name: moved_kernel(seed + 7) for seed, name in enumerate(NAMES)})
    against = judged(rows_of(), rival)
    swapped = judged_by(rows_of(), rival=bank())[0]
    for name, rows in against.items():
        assert np.array_equal(rows.candidate_loss_nT, found[name].candidate_loss_nT)
        assert not np.allclose(rows.base_loss_nT, found[name].base_loss_nT)
        # A kernel as its own rival has the same numbers on both sides.
        assert np.array_equal(swapped[name].base_own_nT, swapped[name].candidate_own_nT)


def test_days_go_with_their_rows():
    rows = rows_of()
    dated = dataclasses.replace(rows, day_n=torch.arange(len(rows)) + 20_000)
    for slot, name in enumerate(NAMES):
        own = torch.nonzero(rows.slots_nL[:, 1] == slot).flatten() + 20_000
        assert np.array_equal(judged(dated)[name].day_n, own)
