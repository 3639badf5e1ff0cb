"""Files and folders appear whole or not at all, with the mode that the umask gives."""

import ctypes
import errno
import hashlib
import os
import stat
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from iak.pipeline import files
from iak.pipeline.errors import NotPermitted


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def half_written(path):
    """Begin to write, then fail."""
    path.write_text("half")
    (path.parent / "absent").read_text()


def test_a_file_that_a_person_named_brings_its_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "answer.json"
    files.put_output(path, "{}")
    assert path.read_text() == "{}"
    files.put_output(path, b"[]")
    assert path.read_text() == "[]"


def test_content_is_replaced_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "record.json"
    files.put_file(target, "old")
    files.put_file(target, b"new")
    assert target.read_bytes() == b"new"
    assert listed(tmp_path) == ["record.json"]


def test_a_writer_that_fails_leaves_the_old_file_and_no_part(tmp_path):
    target = tmp_path / "weights"
    files.put_file(target, "old")
    with pytest.raises(FileNotFoundError), files.putting_file(target) as part:
        half_written(part)
    assert target.read_text() == "old"
    assert listed(tmp_path) == ["weights"]


def test_a_writer_that_writes_nothing_changes_nothing(tmp_path):
    with files.putting_file(tmp_path / "weights"):
        pass
    assert listed(tmp_path) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_mode_is_what_the_umask_gives_whoever_made_the_file(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with files.putting_file(tmp_path / "a.safetensors") as part:
            save_file({"a": torch.zeros(1)}, part)  # mode 0600 by itself
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == mode


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_the_old_one(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    target = tmp_path / "base"
    for content in ("old", "new"):
        with files.putting_folder(target) as part:
            assert not target.exists() or (target / "a").read_text() == "old"
            (part / "a").write_text(content)
    assert (target / "a").read_text() == "new"
    assert listed(tmp_path) == ["base"]


def test_a_folder_whose_builder_fails_is_never_there(tmp_path):
    with pytest.raises(FileNotFoundError), files.putting_folder(tmp_path / "base") as part:
        half_written(part / "a")
    assert listed(tmp_path) == []


def test_a_second_rename_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a").write_text("old")
    with pytest.raises(FileNotFoundError):
        files.rename_both(tmp_path / "absent", tmp_path / "base")
    assert (tmp_path / "base" / "a").read_text() == "old"


def test_of_writers_of_one_new_name_the_first_wins_and_the_others_leave_nothing(tmp_path):
    files.put_new_file(tmp_path / "one", b"first")
    with pytest.raises(FileExistsError):
        files.put_new_file(tmp_path / "one", b"second")
    assert (tmp_path / "one").read_bytes() == b"first"
    assert listed(tmp_path) == ["one"]


def test_a_link_that_was_made_though_its_answer_was_lost_counts(tmp_path, monkeypatch):
    """NFS repeats a request without an answer, and the second one finds the first one's link."""
    link = files.os.link

    def lost(source, target):
        link(source, target)
        link(source, target)

    monkeypatch.setattr(files.os, "link", lost)
    files.put_new_file(tmp_path / "one", b"first")
    assert (tmp_path / "one").read_bytes() == b"first"
    assert listed(tmp_path) == ["one"]


def test_a_folder_is_removed_whole(tmp_path):
    (tmp_path / "kept").touch()
    (tmp_path / "gone" / "inside").mkdir(parents=True)
    files.remove_folder(tmp_path / "gone")
    assert listed(tmp_path) == ["kept"]


KILLED = """
import os, signal, sys
from pathlib import Path
from iak.pipeline import files
from iak.pipeline.errors import NotPermitted
with files.putting_file(Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_dies_while_it_writes_leaves_a_part_that_is_known_as_one(tmp_path):
    files.put_file(tmp_path / "weights", "old")
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "weights")], check=False)
    assert (tmp_path / "weights").read_text() == "old"
    left = [path for path in tmp_path.iterdir() if path.name != "weights"]
    assert len(left) == 1
    assert files.is_part(left[0])


def test_parts_of_dead_writers_are_removed_and_nothing_else(tmp_path):
    others = [".other.1.ab.part", "weights", ".weights.lock"]
    for name in others:
        (tmp_path / name).write_text("kept")
    (tmp_path / ".weights.77.abcd.part").write_text("half")
    (tmp_path / ".weights.78.abcd.part").mkdir()
    (tmp_path / ".weights.78.abcd.part" / "a").write_text("half")
    files.remove_parts(tmp_path / "weights")
    assert listed(tmp_path) == sorted(others)


def test_a_permission_error_says_whose_the_file_is_and_what_to_do(tmp_path):
    (tmp_path / "a").write_text("")
    error = files.not_permitted(tmp_path / "a", PermissionError(13, "Permission denied"))
    assert isinstance(error, NotPermitted)
    for words in (str(tmp_path / "a"), "Permission denied", "belongs to user", "chmod -R g+rX"):
        assert words in str(error)


@given(contents=st.lists(st.binary(max_size=20), min_size=1, max_size=5))
@settings(deadline=None)
def test_the_last_content_stands(tmp_path_factory, contents):
    target = tmp_path_factory.mktemp("files") / "target"
    for content in contents:
        files.put_file(target, content)
    assert target.read_bytes() == contents[-1]


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from iak.pipeline import files
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
path = Path(sys.argv[1])
def put_tensors():
    with files.putting_file(path) as part:
        save_file({"w": np.zeros(10_000)}, part)
writes = {
    "bytes": lambda: files.put_file(path, bytes(10_000)),
    "new": lambda: files.put_new_file(path, bytes(10_000)),
    "tensors": put_tensors,
}
try:
    writes[sys.argv[2]]()
except OSError as error:
    print(error.filename)
"""


@pytest.mark.parametrize("what", ["bytes", "new", "tensors"])
def test_a_disk_that_takes_no_more_is_reported_with_the_file(tmp_path, what):
    path = tmp_path / "file"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), what],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(path)
    assert list(tmp_path.iterdir()) == []


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content := b"kernel" * 100_000)
    assert files.sha256_of_file(path) == hashlib.sha256(content).hexdigest()


def test_a_folder_in_a_hidden_one_appears_with_it_and_replaces_its_namesake(tmp_path):
    with files.putting_folder(tmp_path / "night") as night:
        for content in (b"old", b"new"):
            with files.putting_folder(night / "kernel") as kernel:
                files.write_hidden(kernel / "weights", content)
        assert not (tmp_path / "night").exists()
    assert (tmp_path / "night" / "kernel" / "weights").read_bytes() == b"new"
    assert listed(tmp_path / "night") == ["kernel"]


def test_a_night_that_fails_leaves_nothing_of_the_folders_in_it(tmp_path):
    with pytest.raises(FileNotFoundError), files.putting_folder(tmp_path / "night") as night:
        fill_and_fail(night)
    assert listed(tmp_path) == []


def synced(monkeypatch, tmp_path, kernels):
    """Publish a folder of kernels; return the calls that made it durable, in their order."""
    calls, fsync, disk = [], os.fsync, files.sync_disk
    night = tmp_path / f"night {kernels}"

    def kind_of(handle):
        return "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"

    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append(kind_of(handle)), fsync(handle)))
    monkeypatch.setattr(files, "sync_disk", lambda path: (calls.append("disk"), disk(path))[1])
    with files.putting_folder(night, syncs_files=True) as hidden:
        for number in range(kernels):
            with files.putting_folder(hidden / str(number)) as kernel:
                files.write_hidden(kernel / "weights", b"whole")
        assert not calls, "nothing is waited for before all is written"
        calls.append("put")
    monkeypatch.undo()
    assert len(listed(night)) == kernels
    return calls


def test_a_few_files_are_synced_one_by_one_and_many_with_their_disk(monkeypatch, tmp_path):
    few = synced(monkeypatch, tmp_path, 3)
    assert few == ["put", *["file"] * 3, *["folder"] * 4, "folder"]
    assert synced(monkeypatch, tmp_path, files.MANY_FILES + 1) == ["put", "disk", "folder"]


def test_without_a_call_for_the_disk_many_files_are_synced_one_by_one(monkeypatch, tmp_path):
    class Without:
        def __init__(self, *_args, **_settings):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(files.ctypes, "CDLL", Without)
        assert not files.sync_disk(tmp_path)
    count = files.MANY_FILES + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "sync_disk", lambda _: False)
        calls = synced(monkeypatch, tmp_path, count)
    assert calls.count("file") == count


def test_a_disk_that_cannot_be_synced_is_an_error_with_the_folder(monkeypatch, tmp_path):
    class Broken:
        def __init__(self, *_args, **_settings):
            self.syncfs = lambda _handle: (ctypes.set_errno(errno.EIO), -1)[1]

    monkeypatch.setattr(files.ctypes, "CDLL", Broken)
    with pytest.raises(OSError, match=str(tmp_path)):
        files.sync_disk(tmp_path)


def fill_and_fail(night):
    with files.putting_folder(night / "kernel") as kernel:
        files.write_hidden(kernel / "weights", b"whole")
    (night / "absent").read_text()
