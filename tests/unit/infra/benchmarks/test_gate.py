"""The simulated month: fair worlds, both gates on the same rows, and a guarantee that holds."""

import numpy as np
import pytest

from iak.pipeline.stats.clusters import mean_and_error
from iak.schemas.job import ChainSpec
from infra.benchmarks.gate import (
    CHAIN,
    MONTH,
    PRESENT,
    WINDOW,
    WORLDS,
    error_lines,
    moments_of,
    proved_after,
    published_after,
    smallest_gain,
    upper_bound,
    windows,
)
from infra.benchmarks.specs import BenchGateSpec

SMALL = BenchGateSpec(domains=25, rows=100)


def month(seed=0, rows=100, world=WORLDS[0]):
    draw = np.random.default_rng(seed)
    return [world.day(draw, rows, 0.25) for _ in range(WINDOW - 1 + MONTH)]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_a_world_without_a_gain_has_a_mean_gain_of_zero(world):
    """Days of one row each, so that what a day shares averages out as well."""
    draw = np.random.default_rng(3)
    gains = np.concatenate([world.day(draw, 1, 0.0) for _ in range(100_000)])
    assert abs(gains.mean()) < 4 * gains.std() / np.sqrt(gains.size) + 1e-12


def test_the_moments_of_days_give_the_mean_and_error_of_their_windows():
    days = month()
    for night, mean, error in windows(moments_of(days)):
        expected = mean_and_error(np.concatenate(days[night - 1 : night + WINDOW - 1]), None)
        np.testing.assert_allclose((mean, error), expected[:2])
    assert night == MONTH


def test_a_gain_is_found_and_a_larger_one_no_later():
    days = month(seed=1)
    nights = [proved_after(days, gain) for gain in (0.0, 0.02, 0.5)]
    assert nights[0] is None
    assert 1 < nights[1] <= MONTH
    assert nights[2] == 1
    assert published_after(moments_of(days), 0.5) == 1


def test_the_smallest_gain_is_found_and_one_a_little_smaller_is_not():
    days = month(seed=2)
    gain = smallest_gain(days)
    assert proved_after(days, gain) is not None
    assert proved_after(days, 0.97 * gain) is None
    alone = smallest_gain(days, ChainSpec(at_once=0.0))
    assert 0.5 * gain < alone < 2 * gain


def test_the_present_gate_promotes_many_domains_without_a_gain_and_the_chain_few():
    chain, present = error_lines(WORLDS[1], SMALL)
    assert (chain.gate, present.gate) == (CHAIN, PRESENT)
    assert chain.promoted <= 2
    assert present.promoted >= 8


def test_the_bound_of_a_share_is_clopper_and_pearsons():
    assert upper_bound(0, 200) == pytest.approx(1 - 0.05 ** (1 / 200))
    assert upper_bound(5, 5) == 1
    assert upper_bound(3, 200) == pytest.approx(0.0383, abs=2e-4)
