"""How many ids a vocabulary would have, and how many of them share a row where they are hashed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import hashing, vocabulary_size
from iak.pipeline.data.table_sum import Entries, TableSum, merge
from iak.pipeline.data.vocabulary_size import estimate_ids, hashing_advice, sharing


def occurrences(ids):
    own = TableSum(1)
    keys = hashing.mix(np.asarray(ids, np.uint64))
    own.add(
        merge([Entries(keys, np.zeros(len(keys), np.int32), np.ones((len(keys), 1), np.int64))])
    )
    return own


@given(st.lists(st.integers(0, 20), min_size=1), st.integers(1, 3))
def test_of_all_rows_the_number_is_exact(ids, min_count):
    wanted = sum(ids.count(one) >= min_count for one in set(ids))
    assert estimate_ids(occurrences(ids), 1.0, min_count) == wanted


@pytest.mark.parametrize(
    ("population", "rows"),
    [(200_000, 2_000_000), (50_000, 1_000_000), (1_000_000, 1_000_000), (500, 1_000_000)],
)
def test_of_a_sample_it_is_near_the_number_that_the_log_has(population, rows):
    draw = np.random.default_rng(1)
    log = draw.integers(0, population, rows)
    sample = log[:50_000]
    true = len(np.unique(log))
    assert estimate_ids(occurrences(sample), len(sample) / rows, 1) == pytest.approx(true, rel=0.6)


def test_ids_of_which_each_row_has_another_are_as_many_as_rows():
    assert estimate_ids(occurrences(range(1_000)), 0.001, 2) == 1_000_000


@given(st.integers(1, 10**9), st.integers(2, 10**9))
def test_what_shares_a_row_is_a_share_that_falls_with_the_rows(ids, rows):
    assert 0 <= sharing(ids, rows + 1) <= sharing(ids, rows) <= 1
    assert sharing(1, rows) == 0


def test_ids_share_rows_as_often_as_they_do_when_they_are_hashed():
    ids, rows = 30_000, 20_000
    hashed = hashing.mix(np.arange(ids, dtype=np.uint64)) % np.uint64(rows)
    _, index, counts = np.unique(hashed, return_inverse=True, return_counts=True)
    assert sharing(ids, rows) == pytest.approx((counts[index] > 1).mean(), abs=0.01)


def test_the_advice_names_the_table_and_two_sizes():
    advice = hashing_advice("item", 48_000_000)
    assert "[tables.item]" in advice
    assert "rows = 16,777,216: 94% or rows = 67,108,864: 51%" in advice
    assert vocabulary_size.size_message(48_000_000, 16).startswith("about 48,000,000 ids")
