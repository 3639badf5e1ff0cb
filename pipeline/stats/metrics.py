"""Quality of every method, per task and domain: `evaluate_methods` gives the rows of the table.

A metric that cannot be computed is None, with the reason beside it; never 0.5, never NaN. (Inside
this file, NaN marks the hole; it does not leave.)

Each metric is compared with the base's on the same rows, with a 95 % interval that counts the rows
of one user as dependent (clusters.py). With weights w (1 / kept for a negative, else 1), losses l,
probabilities p and labels y, the influences of row i are

    log-loss      L = sum w l / sum w      w_i (l_i - L) / sum w
    its ratio     r = L_a / L_b            (influence on L_a - r times influence on L_b) / L_b
    calibration   c = sum w p / sum y      (w_i p_i - c y_i) / sum y

by the delta method for ratios (Cochran 1977, "Sampling Techniques", 6.3).

Shapes: N rows, G groups (domains, or one group of all rows), K clusters.
Source: He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook" for
normalised entropy, calibration and the undoing of negative down-sampling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from iak.pipeline.stats.auc import (
    Array,
    Bools,
    Floats,
    Ints,
    auc_per_group,
    count_per_group,
    delta_per_group,
    dense_ranks,
    gauc_per_parent,
    is_positive,
    placements,
    ratio,
)
from iak.pipeline.stats.clusters import ClusterKind, Clusters, auc_influence, critical_value

CLIP = 1e-7
"""Probabilities are held in [CLIP, 1 - CLIP] inside a logarithm: about what float32 can tell from
0 and 1. One row costs 16.1 nats at most."""

ALL = "all"
"""The row that averages the domains, each weighted by its rows."""

POOLED = "pooled"
"""The row that ranks all domains' rows together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRow:
    """One method on one task in one domain; `reasons` says why a metric is None."""

    method: str
    domain: str
    task: str
    rows: int
    positives: int
    auc: float | None
    gauc: float | None
    logloss: float | None
    ne: float | None
    calibration: float | None
    delta_auc: float | None
    delta_auc_low: float | None
    delta_auc_high: float | None
    reasons: dict[str, str]
    delta_logloss: float | None = None
    """Log-loss over the base's, minus 1: -0.01 is one per cent lower."""
    delta_logloss_low: float | None = None
    delta_logloss_high: float | None = None
    delta_calibration: float | None = None
    """How much further calibration is from 1 than the base's: negative is nearer."""
    delta_calibration_low: float | None = None
    delta_calibration_high: float | None = None
    cluster: ClusterKind = "row"
    """What intervals take as independent: users, or rows where the log declares no user."""
    clusters: int = 0
    """How many of them the rows have."""
    se_ratio: float | None = None
    """Standard error of delta_auc clustered by user, over DeLong's, which takes rows as
    independent; None where rows are the clusters or DeLong's is 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """A difference to the base in every group, with its 95 % interval."""

    value_G: Floats
    low_G: Floats
    high_G: Floats

    def without(self, holes_G: Ints) -> "Delta":
        """The same, missing where `holes_G` is not 0."""
        parts = (self.value_G, self.low_G, self.high_G)
        value_G, low_G, high_G = (np.where(holes_G > 0, np.nan, part) for part in parts)
        return Delta(value_G=value_G, low_G=low_G, high_G=high_G)


@dataclass(frozen=True, kw_only=True, slots=True)
class Influences:
    """What each cluster adds to every statistic of its group, from which errors are summed."""

    clusters: Clusters
    auc_K: Floats
    """To the AUC's difference."""
    logloss_K: Floats
    base_logloss_K: Floats
    calibration_K: Floats
    base_calibration_K: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """Metrics of one method on one task, one value per group; NaN marks what has no value.

    `broken_G` counts the probabilities that are not finite, `base_broken_G` the base's.
    """

    rows_G: Ints
    positives_G: Ints
    auc_G: Floats
    gauc_G: Floats
    logloss_G: Floats
    ne_G: Floats
    calibration_G: Floats
    base_logloss_G: Floats
    base_calibration_G: Floats
    auc_delta: Delta
    logloss_delta: Delta
    calibration_delta: Delta
    delong_se_G: Floats
    """Error of the AUC's difference, were rows independent."""
    se_ratio_G: Floats
    clusters_G: Ints
    influences: Influences
    broken_G: Ints
    base_broken_G: Ints
    has_users: bool

    def weights(self, value_G: Floats) -> Floats:
        """Return each group's share of the rows of all groups that have the value."""
        rows_G = self.rows_with(value_G)
        return np.nan_to_num(ratio(rows_G, np.full(rows_G.shape, rows_G.sum())))

    def rows_with(self, value_G: Floats) -> Floats:
        """Return the rows of each group that has the value, 0 for the others."""
        return np.where(np.isnan(value_G), 0.0, self.rows_G)


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """One way to cut the rows: a group per row, and a group per row and user (GAUC's cut)."""

    of_row_N: Ints
    num_groups: int
    user_N: Ints | None
    group_of_user_U: Ints | None
    owner_of_user_U: Ints | None
    """The user that a user within a group is over all groups."""

    def clusters(self) -> Clusters:
        """Return what is independent within each group: users, or rows where there are none."""
        if self.user_N is None or self.group_of_user_U is None or self.owner_of_user_U is None:
            each_N = np.arange(self.of_row_N.size)
            return Clusters(
                of_row_N=each_N,
                group_K=self.of_row_N,
                owner_K=each_N,
                num_groups=self.num_groups,
                kind="row",
            )
        return Clusters(
            of_row_N=self.user_N,
            group_K=self.group_of_user_U,
            owner_K=self.owner_of_user_U,
            num_groups=self.num_groups,
            kind="user",
        )

    def take(self, kept_N: Bools) -> "Groups":
        """The same cut of the kept rows only."""
        user_N = None if self.user_N is None else self.user_N[kept_N]
        return Groups(
            of_row_N=self.of_row_N[kept_N],
            num_groups=self.num_groups,
            user_N=user_N,
            group_of_user_U=self.group_of_user_U,
            owner_of_user_U=self.owner_of_user_U,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """One method's probabilities on one task's rows, made safe to sort, and their ranks."""

    p_N: Floats
    ranks_N: Ints
    broken_N: Bools


# ---------------------------------------------------------------- losses of one set of rows


def undo_sampling(p: Array, *, kept: float) -> Floats:
    """Probabilities on the full log, when only a share `kept` of its negatives was trained on."""
    if not 0.0 < kept <= 1.0:
        raise ValueError(f"the kept share of negatives must be in (0, 1], got {kept}")
    wide = np.asarray(p, dtype=np.float64)
    return wide / (wide + (1.0 - wide) / kept) if kept < 1.0 else wide


def cross_entropy(target: Array, p: Array) -> Floats:
    """Loss of every row in nats; `p` is held in [CLIP, 1 - CLIP]."""
    held = np.clip(np.asarray(p, dtype=np.float64), CLIP, 1.0 - CLIP)
    target = np.asarray(target, dtype=np.float64)
    loss: Floats = -(target * np.log(held) + (1.0 - target) * np.log1p(-held))
    return loss


def log_loss(labels: Array, p: Array, *, kept: float = 1.0) -> float | None:
    """Mean loss in nats per row of the full log; None without rows.

    Args:
        labels: (N,) 0 or 1.
        p: (N,) probabilities as the model gives them.
        kept: share of negatives that the sampled log kept; `p` is corrected for it, and each
            negative here stands for 1 / kept of them.
    """
    return _value(_mean_losses(labels, p, kept=kept).logloss_G)


def normalized_entropy(labels: Array, p: Array, *, kept: float = 1.0) -> float | None:
    """Log loss over the entropy of the observed rate: 1 is as good as knowing the rate alone.

    None when a class is missing: its rate has no entropy.
    """
    return _value(_mean_losses(labels, p, kept=kept).ne_G)


def calibration(labels: Array, p: Array, *, kept: float = 1.0) -> float | None:
    """Positives predicted over positives observed; None when none was observed."""
    return _value(_mean_losses(labels, p, kept=kept).calibration_G)


def expected_log_loss(p_true: Array, p: Array) -> float | None:
    """Log loss of `p` in nats per row, were labels drawn from `p_true`; None without rows."""
    return float(cross_entropy(p_true, p).mean()) if np.size(p_true) else None


def reachable_share(p_true: Array, p_base: Array, p_tuned: Array) -> float | None:
    """Share of the base's excess loss that the tuned model removed; 1 is the truth itself.

    Negative when the tuned model is worse than the base; None when the base has no excess.
    """
    if not np.size(p_true):
        return None
    floor = cross_entropy(p_true, p_true)
    excess = float((cross_entropy(p_true, p_base) - floor).mean())
    if excess <= 1e-12:  # rounding of the means
        return None
    return 1.0 - float((cross_entropy(p_true, p_tuned) - floor).mean()) / excess


@dataclass(frozen=True, kw_only=True, slots=True)
class _Losses:
    logloss_G: Floats
    ne_G: Floats
    calibration_G: Floats
    logloss_influence_N: Floats
    calibration_influence_N: Floats


def _losses(positive: Bools, p: Array, groups: Ints, num_groups: int, kept: float) -> _Losses:
    """Losses of every group on the full log: negatives weigh 1 / kept."""
    q = undo_sampling(p, kept=kept)
    weight = np.where(positive, 1.0, 1.0 / kept)
    weight_G = count_per_group(groups, num_groups, weights=weight)
    observed_G = count_per_group(groups, num_groups, weights=positive)
    predicted_G = count_per_group(groups, num_groups, weights=weight * q)
    loss = weight * cross_entropy(positive, q)
    logloss_G = ratio(count_per_group(groups, num_groups, weights=loss), weight_G)
    rate_G = ratio(observed_G, weight_G)
    has_both_G = (rate_G > 0) & (rate_G < 1)
    safe_G = np.where(has_both_G, rate_G, 0.5)
    entropy_G = -(safe_G * np.log(safe_G) + (1 - safe_G) * np.log1p(-safe_G))
    calibration_G = ratio(predicted_G, observed_G)
    off_N = weight * q - calibration_G[groups] * positive
    return _Losses(
        logloss_G=logloss_G,
        ne_G=np.where(has_both_G, logloss_G / entropy_G, np.nan),
        calibration_G=calibration_G,
        logloss_influence_N=(loss - weight * logloss_G[groups]) / weight_G[groups],
        calibration_influence_N=ratio(off_N, observed_G[groups]),
    )


def _mean_losses(labels: Array, p: Array, *, kept: float) -> _Losses:
    return _losses(is_positive(labels), p, np.zeros(labels.size, dtype=np.int64), 1, kept)


def _value(value_G: Floats) -> float | None:
    return None if np.isnan(value_G[0]) else float(value_G[0])


# ---------------------------------------------------------------- one method, group by group


def _one_group(num_rows: int, user_codes: Ints | None) -> Groups:
    """All rows ranked together."""
    num_users = int(user_codes.max()) + 1 if user_codes is not None and num_rows else 0
    return Groups(
        of_row_N=np.zeros(num_rows, dtype=np.int64),
        num_groups=1,
        user_N=user_codes,
        group_of_user_U=None if user_codes is None else np.zeros(num_users, dtype=np.int64),
        owner_of_user_U=None if user_codes is None else np.arange(num_users),
    )


def _by_domain(domain_N: Ints, num_domains: int, user_codes: Ints | None) -> Groups:
    """Rows cut by domain; a user seen in two domains is two users."""
    if user_codes is None:
        return Groups(
            of_row_N=domain_N,
            num_groups=num_domains,
            user_N=None,
            group_of_user_U=None,
            owner_of_user_U=None,
        )
    pairs, pair_N = np.unique(user_codes * num_domains + domain_N, return_inverse=True)
    return Groups(
        of_row_N=domain_N,
        num_groups=num_domains,
        user_N=pair_N,
        group_of_user_U=pairs % num_domains,
        owner_of_user_U=pairs // num_domains,
    )


def _ranked(p: Array, *, what: str) -> Ranked:
    """Ranks of `p`; values that are not finite are set aside as one half and counted later."""
    p_N = np.asarray(p, dtype=np.float64)
    broken_N: Bools = ~np.isfinite(p_N)
    if broken_N.any():
        p_N = np.where(broken_N, 0.5, p_N)
    if p_N.size and (p_N.min() < 0.0 or p_N.max() > 1.0):
        raise ValueError(
            f"{what}: probabilities must be in [0, 1], seen {p_N.min():.4g} to {p_N.max():.4g}; "
            "pass the sigmoid of the logits"
        )
    return Ranked(p_N=p_N, ranks_N=dense_ranks(p_N), broken_N=broken_N)


def _placements(positive: Bools, ranked: Ranked, groups: Groups) -> Floats:
    return placements(positive, ranked.ranks_N, groups.of_row_N, groups.num_groups)


def _broken(ranked: Ranked, groups: Groups) -> Ints:
    return np.bincount(groups.of_row_N[ranked.broken_N], minlength=groups.num_groups)


def _gauc(positive: Bools, ranked: Ranked, groups: Groups) -> Floats:
    if groups.user_N is None or groups.group_of_user_U is None:
        return np.full(groups.num_groups, np.nan)
    return gauc_per_parent(
        positive, ranked.ranks_N, groups.user_N, groups.group_of_user_U, groups.num_groups
    )[0]


def _measure(
    positive: Bools,
    mine: Ranked,
    base: Ranked,
    base_placement: Floats,
    groups: Groups,
    kept: float,
) -> Measures:
    """Every metric of one method in every group; a group with broken probabilities has none."""
    of_row_N, num_groups = groups.of_row_N, groups.num_groups
    placement = base_placement if mine is base else _placements(positive, mine, groups)
    delong = delta_per_group(placement, base_placement, positive, of_row_N, num_groups)
    losses = _losses(positive, mine.p_N, of_row_N, num_groups, kept)
    base_losses = _losses(positive, base.p_N, of_row_N, num_groups, kept)
    influences = _influences(positive, placement - base_placement, losses, base_losses, groups)
    clusters = influences.clusters
    counts_G = clusters.counts()
    se_G = _auc_error(delong.se_G, positive, influences)
    broken_G, base_broken_G = _broken(mine, groups), _broken(base, groups)
    either_G = broken_G + base_broken_G

    def whole(value_G: Floats) -> Floats:
        return np.where(broken_G > 0, np.nan, value_G)

    return Measures(
        rows_G=np.bincount(of_row_N, minlength=num_groups),
        positives_G=np.bincount(of_row_N[positive], minlength=num_groups),
        auc_G=whole(auc_per_group(placement, positive, of_row_N, num_groups)),
        gauc_G=whole(_gauc(positive, mine, groups)),
        logloss_G=whole(losses.logloss_G),
        ne_G=whole(losses.ne_G),
        calibration_G=whole(losses.calibration_G),
        base_logloss_G=np.where(base_broken_G > 0, np.nan, base_losses.logloss_G),
        base_calibration_G=np.where(base_broken_G > 0, np.nan, base_losses.calibration_G),
        auc_delta=_difference(delong.delta_G, se_G, counts_G, clusters.kind).without(either_G),
        logloss_delta=_logloss_delta(losses, base_losses, influences).without(either_G),
        calibration_delta=_calibration_delta(losses, base_losses, influences).without(either_G),
        delong_se_G=np.where(either_G > 0, np.nan, delong.se_G),
        se_ratio_G=np.where(either_G > 0, np.nan, _se_ratio(se_G, delong.se_G, clusters.kind)),
        clusters_G=counts_G,
        influences=influences,
        broken_G=broken_G,
        base_broken_G=base_broken_G,
        has_users=groups.user_N is not None,
    )


def _influences(
    positive: Bools, difference_N: Floats, losses: _Losses, base_losses: _Losses, groups: Groups
) -> Influences:
    """Sum every statistic's influences over the rows of each cluster."""
    clusters = groups.clusters()
    auc_N = auc_influence(difference_N, positive, groups.of_row_N, groups.num_groups)
    return Influences(
        clusters=clusters,
        auc_K=clusters.sums(auc_N),
        logloss_K=clusters.sums(losses.logloss_influence_N),
        base_logloss_K=clusters.sums(base_losses.logloss_influence_N),
        calibration_K=clusters.sums(losses.calibration_influence_N),
        base_calibration_K=clusters.sums(base_losses.calibration_influence_N),
    )


def _auc_error(delong_se_G: Floats, positive: Bools, influences: Influences) -> Floats:
    """The error of the AUC's difference; NaN where a class is of fewer than two users.

    A class that one user has whole tells nothing of how users differ: its influences sum to 0.
    """
    clusters = influences.clusters
    if clusters.kind == "row":
        return delong_se_G
    se_G = clusters.errors(influences.auc_K)
    for rows in (positive, ~positive):
        has_class_K = np.bincount(clusters.of_row_N[rows], minlength=clusters.group_K.size) > 0
        users_G = np.bincount(clusters.group_K[has_class_K], minlength=clusters.num_groups)
        se_G = np.where(users_G > 1, se_G, np.nan)
    return se_G


def _difference(delta_G: Floats, se_G: Floats, clusters_G: Ints, kind: ClusterKind) -> Delta:
    """A difference and its interval; NaN where its error is not known."""
    half_G = critical_value(clusters_G, kind) * se_G
    delta_G = np.where(np.isnan(half_G), np.nan, delta_G)
    return Delta(value_G=delta_G, low_G=delta_G - half_G, high_G=delta_G + half_G)


def _se_ratio(se_G: Floats, delong_se_G: Floats, kind: ClusterKind) -> Floats:
    """The clustered error over DeLong's; NaN where they are the same by definition."""
    return np.full(se_G.shape, np.nan) if kind == "row" else ratio(se_G, delong_se_G)


def _logloss_delta(losses: _Losses, base_losses: _Losses, influences: Influences) -> Delta:
    """The log-loss over the base's, minus 1, in every group."""
    clusters = influences.clusters
    loss_G, base_G = losses.logloss_G, base_losses.logloss_G
    share_G = ratio(loss_G, base_G)
    sums_K = influences.logloss_K - share_G[clusters.group_K] * influences.base_logloss_K
    se_G = ratio(clusters.errors(sums_K), base_G)
    return _difference(share_G - 1.0, se_G, clusters.counts(), clusters.kind)


def _calibration_delta(losses: _Losses, base_losses: _Losses, influences: Influences) -> Delta:
    """How much further from 1 the calibration is than the base's, in every group."""
    clusters = influences.clusters
    mine_K, base_K = influences.calibration_K, influences.base_calibration_K
    half_G = critical_value(clusters.counts(), clusters.kind)
    return farther_from_one(
        losses.calibration_G,
        base_losses.calibration_G,
        apart_G=half_G * clusters.errors(mine_K - base_K),
        together_G=half_G * clusters.errors(mine_K + base_K),
    )


def farther_from_one(c_G: Floats, base_G: Floats, *, apart_G: Floats, together_G: Floats) -> Delta:
    """The interval of |c - 1| - |c_base - 1|, also where a calibration is within noise of 1.

    The absolute value has a kink at 1, where the delta method fails. With signs s and t,

        |c - 1| - |c_base - 1| = max over s of min over t of s (c - 1) - t (c_base - 1),

    and each of the four terms is linear. The lower limit is the same max and min of the terms'
    lower limits, the upper one is that of the negated difference: a value is only called farther
    when it is so whichever side of 1 the base truly lies on (an intersection-union test, Berger
    1982, "Multiparameter hypothesis testing and acceptance sampling"). Away from 1 this is the
    delta method. The difference is never larger than |c - c_base|, which bounds both limits.

    Args:
        c_G: calibration.
        base_G: the base's, on the same rows.
        apart_G: half the interval of c - c_base.
        together_G: half the interval of c + c_base.
    """
    mine_G, other_G = c_G - 1.0, base_G - 1.0
    terms = {
        (s, t): (s * mine_G - t * other_G, apart_G if s == t else together_G)
        for s in (1, -1)
        for t in (1, -1)
    }
    lows = {signs: value_G - half_G for signs, (value_G, half_G) in terms.items()}
    highs = {signs: value_G + half_G for signs, (value_G, half_G) in terms.items()}
    low_G = np.maximum(np.minimum(lows[1, 1], lows[1, -1]), np.minimum(lows[-1, 1], lows[-1, -1]))
    high_G = np.minimum(
        np.maximum(highs[1, 1], highs[-1, 1]), np.maximum(highs[1, -1], highs[-1, -1])
    )
    most_G = np.abs(mine_G - other_G) + apart_G
    value_G = np.where(np.isnan(most_G), np.nan, np.abs(mine_G) - np.abs(other_G))
    return Delta(
        value_G=value_G,
        low_G=np.maximum(low_G, -most_G),
        high_G=np.minimum(high_G, most_G),
    )


def summarise(measures: Measures) -> Measures:
    """The one group "all": each metric's row-weighted mean over the domains that have it.

    Domains share users, so their deltas are not independent: a user's influences, each times its
    domain's weight, are summed over domains before they are squared. Without users, domains are
    independent, and the error of the mean is the root of the summed squares of weight times error.
    """

    def mean(value_G: Floats) -> Floats:
        rows_G = measures.rows_with(value_G)
        return ratio(_sum(rows_G * np.nan_to_num(value_G)), _sum(rows_G))

    delta_G, clusters = measures.auc_delta.value_G, measures.influences.clusters
    rows_G = measures.rows_with(delta_G)
    squares = _sum((rows_G * np.nan_to_num(measures.delong_se_G)) ** 2)
    delong = ratio(np.sqrt(squares), _sum(rows_G))
    se, owners = clusters.joint_error(measures.influences.auc_K, measures.weights(delta_G))
    error = delong if clusters.kind == "row" else np.array([se])
    _, everyone = clusters.joint_error(
        measures.influences.logloss_K, measures.rows_G.astype(np.float64)
    )
    return Measures(
        rows_G=measures.rows_G.sum(keepdims=True),
        positives_G=measures.positives_G.sum(keepdims=True),
        auc_G=mean(measures.auc_G),
        gauc_G=mean(measures.gauc_G),
        logloss_G=mean(measures.logloss_G),
        ne_G=mean(measures.ne_G),
        calibration_G=mean(measures.calibration_G),
        base_logloss_G=mean(measures.base_logloss_G),
        base_calibration_G=mean(measures.base_calibration_G),
        auc_delta=_difference(mean(delta_G), error, np.array([owners]), clusters.kind),
        logloss_delta=_joint_logloss_delta(measures),
        calibration_delta=_joint_calibration_delta(measures),
        delong_se_G=delong,
        se_ratio_G=_se_ratio(error, delong, clusters.kind),
        clusters_G=np.array([everyone]),
        influences=measures.influences,
        broken_G=measures.broken_G.sum(keepdims=True),
        base_broken_G=measures.base_broken_G.sum(keepdims=True),
        has_users=measures.has_users,
    )


def _joint_logloss_delta(measures: Measures) -> Delta:
    """The mean log-loss of the domains over the base's, minus 1."""
    found, clusters = measures.influences, measures.influences.clusters
    weight_G = measures.weights(measures.logloss_delta.value_G)
    base = _sum(weight_G * np.nan_to_num(measures.base_logloss_G))
    share = ratio(_sum(weight_G * np.nan_to_num(measures.logloss_G)), base)
    sums_K = found.logloss_K - share[0] * found.base_logloss_K
    se, owners = clusters.joint_error(sums_K, weight_G)
    error = ratio(np.array([se]), base)
    return _difference(share - 1.0, error, np.array([owners]), clusters.kind)


def _joint_calibration_delta(measures: Measures) -> Delta:
    """How much further from 1 the domains' mean calibration is than the base's."""
    found, clusters = measures.influences, measures.influences.clusters
    weight_G = measures.weights(measures.calibration_delta.value_G)
    mine_K, base_K = found.calibration_K, found.base_calibration_K
    apart, owners = clusters.joint_error(mine_K - base_K, weight_G)
    together, _ = clusters.joint_error(mine_K + base_K, weight_G)
    half = critical_value(np.array([owners]), clusters.kind)
    return farther_from_one(
        _sum(weight_G * np.nan_to_num(measures.calibration_G)),
        _sum(weight_G * np.nan_to_num(measures.base_calibration_G)),
        apart_G=half * apart,
        together_G=half * together,
    )


def _sum(value_G: Floats) -> Floats:
    total: Floats = np.sum(value_G, keepdims=True)
    return total


# ---------------------------------------------------------------- rows of the table


def _why_missing(measures: Measures, group: int) -> dict[str, str]:
    """For every metric that may be missing in `group`, the reason it would be missing for."""
    rows, positives = int(measures.rows_G[group]), int(measures.positives_G[group])
    broken, base_broken = int(measures.broken_G[group]), int(measures.base_broken_G[group])
    has_both = 0 < positives < rows
    general = ""
    if not rows:
        general = "no row"
    elif broken:
        general = f"{broken:,} of {rows:,} probabilities are not finite"
    one_class = f"no {'negative' if positives else 'positive'} row among {rows:,}"
    # With both classes at hand, it is the row "all", and no single domain has them.
    classes = general or ("no domain has rows of both classes" if has_both else one_class)
    base = f"{base_broken:,} of the base's {rows:,} probabilities are not finite"
    users = "no user has rows of both classes" if measures.has_users else "the rows carry no user"
    few = _too_few(measures, group)
    compared = general or (base if base_broken else few)
    return {
        "auc": classes,
        "gauc": general or (users if has_both or not measures.has_users else classes),
        "logloss": general,
        "ne": classes,
        "calibration": classes,
        "delta_auc": general or (base if base_broken else few if has_both else classes),
        "delta_logloss": compared,
        "delta_calibration": compared if positives else classes,
    }


def _too_few(measures: Measures, group: int) -> str:
    """Why a difference has no interval though its rows have both classes."""
    rows, positives = int(measures.rows_G[group]), int(measures.positives_G[group])
    if measures.clusters_G[group] < 2:
        return "one row alone" if rows == 1 else f"all {rows:,} rows are one user's"
    if min(positives, rows - positives) < 2:
        return f"fewer than two rows of a class: {positives:,} of {rows:,} are positive"
    if measures.has_users and not np.isnan(measures.delong_se_G[group]):
        return "all rows of a class are one user's"
    return "no domain has two rows of each class"


def _row(measures: Measures, group: int, *, method: str, domain: str, task: str) -> MetricRow:
    """The table's row for one group: NaN becomes None, with its reason."""
    found = {
        "auc": measures.auc_G,
        "gauc": measures.gauc_G,
        "logloss": measures.logloss_G,
        "ne": measures.ne_G,
        "calibration": measures.calibration_G,
    }
    for name, delta in (
        ("delta_auc", measures.auc_delta),
        ("delta_logloss", measures.logloss_delta),
        ("delta_calibration", measures.calibration_delta),
    ):
        found |= {name: delta.value_G, f"{name}_low": delta.low_G, f"{name}_high": delta.high_G}
    values = {
        name: None if np.isnan(value_G[group]) else float(value_G[group])
        for name, value_G in found.items()
    }
    missing = [name for name, value in values.items() if value is None]
    why = _why_missing(measures, group) if missing else {}
    se_ratio = float(measures.se_ratio_G[group])
    return MetricRow(
        method=method,
        domain=domain,
        task=task,
        rows=int(measures.rows_G[group]),
        positives=int(measures.positives_G[group]),
        reasons={name: why[name.removesuffix("_low").removesuffix("_high")] for name in missing},
        cluster=measures.influences.clusters.kind,
        clusters=int(measures.clusters_G[group]),
        se_ratio=None if np.isnan(se_ratio) else se_ratio,
        **values,
    )


def metric_row(
    *,
    method: str,
    domain: str,
    task: str,
    labels: Array,
    p: Array,
    p_base: Array,
    users: Array | None = None,
    kept: float = 1.0,
) -> MetricRow:
    """One method on one set of rows, beside the base on the same rows.

    Args:
        method: name of the method.
        domain: name of the set of rows.
        task: name of the task.
        labels: (N,) 0 or 1.
        p: (N,) the method's probabilities.
        p_base: (N,) the base's.
        users: (N,) user keys, for GAUC and for intervals; None when rows carry none.
        kept: share of negatives that the sampled log kept; see `log_loss`.
    """
    positive = is_positive(labels)
    groups = _one_group(labels.size, None if users is None else _codes(users))
    mine = _ranked(p, what=f"{method}, {task}")
    base = _ranked(p_base, what=f"base, {task}")
    measures = _measure(positive, mine, base, _placements(positive, base, groups), groups, kept)
    return _row(measures, 0, method=method, domain=domain, task=task)


def _codes(users: Array) -> Ints:
    """User keys as 0, 1, 2, ..."""
    return dense_ranks(users)


def evaluate_methods(
    labels: Mapping[str, Array],
    probabilities: Mapping[str, Mapping[str, Array]],
    *,
    domain_index: Array,
    domain_names: Sequence[str],
    users: Array | None = None,
    masks: Mapping[str, Array] | None = None,
    kept: Mapping[str, float] | None = None,
    base: str = "base",
) -> list[MetricRow]:
    """Every method on every task, in each domain, over all of them, and pooled.

    Args:
        labels: task -> (N,) 0 or 1.
        probabilities: method -> task -> (N,) probabilities; must hold `base`.
        domain_index: (N,) index into `domain_names`.
        domain_names: names of the domains; a name without rows gets a row that says so.
        users: (N,) user keys, for GAUC and for intervals; None when rows carry none.
        masks: task -> (N,) whether the row counts for the task (cvr counts clicked rows only);
            a task without a mask counts every row.
        kept: task -> share of negatives that the sampled log kept; 1 when absent.
        base: the method that deltas are taken against; its own delta is 0.

    Returns:
        For every method, for every task: a row per domain in the order of `domain_names`, then
        "all" (row-weighted mean over the domains that have the metric), then "pooled" (all rows
        ranked together). All methods stand on the same rows.

    Raises:
        ValueError: if `base` is missing, shapes differ, or a domain index or name is not usable.
    """
    _check_table(labels, probabilities, domain_index, domain_names, users, masks, base)
    codes = None if users is None else _codes(users)
    domain_N = np.asarray(domain_index, dtype=np.int64)
    cuts = (
        _by_domain(domain_N, len(domain_names), codes),
        _one_group(domain_N.size, codes),
    )
    table: dict[tuple[str, str], list[MetricRow]] = {}
    for task, task_labels in labels.items():
        mask_N = np.asarray((masks or {}).get(task, np.ones(domain_N.size)), dtype=bool)
        ranked = {
            method: _ranked(of_task[task][mask_N], what=f"{method}, {task}")
            for method, of_task in probabilities.items()
        }
        task_cuts = tuple(cut.take(mask_N) for cut in cuts)
        share = (kept or {}).get(task, 1.0)
        rows = _task_rows(
            is_positive(task_labels[mask_N]), ranked, task_cuts, domain_names, task, base, share
        )
        table.update(rows)
    return [row for method in probabilities for task in labels for row in table[method, task]]


def _task_rows(
    positive: Bools,
    ranked: Mapping[str, Ranked],
    cuts: tuple[Groups, ...],
    domain_names: Sequence[str],
    task: str,
    base: str,
    kept: float,
) -> dict[tuple[str, str], list[MetricRow]]:
    """(method, task) -> its rows; the base's placements are computed once per cut."""
    by_domain, together = cuts
    base_placements = [_placements(positive, ranked[base], cut) for cut in cuts]
    rows: dict[tuple[str, str], list[MetricRow]] = {}
    for method, mine in ranked.items():
        each = _measure(positive, mine, ranked[base], base_placements[0], by_domain, kept)
        pooled = _measure(positive, mine, ranked[base], base_placements[1], together, kept)
        rows[method, task] = [
            *(
                _row(each, g, method=method, domain=name, task=task)
                for g, name in enumerate(domain_names)
            ),
            _row(summarise(each), 0, method=method, domain=ALL, task=task),
            _row(pooled, 0, method=method, domain=POOLED, task=task),
        ]
    return rows


def _check_table(
    labels: Mapping[str, Array],
    probabilities: Mapping[str, Mapping[str, Array]],
    domain_index: Array,
    domain_names: Sequence[str],
    users: Array | None,
    masks: Mapping[str, Array] | None,
    base: str,
) -> None:
    """Refuse a table whose parts do not belong together."""
    if base not in probabilities:
        raise ValueError(f"no probabilities of the base {base!r} among {sorted(probabilities)}")
    if taken := {ALL, POOLED} & set(domain_names):
        raise ValueError(f"domain names {sorted(taken)} are taken by the summary rows")
    num_rows = domain_index.size
    if num_rows and not 0 <= domain_index.min() <= domain_index.max() < len(domain_names):
        raise ValueError(
            f"domain indices must be in [0, {len(domain_names)}), "
            f"seen {domain_index.min()} to {domain_index.max()}"
        )
    arrays = {f"labels of {task}": value for task, value in labels.items()}
    arrays |= {f"mask of {task}": value for task, value in (masks or {}).items()}
    if users is not None:
        arrays["users"] = users
    for method, of_task in probabilities.items():
        if lacking := sorted(set(labels) - set(of_task)):
            raise ValueError(f"method {method!r} has no probabilities for {lacking}")
        arrays |= {f"{method}, {task}": value for task, value in of_task.items()}
    for what, value in arrays.items():
        if value.shape != (num_rows,):
            raise ValueError(f"{what}: shape {value.shape}, expected ({num_rows},), one per row")
