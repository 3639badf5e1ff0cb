"""Counts by key and period: merged as integers, and summed over any range of periods."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import table_sum
from iak.pipeline.data.table_sum import Entries, RunningSum, merge
from iak.pipeline.fresh.timeline import Timeline

ENTRY = st.tuples(st.integers(0, 6), st.integers(-3, 4), st.integers(0, 5))


def entries(found):
    keys, periods, counts = (np.array([f[i] for f in found], np.int64) for i in range(3))
    return Entries(keys.astype(np.uint64), periods.astype(np.int32), counts[:, None])


@given(found=st.lists(ENTRY, max_size=40), cut=st.integers(0, 40), order=st.randoms())
def test_a_merge_is_the_sum_whatever_the_parts_and_their_order(found, cut, order):
    shuffled = list(found)
    order.shuffle(shuffled)
    whole = merge([entries(found)])
    parts = merge([merge([entries(shuffled[:cut])]), entries(shuffled[cut:])])
    total = Counter()
    for key, period, count in found:
        total[key, period] += count
    merged = zip(whole.keys_n.tolist(), whole.periods_n.tolist(), strict=True)
    assert dict(zip(merged, whole.counts_nC[:, 0].tolist(), strict=True)) == dict(total)
    for field in ("keys_n", "periods_n", "counts_nC"):
        assert np.array_equal(getattr(whole, field), getattr(parts, field))


@given(parts=st.lists(st.lists(ENTRY, max_size=9), min_size=1, max_size=8), most=st.integers(0, 9))
def test_a_running_sum_is_the_merge_of_its_parts_however_few_wait(parts, most):
    whole = merge([entries(part) for part in parts])
    running = RunningSum()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_sum, "MAX_WAITING_ENTRIES", most)
        for part in parts:
            running.add(entries(part))
            merged, *waiting = map(len, running.parts)
            assert sum(waiting) <= max(most, merged), "what waits is bounded"
            assert running.size == merged + sum(waiting)
    for field in ("keys_n", "periods_n", "counts_nC"):
        assert np.array_equal(getattr(running.total(), field), getattr(whole, field))


@given(found=st.lists(ENTRY, max_size=40))
def test_a_timeline_sums_each_key_up_to_any_period(found):
    timeline = Timeline.of(merge([entries(found)]))
    asked = [(key, period) for key in range(9) for period in range(-6, 8)]
    keys_B, periods_B = (np.array(column) for column in zip(*asked, strict=True))
    summed = timeline.through(keys_B.astype(np.uint64), periods_B)[:, 0].tolist()
    expected = [sum(c for k, p, c in found if k == key and p <= until) for key, until in asked]
    assert summed == expected


def test_a_timeline_is_read_back_from_its_arrays():
    timeline = Timeline.of(merge([entries([(3, 0, 1), (1, 2, 5), (3, 1, 1)])]))
    again = Timeline.from_arrays(timeline.arrays())
    keys_B, periods_B = np.array([1, 3, 3], np.uint64), np.array([2, 0, 9])
    assert again.through(keys_B, periods_B)[:, 0].tolist() == [5, 1, 2]


@given(found=st.lists(ENTRY, max_size=40), cuts=st.lists(st.integers(0, 6), max_size=3))
def test_timelines_of_ranges_of_keys_join_to_the_timeline_of_all(found, cuts):
    whole = merge([entries(found)])
    bounds = [0, *sorted(cuts), 99]
    parts = [
        Timeline.of(Entries(whole.keys_n[rows], whole.periods_n[rows], whole.counts_nC[rows]))
        for low, high in pairwise(bounds)
        for rows in [(whole.keys_n >= low) & (whole.keys_n < high)]
    ]
    joined = Timeline.joined(parts).arrays()
    for name, array in Timeline.of(whole).arrays().items():
        assert array.dtype == joined[name].dtype
        assert np.array_equal(array, joined[name]), name
