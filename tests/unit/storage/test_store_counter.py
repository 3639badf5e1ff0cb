"""Counts of objects: whatever thread counts, every object is taken once."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.storage.store_counter import StoreCounter
from iak.schemas.traffic import Carried, StoreTraffic

sizes = st.lists(st.integers(0, 2**40))


@given(sizes, sizes)
def test_every_object_is_taken_once(read, written):
    counter = StoreCounter()
    for size in read:
        counter.count_read(size)
    first = counter.take()
    for size in written:
        counter.count_written(size)
    assert first + counter.take() == StoreTraffic(
        read=Carried(files=len(read), bytes=sum(read)),
        written=Carried(files=len(written), bytes=sum(written)),
    )
    assert counter.take() == StoreTraffic()


def test_threads_lose_no_object():
    counter = StoreCounter()
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(counter.count_read, range(4_000)):
            pass
    assert counter.take().read == Carried(files=4_000, bytes=sum(range(4_000)))
