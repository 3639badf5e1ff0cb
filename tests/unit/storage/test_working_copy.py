"""Work in a local copy of a folder on S3: stored while it runs, at its end, and by one writer."""

import itertools
import threading

import pytest

from iak.pipeline.errors import BadRequest, Busy, Overtaken
from iak.pipeline.storage import working_copy
from iak.pipeline.storage.lease import take_lease
from iak.pipeline.storage.store import open_store
from iak.pipeline.storage.stored_folder import FolderWriter, StoredFolder
from iak.pipeline.storage.working_copy import read_copy, scratch, written_copy
from tests.s3 import make_bucket, moto_server, use

_names = itertools.count()


@pytest.fixture(scope="module")
def s3():
    server, endpoint = moto_server()
    make_bucket(endpoint, "working-copies")
    yield endpoint
    server.stop()


@pytest.fixture
def uri(s3, monkeypatch, tmp_path):
    use(monkeypatch, s3)
    machine(monkeypatch, tmp_path, "one")
    return f"s3://working-copies/{next(_names)}/R1"


def machine(monkeypatch, tmp_path, name):
    """Go on as another machine, which shares no disk with the one before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))


def is_kept(path):
    return path != "mine"


def written(uri, *, waits=False):
    return written_copy(uri, waits=waits, is_kept=is_kept)


def head(uri):
    return StoredFolder(open_store(uri)).head()


def test_another_machine_goes_on_with_what_one_has_written(uri, monkeypatch, tmp_path):
    with written(uri) as place:
        assert place.folder.is_relative_to(scratch())
        (place.folder / "base").mkdir()
        (place.folder / "base" / "table").write_bytes(b"rows")
        (place.folder / "mine").write_bytes(b"stays here")
    machine(monkeypatch, tmp_path, "other")
    with written(uri) as place:
        assert (place.folder / "base" / "table").read_bytes() == b"rows"
        assert not (place.folder / "mine").exists()
        (place.folder / "base" / "table").write_bytes(b"more")
    machine(monkeypatch, tmp_path, "one")
    with written(uri) as place:
        assert (place.folder / "base" / "table").read_bytes() == b"more"
        assert (place.folder / "mine").read_bytes() == b"stays here"


def test_what_changes_is_stored_while_the_work_goes_on(uri, monkeypatch):
    monkeypatch.setattr(working_copy, "BEAT_S", 0.02)
    is_stored = threading.Event()
    push = FolderWriter.push

    def pushed(writer, local):
        version = push(writer, local)
        if "checkpoint" in version.files:
            is_stored.set()
        return version

    monkeypatch.setattr(FolderWriter, "push", pushed)
    with written(uri) as place:
        (place.folder / "checkpoint").write_bytes(b"1")
        assert is_stored.wait(60)
        assert "checkpoint" in head(uri).files


def test_work_that_fails_is_stored_too_and_the_next_writer_need_not_wait(uri):
    def work():
        with written(uri) as place:
            (place.folder / "checkpoint").write_bytes(b"1")
            raise ValueError("broke")

    with pytest.raises(ValueError, match="broke"):
        work()
    with written(uri) as place:
        assert (place.folder / "checkpoint").read_bytes() == b"1"


def test_a_second_writer_leaves(uri):
    with written(uri), pytest.raises(Busy, match="is in use by process"), written(uri):
        pass


def test_a_writer_that_was_overtaken_learns_it_at_its_end_and_changes_nothing(uri, monkeypatch):
    def work():
        with written(uri) as place:
            (place.folder / "late").write_bytes(b"1")
            monkeypatch.setattr("iak.pipeline.storage.lease._is_free", lambda *_: True)
            FolderWriter(take_lease(open_store(uri), waits=False))

    with pytest.raises(Overtaken, match="was taken over by process"):
        work()
    assert head(uri).files == {}


def test_a_reader_gets_what_it_needs_from_a_folder_or_from_inside_one(uri):
    with written(uri) as place:
        for name in ("base/tables/t", "base/manifest", "bundles/b", "record"):
            (place.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (place.folder / name).write_bytes(name.encode())

    def names(folder):
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())

    assert names(read_copy(uri)) == ["base/manifest", "base/tables/t", "bundles/b", "record"]
    assert names(read_copy(uri, below=["base"])) == ["base/manifest", "base/tables/t"]
    assert names(read_copy(f"{uri}/base", below=["base"])) == ["manifest", "tables/t"]
    assert read_copy(f"{uri}/base", below=["base"]).name == "base"
    assert read_copy(uri) == read_copy(uri)
    with pytest.raises(BadRequest, match=r"nor does any folder above it\. Check the URI"):
        read_copy(f"{uri}-other")


def test_a_reader_keeps_its_copy_while_the_folder_changes(uri):
    with written(uri) as place:
        (place.folder / "one").write_bytes(b"old")
    before = read_copy(uri)
    with written(uri) as place:
        (place.folder / "one").write_bytes(b"new")
    assert (before / "one").read_bytes() == b"old"
    assert (read_copy(uri) / "one").read_bytes() == b"new"


def test_copies_that_nobody_reads_any_more_are_removed(uri, monkeypatch):
    with written(uri) as place:
        (place.folder / "one").write_bytes(b"old")
    old = read_copy(uri)
    with written(uri) as place:
        (place.folder / "one").write_bytes(b"new")
    monkeypatch.setattr(working_copy, "KEPT_S", -60.0)
    monkeypatch.setattr(working_copy.os, "utime", lambda _: None)
    read_copy(uri)
    assert not old.exists()
