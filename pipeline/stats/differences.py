"""Compute differences to the base, with intervals that count the rows of one user as dependent.

Every statistic's influences are summed over the rows of each cluster (clusters.py) before they are
squared. The ratio of two log-losses, r = L_a / L_b, has the influence

    (influence on L_a - r times influence on L_b) / L_b

by the delta method for ratios (Cochran 1977, "Sampling Techniques", 6.3).

Shapes: N rows, G groups, K clusters. NaN marks a value that cannot be computed.
"""

from dataclasses import dataclass

import numpy as np

from iak.pipeline.stats.auc import Bools, Floats, Ints, ratio
from iak.pipeline.stats.clusters import ClusterKind, Clusters, auc_influence, critical_value
from iak.pipeline.stats.groups import Groups
from iak.pipeline.stats.losses import Losses


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """A difference to the base in every group, with its 95 % interval."""

    value_G: Floats
    low_G: Floats
    high_G: Floats

    def without(self, left_out_G: Ints) -> "Delta":
        """Return the same differences, NaN where `left_out_G` is not 0."""
        parts = (self.value_G, self.low_G, self.high_G)
        value_G, low_G, high_G = (np.where(left_out_G > 0, np.nan, part) for part in parts)
        return Delta(value_G=value_G, low_G=low_G, high_G=high_G)


@dataclass(frozen=True, kw_only=True, slots=True)
class Influences:
    """Each cluster's influence on every statistic of its group, from which errors follow."""

    clusters: Clusters
    auc_K: Floats
    """Influence on the AUC's difference."""
    logloss_K: Floats
    base_logloss_K: Floats
    calibration_K: Floats
    base_calibration_K: Floats


def influences_of(
    positive: Bools, difference_N: Floats, losses: Losses, base_losses: Losses, groups: Groups
) -> Influences:
    """Sum every statistic's influences over the rows of each cluster.

    Args:
        positive: (N,) whether the row's label is 1.
        difference_N: placements under the method minus those under the base.
        losses: losses of the method.
        base_losses: losses of the base.
        groups: groups into which the rows are cut.
    """
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


def auc_error(delong_se_G: Floats, positive: Bools, influences: Influences) -> Floats:
    """Return the error of the AUC's difference; NaN where a class has fewer than two users.

    Where one user has all rows of a class, their influences sum to 0, as if users did not differ.

    Args:
        delong_se_G: the error if rows were independent, which it is where rows are the clusters.
        positive: (N,) whether the row's label is 1.
        influences: influence of each cluster.
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


def difference(delta_G: Floats, se_G: Floats, clusters_G: Ints, kind: ClusterKind) -> Delta:
    """Return a difference with its interval; NaN where its error is not known.

    Args:
        delta_G: the difference.
        se_G: its standard error.
        clusters_G: clusters with rows.
        kind: kind of the clusters.
    """
    half_G = critical_value(clusters_G, kind) * se_G
    delta_G = np.where(np.isnan(half_G), np.nan, delta_G)
    return Delta(value_G=delta_G, low_G=delta_G - half_G, high_G=delta_G + half_G)


def se_ratio(se_G: Floats, delong_se_G: Floats, kind: ClusterKind) -> Floats:
    """Return the clustered error divided by DeLong's; NaN where they are equal by definition."""
    return np.full(se_G.shape, np.nan) if kind == "row" else ratio(se_G, delong_se_G)


def logloss_delta(losses: Losses, base_losses: Losses, influences: Influences) -> Delta:
    """Return the log-loss divided by the base's, minus 1, in every group."""
    clusters = influences.clusters
    loss_G, base_G = losses.logloss_G, base_losses.logloss_G
    share_G = ratio(loss_G, base_G)
    sums_K = influences.logloss_K - share_G[clusters.group_K] * influences.base_logloss_K
    se_G = ratio(clusters.errors(sums_K), base_G)
    return difference(share_G - 1.0, se_G, clusters.counts(), clusters.kind)


def calibration_delta(losses: Losses, base_losses: Losses, influences: Influences) -> Delta:
    """Return the calibration's distance from 1 minus that of the base's, in every group."""
    clusters = influences.clusters
    mine_K, base_K = influences.calibration_K, influences.base_calibration_K
    half_G = critical_value(clusters.counts(), clusters.kind)
    return farther_from_one(
        losses.calibration_G,
        base_losses.calibration_G,
        half_of_difference_G=half_G * clusters.errors(mine_K - base_K),
        half_of_sum_G=half_G * clusters.errors(mine_K + base_K),
    )


def farther_from_one(
    c_G: Floats, base_G: Floats, *, half_of_difference_G: Floats, half_of_sum_G: Floats
) -> Delta:
    """Return the interval of |c - 1| - |c_base - 1|, also where a calibration is near 1.

    The absolute value has a kink at 1, where the delta method fails. With signs s and t,

        |c - 1| - |c_base - 1| = max over s of min over t of s (c - 1) - t (c_base - 1),

    and each of the four terms is linear. The lower limit is the same max and min of the terms'
    lower limits. The upper limit is that of the negated difference. A value then counts as farther
    only if it is farther on whichever side of 1 the base's true calibration is (an
    intersection-union test, Berger 1982, "Multiparameter hypothesis testing and acceptance
    sampling"). Away from 1 this is the delta method. The difference is never larger than
    |c - c_base|, which bounds both limits.

    Args:
        c_G: calibration of the method.
        base_G: calibration of the base, on the same rows.
        half_of_difference_G: half the width of the interval of c - c_base.
        half_of_sum_G: half the width of the interval of c + c_base.
    """
    mine_G, other_G = c_G - 1.0, base_G - 1.0
    terms = {
        (s, t): (s * mine_G - t * other_G, half_of_difference_G if s == t else half_of_sum_G)
        for s in (1, -1)
        for t in (1, -1)
    }
    lows = {signs: value_G - half_G for signs, (value_G, half_G) in terms.items()}
    highs = {signs: value_G + half_G for signs, (value_G, half_G) in terms.items()}
    low_G = np.maximum(np.minimum(lows[1, 1], lows[1, -1]), np.minimum(lows[-1, 1], lows[-1, -1]))
    high_G = np.minimum(
        np.maximum(highs[1, 1], highs[-1, 1]), np.maximum(highs[1, -1], highs[-1, -1])
    )
    bound_G = np.abs(mine_G - other_G) + half_of_difference_G
    value_G = np.where(np.isnan(bound_G), np.nan, np.abs(mine_G) - np.abs(other_G))
    return Delta(
        value_G=value_G,
        low_G=np.maximum(low_G, -bound_G),
        high_G=np.minimum(high_G, bound_G),
    )
