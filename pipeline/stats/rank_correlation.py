"""Correlate two methods' ranks of the same rows, within groups such as users.

A list is ranked for one user at a time. So the effect of new scores on lists is measured by the
correlation of ranks within each user. A shift of all scores of a user changes no list.

Shapes: N rows, G groups.
Source: Spearman 1904; ties have their average rank, as in scipy.stats.spearmanr.
"""

from typing import NamedTuple

import numpy as np

from iak.pipeline.stats.auc import (
    Array,
    Floats,
    Ints,
    average_ranks,
    count_per_group,
    dense_ranks,
    ratio,
)


class RankCorrelation(NamedTuple):
    """Mean of the groups' correlations, each weighted by its rows."""

    mean: float
    groups: int
    """Groups that have a correlation: at least two rows, and under each method two scores."""


def rank_correlation(scores_a: Array, scores_b: Array, groups: Array) -> RankCorrelation | None:
    """Return how alike two methods rank the rows of each group; None where no group has two ranks.

    Args:
        scores_a: (N,) of one method.
        scores_b: (N,) of the other.
        groups: (N,) key of each row's group.
    """
    keys, group_N = np.unique(groups, return_inverse=True)
    correlation_G = spearman_per_group(scores_a, scores_b, group_N, keys.size)
    is_known_G = ~np.isnan(correlation_G)
    if not is_known_G.any():
        return None
    rows_G = count_per_group(group_N, keys.size)[is_known_G]
    return RankCorrelation(
        mean=float(np.average(correlation_G[is_known_G], weights=rows_G)),
        groups=int(is_known_G.sum()),
    )


def spearman_per_group(scores_a: Array, scores_b: Array, group_N: Ints, num_groups: int) -> Floats:
    """Return Spearman's correlation of every group, shape (G,); NaN where a group has none.

    Args:
        scores_a: (N,) of one method.
        scores_b: (N,) of the other.
        group_N: (N,) index of each row's group.
        num_groups: G.
    """
    a, b = (_centred_ranks(scores, group_N, num_groups) for scores in (scores_a, scores_b))
    both_G, a_G, b_G = (
        count_per_group(group_N, num_groups, weights=product) for product in (a * b, a * a, b * b)
    )
    return ratio(both_G, np.sqrt(a_G * b_G))


def _centred_ranks(scores: Array, group_N: Ints, num_groups: int) -> Floats:
    """Return each row's rank within its group minus the group's mean rank."""
    if not scores.size:
        return np.zeros(0)
    rank_N = dense_ranks(scores)
    # One sort for all groups: the rows of a group rank above those of all earlier groups.
    overall_N = average_ranks(group_N * (int(rank_N.max()) + 1) + rank_N)
    rows_G = count_per_group(group_N, num_groups)
    middle_G = np.cumsum(rows_G) - rows_G + (rows_G + 1) / 2
    centred: Floats = overall_N - middle_G[group_N]
    return centred
