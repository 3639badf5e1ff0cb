"""A quantile lies between the values, and is one of them at the ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.bench.times import quantile

SECONDS = st.lists(st.floats(0, 1e6), min_size=1, max_size=20)


@given(SECONDS)
def test_the_ends_are_the_least_and_the_most(seconds):
    assert (quantile(seconds, 0.0), quantile(seconds, 1.0)) == (min(seconds), max(seconds))


@given(SECONDS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_has_no_smaller_quantile(seconds, one, other):
    low, high = sorted((one, other))
    assert quantile(seconds, low) <= quantile(seconds, high) * (1 + 1e-12)


def test_between_two_values_it_is_interpolated():
    assert quantile([1.0, 2.0, 4.0], 0.5) == 2.0
    assert quantile([4.0, 1.0], 0.25) == pytest.approx(1.75)
