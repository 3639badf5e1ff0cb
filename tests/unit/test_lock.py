"""One writer a folder: the second leaves or waits, and a dead one keeps nobody out."""

import json
import logging
import signal
import subprocess
import sys

import pytest

from iak.pipeline import lock
from iak.pipeline.errors import Busy
from iak.pipeline.runs.record import run_record
from iak.schemas.job import PretrainSpec

HOLD = """
import sys
from pathlib import Path
from iak.pipeline.lock import one_writer
with one_writer(Path(sys.argv[1]), waits=False):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        pipe.close()


def test_the_second_writer_leaves_and_is_told_who_holds_the_folder(tmp_path, holder):
    with (
        pytest.raises(Busy, match=rf"process {holder.pid} on .*if_busy=wait"),
        lock.one_writer(tmp_path, waits=False),
    ):
        pytest.fail("two writers were in one folder")


def test_the_second_writer_may_wait(tmp_path, holder, caplog, monkeypatch):
    acquire = lock.FileLock.acquire

    def lets_go(kernels, timeout):
        try:
            return acquire(kernels, timeout=timeout)
        except lock.Timeout:
            holder.stdin.close()  # the second writer has met the first, which ends now
            raise

    monkeypatch.setattr(lock.FileLock, "acquire", lets_go)
    with caplog.at_level(logging.WARNING), lock.one_writer(tmp_path, waits=True):
        assert json.loads((tmp_path / lock.OWNER).read_text())["pid"] != holder.pid
    assert "waiting until it is free" in caplog.text


def test_the_lock_of_a_dead_writer_is_taken_over_with_a_word(tmp_path, holder, caplog):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with caplog.at_level(logging.WARNING), lock.one_writer(tmp_path, waits=False):
        pass
    assert f"was locked by process {holder.pid}" in caplog.text


def test_a_folder_that_is_free_again_has_no_owner(tmp_path, caplog):
    for _ in range(2):
        with lock.one_writer(tmp_path, waits=False):
            assert (tmp_path / lock.OWNER).exists()
        assert not (tmp_path / lock.OWNER).exists()
    assert caplog.text == ""


def test_a_file_system_that_cannot_lock_is_named_and_used(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise NotImplementedError("flock is not supported")

    monkeypatch.setattr(lock.FileLock, "acquire", refuse)
    with lock.one_writer(tmp_path, waits=False):
        pass
    assert "cannot lock" in caplog.text


def test_a_run_folder_in_use_is_left_alone(tmp_path, holder):  # noqa: ARG001
    spec = PretrainSpec(catalog="planted", data_root="/logs", run_dir=tmp_path)
    with pytest.raises(Busy), run_record("pretrain", spec, tmp_path):
        pytest.fail("a run began in a folder that is in use")
    assert not (tmp_path / "record.json").exists()
