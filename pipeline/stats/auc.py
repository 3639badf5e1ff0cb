"""Compute the area under the ROC curve: of one method, paired between two, and per user.

All of it is computed from *placements* (DeLong's structural components). A positive's placement is
the share of its group's negatives that score below it. A negative's placement is the share of its
group's positives that score above it. A tie counts one half. The mean placement of either class is
the AUC, and the spread of placements is its error. One sort is enough for any number of groups.

Shapes: N rows, G groups, U users within a group, P parents of users.
Source: Sun and Xu 2014, "Fast Implementation of DeLong's Algorithm"; Zhu et al. 2017 for GAUC.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri  # scipy.stats has the same, and takes as long to import as torch

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

CONFIDENCE = 0.95
"""Two-sided confidence of every interval here."""

HALF_WIDTH = float(ndtri(0.5 + CONFIDENCE / 2))
"""Half the interval's width in standard errors: 1.96."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedAuc:
    """Difference of two methods' AUC on the same rows, a minus b, with its 95 % interval."""

    delta: float
    se: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupedDelta:
    """Per group: AUC of a minus AUC of b, and its standard error; NaN where there is none."""

    delta_G: Floats
    se_G: Floats


def interval(delta: float, se: float) -> tuple[float, float]:
    """Return the 95 % normal interval around `delta`, given its standard error."""
    return delta - HALF_WIDTH * se, delta + HALF_WIDTH * se


def is_positive(labels: Array) -> Bools:
    """Return labels as booleans.

    Raises:
        ValueError: a label is neither 0 nor 1.
    """
    positive: Bools = labels == 1
    invalid = int(labels.size - np.count_nonzero(positive | (labels == 0)))
    if invalid:
        raise ValueError(f"labels must be 0 or 1, but {invalid:,} of {labels.size:,} are neither")
    return positive


def dense_ranks(scores: Array) -> Ints:
    """Return 0 for the lowest score, 1 for the next different one, and so on; ties share a rank."""
    ranks: Ints = np.unique(scores, return_inverse=True)[1].astype(np.int64, copy=False)
    return ranks


def average_ranks(scores: Array) -> Floats:
    """Return 1 for the lowest score, 2 for the next, and so on; ties share their average rank.

    All ranks are NaN where a score is NaN, which has no place in an order.
    """
    if np.isnan(scores).any():
        return np.full(np.shape(scores), np.nan)
    ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)[1:]
    return (np.cumsum(counts) - (counts - 1) / 2)[ranks]


def ratio(top: Array, bottom: Array) -> Floats:
    """Return `top / bottom`, NaN where `bottom` is 0."""
    quotient: Floats = np.full(np.shape(bottom), np.nan)
    return np.divide(top, bottom, out=quotient, where=np.asarray(bottom) != 0)


def count_per_group(groups: Ints, num_groups: int, *, weights: Array | None = None) -> Floats:
    """Return the sum of `weights` in each group (the number of rows when absent), as floats."""
    return np.bincount(groups, weights=weights, minlength=num_groups).astype(np.float64)


def placements(positive: Bools, ranks: Ints, groups: Ints, num_groups: int) -> Floats:
    """Return every row's placement among the other class of its own group.

    Args:
        positive: (N,) whether the row's label is 1.
        ranks: (N,) dense ranks of the scores, from `dense_ranks`.
        groups: (N,) group of the row, 0 <= group < num_groups.
        num_groups: G.

    Returns:
        (N,) in [0, 1], NaN where the group has no row of the other class. Within a group that
        has both, the mean over the positives equals the mean over the negatives: the AUC.
    """
    num_ranks = int(ranks.max()) + 1 if ranks.size else 1
    # A run is the rows of one group that share one score; runs come sorted by (group, score).
    run_key, run_of_row = np.unique(groups * num_ranks + ranks, return_inverse=True)
    run_group = run_key // num_ranks
    num_runs = run_key.size
    positives = count_per_group(run_of_row, num_runs, weights=positive)
    negatives = count_per_group(run_of_row, num_runs) - positives
    positives_G = count_per_group(run_group, num_groups, weights=positives)
    negatives_G = count_per_group(run_group, num_groups, weights=negatives)
    # One running sum over all groups: what earlier groups added is subtracted.
    earlier_positives_G = np.cumsum(positives_G) - positives_G
    earlier_negatives_G = np.cumsum(negatives_G) - negatives_G
    below = np.cumsum(negatives) - negatives / 2 - earlier_negatives_G[run_group]
    positives_below = np.cumsum(positives) - positives / 2 - earlier_positives_G[run_group]
    above = positives_G[run_group] - positives_below
    if_positive = ratio(below, negatives_G[run_group])
    if_negative = ratio(above, positives_G[run_group])
    return np.where(positive, if_positive[run_of_row], if_negative[run_of_row])


def auc_per_group(placement: Floats, positive: Bools, groups: Ints, num_groups: int) -> Floats:
    """Return the AUC of every group, shape (G,); NaN where a class is missing."""
    groups_of_positives = groups[positive]
    total_G = count_per_group(groups_of_positives, num_groups, weights=placement[positive])
    return ratio(total_G, count_per_group(groups_of_positives, num_groups))


def delta_per_group(
    placement_a: Floats, placement_b: Floats, positive: Bools, groups: Ints, num_groups: int
) -> GroupedDelta:
    """Return DeLong's paired difference of every group; NaN below two rows of either class.

    The covariance of the two AUCs is not needed: the variance of their difference is the variance
    of the differences of placements.

    Args:
        placement_a: (N,) placements under method a.
        placement_b: (N,) placements under method b.
        positive: (N,) whether the row's label is 1.
        groups: (N,) group of the row.
        num_groups: G.
    """
    difference = placement_a - placement_b
    variance_G = np.zeros(num_groups)
    for rows in (positive, ~positive):
        of_class, values = groups[rows], difference[rows]
        count_G = count_per_group(of_class, num_groups)
        mean_G = ratio(count_per_group(of_class, num_groups, weights=values), count_G)
        squares = count_per_group(of_class, num_groups, weights=(values - mean_G[of_class]) ** 2)
        variance_G += ratio(squares, np.where(count_G > 1, count_G * (count_G - 1), 0))
    # With one row of a class the variance is unknown, so the difference is not used either.
    delta_G = auc_per_group(difference, positive, groups, num_groups)
    return GroupedDelta(
        delta_G=np.where(np.isnan(variance_G), np.nan, delta_G), se_G=np.sqrt(variance_G)
    )


def gauc_per_parent(
    positive: Bools, ranks: Ints, users: Ints, parent_of_user: Ints, num_parents: int
) -> tuple[Floats, Ints]:
    """Return the GAUC of every parent (a domain), each from its own users.

    Args:
        positive: (N,) whether the row's label is 1.
        ranks: (N,) dense ranks of the scores.
        users: (N,) group of the row: one user within one parent.
        parent_of_user: (U,) the parent of each such group.
        num_parents: P.

    Returns:
        (P,) row-weighted mean AUC over the groups that have both classes, NaN where none has;
        (P,) rows of those groups.
    """
    num_users = parent_of_user.size
    placement = placements(positive, ranks, users, num_users)
    auc_U = auc_per_group(placement, positive, users, num_users)
    rows_U = np.where(np.isnan(auc_U), 0.0, count_per_group(users, num_users))
    rows_P = count_per_group(parent_of_user, num_parents, weights=rows_U)
    total_P = count_per_group(parent_of_user, num_parents, weights=rows_U * np.nan_to_num(auc_U))
    return ratio(total_P, rows_P), rows_P.astype(np.int64)


def auc(labels: Array, scores: Array) -> float | None:
    """Return the AUC, a tie counting one half; None when a class is missing."""
    positive = is_positive(labels)
    num_positive = int(np.count_nonzero(positive))
    num_negative = positive.size - num_positive
    if not num_positive or not num_negative:
        return None
    rank_sum = float(average_ranks(scores)[positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def paired_auc(labels: Array, scores_a: Array, scores_b: Array) -> PairedAuc | None:
    """Return the difference of a's and b's AUC on the same rows, with DeLong's interval.

    Returns:
        None with fewer than two rows of either class: there is no variance to estimate.
    """
    positive = is_positive(labels)
    num_positive = int(np.count_nonzero(positive))
    if min(num_positive, positive.size - num_positive) < 2:
        return None
    one_group = np.zeros(positive.size, dtype=np.int64)
    placement_a = placements(positive, dense_ranks(scores_a), one_group, 1)
    placement_b = placements(positive, dense_ranks(scores_b), one_group, 1)
    paired = delta_per_group(placement_a, placement_b, positive, one_group, 1)
    delta, se = float(paired.delta_G[0]), float(paired.se_G[0])
    low, high = interval(delta, se)
    return PairedAuc(delta=delta, se=se, low=low, high=high)


def gauc(labels: Array, scores: Array, users: Array) -> tuple[float | None, int]:
    """Return the row-weighted mean of per-user AUC, and the rows of these users.

    Users with one class only have no AUC and are left out; (None, 0) when that leaves nobody.
    """
    known, codes = np.unique(users, return_inverse=True)
    parents = np.zeros(known.size, dtype=np.int64)
    value, rows = gauc_per_parent(is_positive(labels), dense_ranks(scores), codes, parents, 1)
    return (float(value[0]), int(rows[0])) if rows[0] else (None, 0)
