import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.bench.ids import drawn


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.sampled_from(["uniform", "zipf"]), st.integers(1, 10**9), st.integers(0, 50))
def test_ids_are_rows_of_the_table(law, rows, seed):
    ids = drawn(law, 64, rows, draw(seed))
    assert ids.shape == (64,)
    assert ids.dtype == torch.int64
    assert ids.min() >= 0
    assert ids.max() < rows


@pytest.mark.parametrize("law", ["uniform", "zipf"])
def test_the_same_generator_draws_the_same_ids(law):
    first, again, other = (drawn(law, 100, 10**6, draw(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_rank_is_drawn_in_proportion_to_its_reciprocal():
    rows = 1000
    counts = drawn("zipf", 400_000, rows, draw()).bincount(minlength=rows).double()
    shares = counts.sort(descending=True).values / counts.sum()
    # Rank r is drawn where exp(u log(rows + 1)) lies between r and r + 1.
    rank = torch.arange(1, 21, dtype=torch.float64)
    expected = ((rank + 1) / rank).log() / torch.tensor(rows + 1.0).log()
    assert torch.allclose(shares[:20], expected, rtol=0.1)


def test_frequent_ids_are_scattered_over_the_table():
    rows = 10**6
    counts = drawn("zipf", 100_000, rows, draw()).bincount(minlength=rows)
    frequent = counts.topk(64).indices
    quarters = (frequent // (rows // 4)).bincount(minlength=4)
    assert quarters.min() >= 4
