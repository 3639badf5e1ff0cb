"""Columns of lists: the last values of each, against a loop, and the signs of padding."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data.lists import ListEnds, is_padding, last_values
from iak.schemas.feature import ListSpec

values = st.none() | st.integers(-3, 3)
rows = st.lists(st.none() | st.lists(values, max_size=7), max_size=8)


def feature(**changes):
    return ListSpec(kind="list", name="hist", **changes)


def read(column, **changes):
    """The lists that `last_values` leaves, as Python lists."""
    flat, offsets = last_values(column, feature(**changes))
    assert offsets.dtype == np.int32
    assert offsets[0] == 0
    assert offsets[-1] == len(flat)
    plain = flat.to_pylist()
    return [plain[a:b] for a, b in pairwise(offsets)]


def expected(lists, last, padding=None):
    left = [
        [None] if row is None else [v for v in row if padding is None or v != padding]
        for row in lists
    ]
    return [row[-last:] for row in left]


@given(rows, st.integers(1, 5), st.none() | st.integers(-3, 3))
def test_the_last_values_of_each_list_are_left(lists, last, padding):
    column = pa.array(lists, pa.list_(pa.int64()))
    assert read(column, last=last, padding=padding) == expected(lists, last, padding)


@given(rows, st.data())
def test_a_slice_of_a_column_reads_as_its_rows_do(lists, data):
    start = data.draw(st.integers(0, len(lists)))
    column = pa.array(lists, pa.list_(pa.int64())).slice(start)
    assert read(column, last=2, padding=0) == expected(lists[start:], 2, 0)


def test_chunks_are_one_column():
    chunked = pa.chunked_array([[[1, 2, 3]], [None, [4]]], pa.list_(pa.int64()))
    assert read(chunked, last=2) == [[2, 3], [None], [4]]


def test_nothing_is_copied_where_nothing_is_cut():
    column = pa.array([[1, 2], [3]], pa.list_(pa.int64()))
    flat, _ = last_values(column, feature(last=2))
    assert flat.buffers()[1].address == column.values.buffers()[1].address


@pytest.mark.parametrize("words", [["0", "1", None, "0"], [0, 1, None, 0]], ids=["text", "ids"])
@pytest.mark.parametrize("padding", [0, "0"])
def test_padding_is_known_by_its_text_and_null_is_no_padding(words, padding):
    assert is_padding(pa.array(words), padding).tolist() == [True, False, False, True]


def ends_of(*batches):
    ends = ListEnds()
    for lists in batches:
        ends.add(pa.array(lists, pa.list_(pa.int64())))
    return ends


def test_lists_of_one_length_that_end_alike_look_padded():
    padded = [[5, 0, 0], [6, 7, 8], [1, 0, 0], [2, 0, 0]]
    assert ends_of(padded).padding() == (0, 3)
    assert ends_of(padded[:2], padded[2:]).padding() == (0, 3)


def test_padding_may_stand_in_front():
    assert ends_of([[0, 0, 5], [0, 0, 6], [1, 2, 3]]).padding() == (0, 2)


@pytest.mark.parametrize(
    "lists",
    [
        [[5, 0, 0], [1, 0, 0], [7]],  # of two lengths: nothing was filled up
        [[0, 0], [0, 0]],  # too short to tell a repetition from padding
        [[5, None, None]] * 4,
        [[5, 0, 0]] + [[1, 2, 3]] * 9,  # one in ten
        [],
    ],
    ids=["lengths", "short", "null", "rare", "none"],
)
def test_other_lists_do_not(lists):
    assert ends_of(lists).padding() is None


def test_null_lists_are_not_counted():
    assert ends_of([None, [5, 0, 0], None, [6, 0, 0]]).padding() == (0, 2)
