"""Ranks within groups are correlated as scipy correlates each group by itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from iak.pipeline.stats.rank_correlation import rank_correlation, spearman_per_group

ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=40
)


@given(rows=ROWS)
def test_each_group_has_the_correlation_of_its_own_rows(rows):
    groups, a, b = np.array(rows).T
    found = spearman_per_group(a / 7, b / 7, groups, 5)
    for group in range(5):
        own = groups == group
        if np.unique(a[own]).size > 1 and np.unique(b[own]).size > 1:
            assert found[group] == pytest.approx(spearmanr(a[own], b[own]).statistic, abs=1e-12)
        else:
            assert np.isnan(found[group])


@given(rows=ROWS, shift=st.lists(st.integers(-50, 50), min_size=5, max_size=5))
def test_a_shift_of_all_scores_of_a_user_changes_no_rank(rows, shift):
    groups, a, b = np.array(rows).T
    moved = b + np.array(shift)[groups]
    assert rank_correlation(a, b, groups) == rank_correlation(a, moved, groups)


def test_a_group_counts_by_its_rows():
    groups = np.array([7, 7, 7, 7, 9, 9, 11])
    a = np.array([1.0, 2, 3, 4, 1, 2, 5])
    b = np.array([1.0, 2, 3, 4, 2, 1, 5])
    found = rank_correlation(a, b, groups)
    assert found.groups == 2  # a single row has no rank
    assert found.mean == pytest.approx((4 * 1 + 2 * -1) / 6)


def test_without_a_group_that_tells_there_is_none():
    assert rank_correlation(np.ones(4), np.arange(4.0), np.zeros(4)) is None
    assert rank_correlation(np.zeros(0), np.zeros(0), np.zeros(0)) is None
