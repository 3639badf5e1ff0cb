"""Keys depend on what a value is, never on how Arrow stores it or on what stands beside it."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import hashing

WORDS = st.lists(st.text(max_size=12), max_size=20)
INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20)
MASK = 2**64 - 1


def splitmix64(key: int) -> int:
    """The finaliser of splitmix64, in plain integers."""
    x = (key + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def fnv1a(data: bytes) -> int:
    key = 0xCBF29CE484222325
    for byte in data:
        key = ((key ^ byte) * 0x100000001B3) & MASK
    return key


@given(st.lists(st.integers(0, MASK), max_size=20))
def test_mixing_is_splitmix64(keys):
    mixed = hashing.mix(np.array(keys, np.uint64))
    assert mixed.tolist() == [splitmix64(key) for key in keys]


@pytest.mark.parametrize("count", [16_383, 16_384, 16_385, 40_000])
def test_a_block_of_keys_is_mixed_like_each_key_alone(count):
    keys = np.arange(count, dtype=np.uint64)
    mixed = hashing.mix(keys)
    ends = [0, 16_382, count - 1]
    assert mixed[ends].tolist() == [splitmix64(end) for end in ends]
    assert len(set(mixed.tolist())) == count
    assert keys.tolist() == list(range(count)), "the caller's keys stay"


@given(WORDS)
def test_the_key_of_a_word_is_fnv1a_of_its_bytes_mixed(words):
    keys = hashing.keys_of(pa.array(words, pa.string()))
    assert keys.tolist() == [splitmix64(fnv1a(word.encode())) for word in words]
    assert [int(hashing.key_of_text(word)) for word in words] == keys.tolist()


@given(WORDS, st.data())
def test_how_arrow_stores_words_changes_no_key(words, data):
    plain = hashing.keys_of(pa.array(words, pa.string())).tolist()
    cut = data.draw(st.integers(0, len(words)))
    spellings = {
        "large": pa.array(words, pa.large_string()),
        "dictionary": pa.array(words, pa.string()).dictionary_encode(),
        "chunks": pa.chunked_array([words[:cut], words[cut:]], pa.string()),
        "slice": pa.array(["before", *words], pa.string())[1:],
    }
    for name, spelling in spellings.items():
        assert hashing.keys_of(spelling).tolist() == plain, name


@given(st.lists(st.integers(-128, 127), max_size=20))
def test_the_width_of_an_integer_changes_no_key(numbers):
    keys = hashing.keys_of(pa.array(numbers, pa.int64())).tolist()
    assert keys == [splitmix64(number & MASK) for number in numbers]
    for width in (pa.int8(), pa.int16(), pa.int32()):
        assert hashing.keys_of(pa.array(numbers, width)).tolist() == keys
    coded = pa.array(numbers, pa.int64()).dictionary_encode()
    assert hashing.keys_of(coded).tolist() == keys


def test_the_words_of_a_dictionary_may_be_a_slice():
    words = pa.array(["before", "a", "bc"], pa.large_string())[1:]
    assert hashing.keys_of_words(words).tolist() == hashing.keys_of(words).tolist()


def test_a_number_and_its_text_have_different_keys():
    assert hashing.keys_of(pa.array([7]))[0] != hashing.keys_of(pa.array(["7"]))[0]


@given(WORDS, st.data())
def test_a_null_leaves_the_keys_of_other_values_alone(words, data):
    at = data.draw(st.integers(0, len(words)))
    keys = hashing.keys_of(pa.array([*words[:at], None, *words[at:]], pa.string())).tolist()
    del keys[at]
    assert keys == hashing.keys_of(pa.array(words, pa.string())).tolist()


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1.5]),
        pa.array([0], pa.timestamp("s")),
        pa.array([{"a": 1}]),
        pa.array([1.5]).dictionary_encode(),
    ],
    ids=["float", "time", "struct", "dictionary of floats"],
)
def test_a_column_that_holds_no_ids_is_refused_by_its_type(values):
    with pytest.raises(TypeError, match="holds no ids; expected integers or text"):
        hashing.keys_of(values)


def test_a_null_has_the_index_after_the_last_word():
    coded = pa.array(["b", None, "a", "b"], pa.string()).dictionary_encode()
    assert hashing.dictionary_indices(coded).tolist() == [0, 2, 1, 0]


def test_a_pair_of_keys_is_ordered():
    one, other = np.array([1], np.uint64), np.array([2], np.uint64)
    assert hashing.combine(one, other)[0] != hashing.combine(other, one)[0]


@given(first=st.integers(0, 1_000), count=st.integers(0, 30), later=st.integers(0, 30))
def test_the_key_of_a_position_does_not_depend_on_where_reading_began(first, count, later):
    file = hashing.key_of_text("region=a/part-0.parquet")
    keys = hashing.keys_of_positions(file, first, count + later)
    assert keys[later:].tolist() == hashing.keys_of_positions(file, first + later, count).tolist()


def test_positions_of_two_files_share_no_key():
    keys = [
        set(hashing.keys_of_positions(hashing.key_of_text(name), 0, 1_000).tolist())
        for name in ("a.parquet", "b.parquet")
    ]
    assert [len(part) for part in keys] == [1_000, 1_000]
    assert keys[0].isdisjoint(keys[1])


@given(st.lists(st.integers(0, MASK), min_size=1), st.integers(0, 2**32))
def test_unit_numbers_lie_in_the_half_open_interval(keys, salt):
    numbers = hashing.unit_interval(np.array(keys, np.uint64), salt=salt)
    assert ((numbers >= 0) & (numbers < 1)).all()


def test_unit_numbers_are_uniform_and_independent_between_salts():
    keys = hashing.keys_of(pa.array(np.arange(20_000)))
    one, other = (hashing.unit_interval(keys, salt=salt) for salt in (1, 2))
    tenths = np.bincount((one * 10).astype(int), minlength=10)
    # Each tenth has 2,000 expected rows with a standard deviation of 42.
    assert abs(tenths - 2_000).max() < 5 * 42
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(20_000)
