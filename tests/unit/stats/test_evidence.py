"""The laws of evidence over nights: fair bets, any order, resumed or not, each night once."""

import itertools
import math
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.stats.evidence import (
    BETS,
    Evidence,
    bounded_gains,
    lower_bound_of_days,
    needed_log_e,
    night_observation,
)

FIRST = date(2026, 10, 1)
FLOOR = 0.05
numbers = st.floats(-FLOOR, FLOOR)


def after(values, start=None):
    """Evidence after nights with these numbers, one a day."""
    evidence = start or Evidence(floor=FLOOR)
    first = evidence.last_night + timedelta(days=1) if evidence.last_night else FIRST
    for day, x in enumerate(values):
        evidence = evidence.add(first + timedelta(days=day), x)
    return evidence


@given(st.lists(numbers, max_size=8).flatmap(lambda v: st.tuples(st.just(v), st.permutations(v))))
def test_the_order_of_nights_does_not_matter(orders):
    before, reordered = orders
    assert after(before).log_e == pytest.approx(after(reordered).log_e, abs=1e-12)


@given(st.lists(numbers, max_size=8), st.lists(numbers, max_size=8))
def test_going_on_from_stored_evidence_is_going_on(early, late):
    stored = after(early)
    read = Evidence(
        floor=stored.floor, log_wealth=stored.log_wealth, nights=stored.nights,
        last_night=stored.last_night,
    )  # fmt: skip
    assert after(late, read) == after([*early, *late])


@given(st.integers(0, 5), st.integers(0, 5), numbers)
def test_a_night_counts_once_and_none_before_it_counts(counted, days_back, x):
    evidence = after([0.01] * (counted + 1))
    night = evidence.last_night - timedelta(days=days_back)
    assert evidence.is_counted(night)
    with pytest.raises(ValueError, match="a night counts once"):
        evidence.add(night, x)


@given(
    loss=st.floats(1e-6, FLOOR),
    gain=st.floats(1e-6, FLOOR),
    worse=st.floats(0, 1),
)
def test_the_mean_evidence_of_a_chain_that_is_no_better_is_at_most_1(loss, gain, worse):
    """All outcomes of four nights of a two-point game that is fair or worse, by enumeration."""
    fair = gain / (gain + loss)  # probability of a loss that makes the mean zero
    p_loss = fair + (1 - fair) * worse
    outcomes = [(-loss, p_loss), (gain, 1 - p_loss)]
    total = 0.0
    for path in itertools.product(outcomes, repeat=4):
        probability = math.prod(p for _, p in path)
        total += probability * math.exp(after([x for x, _ in path]).log_e)
    assert total <= 1 + 1e-9


def test_a_game_that_is_favourable_gains_on_average():
    outcomes = [(-0.03, 0.3), (0.03, 0.7)]
    paths = itertools.product(outcomes, repeat=4)
    mean = sum(
        math.prod(p for _, p in path) * math.exp(after([x for x, _ in path]).log_e)
        for path in paths
    )
    assert mean > 1.2


@pytest.mark.parametrize("x", [-FLOOR * 1.001, -1.0, math.nan, math.inf])
def test_a_number_below_the_floor_is_refused_and_never_cut(x):
    with pytest.raises(ValueError, match=r"expected -0\.05 or more"):
        after([0.01]).add(FIRST + timedelta(days=1), x)


def test_no_night_at_the_floor_takes_all_the_money():
    assert math.isfinite(after([-FLOOR] * 50).log_e)


@pytest.mark.parametrize("floor", [0.0, -0.1, 1.5, math.nan])
def test_a_floor_that_bounds_nothing_is_refused(floor):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        Evidence(floor=floor)


def test_money_of_other_bets_is_refused():
    with pytest.raises(ValueError, match=f"wealth of 3 bets, but there are {len(BETS)}"):
        Evidence(floor=FLOOR, log_wealth=(0.0, 0.0, 0.0))


def test_evidence_is_enough_at_one_over_alpha():
    assert math.exp(needed_log_e(0.025)) == pytest.approx(40)
    assert needed_log_e(0) == math.inf


# ---------------------------------------------------------------- a night's number


gains = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(gains, st.floats(1e-3, 1e3), st.floats(1e-3, 1))
def test_a_nights_number_keeps_to_its_bounds_whatever_the_gains(values, scale, floor):
    users = np.arange(len(values)) // 3
    x = night_observation(np.array(values), users, scale=scale, floor=floor)
    assert -floor <= x <= floor
    mirrored = night_observation(-np.array(values), users, scale=scale, floor=floor)
    assert mirrored == pytest.approx(-x, abs=1e-12)


def test_a_user_counts_once_however_many_rows_he_has():
    gain_N = np.array([0.3, 0.1, 0.1, 0.1, 0.1])
    users_N = np.array([7, 4, 4, 4, 4])
    expected = 10 * np.tanh(np.array([0.02, 0.06]))
    np.testing.assert_allclose(bounded_gains(gain_N, users_N, 0.5), expected)
    np.testing.assert_allclose(bounded_gains(gain_N, None, 0.5), 10 * np.tanh(gain_N / 5))


def test_a_row_that_loses_several_times_the_bases_loss_is_counted_almost_in_full():
    (bounded,) = bounded_gains(np.array([-2.5]), None, 0.5)
    assert -5 < bounded < -4.6
    assert bounded_gains(np.array([-1e9]), None, 0.5) == -10


def test_a_scale_must_be_positive():
    with pytest.raises(ValueError, match=r"scale 0\.0 must be above 0"):
        bounded_gains(np.ones(3), None, 0.0)


# ---------------------------------------------------------------- one night with several days


def days_of_gains(means, *, rows=400, seed=0, spread=0.05):
    """Rows of days whose mean gains are these."""
    draw = np.random.default_rng(seed)
    days_N = np.repeat(np.arange(len(means)), rows)
    return np.repeat(means, rows) + spread * draw.normal(size=days_N.size), days_N


def test_the_bound_of_days_is_below_the_mean_by_what_days_differ():
    alike, days_N = days_of_gains([0.02] * 7)
    differing, _ = days_of_gains([0.06, -0.02] * 3 + [0.02])
    bounds = [
        lower_bound_of_days(g, days_N, None, scale=1, alpha=0.025) for g in (alike, differing)
    ]
    assert 0.01 < bounds[0] < 0.02
    assert bounds[1] < 0


def test_rows_of_few_users_widen_the_bound_of_days():
    """Users that appear on every day are the larger part of the error here."""
    days_N = np.repeat(np.arange(7), 40)
    users_N = np.tile(np.arange(40) % 4, 7)
    gain_N = np.array([0.1, -0.06, 0.05, -0.01])[users_N]
    by_row = lower_bound_of_days(gain_N, days_N, None, scale=1, alpha=0.025)
    by_user = lower_bound_of_days(gain_N, days_N, users_N, scale=1, alpha=0.025)
    assert by_user < 0 < by_row


@pytest.mark.parametrize(
    ("days", "users", "alpha"),
    [([0, 0], [1, 2], 0.02), ([0, 1], [5, 5], 0.02), ([0, 1], [1, 2], 0)],
)
def test_one_day_one_user_or_no_alpha_bound_nothing(days, users, alpha):
    bound = lower_bound_of_days(
        np.array([0.1, 0.2]), np.array(days), np.array(users), scale=1, alpha=alpha
    )
    assert bound is None


def test_the_bound_of_days_is_seldom_above_the_true_mean():
    """Days with luck of their own and no gain: the bound is above zero in about 2.5 %."""
    draw = np.random.default_rng(1)
    days_N = np.repeat(np.arange(7), 20)
    above = 0
    for _ in range(2000):
        gain_N = np.repeat(draw.normal(0, 0.05, 7), 20) + draw.normal(0, 0.05, days_N.size)
        above += lower_bound_of_days(gain_N, days_N, None, scale=1, alpha=0.025) > 0
    assert 0.015 < above / 2000 < 0.035
