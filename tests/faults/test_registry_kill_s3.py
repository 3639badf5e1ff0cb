"""A process that is killed while it promotes to S3: readers see the old pointers or the new ones.

A real process promotes over HTTP, and gets SIGKILL at its n-th request, for every n: before the
server has the request, or after it has, so that only the answer is lost. Then the registry is read
as anyone would read it, and the same promotion is made again.
"""

import itertools
import multiprocessing
import os
import signal
import threading

import pytest

from iak.pipeline.registry.commits import is_registry, read_head
from iak.pipeline.registry.retention import remove_unneeded
from iak.pipeline.registry.verify import verify_registry
from iak.pipeline.storage import bucket_store
from iak.pipeline.storage.download_cache import DownloadCache
from iak.pipeline.storage.store import open_store
from tests.s3 import KEYS, Proxy, make_bucket, moto_server
from tests.unit.registry.nights import DOMAINS, night, promote, served

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
STARTS = multiprocessing.get_context("forkserver")
# Imported there once; each child is then a fork of a process that has no thread of obstore's.
STARTS.set_forkserver_preload(["tests.faults.test_registry_kill_s3"])
PATIENCE_S = 300
_buckets = itertools.count()


@pytest.fixture(scope="module")
def s3():
    server, endpoint = moto_server()
    yield endpoint
    server.stop()


@pytest.fixture
def bucket(s3, monkeypatch, tmp_path):
    """A new registry in a bucket, and what reads and writes it from this process."""
    name = f"killed-{next(_buckets)}"
    make_bucket(s3, name)
    for variable, value in environment(s3).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(bucket_store, "default_cache", lambda: DownloadCache(tmp_path / "cache"))
    return f"s3://{name}/registry"


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    place = tmp_path_factory.mktemp("nights")
    return [night(place / f"n{seed}", seed=seed, domains=DOMAINS[:2]) for seed in range(2)]


def environment(endpoint):
    return KEYS | {"AWS_ENDPOINT_URL": endpoint}


def promote_there(endpoint, uri, run):
    """Promote a night; the work of a child process."""
    os.environ.update(environment(endpoint))
    promote(open_store(uri), run)


def killed_at_request(s3, uri, run, number, *, is_answer_lost):
    """Promote in a process that dies at its request of this number; return its exit code.

    A negative exit code is the signal. 0: it ended before.
    """
    proxy, has_started = Proxy(s3), threading.Event()
    child = STARTS.Process(target=promote_there, args=(proxy.endpoint, uri, run))

    def fault(_method, _path, count):
        if count < number:
            return None
        has_started.wait()  # a request may come before this process knows the child's number
        # Requests may come at once; after the first that kills, all are of a dead process.
        os.kill(child.pid, signal.SIGKILL)
        return 500, is_answer_lost and count == number

    proxy.fault = fault
    child.start()
    has_started.set()
    child.join(PATIENCE_S)
    proxy.stop()
    assert child.exitcode is not None, "it hangs"
    return child.exitcode


def pointers(store):
    return served(read_head(store)) if is_registry(store) else {}


@pytest.mark.parametrize("is_answer_lost", [False, True], ids=["before", "after"])
def test_a_promotion_killed_at_any_request_shows_the_old_or_the_new(
    s3, bucket, nights, is_answer_lost
):
    store = open_store(bucket)
    promote(store, nights[0])
    old, seen = pointers(store), set()
    for number in itertools.count():
        code = killed_at_request(s3, bucket, nights[1], number, is_answer_lost=is_answer_lost)
        found = pointers(store)
        assert set(found) == set(old)
        assert len({found[name] == old[name] for name in old}) == 1, "one night, not a mixture"
        assert verify_registry(store).problems == ()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        seen.add(found == old)
        if found != old:  # it was killed after its commit: begin again from the old night
            promote(store, nights[0])
    assert number > len(DOMAINS[:2]) * 2, "each bundle has several objects"
    assert found != old
    assert True in seen
    # The commit is the last request, so only a lost answer leaves the new night behind a kill.
    assert (False in seen) == is_answer_lost
    promote(store, nights[1])
    remove_unneeded(store, keep=0, dry_run=False)
    assert verify_registry(store).uncommitted == 0
    assert pointers(store) == found
