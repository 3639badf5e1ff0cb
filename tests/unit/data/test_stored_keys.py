"""That a vocabulary in a file gives the rows of one in memory, and costs no memory for an id."""

import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from iak.pipeline.data import hashing, ids, stored_keys, vocabulary
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.ids import Memo, Table
from iak.pipeline.data.stored_keys import StoredKeys, map_arrays, write_arrays
from iak.schemas.feature import TableSpec

MANY = 400_000
"""Ids of a vocabulary whose 3.2 MB would be seen in what is allocated."""
LITTLE = 400_000
"""Bytes that may be allocated whatever the number of ids."""


def keys_of(count: int) -> hashing.Keys:
    return np.sort(hashing.mix(np.arange(count, dtype=np.uint64)))


def encoding_with(**vocabularies: hashing.Keys) -> Encoding:
    return Encoding(vocabularies=vocabularies, statistics={}, boundaries={})


def stored(folder: Path, **vocabularies: hashing.Keys) -> Encoding:
    vocabulary.save(encoding_with(**vocabularies), folder)
    return vocabulary.load(folder)


def rows_of(keys: hashing.Keys, asked: hashing.Keys) -> list[int]:
    table = Table(name="t", spec=TableSpec(), vocabulary=keys, memo=Memo())
    return table.rows_of_keys(asked).tolist()


@contextmanager
def allocated() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the most bytes that NumPy and Python held since the start."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(
    keys=st.dictionaries(
        st.sampled_from(["item", "user", "語"]), st.sets(st.integers(0, 2**64 - 1), max_size=40)
    ),
    cuts=st.lists(st.floats(allow_nan=False), max_size=5),
)
def test_arrays_are_mapped_as_they_were_written_and_as_safetensors_has_them(
    keys, cuts, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("arrays")
    arrays = {name: np.array(sorted(own), np.uint64).view(np.int64) for name, own in keys.items()}
    arrays |= {"boundaries.age": np.array(cuts)}
    write_arrays(folder / "ours", arrays)
    save_file(arrays, folder / "theirs")
    for path in (folder / "ours", folder / "theirs"):
        for read in (map_arrays(path), load_file(path)):
            assert {name: (a.dtype, a.tobytes()) for name, a in read.items()} == {
                name: (a.dtype, a.tobytes()) for name, a in arrays.items()
            }


@given(
    known=st.sets(st.integers(0, 2**64 - 1), max_size=60),
    asked=st.lists(st.integers(0, 2**64 - 1), max_size=40),
)
def test_a_mapped_vocabulary_gives_the_rows_of_one_in_memory(known, asked, tmp_path_factory):
    keys = np.array(sorted(known), np.uint64)
    wanted = np.array([*asked, *list(known)[:20]], np.uint64)
    opened = stored(tmp_path_factory.mktemp("encoding"), t=keys)
    assert rows_of(opened.vocabularies["t"], wanted) == rows_of(keys, wanted)


def test_opening_a_vocabulary_and_looking_up_takes_no_memory_for_each_id(tmp_path, monkeypatch):
    monkeypatch.setattr(ids, "MAX_STARTS_BITS", 8)
    keys = keys_of(MANY)
    vocabulary.save(encoding_with(t=keys), tmp_path)
    asked = keys[::1000]
    with allocated() as peak:
        opened = vocabulary.load(tmp_path)
        rows = rows_of(opened.vocabularies["t"], asked)
        assert peak() < LITTLE
    assert rows == list(range(2, MANY + 2, 1000))


def test_writing_a_vocabulary_takes_no_memory_for_each_id(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_keys, "_BLOCK", 1000)
    encoding = encoding_with(t=keys_of(MANY))
    with allocated() as peak:
        vocabulary.save(encoding, tmp_path)
        assert peak() < LITTLE


def test_a_pickle_has_small_vocabularies_and_of_a_large_one_the_path(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_keys, "MAX_PICKLED_IDS", 100)
    large, small = keys_of(MANY), keys_of(100)
    message = pickle.dumps(stored(tmp_path / "a", large=large, small=small))
    assert len(message) < 4000
    (tmp_path / "a").rename(tmp_path / "b")
    before_it_arrives = pickle.loads(message).vocabularies
    assert "large" in before_it_arrives
    assert "other" not in before_it_arrives
    assert (before_it_arrives["small"] == small).all()
    (tmp_path / "b").rename(tmp_path / "a")
    assert (before_it_arrives["large"] == large).all()
    again = pickle.loads(pickle.dumps(before_it_arrives))
    assert {name: keys.tobytes() for name, keys in again.items()} == {
        "large": large.tobytes(),
        "small": small.tobytes(),
    }


def test_small_vocabularies_need_no_file_where_they_are_unpickled(tmp_path):
    opened = stored(tmp_path, t=keys_of(100), none=keys_of(0))
    message = pickle.dumps(opened)
    for path in tmp_path.iterdir():
        path.unlink()
    assert isinstance(opened.vocabularies, StoredKeys)
    arrived = pickle.loads(message).vocabularies
    assert arrived.keys() == {"t", "none"}
    assert (arrived["t"] == keys_of(100)).all()


def test_a_name_without_a_vocabulary_is_a_key_error(tmp_path):
    opened = stored(tmp_path, t=keys_of(3)).vocabularies
    with pytest.raises(KeyError):
        opened["other"]
    assert opened.get("other") is None
    assert len(opened) == 1
