"""A folder on a store: whole in every version, verified, of one writer. Both kinds of store."""

import itertools
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest, Corrupt, NotPermitted, Overtaken
from iak.pipeline.storage.folder_store import FolderStore
from iak.pipeline.storage.lease import Lease, newest_lease, own_document, take_lease
from iak.pipeline.storage.store import open_store
from iak.pipeline.storage.stored_folder import FILES, FolderWriter, StoredFolder
from iak.schemas.stored import FolderVersion
from tests.s3 import Proxy, make_bucket, moto_server, use

_names = itertools.count()
NAMES = st.sampled_from(["a", "deep", "x y", "ü"])
PATHS = st.tuples(st.lists(NAMES, max_size=2), NAMES | st.just("b.html")).map(
    lambda p: [*p[0], p[1]]
)
FOLDERS = st.dictionaries(PATHS.map("/".join), st.binary(max_size=40), max_size=5).filter(
    lambda files: not any(a != b and b.startswith(f"{a}/") for a in files for b in files)
)


class Dies(Exception):
    """Stands for the end of a process."""


class Mortal:
    """A store whose writer dies before its n-th write."""

    def __init__(self, store, writes):
        self._store, self._left = store, writes

    def __getattr__(self, name):
        real = getattr(self._store, name)
        if name not in ("create", "put", "upload", "remove_files"):
            return real

        def write(*args):
            if self._left == 0:
                raise Dies(name)
            self._left -= 1
            return real(*args)

        return write


@pytest.fixture(scope="module")
def s3():
    server, endpoint = moto_server()
    make_bucket(endpoint, "folders")
    yield endpoint
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def store(request, s3, monkeypatch, tmp_path):
    if request.param == "folder":
        return FolderStore(tmp_path / "stored")
    use(monkeypatch, s3)
    return open_store(f"s3://folders/{next(_names)}")


def write(folder, files):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def end_lease(store):
    """Let a lease be over, as two minutes without a sign of life do."""
    if number := newest_lease(store):
        Lease(store, number, own_document()).release()


def stored(store, files, tmp_path):
    """Store files as the only writer, whose lease is released."""
    lease = take_lease(store, waits=False)
    FolderWriter(lease).push(write(tmp_path / "source", files))
    lease.release()


def read(store, to):
    StoredFolder(store).fetch(to)
    return contents(to)


def test_what_was_stored_is_read_elsewhere_and_files_that_went_are_gone(store, tmp_path):
    stored(store, {"a/b": b"1", "page.html": b"old", "same": b"x" * 99}, tmp_path)
    assert read(store, tmp_path / "copy") == {"a/b": b"1", "page.html": b"old", "same": b"x" * 99}
    stored(store, {"a/c": b"2", "page.html": b"new", "same": b"x" * 99}, tmp_path)
    assert read(store, tmp_path / "copy") == {"a/c": b"2", "page.html": b"new", "same": b"x" * 99}
    assert store.read("page.html") == b"new"
    stored(store, {}, tmp_path)
    assert "page.html" not in store.names()


def test_an_unchanged_folder_is_not_written_again_and_an_unchanged_file_not_uploaded(
    store, tmp_path
):
    source = write(tmp_path / "source", {"one": b"1", "two": b"2"})
    writer = FolderWriter(take_lease(store, waits=False))
    first = writer.push(source)
    assert writer.push(source) == first
    (source / "two").write_bytes(b"changed")
    second = writer.push(source)
    assert second.number == first.number + 1
    assert second.files["one"] == first.files["one"]
    assert second.files["two"] != first.files["two"]


def test_a_large_file_is_streamed_whole(store, tmp_path, monkeypatch):
    monkeypatch.setattr("iak.pipeline.storage.stored_folder._IN_MEMORY", 2**20)
    large = bytes(range(256)) * 2**15  # 8 MiB: more than one part of an upload
    stored(store, {"large": large}, tmp_path)
    assert read(store, tmp_path / "copy") == {"large": large}


def test_only_two_versions_and_their_objects_are_kept(store, tmp_path):
    for number in range(5):
        stored(store, {"one": b"%d" % number, "same": b"same"}, tmp_path)
    folder = StoredFolder(store)
    versions = [folder.read_version(name) for name in folder.version_names()]
    assert len(versions) == 2
    assert store.names(FILES) == {e.key for v in versions for e in v.files.values()}


def test_a_flipped_byte_is_refused_by_its_uri_and_the_copy_stays_as_it_was(store, tmp_path):
    stored(store, {"one": b"first"}, tmp_path)
    before = read(store, tmp_path / "copy")
    stored(store, {"one": b"second"}, tmp_path)
    (name,) = (e.key for e in StoredFolder(store).head().files.values())
    store.put({f"{FILES}/{name}": b"sEcond"})
    with pytest.raises(Corrupt, match=rf"{name} is not what was stored: its bytes have SHA-256"):
        StoredFolder(store).fetch(tmp_path / "copy")
    assert contents(tmp_path / "copy") == before


@pytest.mark.parametrize(
    "change", [lambda d: d[:-3], lambda d: d.replace(b'"lease": 1', b'"lease": 2')]
)
def test_a_changed_version_is_refused(store, tmp_path, change):
    stored(store, {"one": b"1"}, tmp_path)
    name = StoredFolder(store).version_names()[-1]
    key = f"versions/{name}"
    store.put({key: change(store.read(key))})
    with pytest.raises(Corrupt, match=rf"{name} is not what was stored"):
        StoredFolder(store).fetch(tmp_path / "copy")


def test_a_missing_object_is_refused(store, tmp_path):
    stored(store, {"one": b"1"}, tmp_path)
    (entry,) = StoredFolder(store).head().files.values()
    store.remove_files([f"{FILES}/{entry.key}"])
    with pytest.raises(Corrupt, match="it is missing"):
        StoredFolder(store).fetch(tmp_path / "copy")


def test_a_damaged_local_copy_is_downloaded_again(store, tmp_path):
    stored(store, {"one": b"right"}, tmp_path)
    read(store, tmp_path / "copy")
    (tmp_path / "copy" / "one").write_bytes(b"wrong")
    assert read(store, tmp_path / "copy") == {"one": b"right"}


def test_a_place_without_a_folder_is_said(store, tmp_path):
    with pytest.raises(BadRequest, match="holds no folder that this project stored"):
        StoredFolder(store).fetch(tmp_path / "copy")


@pytest.mark.parametrize("path", ["../out", "/etc/x", "a/../../out", "a//b", "", "a\\b", "./a"])
def test_a_path_that_leads_out_of_the_folder_is_no_version(path):
    entry = {"key": "0" * 64 + "-" + "0" * 16, "bytes": 1}
    document = {
        "lease": 1, "number": 0, "made_at": "2026-10-28T00:00:00Z", "sha256": "0" * 64,
    }  # fmt: skip
    FolderVersion.model_validate({**document, "files": {"a/b": entry}})
    with pytest.raises(ValueError, match="files"):
        FolderVersion.model_validate({**document, "files": {path: entry}})


@pytest.fixture
def no_disk(monkeypatch):
    """Wait for no disk: what is tested is the order of writes."""
    monkeypatch.setattr("iak.pipeline.files.sync_file", lambda _: None)
    monkeypatch.setattr("iak.pipeline.files.sync_folder", lambda _: None)


@pytest.mark.usefixtures("no_disk")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=FOLDERS, new=FOLDERS, dies_at=st.integers(0, 12))
@example(old={"a": b"1"}, new={"a": b"2", "b.html": b"3"}, dies_at=2)
def test_a_writer_that_dies_before_any_write_leaves_the_old_folder_or_the_new(old, new, dies_at):
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        store = FolderStore(place / "stored")
        stored(store, old, place)
        source = write(place / "source", new)
        try:
            FolderWriter(take_lease(Mortal(store, dies_at), waits=False)).push(source)
            has_died = False
        except Dies:
            has_died = True
        end_lease(store)
        found = read(store, place / "copy")
        assert found in ((old, new) if has_died else (new,))
        # The next writer finds no trace of it, and leaves none.
        stored(store, new, place)
        assert read(store, place / "copy") == new
        versions = [
            StoredFolder(store).read_version(n) for n in StoredFolder(store).version_names()
        ]
        assert store.names(FILES) == {e.key for v in versions for e in v.files.values()}


def test_a_push_that_dies_at_any_write_to_a_bucket_shows_the_old_or_the_new(
    s3, monkeypatch, tmp_path
):
    proxy = Proxy(s3)
    use(monkeypatch, proxy.endpoint)
    store, seen = open_store(f"s3://folders/{next(_names)}"), set()
    try:
        for n in itertools.count():
            stored(store, {"a": b"old", "b": b"old"}, tmp_path)
            source, writes = (
                write(tmp_path / "source", {"a": b"new", "c": b"new"}),
                itertools.count(),
            )
            lease = take_lease(store, waits=False)
            writer = FolderWriter(lease)

            def dead(method, _path, _number, writes=writes, n=n):
                return (403, False) if method in ("PUT", "POST") and next(writes) >= n else None

            proxy.fault = dead
            try:
                writer.push(source)
                came_through = True
            except NotPermitted:
                came_through = False
            proxy.fault = lambda *_: None
            lease.release()
            found = read(store, tmp_path / "copy")
            assert found in ({"a": b"old", "b": b"old"}, {"a": b"new", "c": b"new"})
            seen.add(found["a"])
            if came_through:
                break
        assert seen == {b"old", b"new"}
        assert n > 2
    finally:
        proxy.stop()


def test_what_a_stalled_writer_adds_is_passed_over(store, tmp_path):
    """It was overtaken between its last check and its version: readers never see that."""
    stored(store, {"one": b"before"}, tmp_path)
    lease = take_lease(store, waits=False)
    stalled = FolderWriter(lease)
    lease.release()  # stands for a lease that ended
    heir = FolderWriter(take_lease(store, waits=False))
    heir.push(write(tmp_path / "heir", {"one": b"heir"}))

    source = write(tmp_path / "stalled", {"one": b"stalled"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lease, "check", lambda _: None)  # as it saw the store before it stalled
        stalled.push(source)
    assert read(store, tmp_path / "copy") == {"one": b"heir"}
    (source / "one").write_bytes(b"again")
    with pytest.raises(Overtaken, match="was taken over by process"):
        stalled.push(source)
