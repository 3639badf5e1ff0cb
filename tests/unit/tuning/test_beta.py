"""The weight of the rate: a constant, or what holds a code at its target, also at extremes."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.iak.kernel import fresh
from iak.pipeline.tuning.beta import HIGHEST, LOWEST, Beta
from tests.unit.tuning.test_tune import NAMES, same, tune, tuner

KERNELS = {name: fresh(tuner().bank.shape, seed=0) for name in NAMES}
LONG = {"compression_epochs": 0, "max_epochs": 40, "patience": 99, "lr": 0.02}


def follow(beta, *rates):
    for rate in rates:
        beta.follow([0], torch.tensor([2.0]), torch.tensor([2.0 * rate], dtype=torch.float64))
    return float(beta.beta_K[0])


def last_rates(done):
    return [points[-1].rate for points in done.path.values()]


def test_without_a_target_it_is_the_number_of_the_settings():
    beta = Beta(1, start=0.3, target=None)
    assert follow(beta, 1e9, 0.0) == 0.3
    assert beta.of([0]) == 0.3
    assert beta.state() == {}


def test_one_step_by_hand():
    """e times the target: the error is 1, the integral rises by 0.1, and 0.5 comes on top."""
    beta = Beta(1, start=0.01, target=2.0)
    assert follow(beta, 2.0 * math.e) == pytest.approx(0.01 * math.exp(0.1 + 0.5))
    assert follow(beta, 2.0) == pytest.approx(0.01 * math.exp(0.1))


@given(
    st.floats(0, 1e6), st.floats(1e-9, 1e6),
    st.lists(st.floats(0, 1e30) | st.sampled_from([math.nan, math.inf]), max_size=60),
)  # fmt: skip
def test_it_stays_within_its_bounds_whatever_it_sees(start, target, rates):
    assert LOWEST * 0.999 <= follow(Beta(1, start=start, target=target), *rates) <= HIGHEST * 1.001


@given(st.floats(1e-6, 1e2), st.floats(1e-3, 1e3), st.floats(1.01, 1e3))
def test_a_code_that_keeps_too_much_pays_more_and_one_that_keeps_too_little_less(
    start, target, factor
):
    start = min(max(start, 10 * LOWEST), HIGHEST / 10)
    assert follow(Beta(1, start=start, target=target), target * factor) > start
    assert follow(Beta(1, start=start, target=target), target / factor) < start


def test_a_slot_without_rows_stays_as_it_is():
    beta = Beta(2, start=0.01, target=1.0)
    beta.follow([0, 1], torch.tensor([0.0, 3.0]), torch.tensor([0.0, 30.0]))
    assert float(beta.beta_K[0]) == pytest.approx(0.01)
    assert float(beta.beta_K[1]) > 0.01


@pytest.mark.parametrize("target", [0.5, 2.0])
def test_each_code_comes_to_its_target(target):
    for rate in last_rates(tune(KERNELS, target_rate=target, **LONG)):
        assert rate == pytest.approx(target, rel=0.3)


def test_a_target_out_of_reach_ends_at_a_bound_of_beta_and_not_in_a_divergence():
    nothing, everything = (tune(KERNELS, target_rate=t, **LONG) for t in (1e-6, 1e5))
    assert not nothing.failed
    assert not everything.failed
    assert max(last_rates(nothing)) < 0.05
    assert min(last_rates(everything)) > max(last_rates(nothing))
    for points in everything.path.values():
        assert points[-1].beta == pytest.approx(LOWEST)


def test_a_resumed_run_follows_the_target_as_an_uninterrupted_one():
    states, changes = [], {"target_rate": 1.0, "max_epochs": 3, "patience": 9}
    expected = tuner(**changes).run(
        report=lambda _: None, save=lambda t: states.append(copy.deepcopy(t.state()))
    )
    for state in states:
        resumed = tuner(**changes)
        resumed.load(state)
        done = resumed.run(report=lambda _: None)
        assert same(done, expected)
        assert done.path == expected.path
