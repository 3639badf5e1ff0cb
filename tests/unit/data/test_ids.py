"""Values become rows the same way whether they were met before, and however they are cut."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import hashing, ids
from iak.pipeline.data.ids import Memo, Table
from iak.schemas.feature import FIRST_ROW, NULL_ROW, UNSEEN_ROW, TableSpec

numbers = st.one_of(st.integers(-40, 40), st.integers(-(2**63), 2**63 - 1))
SPECS = {
    "hash": TableSpec(encoding="hash", rows=23),
    "identity": TableSpec(encoding="identity", rows=17),
    "vocabulary": TableSpec(),
}


def keys_of(values):
    return np.unique(hashing.keys_of(pa.array(values)))


def table(kind, memo=None, known=(3, -7, 11)):
    vocabulary = keys_of(list(known)) if kind == "vocabulary" else None
    return Table(name="t", spec=SPECS[kind], vocabulary=vocabulary, memo=memo or Memo())


def rows_of(where, values, cuts=()):
    """The rows, written to arrays cut at these places."""
    ends = sorted({min(cut, len(values)) for cut in cuts} | {len(values)})
    sizes = np.diff([0, *ends])
    room = [np.full(size, -9, np.int64) for size in sizes]
    where.fill(values, room)
    return np.concatenate(room) if room else np.zeros(0, np.int64)


def expected(kind, values, known=(3, -7, 11)):
    """What the specification says, a value at a time."""
    results = []
    for value in values:
        if value is None:
            results.append(NULL_ROW)
        elif kind == "identity":
            inside = 0 <= value < SPECS[kind].rows - FIRST_ROW
            results.append(value + FIRST_ROW if inside else UNSEEN_ROW)
        elif kind == "hash":
            key = int(hashing.keys_of(pa.array([value]))[0])
            results.append(key % (SPECS[kind].rows - FIRST_ROW) + FIRST_ROW)
        else:
            key, vocabulary = hashing.keys_of(pa.array([value]))[0], keys_of(list(known))
            position = int(np.searchsorted(vocabulary, key))
            is_known = position < len(vocabulary) and vocabulary[position] == key
            results.append(position + FIRST_ROW if is_known else UNSEEN_ROW)
    return results


@pytest.mark.parametrize("kind", SPECS)
@given(
    batches=st.lists(st.lists(st.none() | numbers, max_size=40), max_size=4),
    cuts=st.lists(st.integers(0, 40), max_size=3),
)
def test_a_memo_changes_nothing_whatever_was_met_before(kind, batches, cuts):
    memo = Memo()
    for values in batches:
        column = pa.array(values, pa.int64())
        met = rows_of(table(kind, memo), column, cuts)
        assert met.tolist() == rows_of(table(kind), column).tolist() == expected(kind, values)


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("width", [pa.int8(), pa.uint16(), pa.int32(), pa.bool_()])
def test_the_width_of_a_number_does_not_matter(kind, width):
    values = [True, False, None] if pa.types.is_boolean(width) else [0, 3, 11, 100, None]
    narrow = rows_of(table(kind), pa.array(values, width))
    wide = [None if v is None else int(v) for v in values]
    assert narrow.tolist() == rows_of(table(kind), pa.array(wide, pa.int64())).tolist()


@given(
    words=st.lists(st.none() | st.sampled_from(["a", "b", "配送", "", "3"]), max_size=30),
    known=st.sets(st.sampled_from(["a", "配送", "z"])),
)
def test_words_are_the_same_from_a_dictionary_and_from_the_memo(words, known):
    memo, column = Memo(), pa.array(words, pa.string())
    results = [
        rows_of(table("vocabulary", memo, known or {"z"}), shape).tolist()
        for shape in (column, column.dictionary_encode(), column)
    ]
    assert results[0] == results[1] == results[2] == expected("vocabulary", words, known or {"z"})


@given(
    vocabulary=st.sets(st.integers(0, 2**64 - 1), max_size=60),
    asked=st.lists(st.integers(0, 2**64 - 1), max_size=40),
    spread=st.sampled_from([1, 16]),
    starts_bits=st.integers(1, 22),
)
def test_looking_up_is_a_binary_search(vocabulary, asked, spread, starts_bits):
    keys = np.unique(np.array(sorted(vocabulary), np.uint64) // np.uint64(spread))
    wanted = np.array([*asked, *keys.tolist()[:20]], np.uint64)
    where = Table(name="t", spec=TableSpec(), vocabulary=keys, memo=Memo())
    positions = np.searchsorted(keys, wanted)
    is_there = np.isin(wanted, keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids, "MAX_STARTS_BITS", starts_bits)
        rows = where.rows_of_keys(wanted)
    assert rows.tolist() == np.where(is_there, positions + FIRST_ROW, UNSEEN_ROW).tolist()


def test_a_code_outside_its_dictionary_is_refused():
    rows, room = np.arange(3), [np.zeros(2, np.int64)]
    with pytest.raises(IndexError, match="codes 0 to 3 of 3 words"):
        ids.fill_picked(rows, pa.array([0, 3], pa.int32()), room)
    with pytest.raises(IndexError, match="codes -1"):
        ids.fill_picked(rows, pa.array([-1, 1], pa.int32()), room)
