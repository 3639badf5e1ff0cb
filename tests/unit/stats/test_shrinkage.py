"""Shrunk gains: between their own and the common mean, and nearer to the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.stats.shrinkage import kept_shares, shrunk_means

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


@given(gains)
def test_a_share_lies_between_0_and_1_and_the_more_certain_domain_keeps_more(measured):
    means, errors = measured
    shares = kept_shares(means, errors)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (np.diff(shares[np.argsort(errors)]) <= 1e-12).all()


@given(gains, st.floats(-1, 1), st.booleans())
def test_a_certain_domain_keeps_all_and_one_that_knows_nothing_keeps_nothing(
    measured, gain, is_one
):
    """The others must differ from zero, or nothing is known of how far changes are worth it."""
    others = (np.array([0.5]), np.array([1e-3])) if is_one else measured
    means, errors = (np.append(a, b) for a, b in zip(others, ([0.7, gain], [1e-3, 0]), strict=True))
    for error, expected in ((1e-9, 1.0), (1e9, 0.0)):
        errors[-1] = error
        assert kept_shares(means, errors)[-1] == pytest.approx(expected, abs=1e-4)


def test_the_share_of_two_domains_by_hand():
    """With errors of 1 and gains of 2 and 3, tau^2 is (4 + 9 - 2) / 2 = 5.5."""
    shares = kept_shares(np.array([2.0, -3.0]), np.array([1.0, 1.0]))
    np.testing.assert_allclose(shares, 5.5 / 6.5)


def test_one_domain_has_an_estimate_of_its_own():
    """That of James and Stein: 1 - e^2 / g^2, at least 0."""
    np.testing.assert_allclose(kept_shares(np.array([2.0]), np.array([1.0])), [0.75])
    np.testing.assert_allclose(kept_shares(np.array([0.5]), np.array([1.0])), [0.0])


def test_where_gains_are_within_their_errors_every_domain_is_its_parents():
    shares = kept_shares(np.array([0.1, -0.2, 0.0]), np.array([1.0, 1.0, 2.0]))
    assert shares.tolist() == [0.0, 0.0, 0.0]


def test_of_what_is_not_known_nothing_is_kept_and_others_are_as_without_it():
    alone = kept_shares(np.array([2.0]), np.array([1.0]))
    means, errors = (
        np.array([2.0, np.nan, 5.0, 5.0, 0.3]),
        np.array([1.0, 1.0, np.nan, np.inf, 0.0]),
    )
    np.testing.assert_allclose(kept_shares(means, errors), [*alone, 0.0, 0.0, 0.0, 1.0])
    assert kept_shares(np.empty(0), np.empty(0)).size == 0


def test_kept_changes_are_nearer_to_the_truth_than_measured_ones():
    draw = np.random.default_rng(1)
    truth = draw.normal(0, 0.01, 500)
    errors = draw.uniform(0.005, 0.05, 500)
    means = truth + errors * draw.normal(size=500)
    kept = means * kept_shares(means, errors)
    before, after = (np.mean((v - truth) ** 2) for v in (means, kept))
    assert after < 0.3 * before
