import threading
import time

import pytest
import torch

from pipeline.errors import Corrupt
from pipeline.sharding.mapped import mapped

CONTENT = {"a": b"0123456789", "b": b"xyz"}
SIZES = {name: len(content) for name, content in CONTENT.items()}


def write(folder):
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)


def text(found):
    return {name: bytes(tensor.numpy()) for name, tensor in found.items()}


def never(_):
    raise AssertionError("what is there was written again")


def test_what_is_written_is_mapped_and_not_written_again(tmp_path):
    folder = tmp_path / "new" / "base"
    assert text(mapped(folder, SIZES, write)) == CONTENT
    assert text(mapped(folder, SIZES, never)) == CONTENT


def test_what_a_dead_worker_left_is_not_read(tmp_path):
    def dies(folder):
        write(folder)
        (folder / "b").write_bytes(b"")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mapped(tmp_path / "base", SIZES, dies)
    assert not (tmp_path / "base").exists()
    assert text(mapped(tmp_path / "base", SIZES, write)) == CONTENT


def test_a_worker_waits_for_the_one_that_writes(tmp_path):
    writes, entered = [], threading.Event()

    def slowly(folder):
        entered.set()
        time.sleep(0.3)
        write(folder)
        writes.append(folder)

    first = threading.Thread(target=mapped, args=(tmp_path / "base", SIZES, slowly))
    first.start()
    entered.wait()
    assert text(mapped(tmp_path / "base", SIZES, never)) == CONTENT
    first.join()
    assert len(writes) == 1


def test_a_file_of_another_size_is_refused(tmp_path):
    mapped(tmp_path / "base", SIZES, write)
    (tmp_path / "base" / "a").chmod(0o600)
    (tmp_path / "base" / "a").write_bytes(b"012")
    with pytest.raises(Corrupt, match=r"a has 3 bytes; expected 10. Remove .*base"):
        mapped(tmp_path / "base", SIZES, never)


def test_pages_are_those_of_the_file(tmp_path):
    found = mapped(tmp_path / "base", SIZES, write)["a"]
    (tmp_path / "base" / "a").chmod(0o600)
    with (tmp_path / "base" / "a").open("r+b") as file:
        file.write(b"X")
    assert torch.equal(found[:2], torch.tensor([ord("X"), ord("1")], dtype=torch.uint8))
