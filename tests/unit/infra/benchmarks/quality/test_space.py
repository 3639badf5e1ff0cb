"""A search begins with the shipped settings, stays in its bounds, and grows without changing."""

import math

from hypothesis import given
from hypothesis import strategies as st

from infra.benchmarks.quality.space import Choice, LogRange, first_of, trial_settings, trials_of

SPACE = {"lr": LogRange(1e-3, 1e-4, 1e-2), "rank": Choice((8, 4, 16))}


def settings(trials, *, name="lora", seed=0):
    return [trial_settings(SPACE, name=name, trial=n, seed=seed) for n in range(trials)]


def test_the_first_trial_has_the_shipped_settings():
    assert settings(1) == [{"lr": 1e-3, "rank": 8}]


@given(st.integers(0, 40), st.integers(0, 2**31 - 1), st.sampled_from(["lora", "iak"]))
def test_every_trial_is_in_the_bounds_and_the_same_each_time(trial, seed, name):
    first, again = (trial_settings(SPACE, name=name, trial=trial, seed=seed) for _ in range(2))
    assert first == again
    assert 1e-4 <= first["lr"] <= 1e-2
    assert first["rank"] in (4, 8, 16)


def test_trials_differ_within_a_search_and_between_searches():
    assert len({trial["lr"] for trial in settings(8)}) == 8
    assert settings(8)[1:] != settings(8, seed=1)[1:]
    assert settings(8)[1:] != settings(8, name="iak")[1:]


def test_points_are_spread_evenly():
    """Sixteen points of a low-discrepancy sequence leave no quarter of the range empty."""
    quarters = {int(2 * (2 + math.log10(trial["lr"]))) for trial in settings(17)[1:]}
    assert {trial["rank"] for trial in settings(17)} == {4, 8, 16}
    assert len(quarters) >= 4


def test_a_method_without_settings_has_one_trial():
    assert trials_of({}, 8) == 1
    assert trials_of(SPACE, 8) == 8
    assert trial_settings({}, name="base", trial=0, seed=0) == {}


def test_a_shipped_value_is_offered_once():
    assert first_of(8, 4, 8).values == (8, 4)
