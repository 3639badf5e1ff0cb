"""Mapped files: written once, verified when they are mapped, removed when nobody uses them."""

import fcntl
import logging
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iak.pipeline.errors import Corrupt, NotPermitted, OtherFormat
from iak.pipeline.sealed import parsed, seal, spelled
from iak.pipeline.sharding import mapped
from iak.pipeline.sharding.mapped import INDEX, MapFolder, map_files, remove_unused

BASE, OTHER = "ab" * 32, "cd" * 32
LAYOUT = "0123456789ab"
CONTENT = {"int8-4": bytes(range(10)), "fp32-4": b"xyz"}
SIZES = {name: len(content) for name, content in CONTENT.items()}
DAY_S = 86_400


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(mapped, "BLOCK_BYTES", 4)


def place(tmp_path, fingerprint=BASE, **changes):
    return MapFolder(
        path=tmp_path / "mapped" / fingerprint[:16], base_fingerprint=fingerprint, **changes
    )


def write(name, append):
    """The rows in pieces that are no blocks."""
    for start in range(0, len(CONTENT[name]), 3):
        append(memoryview(CONTENT[name][start : start + 3]))


def never(*_):
    raise AssertionError("what is there was written again")


def attach(tmp_path, how=never, **changes):
    return map_files(place(tmp_path, **changes), LAYOUT, SIZES, how)


def text(found):
    return {name: bytes(tensor.numpy()) for name, tensor in found.files.items()}


@pytest.fixture
def folder(tmp_path):
    attach(tmp_path, write)
    return tmp_path / "mapped" / BASE[:16] / LAYOUT


def overwrite(path, data):
    path.chmod(0o600)
    path.write_bytes(data)


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_mapped_and_not_written_again(tmp_path):
    assert text(attach(tmp_path, write)) == CONTENT
    assert text(attach(tmp_path)) == CONTENT
    assert text(attach(tmp_path, is_verified=True)) == CONTENT


def test_what_a_dead_worker_left_is_not_read(tmp_path):
    def dies(name, append):
        write(name, append)
        if name == "fp32-4":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attach(tmp_path, dies)
    assert listed(tmp_path / "mapped" / BASE[:16]) == [f".{LAYOUT}.lock"]
    part = tmp_path / "mapped" / BASE[:16] / f".{LAYOUT}.part"
    part.mkdir()
    (part / "int8-4").write_bytes(b"of a killed worker")
    assert text(attach(tmp_path, write)) == CONTENT
    assert not part.exists()


def test_a_worker_waits_for_the_one_that_writes(tmp_path):
    writes, entered = [], threading.Event()

    def slowly(name, append):
        entered.set()
        time.sleep(0.2)
        write(name, append)
        writes.append(name)

    first = threading.Thread(target=attach, args=(tmp_path, slowly))
    first.start()
    entered.wait()
    assert text(attach(tmp_path)) == CONTENT
    first.join()
    assert writes == list(CONTENT)


def test_a_worker_does_not_wait_for_one_that_wrote_and_maps(tmp_path, monkeypatch):
    """Another writes and maps the folder after this one saw none. It may then wait for this one."""
    flock, other = fcntl.flock, []

    def other_first(file, how):
        if how & fcntl.LOCK_EX and not other:
            other.append(None)  # the other's own calls are plain
            other[0] = attach(tmp_path, write)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", other_first)
    # A thread, so that a deadlock fails the test and does not stop the suite.
    found = []
    thread = threading.Thread(target=lambda: found.append(attach(tmp_path)), daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert text(*found) == CONTENT == text(*other)


def test_rows_that_are_verified_as_they_are_read_are_all_that_is_written(tmp_path):
    def refuses(_name, _append):
        raise Corrupt("r0-c0.safetensors is not the file that was published")

    with pytest.raises(Corrupt, match="not the file that was published"):
        attach(tmp_path, refuses)
    assert listed(tmp_path / "mapped" / BASE[:16]) == [f".{LAYOUT}.lock"]


def test_a_folder_without_an_index_of_an_older_version_is_made_again(tmp_path, folder):
    (folder / INDEX).unlink()
    overwrite(folder / "fp32-4", b"XYZ")
    assert text(attach(tmp_path, write)) == CONTENT
    assert listed(folder.parent) == [f".{LAYOUT}.lock", LAYOUT]


@pytest.mark.parametrize("data", [b"012", b"", b"0123456789abc"], ids=["cut", "empty", "longer"])
def test_a_file_of_another_size_is_refused_with_what_to_do(tmp_path, folder, data):
    overwrite(folder / "int8-4", data)
    told = rf"int8-4 is not what was written: it has {len(data)} bytes, expected 10. Remove "
    with pytest.raises(Corrupt, match=told + str(folder)):
        attach(tmp_path)


def test_a_missing_file_is_refused(tmp_path, folder):
    (folder / "int8-4").unlink()
    with pytest.raises(Corrupt, match="it has 0 bytes, expected 10"):
        attach(tmp_path)


@pytest.mark.parametrize("at", range(10))
def test_a_flipped_byte_in_a_block_that_is_compared_is_refused(tmp_path, folder, at):
    data = bytearray(CONTENT["int8-4"])
    data[at] ^= 1
    overwrite(folder / "int8-4", bytes(data))
    with pytest.raises(Corrupt, match=rf"bytes from {at // 4 * 4} on have digest"):
        attach(tmp_path)


def test_a_sample_is_compared_unless_all_of_it_is_asked_for(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(mapped, "SAMPLED", 1)
    overwrite(folder / "int8-4", bytes([9, *CONTENT["int8-4"][1:]]))

    class First:
        def sample(self, numbers, count):
            return list(numbers)[-count:]

    monkeypatch.setattr(mapped.random, "SystemRandom", First)
    attach(tmp_path)
    with pytest.raises(Corrupt, match="bytes from 0 on"):
        attach(tmp_path, is_verified=True)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_flipped_byte_of_the_index_is_refused(tmp_path, at, mask):
    attach(tmp_path, write)
    index = tmp_path / "mapped" / BASE[:16] / LAYOUT / INDEX
    sound = index.read_bytes()
    data = bytearray(sound)
    data[int(at * len(data))] ^= mask
    index.write_bytes(data)
    try:
        with pytest.raises(Corrupt, match=r"index.json is not what was written: .* Remove"):
            attach(tmp_path)
    finally:
        index.write_bytes(sound)


def test_rows_of_another_base_are_refused(tmp_path, folder):
    theirs = place(tmp_path, OTHER).path
    theirs.parent.mkdir(exist_ok=True)
    folder.parent.rename(theirs)
    with pytest.raises(Corrupt, match=f"it is of base {BASE}, expected {OTHER}"):
        map_files(place(tmp_path, OTHER), LAYOUT, SIZES, never)


def test_files_of_another_layout_are_refused(tmp_path, folder):  # noqa: ARG001
    with pytest.raises(Corrupt, match="it lists files"):
        map_files(place(tmp_path), LAYOUT, SIZES | {"int8-4": 11}, never)


def test_an_index_of_a_newer_version_is_refused_by_its_format(tmp_path, folder):
    document = parsed((folder / INDEX).read_bytes()) | {"format": 99}
    (folder / INDEX).write_bytes(spelled(seal(document)))
    with pytest.raises(OtherFormat, match="newer version"):
        attach(tmp_path)


def test_pages_are_those_of_the_file(tmp_path, folder):
    found = attach(tmp_path).files["int8-4"]
    (folder / "int8-4").chmod(0o600)
    with (folder / "int8-4").open("r+b") as file:
        file.write(b"X")
    assert torch.equal(found[:2], torch.tensor([ord("X"), 1], dtype=torch.uint8))


# ---------------------------------------------------------------- who may read


@pytest.mark.parametrize(
    ("mask", "of_folder", "of_file"), [(0o022, 0o755, 0o444), (0o077, 0o700, 0o400)]
)
def test_modes_follow_the_umask_and_nobody_writes(tmp_path, mask, of_folder, of_file):
    before = os.umask(mask)
    try:
        attach(tmp_path, write)
    finally:
        os.umask(before)
    folder = tmp_path / "mapped" / BASE[:16] / LAYOUT
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in (folder, folder / "int8-4")}
    assert list(modes.values()) == [of_folder, of_file]


AS_A_COLLEAGUE = """
import os, sys
from pathlib import Path
from iak.pipeline.errors import PipelineError
from iak.pipeline.sharding import mapped
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
mapped.BLOCK_BYTES = 4
where = mapped.MapFolder(path=Path(sys.argv[1]), base_fingerprint=sys.argv[2])
try:
    found = mapped.map_files(where, sys.argv[3], {"int8-4": 10, "fp32-4": 3}, None)
    print(bytes(found.files["fp32-4"].numpy()).decode())
except PipelineError as error:
    print(type(error).__name__, error)
"""


def as_a_colleague(place):
    done = subprocess.run(
        [sys.executable, "-c", AS_A_COLLEAGUE, str(place), BASE, LAYOUT],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def open_place():
    """A folder that other users may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("closed", [None, ".", "int8-4", INDEX])
def test_a_colleague_maps_it_or_is_told_that_it_may_not(open_place, closed):
    attach(open_place, write)
    folder = open_place / "mapped" / BASE[:16] / LAYOUT
    if closed is not None:
        (folder / closed).chmod(0o700)
    told = as_a_colleague(folder.parent)
    if closed is None:
        assert told == "xyz\n"
        return
    assert told.startswith("NotPermitted ")
    assert "Permission denied. It belongs to user" in told


def test_a_permission_error_is_no_damage(tmp_path, folder, monkeypatch):  # noqa: ARG001
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "read_bytes", denied)
    with pytest.raises(NotPermitted, match=r"index.json: Permission denied"):
        attach(tmp_path)


# ---------------------------------------------------------------- what nobody uses any more


def age(folder, days):
    """Make the last use of a folder so many days old."""
    then = time.time() - days * DAY_S
    os.utime(folder.with_name(f".{folder.name}.lock"), (then, then))


def test_what_nobody_has_mapped_for_so_long_is_removed_aloud(tmp_path, folder, caplog):
    age(folder, 15)
    with caplog.at_level(logging.WARNING):
        assert remove_unused(tmp_path / "mapped", days=14) == [folder]
    assert f"removed {folder}: no process has mapped these tables for 15 days" in caplog.text
    assert listed(tmp_path / "mapped") == []
    assert text(attach(tmp_path, write)) == CONTENT


def test_what_was_mapped_lately_or_is_in_use_stays(tmp_path, folder):
    age(folder, 13)
    assert remove_unused(tmp_path / "mapped", days=14) == []
    held = attach(tmp_path)
    age(folder, 15)
    assert remove_unused(tmp_path / "mapped", days=14) == []
    del held
    assert remove_unused(tmp_path / "mapped", days=14) == [folder]


def test_mapping_counts_as_use(tmp_path, folder):
    age(folder, 15)
    attach(tmp_path)
    assert remove_unused(tmp_path / "mapped", days=14) == []


def test_another_process_that_maps_it_keeps_it(tmp_path, folder):
    age(folder, 15)
    with folder.with_name(f".{folder.name}.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert remove_unused(tmp_path / "mapped", days=14) == []
    assert remove_unused(tmp_path / "mapped", days=14) == [folder]


def test_what_else_lies_there_is_left_alone(tmp_path, folder):
    for name in ("notes", "0123456789abcdeX", "readme.md"):
        (tmp_path / "mapped" / name).mkdir()
    (folder.parent / "mine.txt").write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mapped" / ("e" * 16)).symlink_to(tmp_path / "elsewhere")
    age(folder, 99)
    assert remove_unused(tmp_path / "mapped", days=14) == [folder]
    assert listed(folder.parent) == ["mine.txt"]
    assert len(listed(tmp_path / "mapped")) == 5
    assert remove_unused(tmp_path / "none", days=14) == []


def test_a_lock_that_was_removed_while_it_was_awaited_is_no_lock(tmp_path, folder):
    lock = folder.with_name(f".{folder.name}.lock")
    opened = threading.Event()

    def wait():
        opened.set()
        found.append(text(attach(tmp_path, write)))

    found = []
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = threading.Thread(target=wait)
        waiting.start()
        opened.wait()
        time.sleep(0.1)
        lock.unlink()
    waiting.join()
    assert found == [CONTENT]
    assert lock.exists()
