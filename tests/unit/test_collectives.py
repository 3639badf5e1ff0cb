"""Sums and maxima over workers are those of all values, and the same on every worker."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.collectives import greatest, most, total, total_counts
from iak.pipeline.process import Worker
from tests.unit.workers import CPU, on_threads

ALONE = Worker(rank=0, world=1, device=CPU)
WHOLE = st.integers(-(2**40), 2**40)


def by_rank(width):
    """A row of values a worker, 1 to 4 workers."""
    return st.lists(st.lists(WHOLE, min_size=width, max_size=width), min_size=1, max_size=4)


@given(values=st.integers(1, 4).flatmap(by_rank))
def test_the_greatest_are_found_value_by_value(values):
    expected = tuple(max(column) for column in zip(*values, strict=True))
    told = on_threads(lambda w: greatest(tuple(values[w.rank]), w), len(values))
    assert told == [expected] * len(values)


@given(values=st.lists(WHOLE, min_size=1, max_size=4))
def test_the_most_is_the_largest_of_all(values):
    assert on_threads(lambda w: most(values[w.rank], w), len(values)) == [max(values)] * len(values)


@given(values=st.integers(0, 4).flatmap(by_rank))
def test_a_total_is_the_sum_and_leaves_what_was_summed(values):
    before = [torch.tensor(row, dtype=torch.int64) for row in values]
    kept = [row.clone() for row in before]
    told = on_threads(lambda w: total(before[w.rank], w), len(values))
    assert all(torch.equal(found, torch.stack(kept).sum(0)) for found in told)
    assert all(torch.equal(now, then) for now, then in zip(before, kept, strict=True))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_a_total_keeps_its_type(dtype):
    found = on_threads(lambda w: total(torch.ones(3, dtype=dtype), w), 2)
    assert [one.dtype for one in found] == [dtype] * 2


def test_one_worker_needs_no_process_group():
    values = torch.tensor([3.0])
    assert total(values, ALONE) is values
    assert most(3, ALONE) == 3


@given(
    values=st.lists(
        st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=4
    )
)
def test_counts_are_summed_by_name_and_a_name_that_a_worker_lacks_counts_as_none(values):
    expected = Counter()
    for part in values:
        expected.update(part)
    told = on_threads(lambda w: total_counts(values[w.rank], w), len(values))
    assert told == [expected] * len(values)
