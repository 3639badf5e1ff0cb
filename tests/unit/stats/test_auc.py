"""AUC, its paired interval and GAUC: against other libraries, the bootstrap and brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score

from iak.pipeline.stats.auc import (
    CONFIDENCE,
    HALF_WIDTH,
    auc,
    average_ranks,
    dense_ranks,
    gauc,
    paired_auc,
    placements,
)

# Few distinct scores make many ties.
rows = st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4), st.integers(0, 3)), max_size=60)


def columns(drawn):
    table = np.array(drawn, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1].astype(float), table[:, 2]


def brute_auc(labels, scores):
    wins = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    return float(np.mean(wins)) if wins else None


@given(st.lists(st.sampled_from([-1.5, 0.0, 0.25, 7.0, np.inf, np.nan]), max_size=30))
def test_average_ranks_and_the_width_of_an_interval_are_those_of_scipy_to_the_bit(scores):
    np.testing.assert_array_equal(average_ranks(np.array(scores)), rankdata(scores))
    assert norm.ppf(0.5 + CONFIDENCE / 2) == HALF_WIDTH


def brute_gauc(labels, scores, users):
    total, count = 0.0, 0
    for user in set(users.tolist()):
        mine = users == user
        value = brute_auc(labels[mine], scores[mine])
        if value is not None:
            total, count = total + value * mine.sum(), count + int(mine.sum())
    return (total / count, count) if count else (None, 0)


def planted(seed, *, size=3000, rate=0.2, decimals=2):
    random = np.random.default_rng(seed)
    labels = (random.random(size) < rate).astype(np.int64)
    scores_a = np.round(random.normal(size=size) + labels, decimals)
    scores_b = np.round(0.6 * scores_a + random.normal(size=size), decimals)
    return labels, scores_a, scores_b, random.integers(0, 200, size)


def test_auc_equals_sklearn_with_ties():
    labels, scores, _, _ = planted(0, decimals=0)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1, 1]], ids=["no rows", "all 0", "all 1"])
def test_one_class_has_no_auc(labels):
    labels = np.array(labels, dtype=np.int64)
    scores = np.arange(labels.size, dtype=float)
    assert auc(labels, scores) is None
    assert paired_auc(labels, scores, scores) is None
    assert gauc(labels, scores, np.zeros_like(labels)) == (None, 0)


def test_one_positive_has_an_auc_but_no_interval():
    labels, scores = np.array([0, 0, 1]), np.array([0.1, 0.2, 0.3])
    assert auc(labels, scores) == 1.0
    assert paired_auc(labels, scores, -scores) is None


def test_a_label_that_is_neither_0_nor_1_is_refused():
    with pytest.raises(ValueError, match="1 of 3 are neither"):
        auc(np.array([0, 1, 2]), np.zeros(3))


@given(rows)
def test_auc_equals_counting_pairs(drawn):
    labels, scores, _ = columns(drawn)
    expected = brute_auc(labels, scores)
    assert auc(labels, scores) == (None if expected is None else pytest.approx(expected))


@given(rows)
def test_turning_the_scores_round_turns_the_auc_round(drawn):
    labels, scores, _ = columns(drawn)
    value, turned = auc(labels, scores), auc(labels, -scores)
    assert (value is None and turned is None) or turned == pytest.approx(1 - value)


@given(rows)
def test_only_the_order_of_scores_counts(drawn):
    labels, scores, users = columns(drawn)
    assert auc(labels, np.exp(scores)) == auc(labels, scores)
    assert gauc(labels, 1 / (1 + np.exp(-scores)), users) == gauc(labels, scores, users)


@given(rows)
def test_a_method_differs_from_itself_by_nothing(drawn):
    labels, scores, _ = columns(drawn)
    paired = paired_auc(labels, scores, scores)
    if paired is not None:
        assert (paired.delta, paired.se, paired.low, paired.high) == (0, 0, 0, 0)


@given(rows)
def test_gauc_equals_a_loop_over_users(drawn):
    labels, scores, users = columns(drawn)
    value, counted = gauc(labels, scores, users)
    expected, expected_rows = brute_gauc(labels, scores, users)
    assert counted == expected_rows
    assert value == (None if expected is None else pytest.approx(expected))


@given(rows)
def test_both_classes_placements_average_to_the_auc_of_their_group(drawn):
    labels, scores, groups = columns(drawn)
    placement = placements(labels == 1, dense_ranks(scores), groups, 4)
    for group in range(4):
        mine = groups == group
        expected = brute_auc(labels[mine], scores[mine])
        if expected is None:
            assert np.isnan(placement[mine]).all()
            continue
        for label in (0, 1):
            assert placement[mine & (labels == label)].mean() == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore")  # torchrec's import warns
def test_gauc_equals_torchrec_where_every_user_has_both_classes():
    # torchrec breaks ties by order of arrival and weighs users alike: no ties, equal users.
    from torchrec.metrics.gauc import compute_gauc_3d

    random = np.random.default_rng(3)
    labels = np.tile([0, 1, 0, 1, 0], 40)
    scores = (1 + random.permutation(200)) / 201
    shape = (1, 40, 5)
    theirs = compute_gauc_3d(
        torch.tensor(scores).view(shape),
        torch.tensor(labels).view(shape).double(),
        torch.ones(shape, dtype=torch.double),
    )
    expected = float(theirs["auc_sum"] / theirs["num_samples"])
    assert gauc(labels, scores, np.repeat(np.arange(40), 5)) == (pytest.approx(expected), 200)


def test_paired_error_equals_the_bootstrap():
    labels, scores_a, scores_b, _ = planted(1)
    paired = paired_auc(labels, scores_a, scores_b)
    random = np.random.default_rng(2)
    deltas = []
    for _ in range(600):
        pick = random.integers(0, labels.size, labels.size)
        deltas.append(auc(labels[pick], scores_a[pick]) - auc(labels[pick], scores_b[pick]))
    difference = auc(labels, scores_a) - auc(labels, scores_b)
    assert paired.delta == pytest.approx(difference, abs=1e-12)
    assert paired.se == pytest.approx(np.std(deltas), rel=0.1)


def test_paired_error_equals_delongs_covariance_written_out():
    labels, scores_a, scores_b, _ = planted(5, size=300, decimals=1)

    def components(scores):
        grid = scores[labels == 1][:, None] - scores[labels == 0][None]
        wins = (grid > 0) + 0.5 * (grid == 0)
        return wins.mean(axis=1), wins.mean(axis=0)

    (a10, a01), (b10, b01) = components(scores_a), components(scores_b)
    s10, s01 = np.cov(a10, b10), np.cov(a01, b01)
    cov = s10 / a10.size + s01 / a01.size
    variance = cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]
    assert paired_auc(labels, scores_a, scores_b).se == pytest.approx(np.sqrt(variance), rel=1e-9)
