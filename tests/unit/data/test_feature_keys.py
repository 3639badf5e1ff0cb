"""A row's key is a function of its features, and different rows have different keys."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.data.feature_keys import LANES, feature_keys


def batch(ids, numbers, lists):
    return pa.RecordBatch.from_pydict(
        {
            "f.a": pa.array(ids, pa.int64()),
            "f.h": pa.array(lists, pa.list_(pa.int64())),
            "n.x": pa.array(numbers, pa.float32()),
            "y.click": pa.array([0.0] * len(ids), pa.float32()),
        }
    )


ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**40),
        st.floats(width=32, allow_nan=False),
        st.lists(st.integers(0, 50), max_size=6),
    ),
    min_size=1,
    max_size=30,
)


@given(ROWS, st.randoms())
@settings(deadline=None)
def test_a_row_keeps_its_key_wherever_it_lies(rows, random):
    whole = feature_keys(batch(*zip(*rows, strict=True)))
    assert whole.shape == (len(rows), LANES)
    order = list(range(len(rows)))
    random.shuffle(order)
    moved = batch(*zip(*[rows[at] for at in order], strict=True))
    assert np.array_equal(feature_keys(moved), whole[order])
    start = random.randrange(len(rows))
    assert np.array_equal(feature_keys(batch(*zip(*rows, strict=True)).slice(start)), whole[start:])


@given(ROWS)
@settings(deadline=None)
def test_rows_have_the_same_key_if_their_features_are_the_same_and_only_then(rows):
    keys = [tuple(key) for key in feature_keys(batch(*zip(*rows, strict=True))).tolist()]
    bits = [(i, np.float32(x).tobytes(), tuple(h)) for i, x, h in rows]
    for one in range(len(rows)):
        for other in range(one):
            assert (keys[one] == keys[other]) == (bits[one] == bits[other])


def test_one_unit_of_any_feature_makes_another_key():
    lists = [[1, 2, 3]] * 7
    changed = [[1, 2, 3], [2, 2, 3], [1, 3, 3], [1, 2, 4], [1, 2], [1, 2, 3, 0], [2, 1, 3]]
    base = feature_keys(batch([5] * 7, [0.5] * 7, lists))
    moved = feature_keys(batch([5] * 7, [0.5] * 7, changed))
    assert (base == base[0]).all()
    assert len({tuple(key) for key in moved.tolist()}) == 7
    numbers = [0.5, 0.25, 1.0, 2.0, -0.5, 0.0, 0.75]  # their bits differ in high places alone
    assert len({tuple(k) for k in feature_keys(batch([5] * 7, numbers, lists)).tolist()}) == 7


def test_labels_have_no_part_in_it():
    rows = batch([1, 2], [0.5, 0.5], [[1], []])
    other = rows.set_column(3, "y.click", pa.array([1.0, None], pa.float32()))
    assert np.array_equal(feature_keys(rows), feature_keys(other))


def test_keys_of_today_are_those_of_yesterday():
    """What is kept on disk under a key must be found by the next version."""
    keys = feature_keys(batch([7, 8], [1.5, -2.0], [[3, 4], []]))
    assert keys.tolist() == [
        [6409236570260233306, 6160109298051353928],
        [14514277775599263376, 1499021217878244240],
    ]
