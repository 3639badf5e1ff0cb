"""A table's counts over workers, files and ranges of keys: the same however little fits."""

import errno
import tempfile
import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import table_sum
from iak.pipeline.data.table_sum import Entries, TableSum, merge
from iak.pipeline.errors import DoesNotFit
from iak.pipeline.fresh.timeline import Timeline, timeline_of

STEP = 2**61
"""Keys are hashes, so those of a test lie apart too."""
ENTRY = st.tuples(st.integers(0, 7), st.integers(-3, 4), st.integers(0, 5), st.integers(0, 5))
FILES = st.lists(st.lists(ENTRY, max_size=9), min_size=1, max_size=8)


def entries(found):
    keys = np.array([key * STEP for key, *_ in found], np.uint64)
    periods = np.array([period for _, period, *_ in found], np.int32)
    counts = np.array([(a, 1, b, 1) for *_, a, b in found], np.int64).reshape(-1, 4)
    return merge([Entries(keys, periods, counts)])


def summed(files):
    own = TableSum(4)
    for found in files:
        own.add(entries(found))
    return own


def timelines_of(workers, most):
    """The timeline of each of some workers, which meet as threads."""
    meeting, values = threading.Barrier(len(workers)), [None] * len(workers)
    results = [None] * len(workers)

    def work(rank):
        def gather(own):
            values[rank] = own
            meeting.wait(60)
            everyone = list(values)
            meeting.wait(60)
            return everyone

        results[rank] = timeline_of(workers[rank], most, gather)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def plain(files, most):
    """The timeline of everything, of the keys with most rows by plain counting."""
    found = [row for file in files for row in file]
    # The rate with most rows decides; of two with as many, the first.
    column = 2 if sum(row[2] for row in found) >= sum(row[3] for row in found) else 3
    rows = Counter()
    for row in found:
        rows[row[0]] += row[column]
    kept = sorted(rows, key=lambda key: (-rows[key], key))[:most]
    return Timeline.of(entries([row for row in found if row[0] in kept]))


@given(
    files=FILES,
    workers=st.integers(1, 3),
    fit=st.integers(1, 12),
    most=st.one_of(st.none(), st.integers(1, 9)),
)
def test_a_timeline_is_that_of_everything_however_little_fits(files, workers, fit, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_sum, "MAX_ENTRIES", fit)
        shares = [summed(files[rank::workers]) for rank in range(workers)]
        results = timelines_of(shares, most)
    wanted = plain(files, most).arrays()
    for result in results:
        for name, array in result.arrays().items():
            assert np.array_equal(array, wanted[name]), name


def test_what_lies_in_memory_is_bounded_and_the_rest_is_on_disk(monkeypatch):
    monkeypatch.setattr(table_sum, "MAX_ENTRIES", 100)
    own, draw = TableSum(4), np.random.default_rng(0)
    for _ in range(40):
        keys = draw.integers(0, 2**64, 50, np.uint64)
        own.add(merge([Entries(keys, np.zeros(50, np.int32), np.ones((50, 4), np.int64))]))
        assert own.running.size <= 100
    assert own.size() == 2000
    assert own.totals().tolist() == [2000] * 4
    assert all(isinstance(run.keys_n, np.memmap) for run in own.runs)
    ranges = []

    def gather(value):
        ranges.extend([len(value)] if isinstance(value, Entries) else [])
        return [value]

    assert len(timeline_of(own, None, gather).keys_U) == 2000
    assert sum(ranges) == 2000
    assert max(ranges) <= 150, "a range has about as many entries as fit"


def test_no_file_is_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(table_sum, "MAX_ENTRIES", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = summed([[(1, 0, 1, 1), (2, 0, 1, 1)], [(3, 0, 1, 1)]])
    assert own.runs
    assert not list(tmp_path.iterdir()), "also where the process is killed from here on"
    assert len(own.between(0, 2**64)) == 3


def test_a_full_disk_is_named_with_what_to_do(monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(table_sum, "MAX_ENTRIES", 1)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    with pytest.raises(DoesNotFit, match=r"No space left.*TMPDIR"):
        summed([[(1, 0, 1, 1), (2, 0, 1, 1)]])
