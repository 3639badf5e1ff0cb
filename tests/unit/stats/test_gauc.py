"""The difference of two GAUCs: what single users say, weighted by rows, with an honest error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.stats.auc import auc, gauc
from iak.pipeline.stats.gauc import paired_gaucs


def paired_gauc(labels, scores_a, scores_b, users):
    """The comparison of two methods on rows of one group."""
    group_N = np.zeros(labels.size, np.int64)
    (only,) = paired_gaucs(labels, scores_a, scores_b, users, group_N=group_N, num_groups=1)
    return only


def drawn(seed, users=40, rows=12, *, better=0.0):
    """Rows of users under two methods; a sees `better` of what decides the label."""
    draw = np.random.default_rng(seed)
    of_N = np.repeat(np.arange(users), rows)
    truth = draw.normal(size=of_N.size)
    labels = (draw.random(of_N.size) < 1 / (1 + np.exp(-truth))).astype(float)
    a, b = (seen * truth + draw.normal(size=of_N.size) for seen in (0.5 + better, 0.5))
    return labels, a, b, of_N


@given(st.integers(0, 1000))
def test_it_is_the_difference_of_two_gaucs(seed):
    labels, a, b, users = drawn(seed)
    found = paired_gauc(labels, a, b, users)
    assert (found.gauc_a, found.gauc_b) == pytest.approx(
        [gauc(labels, scores, users)[0] for scores in (a, b)]
    )
    assert found.delta == pytest.approx(found.gauc_a - found.gauc_b)
    assert found.low < found.delta < found.high


def test_only_users_with_both_classes_take_part_each_by_its_rows():
    labels = np.array([1, 0, 1, 0, 0, 1, 1])
    users = np.array([1, 1, 2, 2, 2, 3, 3])
    a, b = np.arange(7.0), np.arange(7.0)[::-1]
    found = paired_gauc(labels, a, b, users)
    first, second = (slice(0, 2), slice(2, 5))
    expected = (2 * auc(labels[first], a[first]) + 3 * auc(labels[second], a[second])) / 5
    assert (found.users, found.gauc_a) == (2, pytest.approx(expected))


def test_fewer_than_two_such_users_have_no_interval():
    one_user = np.array([1, 1, 2])
    assert paired_gauc(np.array([1, 0, 1]), np.arange(3.0), np.arange(3.0), one_user) is None
    assert paired_gauc(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, int)) is None


def test_the_interval_covers_no_difference_about_19_times_in_20():
    covered = [
        found.low <= 0 <= found.high
        for found in (paired_gauc(*drawn(seed, users=60)) for seed in range(400))
    ]
    assert 0.91 <= np.mean(covered) <= 0.98


def test_a_method_that_sees_more_is_above():
    assert paired_gauc(*drawn(0, users=300, better=0.8)).low > 0


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 6)), min_size=1, max_size=5))
def test_many_groups_at_once_are_compared_as_each_alone_bit_for_bit(groups):
    parts = [drawn(seed, users, rows=4) for seed, users in groups]
    group_N = np.repeat(np.arange(len(parts)), [part[0].size for part in parts])
    rows = [np.concatenate(column) for column in zip(*parts, strict=True)]
    found = paired_gaucs(*rows, group_N=group_N, num_groups=len(parts))
    assert found == [paired_gauc(*part) for part in parts]
