"""Differences to the base: the interval of a distance from one, and differences with holes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.stats.differences import Delta, difference, farther_from_one, se_ratio

near = st.floats(0.2, 5.0)
half = st.floats(0.0, 0.5)


def farther(c, base, apart, together):
    """The difference and its limits as three numbers."""
    result = farther_from_one(
        np.array([c]),
        np.array([base]),
        half_of_difference_G=np.array([apart]),
        half_of_sum_G=np.array([together]),
    )
    return float(result.value_G[0]), float(result.low_G[0]), float(result.high_G[0])


@given(c=near, base=near, apart=half, together=half)
def test_the_limits_enclose_the_difference_of_distances(c, base, apart, together):
    value, low, high = farther(c, base, apart, together)
    assert value == pytest.approx(abs(c - 1) - abs(base - 1))
    assert low - 1e-12 <= value <= high + 1e-12
    assert max(abs(low), abs(high)) <= abs(c - base) + apart + 1e-12


@given(c=near, base=near, apart=half, together=half)
def test_the_interval_of_the_opposite_difference_is_its_mirror(c, base, apart, together):
    value, low, high = farther(c, base, apart, together)
    opposite, opposite_low, opposite_high = farther(base, c, apart, together)
    assert opposite == pytest.approx(-value)
    assert (opposite_low, opposite_high) == (pytest.approx(-high), pytest.approx(-low))


def test_far_from_one_it_is_the_interval_of_the_plain_difference():
    assert farther(2.0, 1.8, 0.05, 0.05) == pytest.approx((0.2, 0.15, 0.25))
    assert farther(0.5, 0.7, 0.05, 0.05) == pytest.approx((0.2, 0.15, 0.25))


def test_a_hole_has_no_difference_and_leaves_the_others():
    delta = Delta(value_G=np.ones(3), low_G=np.zeros(3), high_G=np.full(3, 2.0))
    result = delta.without(np.array([0, 2, 0]))
    for part in (result.value_G, result.low_G, result.high_G):
        assert np.isnan(part).tolist() == [False, True, False]


def test_a_difference_without_an_error_is_missing():
    result = difference(np.array([0.1, 0.1]), np.array([0.02, np.nan]), np.array([9, 9]), "row")
    assert result.low_G[0] == pytest.approx(0.1 - 1.96 * 0.02, abs=1e-5)
    assert np.isnan(result.value_G).tolist() == [False, True]


def test_rows_as_clusters_have_no_ratio_of_errors():
    errors = np.array([0.2, 0.3])
    assert np.isnan(se_ratio(errors, errors, "row")).all()
    assert se_ratio(errors, np.array([0.1, 0.0]), "user")[0] == pytest.approx(2)
    assert np.isnan(se_ratio(errors, np.array([0.1, 0.0]), "user")[1])
