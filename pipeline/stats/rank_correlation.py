"""Correlate two methods' ranks of the same rows, within groups such as users.

A list is ranked for one user at a time. So what a change of scores does to lists is the correlation
of ranks within a user, and a shift of all scores of a user is no change.

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
    """Groups that have one: two rows at least, and no method that gives all of them one score."""


def rank_correlation(scores_a: Array, scores_b: Array, groups: Array) -> RankCorrelation | None:
    """Return how alike two methods rank the rows of each group; None where no group tells.

    Args:
        scores_a: (N,) of one method.
        scores_b: (N,) of the other.
        groups: (N,) key of each row's group.
    """
    keys, group_N = np.unique(groups, return_inverse=True)
    found_G = spearman_per_group(scores_a, scores_b, group_N, keys.size)
    tells_G = ~np.isnan(found_G)
    if not tells_G.any():
        return None
    rows_G = count_per_group(group_N, keys.size)[tells_G]
    return RankCorrelation(
        mean=float(np.average(found_G[tells_G], weights=rows_G)), groups=int(tells_G.sum())
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
    """Return each row's rank within its group, less the group's mean rank."""
    if not scores.size:
        return np.zeros(0)
    rank_N = dense_ranks(scores)
    # One sort for all groups: the rows of a group lie behind those of all earlier ones.
    ahead_N = average_ranks(group_N * (int(rank_N.max()) + 1) + rank_N)
    rows_G = count_per_group(group_N, num_groups)
    middle_G = np.cumsum(rows_G) - rows_G + (rows_G + 1) / 2
    centred: Floats = ahead_N - middle_G[group_N]
    return centred
