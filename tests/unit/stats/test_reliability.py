"""Calibration curves: against sklearn, and what holds for every set of rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from iak.pipeline.stats.losses import calibration
from iak.pipeline.stats.reliability import MIN_ROWS, reliability
from tests.unit.stats.planted_rows import planted


def test_bins_of_equal_size_are_those_of_sklearn():
    labels, _, p_base, *_ = planted()
    observed, predicted = calibration_curve(labels, p_base, n_bins=10, strategy="quantile")
    curve = reliability(labels, p_base)
    assert [rows for *_, rows in curve] == pytest.approx([400] * 10, abs=1)
    # sklearn's edges lie between two predictions, ours on one of them: a row may change its bin.
    np.testing.assert_allclose([p for p, *_ in curve], predicted, atol=2e-3)
    np.testing.assert_allclose([y for _, y, _ in curve], observed, atol=5e-3)


def test_the_true_probabilities_lie_on_the_diagonal():
    labels, p_true, *_ = planted(size=200_000)
    for predicted, observed, rows in reliability(labels, p_true):
        assert abs(predicted - observed) < 4 * np.sqrt(0.25 / rows)


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.3, 0.30001, 0.9, 1.0])),
        min_size=1,
        max_size=300,
    ),
    kept=st.sampled_from([1.0, 0.25]),
    bins=st.integers(1, 12),
)
def test_every_row_is_in_one_bin_and_the_bins_add_up(rows, kept, bins):
    labels, p = np.array(rows).T
    curve = reliability(labels, p, kept=kept, bins=bins)
    predictions = [predicted for predicted, *_ in curve]
    assert sum(count for *_, count in curve) == len(rows)
    assert len(curve) <= max(1, min(bins, len(rows) // MIN_ROWS))
    assert predictions == sorted(set(predictions)), "equal predictions share a bin"
    whole = calibration(labels, p, kept=kept)
    if len(curve) == 1 and whole is not None:
        ((predicted, observed, _),) = curve
        assert predicted / observed == pytest.approx(whole)


def test_rows_that_are_not_finite_are_left_out():
    assert reliability(np.array([1, 0]), np.array([np.nan, np.inf])) == []
    assert reliability(np.array([1, 0]), np.array([0.5, np.nan])) == [(0.5, 1.0, 1)]
