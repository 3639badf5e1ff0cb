"""One writer of a folder on a store, whatever machines' clocks say."""

import itertools
import os
import subprocess
import sys
import threading

import pytest

from iak.pipeline.errors import Busy, Overtaken
from iak.pipeline.storage import lease as module
from iak.pipeline.storage.folder_store import FolderStore
from iak.pipeline.storage.lease import key_of, newest_lease, take_lease
from iak.pipeline.storage.store import open_store
from tests.s3 import make_bucket, moto_server, use

WRITERS = 6
_names = itertools.count()


@pytest.fixture(scope="module")
def s3():
    server, endpoint = moto_server()
    make_bucket(endpoint, "leases")
    yield endpoint
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def store(request, s3, monkeypatch, tmp_path):
    if request.param == "folder":
        return FolderStore(tmp_path / "stored")
    use(monkeypatch, s3)
    return open_store(f"s3://leases/{next(_names)}")


def change(store, lease, **fields):
    document = lease.document.model_copy(update=fields)
    store.put({key_of(lease.number): document.model_dump_json().encode()})


def test_a_second_writer_is_refused_and_learns_who_writes(store):
    take_lease(store, waits=False)
    with pytest.raises(Busy, match=rf"in use by process {os.getpid()} on .*if_busy=wait"):
        take_lease(store, waits=False)


def test_a_released_lease_is_free_at_once_and_its_number_is_never_used_again(store):
    numbers = []
    for _ in range(3):
        lease = take_lease(store, waits=False)
        numbers.append(lease.number)
        lease.release()
    assert numbers == [1, 2, 3]
    assert store.names(module.LEASES) == {"000003.json"}


def test_who_waits_writes_once_the_other_has_ended(store):
    first, naps = take_lease(store, waits=False), []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            first.release()

    assert take_lease(store, waits=True, sleep=sleep).number == 2
    assert len(naps) == 2


def test_of_many_writers_at_once_one_holds(store):
    barrier, held, refused = threading.Barrier(WRITERS), [], []

    def one():
        barrier.wait()
        try:
            held.append(take_lease(store, waits=False).number)
        except Busy:
            refused.append(1)

    threads = [threading.Thread(target=one) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (held, len(refused)) == ([1], WRITERS - 1)


def test_without_a_sign_of_life_the_lease_is_taken_over_and_the_old_holder_is_fenced(store):
    stalled = take_lease(store, waits=False)
    at = store.written_at(key_of(1))
    for seconds, is_over in ((stalled.document.seconds - 1, False), (500, True)):
        module_now = at + seconds
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "store_time", lambda _, now=module_now: now)
            if is_over:
                assert take_lease(store, waits=False).number == 2
            else:
                with pytest.raises(Busy):
                    take_lease(store, waits=False)
    for action in (stalled.check, stalled.renew):
        with pytest.raises(Overtaken, match="was taken over by process"):
            action()
    assert newest_lease(store) == 2


def test_a_sign_of_life_makes_the_lease_young_again(store):
    holder, seconds = take_lease(store, waits=False), iter(range(1000, 2000, 500))
    assert module.store_time(store) - store.written_at(key_of(1)) < holder.document.seconds
    before = store.written_at(key_of(1))
    if isinstance(store, FolderStore):
        os.utime(store.root / key_of(1), (before - next(seconds),) * 2)
        holder.renew()
    assert store.written_at(key_of(1)) >= before
    assert store.names(module.CLOCKS) == set()


def test_a_process_of_this_machine_that_died_keeps_nobody_waiting(store):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = take_lease(store, waits=False)
    change(store, dead, process=process.pid)
    assert take_lease(store, waits=False).number == 2


def test_a_process_of_another_machine_is_not_taken_for_dead(store):
    other = take_lease(store, waits=False)
    change(store, other, process=2**22 + 1, machine="another boot")
    with pytest.raises(Busy):
        take_lease(store, waits=False)
