"""Compare the GAUC of two methods: the row-weighted mean, over users, of each user's own AUC.

A user takes part with both classes among the rows. Users are independent of each other, so the
error of the difference is that of a weighted mean over users.

Shapes: N rows, U users with both classes.
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
)
from iak.pipeline.stats.clusters import critical_value


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


def paired_gauc(labels: Array, scores_a: Array, scores_b: Array, users: Array) -> PairedGauc | None:
    """Return the GAUC of a and b, and the interval of their difference.

    Args:
        labels: 0 or 1 of each row.
        scores_a: of one method.
        scores_b: of the other, on the same rows.
        users: key of each row's user.

    Returns:
        None with fewer than two users that have both classes: there is no error to estimate.
    """
    positive, (keys, of_row_N) = is_positive(labels), np.unique(users, return_inverse=True)

    def auc_of_users(scores: Array) -> Floats:
        ranks_N: Ints = dense_ranks(scores)
        placement_N = placements(positive, ranks_N, of_row_N, keys.size)
        return auc_per_group(placement_N, positive, of_row_N, keys.size)

    auc_a, auc_b = auc_of_users(scores_a), auc_of_users(scores_b)
    has_both = ~np.isnan(auc_a)
    count = int(np.count_nonzero(has_both))
    if count < 2:
        return None
    rows_U = count_per_group(of_row_N, keys.size)[has_both]
    share_U = rows_U / rows_U.sum()
    auc_a, auc_b = auc_a[has_both], auc_b[has_both]
    delta = float(share_U @ (auc_a - auc_b))
    influence_U = share_U * (auc_a - auc_b - delta)
    error = float(np.sqrt(count / (count - 1) * np.sum(influence_U**2)))
    half = float(critical_value(np.array(count), "user")) * error
    return PairedGauc(
        gauc_a=float(share_U @ auc_a),
        gauc_b=float(share_U @ auc_b),
        delta=delta,
        low=delta - half,
        high=delta + half,
        users=count,
    )
