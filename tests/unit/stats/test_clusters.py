"""Clustered intervals: against loops over users, their own laws, and simulated users."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import t as student

from iak.pipeline.stats.auc import auc, paired_auc
from iak.pipeline.stats.clusters import critical_value, mean_and_error, one_sided
from iak.pipeline.stats.losses import calibration, log_loss
from iak.pipeline.stats.metrics import evaluate_methods
from tests.unit.stats.planted_rows import metric_row

DELTAS = ("delta_auc", "delta_logloss", "delta_calibration")
NUMBERS = tuple(f"{delta}{end}" for delta in DELTAS for end in ("", "_low", "_high"))


def row_of(labels, p, p_base, users, kept=1.0):
    return metric_row(labels=labels, p=p, p_base=p_base, users=users, kept=kept)


def numbers(row):
    return {name: getattr(row, name) for name in NUMBERS}


def log_of(seed, *, users=60, rows=10, taste=1.5):
    """Rows of users who differ: in how likely they click, and in which method suits them."""
    draw = np.random.default_rng(seed)
    who = np.repeat(np.arange(users), rows)
    level, suits = (size * draw.normal(size=users)[who] for size in (1.0, taste))
    signal = draw.normal(size=who.size)
    labels = (draw.random(who.size) < 1 / (1 + np.exp(1 - signal - level))).astype(np.int64)
    # Both methods know the signal; each errs by user, one this way and one the other.
    a, b = (signal + sign * suits + 0.3 * draw.normal(size=who.size) for sign in (1, -1))
    return labels, 1 / (1 + np.exp(1 - a)), 1 / (1 + np.exp(1 - b)), who


def brute_auc_error(labels, a, b, users):
    """The clustered error of the AUC's difference, a loop over pairs and users."""

    def components(scores):
        grid = scores[labels == 1][:, None] - scores[labels == 0][None]
        wins = (grid > 0) + 0.5 * (grid == 0)
        return wins.mean(axis=1), wins.mean(axis=0)

    influence = np.zeros(labels.size)
    for label, part in ((1, 0), (0, 1)):
        difference = components(a)[part] - components(b)[part]
        influence[labels == label] = (difference - difference.mean()) / difference.size
    totals = [influence[users == user].sum() for user in np.unique(users)]
    return float(np.sqrt(len(totals) / (len(totals) - 1) * np.sum(np.square(totals))))


def brute_error(statistic, users):
    """The error of a statistic by leaving out one user after the other (the jackknife)."""
    everyone = np.unique(users)
    without = np.array([statistic(users != user) for user in everyone])
    count = everyone.size
    return float(np.sqrt((count - 1) / count * np.sum((without - without.mean()) ** 2)))


def half_width(row, delta):
    return (getattr(row, f"{delta}_high") - getattr(row, f"{delta}_low")) / 2


def test_the_aucs_error_is_the_sum_over_users_written_out():
    labels, a, b, users = log_of(0)
    row = row_of(labels, a, b, users)
    error = brute_auc_error(labels, a, b, users)
    assert half_width(row, "delta_auc") == pytest.approx(student.ppf(0.975, 59) * error, rel=1e-9)
    assert row.delta_auc == pytest.approx(auc(labels, a) - auc(labels, b), abs=1e-12)
    assert row.se_ratio == pytest.approx(error / paired_auc(labels, a, b).se, rel=1e-9)
    assert row.se_ratio > 1.3


@pytest.mark.parametrize("kept", [1.0, 0.25], ids=["all rows", "sampled negatives"])
def test_errors_of_loss_and_calibration_equal_the_jackknife_over_users(kept):
    labels, a, b, users = log_of(1, users=400, rows=5)
    b = np.clip(b * 1.6, 0, 0.99)  # both away from 1, on one side: the delta method holds
    row = row_of(labels, a, b, users, kept=kept)
    critical = student.ppf(0.975, 399)

    def loss_share(keep):
        mine, base = (log_loss(labels[keep], p[keep], kept=kept) for p in (a, b))
        return mine / base - 1

    def moved(keep):
        mine, base = (calibration(labels[keep], p[keep], kept=kept) for p in (a, b))
        return abs(mine - 1) - abs(base - 1)

    everyone = np.ones(labels.size, np.bool_)
    for delta, statistic in (("delta_logloss", loss_share), ("delta_calibration", moved)):
        assert getattr(row, delta) == pytest.approx(statistic(everyone))
        wanted = critical * brute_error(statistic, users)
        assert half_width(row, delta) == pytest.approx(wanted, rel=0.05), delta


@given(
    drawn=st.lists(
        st.tuples(st.integers(0, 1), st.integers(1, 9), st.integers(1, 9), st.integers(0, 4)),
        min_size=4,
        max_size=40,
    ),
    times=st.integers(2, 5),
    kept=st.sampled_from([1.0, 0.3]),
)
def test_repeating_all_rows_of_all_users_changes_no_interval(drawn, times, kept):
    table = np.array(drawn)
    labels, a, b, users = table[:, 0], table[:, 1] / 10, table[:, 2] / 10, table[:, 3]
    assume(min(np.unique(users[labels == label]).size for label in (0, 1)) > 1)
    once = numbers(row_of(labels, a, b, users, kept))
    again = [np.tile(column, times) for column in (labels, a, b, users)]
    repeated = row_of(*again, kept)
    assert numbers(repeated) == pytest.approx(once, rel=1e-7, abs=1e-12)
    assert repeated.clusters == np.unique(users).size


@given(
    drawn=st.lists(
        st.tuples(st.integers(0, 1), st.integers(1, 9), st.integers(1, 9), st.integers(0, 4)),
        min_size=2,
        max_size=40,
    )
)
def test_an_interval_holds_its_value_and_a_method_differs_from_itself_by_nothing(drawn):
    table = np.array(drawn)
    labels, a, b, users = table[:, 0], table[:, 1] / 10, table[:, 2] / 10, table[:, 3]
    for who in (users, None):
        row = row_of(labels, a, b, who)
        for delta in DELTAS:
            value, low, high = (getattr(row, f"{delta}{end}") for end in ("", "_low", "_high"))
            if value is not None:
                assert low - 1e-12 <= value <= high + 1e-12
        itself = numbers(row_of(labels, a, a, who)).values()
        assert all(value is None or value == pytest.approx(0, abs=1e-12) for value in itself)


def test_domains_that_share_users_are_not_taken_as_independent():
    labels, a, b, users = log_of(3, users=80, rows=12)
    domain = np.tile([0, 1, 2], labels.size // 3)  # every user is in every domain
    names = ["x", "y", "z"]
    rows = evaluate_methods(
        {"ctr": labels}, {"base": {"ctr": b}, "kernel": {"ctr": a}},
        domain_index=domain, domain_names=names, users=users,
    )  # fmt: skip
    result = {row.domain: row for row in rows if row.method == "kernel"}
    weights = np.bincount(domain) / domain.size

    def joint(keep):
        mine = [keep & (domain == d) for d in range(3)]
        deltas = [auc(labels[m], a[m]) - auc(labels[m], b[m]) for m in mine]
        return float(weights @ deltas)

    wanted = student.ppf(0.975, 79) * brute_error(joint, users)
    assert half_width(result["all"], "delta_auc") == pytest.approx(wanted, rel=0.05)
    parts = [half_width(result[name], "delta_auc") for name in names]
    independent = np.sqrt(np.sum((weights * parts) ** 2))
    assert half_width(result["all"], "delta_auc") > 1.2 * independent
    assert (result["all"].clusters, result["all"].cluster) == (80, "user")
    for delta in ("delta_logloss", "delta_calibration"):
        assert half_width(result["all"], delta) > 0


def test_a_user_of_domains_without_the_metric_is_not_counted_in_the_mean():
    labels = np.array([1, 0, 1, 0, 0, 0, 0])
    a, b = np.array([5, 3, 4, 6, 1, 2, 3]) / 10, np.array([4, 5, 6, 3, 2, 2, 1]) / 10
    rows = evaluate_methods(
        {"ctr": labels}, {"base": {"ctr": b}, "kernel": {"ctr": a}},
        domain_index=np.array([0, 0, 0, 0, 1, 1, 1]), domain_names=["x", "y"],
        users=np.array([1, 1, 2, 2, 3, 4, 5]),
    )  # fmt: skip
    result = {row.domain: row for row in rows if row.method == "kernel"}
    for end in ("", "_low", "_high"):
        name = f"delta_auc{end}"
        assert getattr(result["all"], name) == pytest.approx(getattr(result["x"], name))
    assert result["all"].clusters == 5


def test_a_value_is_called_farther_from_1_only_on_whichever_side_the_base_lies():
    """Near 1 the delta method would be sure of a side; the interval reckons with both."""
    draw = np.random.default_rng(0)
    labels = (draw.random(4000) < 0.2).astype(np.int64)
    fair = np.full(4000, labels.mean() * 1.0005)
    row = row_of(labels, fair * 1.02, fair, None)
    assert row.delta_calibration == pytest.approx(0.02, abs=0.002)
    assert row.delta_calibration_low == pytest.approx(-0.0204, abs=0.002)  # base may lie below 1
    far = row_of(labels, fair * 1.5, fair, None)
    assert far.delta_calibration_low > 0.3


@pytest.mark.parametrize(
    ("clusters", "kind", "critical"),
    [(10**6, "user", 1.96), (3, "user", 4.303), (3, "row", 1.96)],
)
def test_few_users_ask_for_more_standard_errors(clusters, kind, critical):
    assert critical_value(np.array([clusters]), kind)[0] == pytest.approx(critical, abs=1e-3)


def test_a_gains_bound_grows_where_users_are_few():
    assert one_sided(1.64, 10, "row") == 1.64
    assert one_sided(1.64, 100_000, "user") == pytest.approx(1.64, abs=1e-3)
    assert one_sided(1.6449, 4, "user") == pytest.approx(2.353, abs=1e-3)
    assert 9 < one_sided(9, 200, "user") < one_sided(9, 100, "user") < np.inf


def test_the_error_of_a_mean_by_rows_and_by_users():
    values = np.array([1.0, 2.0, 3.0, 6.0])
    mean, error, clusters = mean_and_error(values, None)
    assert (mean, error, clusters) == (3.0, values.std(ddof=1) / 2, 4)
    mean, error, clusters = mean_and_error(values, np.array([7, 7, 9, 9]))
    assert (mean, clusters) == (3.0, 2)
    assert error == pytest.approx(np.sqrt(2 * 2 * (3 / 4) ** 2))  # users' sums are -3 and 3, by 4
    assert np.isnan(mean_and_error(values, np.zeros(4))[1])


def test_intervals_cover_where_users_differ_and_delong_does_not():
    """400 logs of 60 users with 10 rows; the true differences are 0 by symmetry.

    A nominal 95 % interval may cover 90 to 99 % of 400 logs; the error of that share is 1.1 %.
    """
    covered = dict.fromkeys((*DELTAS, "delong"), 0)
    times = 400
    for seed in range(times):
        labels, a, b, users = log_of(seed)
        row, delong = row_of(labels, a, b, users), paired_auc(labels, a, b)
        for delta in DELTAS:
            covered[delta] += getattr(row, f"{delta}_low") <= 0 <= getattr(row, f"{delta}_high")
        covered["delong"] += delong.low <= 0 <= delong.high
    shares = {name: count / times for name, count in covered.items()}
    assert all(0.90 <= shares[delta] <= 0.99 for delta in ("delta_auc", "delta_logloss")), shares
    assert shares["delta_calibration"] >= 0.90, shares  # conservative near 1
    assert shares["delong"] < 0.85, shares


def test_the_clustered_error_equals_the_bootstrap_over_users():
    labels, a, b, users = log_of(5, users=100, rows=8)
    row = row_of(labels, a, b, users)
    draw = np.random.default_rng(6)
    rows_of = [np.flatnonzero(users == user) for user in range(100)]
    deltas = []
    for _ in range(800):
        pick = np.concatenate([rows_of[user] for user in draw.integers(0, 100, 100)])
        deltas.append(auc(labels[pick], a[pick]) - auc(labels[pick], b[pick]))
    error = half_width(row, "delta_auc") / student.ppf(0.975, 99)
    assert error == pytest.approx(np.std(deltas), rel=0.1)
