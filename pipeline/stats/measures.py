"""Measure one method on one task in every group, and over all groups together.

Shapes: N rows, G groups, K clusters. NaN marks a value that cannot be computed.
"""

from dataclasses import dataclass

import numpy as np

from iak.pipeline.stats.auc import (
    Bools,
    Floats,
    Ints,
    auc_per_group,
    delta_per_group,
    gauc_per_parent,
    placements,
    ratio,
)
from iak.pipeline.stats.clusters import critical_value
from iak.pipeline.stats.differences import (
    Delta,
    Influences,
    auc_error,
    calibration_delta,
    difference,
    farther_from_one,
    influences_of,
    logloss_delta,
    se_ratio,
)
from iak.pipeline.stats.groups import Groups, Ranked
from iak.pipeline.stats.losses import losses_per_group


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """Metrics of one method on one task, one value for each group; NaN where there is none.

    `not_finite_G` counts the method's probabilities that are not finite, `base_not_finite_G` the
    base's.
    """

    rows_G: Ints
    positives_G: Ints
    auc_G: Floats
    gauc_G: Floats
    logloss_G: Floats
    ne_G: Floats
    calibration_G: Floats
    base_auc_G: Floats
    base_logloss_G: Floats
    base_calibration_G: Floats
    auc_delta: Delta
    logloss_delta: Delta
    calibration_delta: Delta
    delong_se_G: Floats
    """Error of the AUC's difference if rows were independent."""
    se_ratio_G: Floats
    clusters_G: Ints
    influences: Influences
    not_finite_G: Ints
    base_not_finite_G: Ints
    has_users: bool

    def weights(self, value_G: Floats) -> Floats:
        """Return each group's share of the rows of all groups that have the value."""
        rows_G = self.rows_with(value_G)
        return np.nan_to_num(ratio(rows_G, np.full(rows_G.shape, rows_G.sum())))

    def rows_with(self, value_G: Floats) -> Floats:
        """Return the rows of each group that has the value, 0 for the others."""
        return np.where(np.isnan(value_G), 0.0, self.rows_G)


def measure(
    positive: Bools,
    mine: Ranked,
    base: Ranked,
    base_placement: Floats,
    groups: Groups,
    kept: float,
) -> Measures:
    """Measure one method in every group. A group with a non-finite probability gets no metrics.

    Args:
        positive: (N,) whether the row's label is 1.
        mine: probabilities of the method.
        base: probabilities of the base, on the same rows.
        base_placement: (N,) the base's placements, which all methods share.
        groups: groups into which the rows are cut.
        kept: share of negatives that the sampled log kept.
    """
    of_row_N, num_groups = groups.of_row_N, groups.num_groups
    placement = base_placement if mine is base else placements_of(positive, mine, groups)
    delong = delta_per_group(placement, base_placement, positive, of_row_N, num_groups)
    losses = losses_per_group(positive, mine.p_N, of_row_N, num_groups, kept)
    base_losses = losses_per_group(positive, base.p_N, of_row_N, num_groups, kept)
    influences = influences_of(positive, placement - base_placement, losses, base_losses, groups)
    clusters = influences.clusters
    counts_G = clusters.counts()
    se_G = auc_error(delong.se_G, positive, influences)
    base_auc_G = auc_per_group(base_placement, positive, of_row_N, num_groups)
    not_finite_G, base_not_finite_G = _not_finite(mine, groups), _not_finite(base, groups)
    either_G = not_finite_G + base_not_finite_G

    def where_finite(value_G: Floats) -> Floats:
        return np.where(not_finite_G > 0, np.nan, value_G)

    return Measures(
        rows_G=np.bincount(of_row_N, minlength=num_groups),
        positives_G=np.bincount(of_row_N[positive], minlength=num_groups),
        auc_G=where_finite(auc_per_group(placement, positive, of_row_N, num_groups)),
        gauc_G=where_finite(_gauc(positive, mine, groups)),
        logloss_G=where_finite(losses.logloss_G),
        ne_G=where_finite(losses.ne_G),
        calibration_G=where_finite(losses.calibration_G),
        base_auc_G=np.where(base_not_finite_G > 0, np.nan, base_auc_G),
        base_logloss_G=np.where(base_not_finite_G > 0, np.nan, base_losses.logloss_G),
        base_calibration_G=np.where(base_not_finite_G > 0, np.nan, base_losses.calibration_G),
        auc_delta=difference(delong.delta_G, se_G, counts_G, clusters.kind).without(either_G),
        logloss_delta=logloss_delta(losses, base_losses, influences).without(either_G),
        calibration_delta=calibration_delta(losses, base_losses, influences).without(either_G),
        delong_se_G=np.where(either_G > 0, np.nan, delong.se_G),
        se_ratio_G=np.where(either_G > 0, np.nan, se_ratio(se_G, delong.se_G, clusters.kind)),
        clusters_G=counts_G,
        influences=influences,
        not_finite_G=not_finite_G,
        base_not_finite_G=base_not_finite_G,
        has_users=groups.user_N is not None,
    )


def placements_of(positive: Bools, ranked: Ranked, groups: Groups) -> Floats:
    """Return every row's placement among the other class of its group."""
    return placements(positive, ranked.ranks_N, groups.of_row_N, groups.num_groups)


def _not_finite(ranked: Ranked, groups: Groups) -> Ints:
    """Count each group's probabilities that are not finite."""
    return np.bincount(groups.of_row_N[ranked.is_not_finite_N], minlength=groups.num_groups)


def _gauc(positive: Bools, ranked: Ranked, groups: Groups) -> Floats:
    if groups.user_N is None or groups.group_of_user_U is None:
        return np.full(groups.num_groups, np.nan)
    return gauc_per_parent(
        positive, ranked.ranks_N, groups.user_N, groups.group_of_user_U, groups.num_groups
    )[0]


def summarise(measures: Measures) -> Measures:
    """Return the one group "all": each metric's row-weighted mean over the domains that have it.

    Domains share users, so that their differences are not independent. A user's influences, each
    times its domain's weight, are summed over domains before they are squared. Without users,
    domains are independent, and the error of the mean is the root of the sum of (weight x error)².
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
    _, all_clusters = clusters.joint_error(
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
        base_auc_G=mean(measures.base_auc_G),
        base_logloss_G=mean(measures.base_logloss_G),
        base_calibration_G=mean(measures.base_calibration_G),
        auc_delta=difference(mean(delta_G), error, np.array([owners]), clusters.kind),
        logloss_delta=_joint_logloss_delta(measures),
        calibration_delta=_joint_calibration_delta(measures),
        delong_se_G=delong,
        se_ratio_G=se_ratio(error, delong, clusters.kind),
        clusters_G=np.array([all_clusters]),
        influences=measures.influences,
        not_finite_G=measures.not_finite_G.sum(keepdims=True),
        base_not_finite_G=measures.base_not_finite_G.sum(keepdims=True),
        has_users=measures.has_users,
    )


def _joint_logloss_delta(measures: Measures) -> Delta:
    """Return the mean log-loss of the domains divided by the base's, minus 1."""
    influences, clusters = measures.influences, measures.influences.clusters
    weight_G = measures.weights(measures.logloss_delta.value_G)
    base = _sum(weight_G * np.nan_to_num(measures.base_logloss_G))
    share = ratio(_sum(weight_G * np.nan_to_num(measures.logloss_G)), base)
    sums_K = influences.logloss_K - share[0] * influences.base_logloss_K
    se, owners = clusters.joint_error(sums_K, weight_G)
    error = ratio(np.array([se]), base)
    return difference(share - 1.0, error, np.array([owners]), clusters.kind)


def _joint_calibration_delta(measures: Measures) -> Delta:
    """Return the distance of the domains' mean calibration from 1 minus that of the base's."""
    influences, clusters = measures.influences, measures.influences.clusters
    weight_G = measures.weights(measures.calibration_delta.value_G)
    mine_K, base_K = influences.calibration_K, influences.base_calibration_K
    error_of_difference, owners = clusters.joint_error(mine_K - base_K, weight_G)
    error_of_sum, _ = clusters.joint_error(mine_K + base_K, weight_G)
    half = critical_value(np.array([owners]), clusters.kind)
    return farther_from_one(
        _sum(weight_G * np.nan_to_num(measures.calibration_G)),
        _sum(weight_G * np.nan_to_num(measures.base_calibration_G)),
        half_of_difference_G=half * error_of_difference,
        half_of_sum_G=half * error_of_sum,
    )


def _sum(value_G: Floats) -> Floats:
    total: Floats = np.sum(value_G, keepdims=True)
    return total
