"""All metrics of one method on one task: each group by itself, and the mean over groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.stats.auc import is_positive
from iak.pipeline.stats.groups import codes_of, groups_by_domain, rank_probabilities
from iak.pipeline.stats.measures import measure, placements_of, summarise
from tests.unit.stats.planted_rows import planted

METRICS = ("auc_G", "gauc_G", "logloss_G", "ne_G", "calibration_G")
DELTAS = ("auc_delta", "logloss_delta", "calibration_delta")


def measured(labels, p, p_base, domain, users=None, *, groups=3):
    positive = is_positive(labels)
    cut = groups_by_domain(domain, groups, None if users is None else codes_of(users))
    mine, base = (rank_probabilities(each, what="a test") for each in (p, p_base))
    return measure(positive, mine, base, placements_of(positive, base, cut), cut, 1.0)


def rows(count=600, *, seed=0):
    labels, _, p_base, p, domain, users = planted(seed, size=count, num_domains=3)
    return labels, p, p_base, domain, users


@given(st.integers(0, 2), st.integers(0, 99))
def test_a_group_is_measured_as_if_it_were_alone(group, seed):
    labels, p, p_base, domain, users = rows(seed=seed)
    together = measured(labels, p, p_base, domain, users)
    mine = domain == group
    alone = measured(labels[mine], p[mine], p_base[mine], domain[mine] * 0, users[mine], groups=1)
    for name in METRICS:
        assert getattr(together, name)[group] == pytest.approx(getattr(alone, name)[0], rel=1e-9)
    for name in DELTAS:
        for end in ("value_G", "low_G", "high_G"):
            first, second = (getattr(getattr(m, name), end) for m in (together, alone))
            assert first[group] == pytest.approx(second[0], rel=1e-6, abs=1e-12)


def test_the_base_differs_from_itself_by_nothing():
    labels, _, p_base, domain, users = rows()
    same = measured(labels, p_base, p_base, domain, users)
    for name in DELTAS:
        delta = getattr(same, name)
        assert np.array_equal(delta.value_G, np.zeros(3))
        assert np.array_equal(delta.low_G, delta.high_G)


def test_one_broken_probability_takes_the_metrics_of_its_own_group_alone():
    labels, p, p_base, domain, users = rows()
    whole = measured(labels, p, p_base, domain, users)
    broken = p.copy()
    broken[np.flatnonzero(domain == 1)[0]] = np.nan
    left = measured(labels, broken, p_base, domain, users)
    assert left.not_finite_G.tolist() == [0, 1, 0]
    assert left.rows_G.tolist() == whole.rows_G.tolist()
    for name in METRICS:
        values = getattr(left, name)
        assert np.isnan(values[1])
        assert np.array_equal(values[[0, 2]], getattr(whole, name)[[0, 2]])
    assert np.isnan(left.auc_delta.value_G[1])
    # The base is sound, so that its own numbers stay.
    assert np.array_equal(left.base_logloss_G, whole.base_logloss_G)


def test_a_broken_base_leaves_the_method_its_metrics_and_takes_the_differences():
    labels, p, p_base, domain, users = rows()
    broken = p_base.copy()
    broken[np.flatnonzero(domain == 2)[0]] = np.inf
    left = measured(labels, p, broken, domain, users)
    assert left.base_not_finite_G.tolist() == [0, 0, 1]
    assert np.isfinite(left.auc_G).all()
    assert np.isnan(left.auc_delta.value_G).tolist() == [False, False, True]
    assert np.isnan(left.base_calibration_G).tolist() == [False, False, True]


def test_weights_are_shares_of_the_rows_of_groups_that_have_the_value():
    labels, p, p_base, domain, users = rows()
    labels = np.where(domain == 0, 0, labels)  # one class: no AUC
    m = measured(labels, p, p_base, domain, users)
    assert np.isnan(m.auc_G).tolist() == [True, False, False]
    weights = m.weights(m.auc_G)
    assert weights.sum() == pytest.approx(1)
    assert weights.tolist() == pytest.approx([0, *(m.rows_G[1:] / m.rows_G[1:].sum())])
    assert m.weights(np.full(3, np.nan)).tolist() == [0, 0, 0]


def test_the_summary_is_the_mean_by_rows_over_groups_that_have_the_metric():
    labels, p, p_base, domain, users = rows()
    labels = np.where(domain == 0, 0, labels)
    m = measured(labels, p, p_base, domain, users)
    summary = summarise(m)
    assert summary.rows_G.tolist() == [m.rows_G.sum()]
    expected = np.average(m.auc_G[1:], weights=m.rows_G[1:])
    assert summary.auc_G[0] == pytest.approx(expected)
    assert summary.calibration_G[0] == pytest.approx(
        np.average(np.nan_to_num(m.calibration_G), weights=m.rows_with(m.calibration_G))
    )


def test_without_users_domains_count_as_independent():
    labels, p, p_base, domain, _ = rows()
    m = measured(labels, p, p_base, domain)
    assert np.isnan(m.gauc_G).all()
    assert not m.has_users
    weights = m.weights(m.auc_delta.value_G)
    joint = np.sqrt(np.sum((weights * m.delong_se_G) ** 2))
    assert summarise(m).delong_se_G[0] == pytest.approx(joint)


def test_the_summary_of_one_group_is_that_group():
    labels, p, p_base, domain, users = rows()
    m = measured(labels, p, p_base, domain * 0, users, groups=1)
    summary = summarise(m)
    for name in METRICS:
        assert getattr(summary, name) == pytest.approx(getattr(m, name))
    for name in DELTAS:
        first, second = getattr(summary, name), getattr(m, name)
        ends = [(d.value_G[0], d.low_G[0], d.high_G[0]) for d in (first, second)]
        assert ends[0] == pytest.approx(ends[1], rel=1e-6)
