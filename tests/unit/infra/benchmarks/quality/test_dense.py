"""Adapters over frozen tables start at the base."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.benchmarks.quality.dense import low_rank

FROZEN = {
    "tower": torch.randn(2, 12, 8),
    "layer": torch.randn(20, 10),
    "bias": torch.randn(20),
    "narrow": torch.randn(20, 3),
}


@given(st.integers(1, 6), st.integers(0, 1000))
def test_a_low_rank_change_is_zero_at_the_start_and_of_its_rank(rank, seed):
    weights = low_rank(FROZEN, rank, seed=seed)
    for name in ("tower", "layer"):
        change = weights[f"{name}|out"] @ weights[f"{name}|in"]
        assert change.shape == FROZEN[name].shape
        assert not change.any()
        assert weights[f"{name}|in"].shape[-2] == rank
        assert weights[f"{name}|in"].any()


@pytest.mark.parametrize("name", ["bias", "narrow"])
def test_what_is_no_wide_matrix_is_tuned_whole(name):
    weights = low_rank(FROZEN, 4, seed=0)
    assert torch.equal(weights[name], FROZEN[name])
    assert f"{name}|in" not in weights
