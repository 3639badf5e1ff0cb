"""The stability index measures how far histograms lie apart, whatever the order of bins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data.drift import stability_index

counts = st.lists(st.integers(0, 500), min_size=2, max_size=8).filter(lambda c: sum(c) > 0)


@given(counts)
def test_alike_histograms_do_not_drift_and_no_index_is_negative(histogram):
    one = np.array(histogram, np.float64)
    assert stability_index(one, one) == 0
    assert stability_index(one, one[::-1].copy()) >= 0


@given(counts, st.randoms(use_true_random=False))
def test_the_index_knows_no_order_of_bins_and_no_direction(histogram, random):
    one = np.array(histogram, np.float64)
    other = one[::-1].copy()
    order = list(range(len(one)))
    random.shuffle(order)
    index = stability_index(one, other)
    assert stability_index(one[order], other[order]) == pytest.approx(index)
    assert stability_index(other, one) == pytest.approx(index)


def test_the_index_of_a_known_shift_is_that_of_its_formula():
    old, new = np.array([60.0, 40.0]), np.array([40.0, 60.0])
    p, q = (old + 0.5) / 101, (new + 0.5) / 101
    assert stability_index(old, new) == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert stability_index(old, np.zeros(2)) == 0, "without rows nothing is known"
