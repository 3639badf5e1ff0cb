"""That several workers count an encoding as one does, and that no memory grows with its ids."""

import tracemalloc
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.collectives import gathered
from iak.pipeline.data import hashing, table_sum
from iak.pipeline.data.encoding_counts import EncodingCounts, chosen_keys
from iak.pipeline.data.table_sum import Entries, TableSum, merge
from iak.pipeline.errors import WrongBase
from tests.builders import batch_of, draw_rows, small_catalog
from tests.unit.workers import on_threads, outcomes

ROWS = batch_of(draw_rows(90).append_column("region", pa.array(["ningbo"] * 90)))


def counted(batches, catalog, **known):
    counts = EncodingCounts(catalog, **known)
    for rows in batches:
        counts.add(rows)
    return counts


def content(encoding):
    """All that was learned, with every bit."""
    return (
        {name: keys.tobytes() for name, keys in encoding.vocabularies.items()},
        {name: np.array(pair).tobytes() for name, pair in encoding.statistics.items()},
        {name: cuts.tobytes() for name, cuts in encoding.boundaries.items()},
        dict(encoding.kinds),
    )


@given(
    cuts=st.lists(st.integers(1, 89), min_size=1, max_size=6, unique=True),
    world=st.integers(1, 3),
    fit=st.sampled_from([20, 10_000]),
    rows=st.none() | st.integers(4, 40),
    is_grown=st.booleans(),
)
@settings(max_examples=40)
def test_several_workers_count_the_encoding_that_one_does(cuts, world, fit, rows, is_grown):
    catalog = small_catalog(tables={"item": {"rows": rows, "min_count": 1}})
    ends = [0, *sorted(cuts), 90]
    batches = [ROWS.slice(a, b - a) for a, b in pairwise(ends)]
    known = {}
    if is_grown:
        before = counted([ROWS.slice(0, 20)], catalog).encoding()
        known = {"before": before, "grown": ["item"]}
    shares = [[] for _ in range(world)]
    for number, batch in enumerate(batches):
        shares[number * world // len(batches)].append(batch)
    firsts = np.cumsum([0, *(sum(map(len, share)) for share in shares)]).tolist()

    def work(worker):
        gather = partial(gathered, worker=worker)
        own = counted(shares[worker.rank], catalog, first_row=firsts[worker.rank], **known)
        if names := own.misplaced(worker.rank, gather):
            for batch in shares[worker.rank]:
                own.add_numbers(batch, names)
        return own.encoding(gather, is_kept=worker.rank == 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_sum, "MAX_ENTRIES", fit)
        together = on_threads(work, world)
        alone = counted(batches, catalog, **known).encoding()
    assert content(together[0]) == content(alone)


def test_a_worker_that_keeps_nothing_stores_no_key(monkeypatch):
    asked = []
    monkeypatch.setattr("iak.pipeline.data.encoding_counts.keys_on_disk", asked.append)
    counts = counted([ROWS], small_catalog())
    encoding = counts.encoding(is_kept=False)
    assert not asked
    assert {len(keys) for keys in encoding.vocabularies.values()} == {0}


def test_ids_of_another_kind_on_another_worker_are_refused():
    catalog = small_catalog(features=[{"kind": "categorical", "name": "c"}], tables={})
    batches = [batch_of({"c": pa.array(values)}) for values in ([7, 7], ["7", "8"])]

    def work(worker):
        own = counted([batches[worker.rank]], catalog)
        return own.encoding(partial(gathered, worker=worker))

    for error in outcomes(work, 2):
        assert isinstance(error, WrongBase)
        assert "table c" in str(error)


def peak_of_choosing(many, share):
    """Choose from as many ids; return the bytes that this took at most, and the keys chosen.

    A share of the ids fits into the table, or all where it is None. Every tenth is known before.
    """
    at_most = None if share is None else int(many * share)
    kept = np.sort(hashing.mix(np.arange(0, many, 10, dtype=np.uint64)))
    own = TableSum(1)
    for start in range(0, many, 1_000):
        keys = hashing.mix(np.arange(start, start + 1_000, dtype=np.uint64))
        ones = np.ones((1_000, 1), np.int64)
        own.add(merge([Entries(keys, np.zeros(1_000, np.int32), ones)]))
    tracemalloc.start()
    try:
        taken = sum(len(part) for part in chosen_keys(own, 1, at_most, kept))
        return tracemalloc.get_traced_memory()[1], taken
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_vocabulary_is_chosen_in_memory_that_does_not_grow_with_its_ids(monkeypatch, share):
    monkeypatch.setattr(table_sum, "MAX_ENTRIES", 2_000)
    monkeypatch.setattr(table_sum, "MAX_WAITING_ENTRIES", 2_000)
    few, _ = peak_of_choosing(20_000, share)
    many, taken = peak_of_choosing(100_000, share)
    assert taken == 100_000 * (share or 1)
    assert many < few + 100_000, "the keys of 80,000 more ids are 640,000 bytes"


@given(
    counts=st.dictionaries(st.integers(0, 2**64 - 1), st.integers(1, 4), max_size=40),
    kept=st.sets(st.integers(0, 2**64 - 1), max_size=10),
    at_most=st.none() | st.integers(0, 40),
    fit=st.integers(1, 9),
)
def test_known_keys_stay_and_the_most_frequent_new_ones_join(counts, kept, at_most, fit):
    kept |= set(sorted(counts)[::3])
    keys = np.array(sorted(counts), np.uint64)
    numbers = np.array([[counts[int(k)]] for k in keys], np.int64).reshape(-1, 1)
    own = TableSum(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_sum, "MAX_ENTRIES", fit)
        for start in range(0, len(keys), 3):
            part = slice(start, start + 3)
            own.add(Entries(keys[part], np.zeros(len(keys[part]), np.int32), numbers[part]))
        chosen = [*chosen_keys(own, 2, at_most, np.array(sorted(kept), np.uint64))]
    new = [key for key in counts if counts[key] >= 2 and key not in kept]
    room = None if at_most is None else max(at_most - len(kept), 0)
    best = sorted(new, key=lambda key: (-counts[key], key))[:room]
    assert np.concatenate(chosen).tolist() == sorted([*kept, *best])
