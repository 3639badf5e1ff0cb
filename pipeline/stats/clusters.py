"""Compute standard errors where the rows of one user are not independent.

To first order, the error of a smooth statistic is a sum of one *influence* for each row. The
influences of one user's rows are summed before they are squared, so that any correlation between
them is counted:

    variance = C / (C - 1) * sum over clusters of (sum of influences in the cluster)^2

with C clusters. Where the log declares no user, every row is a cluster of its own. No
row is drawn at random. Where all rows are repeated k times, each influence is divided by k, and no
sum changes.

Shapes: N rows, G groups (domains, or one group of all rows), K clusters (a user within a group).
Source: Liang and Zeger 1986, "Longitudinal data analysis using generalized linear models", for the
sum within clusters; Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data", for
placements as the influences of an AUC; Cameron and Miller 2015, "A practitioner's guide to
cluster-robust inference", for C / (C - 1) and Student's t with C - 1 degrees of freedom.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, stdtrit

from iak.pipeline.stats.auc import (
    CONFIDENCE,
    HALF_WIDTH,
    Bools,
    Floats,
    Ints,
    count_per_group,
    ratio,
)

ClusterKind = Literal["user", "row"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Clusters:
    """Rows that belong together, such as one user's, within each group."""

    of_row_N: Ints
    """The row's cluster."""
    group_K: Ints
    """The cluster's group."""
    owner_K: Ints
    """The cluster's user over all groups: a user in two groups is two clusters of one owner."""
    num_groups: int
    kind: ClusterKind

    def sums(self, influence_N: Floats) -> Floats:
        """Return the sum of influences in each cluster, shape (K,)."""
        return count_per_group(self.of_row_N, self.group_K.size, weights=influence_N)

    def present(self) -> Bools:
        """Return whether each cluster has a row, shape (K,)."""
        present: Bools = np.bincount(self.of_row_N, minlength=self.group_K.size) > 0
        return present

    def counts(self) -> Ints:
        """Return the clusters with rows of each group, shape (G,)."""
        return np.bincount(self.group_K[self.present()], minlength=self.num_groups)

    def errors(self, sums_K: Floats) -> Floats:
        """Return the standard error in each group, shape (G,); NaN with fewer than two clusters."""
        squares_G = count_per_group(self.group_K, self.num_groups, weights=sums_K**2)
        return _error(squares_G, self.counts())

    def joint_error(self, sums_K: Floats, weights_G: Floats) -> tuple[float, int]:
        """Return the error of a weighted sum over groups, and the number of owners in it.

        An owner's influences are summed over groups before they are squared: groups that share
        users are not independent.

        Args:
            sums_K: influence of each cluster on its own group's statistic.
            weights_G: each group's weight in the sum; a group of weight 0 takes no part.
        """
        weight_K = np.where(self.present(), weights_G[self.group_K], 0.0)
        takes_part_K = weight_K > 0
        owners, owner_K = np.unique(self.owner_K[takes_part_K], return_inverse=True)
        total = weight_K[takes_part_K] * sums_K[takes_part_K]
        sums = count_per_group(owner_K, owners.size, weights=total)
        error = _error(np.sum(sums**2, keepdims=True), np.array([owners.size]))
        return float(error[0]), int(owners.size)


def _error(squares: Floats, clusters: Ints) -> Floats:
    """Return the root of C / (C - 1) times the summed squares; NaN where C is below two."""
    scale = ratio(clusters.astype(np.float64), np.where(clusters > 1, clusters - 1, 0))
    root: Floats = np.sqrt(scale * squares)
    return root


def critical_value(clusters: Ints, kind: ClusterKind) -> Floats:
    """Return half the width of a 95 % interval in standard errors, by number of clusters.

    The variance between few users is itself uncertain. So the interval is that of Student's
    distribution with C - 1 degrees of freedom. With thousands of users it is the normal one's 1.96.
    Where rows are the clusters, the normal distribution is used, as DeLong does.

    Args:
        clusters: clusters with rows, in each group.
        kind: kind of the clusters.
    """
    if kind == "row":
        return np.full(np.shape(clusters), HALF_WIDTH)
    degrees = np.maximum(np.asarray(clusters, dtype=np.float64) - 1, 1)
    return np.asarray(stdtrit(degrees, 0.5 + CONFIDENCE / 2), dtype=np.float64)


def one_sided(z: float, clusters: int, kind: ClusterKind) -> float:
    """Return the number of standard errors that replaces `z` where there are few users.

    It is the quantile of Student's distribution with C - 1 degrees of freedom whose upper tail has
    the same probability as the normal distribution's tail above `z`.

    Args:
        z: quantile of the normal distribution.
        clusters: C; below two, `z` stays.
        kind: kind of the clusters. Single rows leave `z` as it is.
    """
    if kind == "row" or clusters < 2:
        return z
    # By the lower tail: the upper one rounds to 1 from z = 8.3 on, whose quantile is infinite.
    return -float(stdtrit(clusters - 1, ndtr(-z)))


def mean_and_error(values_N: Floats, users_N: Ints | None) -> tuple[float, float, int]:
    """Return the mean over rows, its standard error, and the number of clusters.

    The influence of a row on a mean is (value - mean) / N. Without users the error is that of
    independent rows, the sample deviation over the root of N.

    Args:
        values_N: one number for each row, at least two rows.
        users_N: key of each row's user; None where rows carry none.

    Returns:
        The error is NaN where all rows are one user's.
    """
    mean = float(values_N.mean())
    if users_N is None:
        return mean, float(values_N.std(ddof=1) / np.sqrt(values_N.size)), values_N.size
    users, codes_N = np.unique(users_N, return_inverse=True)
    sums = count_per_group(codes_N, users.size, weights=(values_N - mean) / values_N.size)
    error = _error(np.sum(sums**2, keepdims=True), np.array([users.size]))
    return mean, float(error[0]), int(users.size)


def auc_influence(difference_N: Floats, positive_N: Bools, groups_N: Ints, num: int) -> Floats:
    """Return each row's influence on the difference of two AUCs, shape (N,).

    (d - mean d over the row's class) / rows of that class, where d is the difference of the row's
    placements under the two methods: the components of DeLong's variance.

    Args:
        difference_N: placements under one method minus those under the other.
        positive_N: whether the row's label is 1.
        groups_N: the row's group.
        num: G.
    """
    influence_N = np.zeros(difference_N.size)
    for rows in (positive_N, ~positive_N):
        of_class, values = groups_N[rows], difference_N[rows]
        count_G = count_per_group(of_class, num)
        mean_G = ratio(count_per_group(of_class, num, weights=values), count_G)
        influence_N[rows] = (values - mean_G[of_class]) / count_G[of_class]
    return influence_N
