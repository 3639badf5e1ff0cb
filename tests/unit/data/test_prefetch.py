"""Prefetching changes no item, is bounded, and leaves no thread behind."""

import threading
import time
from collections.abc import Iterator

import pytest

from iak.pipeline.data.prefetch import prefetch
from iak.pipeline.errors import BadLog


def test_prefetching_keeps_items_and_raises_the_producers_error():
    def items() -> Iterator[int]:
        yield from range(5)
        raise BadLog("broken")

    got = []
    with pytest.raises(BadLog, match="broken"):
        got.extend(prefetch(items(), depth=2))
    assert list(prefetch(iter(range(9)), depth=1)) == list(range(9))


def test_a_consumer_that_stops_early_leaves_no_thread_behind():
    ready = prefetch(iter(range(1_000)), depth=1)
    assert next(ready) == 0
    ready.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_prefetching_is_bounded_however_slow_the_consumer_is():
    made = []

    def items():
        for number in range(50):
            made.append(number)
            yield number

    ahead = []
    for number in prefetch(items(), depth=3):
        time.sleep(0.002)
        ahead.append(len(made) - number - 1)
    assert made == list(range(50))
    assert 0 < max(ahead) <= 3 + 2
