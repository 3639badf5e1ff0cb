"""Divide rows into groups, and rank their probabilities, for every metric of a table.

Shapes: N rows, U users within a group, G groups (domains, or one group of all rows).
"""

from dataclasses import dataclass

import numpy as np

from iak.pipeline.stats.auc import Array, Bools, Floats, Ints, dense_ranks
from iak.pipeline.stats.clusters import Clusters


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """A division of the rows into groups, and of each group into users."""

    of_row_N: Ints
    """Group of each row."""
    num_groups: int
    user_N: Ints | None
    """User within a group, of each row; None where rows carry no user."""
    group_of_user_U: Ints | None
    owner_of_user_U: Ints | None
    """User over all groups, of each user within a group."""

    def clusters(self) -> Clusters:
        """Return the independent units of each group: users, or rows where there are none."""
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
        """Return the same division of some rows; groups and users keep their numbers."""
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
    """One method's probabilities on one task's rows, and their ranks."""

    p_N: Floats
    """Probabilities, all finite: one half where `is_not_finite_N`."""
    ranks_N: Ints
    is_not_finite_N: Bools
    """Whether the probability was not finite."""


def one_group(num_rows: int, user_codes: Ints | None) -> Groups:
    """Return all rows as one group.

    Args:
        num_rows: N.
        user_codes: user of each row as 0, 1, 2, ...; None where rows carry none.
    """
    num_users = int(user_codes.max()) + 1 if user_codes is not None and num_rows else 0
    return Groups(
        of_row_N=np.zeros(num_rows, dtype=np.int64),
        num_groups=1,
        user_N=user_codes,
        group_of_user_U=None if user_codes is None else np.zeros(num_users, dtype=np.int64),
        owner_of_user_U=None if user_codes is None else np.arange(num_users),
    )


def groups_by_domain(domain_N: Ints, num_domains: int, user_codes: Ints | None) -> Groups:
    """Return the rows cut by domain; a user with rows in two domains is a user in each.

    Args:
        domain_N: domain of each row.
        num_domains: G.
        user_codes: user of each row as 0, 1, 2, ...; None where rows carry none.
    """
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


def codes_of(users: Array) -> Ints:
    """Return user keys as 0, 1, 2, ..."""
    return dense_ranks(users)


def rank_probabilities(p: Array, *, what: str) -> Ranked:
    """Rank probabilities; one that is not finite becomes one half, and is marked.

    Args:
        p: (N,) probabilities.
        what: name of the probabilities, for the message.

    Raises:
        ValueError: one is below 0 or above 1.
    """
    p_N = np.asarray(p, dtype=np.float64)
    is_not_finite_N: Bools = ~np.isfinite(p_N)
    if is_not_finite_N.any():
        p_N = np.where(is_not_finite_N, 0.5, p_N)
    if p_N.size and (p_N.min() < 0.0 or p_N.max() > 1.0):
        raise ValueError(
            f"{what}: probabilities must be in [0, 1], seen {p_N.min():.4g} to {p_N.max():.4g}; "
            "pass the sigmoid of the logits"
        )
    return Ranked(p_N=p_N, ranks_N=dense_ranks(p_N), is_not_finite_N=is_not_finite_N)
