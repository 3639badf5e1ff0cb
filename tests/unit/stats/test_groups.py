"""Rows are cut into groups and users, and probabilities are ranked with holes marked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.stats.groups import codes_of, groups_by_domain, one_group, rank_probabilities

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40)


@given(ROWS)
def test_a_user_of_two_domains_is_one_owner_and_two_users_within_a_group(rows):
    domain_N, user_N = (np.array(column) for column in zip(*rows, strict=True))
    codes_N = codes_of(user_N)
    groups = groups_by_domain(domain_N, 4, codes_N)
    assert len(groups.group_of_user_U) == len(set(rows))
    assert groups.group_of_user_U[groups.user_N].tolist() == domain_N.tolist()
    assert groups.owner_of_user_U[groups.user_N].tolist() == codes_N.tolist()


@given(ROWS)
def test_one_group_has_every_row_and_every_user(rows):
    codes_N = codes_of(np.array([user for _, user in rows]))
    groups = one_group(len(rows), codes_N)
    assert not groups.of_row_N.any()
    assert groups.owner_of_user_U.tolist() == list(range(codes_N.max() + 1))
    assert groups.clusters().kind == "user"


@pytest.mark.parametrize(
    "cut", [one_group(3, None), groups_by_domain(np.array([0, 1, 1]), 2, None)]
)
def test_without_users_each_row_is_independent(cut):
    clusters = cut.clusters()
    assert clusters.kind == "row"
    assert clusters.of_row_N.tolist() == [0, 1, 2]
    assert clusters.group_K.tolist() == cut.of_row_N.tolist()


def test_an_empty_log_has_no_users():
    assert one_group(0, np.empty(0, np.int64)).owner_of_user_U.size == 0


@given(ROWS, st.data())
def test_some_rows_keep_the_numbers_of_their_groups_and_users(rows, data):
    domain_N, user_N = (np.array(column) for column in zip(*rows, strict=True))
    groups = groups_by_domain(domain_N, 4, codes_of(user_N))
    kept_N = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    taken = groups.take(kept_N)
    assert taken.of_row_N.tolist() == domain_N[kept_N].tolist()
    assert taken.owner_of_user_U[taken.user_N].tolist() == codes_of(user_N)[kept_N].tolist()


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=30))
def test_codes_are_dense_and_tell_users_apart(users):
    codes = codes_of(np.array(users))
    assert sorted(set(codes.tolist())) == list(range(len(set(users))))
    assert len(set(zip(users, codes.tolist(), strict=True))) == len(set(users))


def test_a_probability_that_is_not_finite_is_marked_and_stands_in_the_middle():
    ranked = rank_probabilities(np.array([0.9, np.nan, 0.1, np.inf]), what="kernel on ctr")
    assert ranked.is_not_finite_N.tolist() == [False, True, False, True]
    assert ranked.p_N.tolist() == [0.9, 0.5, 0.1, 0.5]
    assert ranked.ranks_N.tolist() == [2, 1, 0, 1]


@pytest.mark.parametrize("p", [[-0.1, 0.5], [0.5, 1.5]])
def test_logits_are_refused_with_what_to_pass(p):
    with pytest.raises(ValueError, match=r"kernel on ctr.*pass the sigmoid"):
        rank_probabilities(np.array(p), what="kernel on ctr")
