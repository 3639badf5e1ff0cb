"""A registry on S3, over HTTP against moto's server: the same laws, races and lost answers."""

import itertools
import threading

import pytest

from iak.pipeline.errors import BadRequest, Corrupt, NotPermitted, Overtaken, Unreachable
from iak.pipeline.publish.bundle_index import check_index
from iak.pipeline.registry.commits import is_registry, read_head, read_history
from iak.pipeline.registry.resolve import resolve
from iak.pipeline.registry.retention import remove_unneeded
from iak.pipeline.registry.rollback import roll_back
from iak.pipeline.registry.stored_bundles import stored_bundles, stored_key
from iak.pipeline.registry.verify import verify_registry
from iak.pipeline.storage import bucket_store
from iak.pipeline.storage.download_cache import DownloadCache
from iak.pipeline.storage.folder_store import FolderStore
from iak.pipeline.storage.store import open_store
from iak.pipeline.storage.store_counter import OF_PROCESS
from iak.schemas.traffic import Carried, StoreTraffic
from tests.s3 import KEYS, Proxy, make_bucket, moto_server, objects_of
from tests.unit.publish.test_bundle import BASE, SCHEMA
from tests.unit.registry.nights import NAMES, night, promote, served, stored

WRITERS = 8
_buckets = itertools.count()


@pytest.fixture(scope="module")
def s3():
    server, endpoint = moto_server()
    yield endpoint
    server.stop()


@pytest.fixture
def proxy(s3):
    proxy = Proxy(s3)
    yield proxy
    proxy.stop()


@pytest.fixture
def bucket(s3):
    name = f"bucket-{next(_buckets)}"
    make_bucket(s3, name)
    return name


@pytest.fixture
def store(proxy, bucket, monkeypatch, tmp_path):
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": proxy.endpoint}).items():
        monkeypatch.setenv(name, value)
    impatient = bucket_store.RETRIES | {"max_retries": 2}
    monkeypatch.setattr(bucket_store, "RETRIES", impatient)
    monkeypatch.setattr(bucket_store, "default_cache", lambda: DownloadCache(tmp_path / "cache"))
    return open_store(f"s3://{bucket}/shop/registry")


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    place = tmp_path_factory.mktemp("nights")
    return [night(place / f"n{seed}", seed=seed) for seed in range(3)]


def twin(store):
    """Another machine's view of the same registry."""
    return open_store(store.uri)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_bucket_keeps_the_same_registry_as_a_folder(store, tmp_path, nights):
    folder = FolderStore(tmp_path / "registry")
    for place in (store, folder):
        promote(place, nights[0])
        promote(place, nights[1], domains=["city=rome"])
        promote(place, nights[2], "candidate")
        roll_back(place, "champion", ["city=rome"])
        remove_unneeded(place, keep=1, dry_run=False)
        assert verify_registry(place).problems == ()
    for alias in ("champion", "candidate"):
        assert served(read_head(store), alias) == served(read_head(folder), alias)
    assert [c.action for c in read_history(store)] == [c.action for c in read_history(folder)]
    assert {n[:64] for n in stored_bundles(store)} == {n[:64] for n in stored_bundles(folder)}


def test_an_alias_becomes_the_very_bundles_of_the_night_and_is_downloaded_once(
    store, proxy, tmp_path, nights
):
    promote(store, nights[0])
    for number in range(2):
        resolve(store, "champion", tmp_path / f"pinned{number}", base_fingerprint=BASE)
        assert contents(tmp_path / f"pinned{number}") == contents(nights[0].bundles)
    check_index(tmp_path / "pinned1", base_fingerprint=BASE, schema_hash=SCHEMA)
    weights = [p for m, p in proxy.requests if m == "GET" and p.endswith("kernel.safetensors")]
    assert len(weights) == len(NAMES)


def test_a_damaged_download_in_the_cache_is_downloaded_again(store, tmp_path, nights):
    promote(store, nights[0])
    resolve(store, "champion", tmp_path / "one", base_fingerprint=BASE)
    for path in (tmp_path / "cache").glob("*/*"):
        path.unlink()
        path.write_bytes(b"damaged")
    resolve(store, "champion", tmp_path / "two", base_fingerprint=BASE)
    assert contents(tmp_path / "two") == contents(nights[0].bundles)


def test_a_damaged_object_is_refused_by_its_uri(store, tmp_path, nights):
    promote(store, nights[0])
    key = stored_key(stored(read_head(store))["city=rome"], "city=rome", "kernel.safetensors")
    store.put({key: b"x"})
    with pytest.raises(Corrupt, match=rf"{store.uri}/{key} is not what was stored: it has SHA"):
        resolve(store, "champion", tmp_path / "pinned", base_fingerprint=BASE)
    assert not (tmp_path / "pinned").exists()
    (problem,) = verify_registry(store).problems
    assert key in problem


def at_once(actions):
    """Do all at once; return the errors of those that were overtaken."""
    barrier, overtaken = threading.Barrier(len(actions)), []

    def one(action):
        barrier.wait()
        try:
            action()
        except Overtaken as error:
            overtaken.append(str(error))

    threads = [threading.Thread(target=one, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return overtaken


def test_of_eight_writers_of_one_number_one_wins(store, nights):
    promote(store, nights[0])
    lost = []

    def create(number):
        try:
            twin(store).create("commits/0000000002.json", b"writer %d" % number)
        except FileExistsError:
            lost.append(number)

    at_once([lambda n=n: create(n) for n in range(WRITERS)])
    assert len(lost) == WRITERS - 1
    (winner,) = set(range(WRITERS)) - set(lost)
    assert store.read("commits/0000000002.json") == b"writer %d" % winner


def test_of_eight_rollbacks_at_once_one_moves_the_pointer_back_by_one(store, nights):
    """All read the same head: the proxy keeps the first answers until everybody has asked."""
    for run in nights:
        promote(store, run)
    everybody = threading.Barrier(WRITERS)
    stores = [twin(store) for _ in range(WRITERS)]
    reading = [MeetsOnce(one, everybody) for one in stores]
    overtaken = at_once([lambda s=s: roll_back(s, "champion", ["city=rome"]) for s in reading])
    assert len(overtaken) == WRITERS - 1
    assert all("moved the champion of city=rome" in message for message in overtaken)
    assert [c.action for c in read_history(store)] == ["promote"] * 3 + ["rollback"]


class MeetsOnce:
    """A store whose first probe waits for all other writers: each has read the head before."""

    def __init__(self, store, barrier):
        self._store, self._barrier = store, barrier

    def __getattr__(self, name):
        return getattr(self._store, name)

    def check_creates_once(self):
        self._barrier.wait()
        self._store.check_creates_once()


def test_writers_of_different_domains_at_once_all_succeed(store, nights):
    promote(store, nights[0])
    everybody = threading.Barrier(len(NAMES))
    at_once(
        [
            lambda n=n: promote(MeetsOnce(twin(store), everybody), nights[1], domains=[n])
            for n in NAMES
        ]
    )
    alone = [commit.moves[0].folder for commit in read_history(store)][1:]
    assert len(set(alone)) == len(NAMES)
    assert verify_registry(store).problems == ()


def test_a_writer_that_stalls_cannot_overwrite_a_newer_pointer(store, nights):
    promote(store, nights[0])

    class Stalls(MeetsOnce):
        def check_creates_once(self):
            promote(twin(store), nights[2])

    with pytest.raises(Overtaken, match="moved the champion"):
        promote(Stalls(store, None), nights[1])
    assert read_head(store).generation == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_answer_that_asks_for_patience_is_asked_again(store, proxy, nights, status):
    asked = set()

    def first_time(method, path, _number):
        is_new = (method, path) not in asked
        asked.add((method, path))
        return (status, False) if is_new else None

    proxy.fault = first_time
    promote(store, nights[0])
    proxy.fault = lambda *_: None
    assert set(served(read_head(store))) == set(NAMES)
    assert verify_registry(store).problems == ()


def test_a_store_that_is_always_busy_is_said_and_nothing_changes(store, proxy, nights):
    promote(store, nights[0])
    before = read_head(store)
    proxy.fault = lambda method, *_: (503, False) if method == "PUT" else None
    with pytest.raises(Unreachable, match=r"does not answer as it should: .*503.*AWS_ENDPOINT_URL"):
        promote(store, nights[1])
    proxy.fault = lambda *_: None
    assert read_head(store) == before


def is_commit(method, path):
    return method == "PUT" and "/commits/" in path


def test_a_409_that_nobody_won_is_written_again(store, proxy, nights):
    """S3 answers 409 to conditional writes that were under way together."""
    answers = [(409, False), (409, False)]
    proxy.fault = lambda m, p, _: answers.pop() if is_commit(m, p) and answers else None
    promote(store, nights[0])
    assert answers == []
    assert read_head(store).generation == 1


def test_a_409_without_end_is_said(store, proxy, nights):
    proxy.fault = lambda m, p, _: (409, False) if is_commit(m, p) else None
    with pytest.raises(Unreachable, match="another request for it was under way"):
        promote(store, nights[0])
    proxy.fault = lambda *_: None
    assert read_head(store) is None


def test_a_commit_whose_answer_was_lost_is_known_again(store, proxy, nights):
    """The client repeats a request that failed with 500, and finds its own object: 412."""
    answers = [(500, True)]
    proxy.fault = lambda m, p, _: answers.pop() if is_commit(m, p) and answers else None
    done = promote(store, nights[0])
    assert answers == []
    assert done.commit == read_head(store)


def test_a_promotion_that_dies_at_any_write_shows_the_old_or_the_new(store, proxy, nights):
    """From its n-th write on nothing arrives, for every n."""
    domains = ["city=rome", "pooled"]
    promote(store, nights[0], domains=domains)
    old = served(read_head(store))
    seen = set()
    for n in itertools.count():
        writes = itertools.count()

        def dead(method, _path, _number, writes=writes, n=n):
            is_write = method in ("PUT", "POST", "DELETE")
            return (403, False) if is_write and next(writes) >= n else None

        proxy.fault = dead
        try:
            promote(store, nights[1], domains=domains)
            came_through = True
        except NotPermitted:
            came_through = False
        proxy.fault = lambda *_: None
        found = served(read_head(store))
        assert verify_registry(store).problems == ()
        seen.add(found == old)
        if came_through:
            break
        if found != old:  # the commit was written, and the write after it was not
            roll_back(store, "champion", domains)
    assert seen == {True, False}
    remove_unneeded(store, keep=0, dry_run=False)
    assert stored_bundles(store) == set(stored(read_head(store)).values())


def test_a_store_without_conditional_writes_is_refused_for_promotion_and_read_all_the_same(
    store, tmp_path, nights, monkeypatch
):
    promote(store, nights[0])
    before = read_head(store)
    real = bucket_store.obstore.put

    def careless(client, key, content, **how):
        return real(client, key, content, **how | {"mode": "overwrite"})

    monkeypatch.setattr(bucket_store.obstore, "put", careless)
    for action in (
        lambda: promote(store, nights[1]),
        lambda: roll_back(store, "champion", ["city=rome"]),
    ):
        with pytest.raises(BadRequest, match=r"does not keep 'write only where nothing is'"):
            action()
    assert read_head(store) == before
    assert store.names("probes") == set()
    resolve(store, "champion", tmp_path / "pinned", base_fingerprint=BASE)


def test_no_message_holds_a_secret(store, proxy, nights):
    for status in (401, 403, 400):
        proxy.fault = lambda *_, status=status: (status, False)
        with pytest.raises((NotPermitted, Unreachable)) as caught:
            promote(store, nights[0])
        said = f"{caught.value} {caught.value.__cause__} {store!r}"
        assert not [secret for secret in KEYS.values() if secret in said and "us-" not in secret]


@pytest.mark.usefixtures("store")
def test_a_bucket_that_is_not_there_is_said(nights):
    gone = open_store("s3://no-such-bucket/registry")
    with pytest.raises(BadRequest, match="there is no such bucket"):
        promote(gone, nights[0])


def test_a_prefix_with_other_things_is_no_registry(store, nights):
    store.put({"notes.txt": b"mine"})
    with pytest.raises(BadRequest, match=r"is not a registry and has other content: notes.txt"):
        promote(store, nights[0])
    assert not is_registry(store)


def test_gc_removes_keys_of_killed_probes(store, nights):
    promote(store, nights[0])
    store.put({"probes/left": b"first"})
    assert remove_unneeded(store, keep=3, dry_run=False).unfinished == 1
    assert store.names("probes") == set()


def test_everything_lies_below_the_prefix(store, s3, bucket, nights):
    promote(store, nights[0], domains=["city=rome"])
    keys = objects_of(s3, bucket)
    assert keys
    assert all(key.startswith("shop/registry/") for key in keys)


def test_a_url_that_names_no_bucket_or_another_kind_of_store_is_refused():
    with pytest.raises(BadRequest, match="names no bucket"):
        open_store("s3://")
    with pytest.raises(BadRequest, match=r"names no store of files"):
        open_store("gs://bucket/x")


def test_every_object_that_is_read_or_written_is_counted_with_its_bytes(store, tmp_path):
    OF_PROCESS.take()
    store.create("a", b"1")
    store.put({"b": b"12", "c": b"123"})
    (tmp_path / "d").write_bytes(b"1" * 6_000_000)  # in two parts
    with (tmp_path / "d").open("rb") as file:
        store.upload("d", file)
    with pytest.raises(FileExistsError):
        store.create("a", b"another")
    store.download("d", tmp_path / "e")
    assert OF_PROCESS.take() == StoreTraffic(
        read=Carried(files=2, bytes=6_000_001),  # a create that was refused looks at what is there
        written=Carried(files=4, bytes=6_000_006),
    )
