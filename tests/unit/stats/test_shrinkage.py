"""Shrunk gains: between their own and the common mean, and nearer to the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.stats.shrinkage import shrunk_means

gains = st.lists(st.tuples(st.floats(-1, 1), st.floats(1e-3, 1)), min_size=2, max_size=20).map(
    lambda pairs: tuple(np.array(column) for column in zip(*pairs, strict=True))
)


@given(gains)
def test_a_shrunk_gain_lies_within_what_was_measured_and_keeps_its_side(measured):
    means, errors = measured
    shrunk = shrunk_means(means, errors)
    assert (shrunk >= means.min() - 1e-9).all()
    assert (shrunk <= means.max() + 1e-9).all()


@given(gains, st.randoms())
def test_the_order_of_domains_does_not_matter(measured, random):
    means, errors = measured
    order = list(range(means.size))
    random.shuffle(order)
    np.testing.assert_allclose(
        shrunk_means(means[order], errors[order]), shrunk_means(means, errors)[order], atol=1e-9
    )


def test_the_uncertain_borrow_and_the_certain_keep():
    means, errors = np.array([0.05, 0.05, -0.02, 0.0]), np.array([0.5, 1e-4, 1e-4, 1e-4])
    shrunk = shrunk_means(means, errors)
    np.testing.assert_allclose(shrunk[1:], means[1:], atol=1e-4)
    assert abs(shrunk[0] - means[1:].mean()) < 1e-2


def test_a_lone_domain_keeps_its_gain_and_one_without_error_has_none():
    np.testing.assert_allclose(shrunk_means(np.array([0.3]), np.array([0.1])), [0.3])
    shrunk = shrunk_means(np.array([0.3, 0.1, np.nan]), np.array([0.1, np.nan, 0.1]))
    assert shrunk[0] == pytest.approx(0.3)
    assert np.isnan(shrunk[1:]).all()


def test_shrunk_gains_are_nearer_to_the_truth_than_measured_ones():
    draw = np.random.default_rng(0)
    truth = draw.normal(0.01, 0.01, 500)
    errors = draw.uniform(0.005, 0.05, 500)
    means = truth + errors * draw.normal(size=500)
    before, after = (np.mean((v - truth) ** 2) for v in (means, shrunk_means(means, errors)))
    assert after < 0.3 * before
