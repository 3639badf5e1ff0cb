"""Compare the GAUC of two methods: the row-weighted mean, over users, of each user's own AUC.

A user takes part with both classes among the rows. Users are independent of each other, so the
error of the difference is that of a weighted mean over users.

Shapes: N rows, G groups, U users within a group, from `has_both` on those with both classes.
Source: Zhu et al. 2017, "Optimized Cost per Click in Taobao Display Advertising", for GAUC.
"""

from dataclasses import dataclass

import numpy as np

from iak.pipeline.stats.auc import (
    Array,
    Floats,
    Ints,
    auc_per_group,
    count_per_group,
    dense_ranks,
    is_positive,
    placements,
    ratio,
)
from iak.pipeline.stats.clusters import critical_value
from iak.pipeline.stats.groups import codes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedGauc:
    """GAUC of two methods on the same rows; `delta` is a minus b, with its 95 % interval."""

    gauc_a: float
    gauc_b: float
    delta: float
    low: float
    high: float
    users: int
    """Users that have both classes."""


def paired_gaucs(
    labels: Array, scores_a: Array, scores_b: Array, users: Array, *, group_N: Ints, num_groups: int
) -> list[PairedGauc | None]:
    """Return the GAUC of a and b in each group of rows, and the interval of their difference.

    Args:
        labels: 0 or 1 of each row.
        scores_a: of one method.
        scores_b: of the other, on the same rows.
        users: key of each row's user.
        group_N: group of each row.
        num_groups: G.

    Returns:
        None for a group with fewer than two users that have both classes: there is no error to
        estimate.
    """
    positive, codes_N = is_positive(labels), codes_of(users)
    pairs, of_row_N = np.unique(codes_N * num_groups + group_N, return_inverse=True)

    def auc_of_users(scores: Array) -> Floats:
        placement_N = placements(positive, dense_ranks(scores), of_row_N, pairs.size)
        return auc_per_group(placement_N, positive, of_row_N, pairs.size)

    auc_a, auc_b = auc_of_users(scores_a), auc_of_users(scores_b)
    has_both = ~np.isnan(auc_a)
    group_U, auc_a, auc_b = (pairs % num_groups)[has_both], auc_a[has_both], auc_b[has_both]
    rows_U = count_per_group(of_row_N, pairs.size)[has_both]

    def sums(values_U: Floats) -> Floats:
        return count_per_group(group_U, num_groups, weights=values_U)

    share_U = rows_U / sums(rows_U)[group_U]
    a_G, b_G = sums(share_U * auc_a), sums(share_U * auc_b)
    delta_G = sums(share_U * (auc_a - auc_b))
    influence_U = share_U * (auc_a - auc_b - delta_G[group_U])
    users_G = np.bincount(group_U, minlength=num_groups)
    scale_G = ratio(users_G, np.where(users_G > 1, users_G - 1, 0))
    half_G = critical_value(users_G, "user") * np.sqrt(scale_G * sums(influence_U**2))
    return [
        PairedGauc(
            gauc_a=float(a_G[group]),
            gauc_b=float(b_G[group]),
            delta=float(delta_G[group]),
            low=float(delta_G[group] - half_G[group]),
            high=float(delta_G[group] + half_G[group]),
            users=int(users_G[group]),
        )
        if users_G[group] > 1
        else None
        for group in range(num_groups)
    ]
