"""An error on a worker ends the run at once, unless another attempt may do without it."""

import json
import os

import pyarrow as pa
import pytest
import torch
from torch import distributed as dist

from iak.jobs import failures
from iak.pipeline.errors import BadLog, Diverged, DoesNotFit, PipelineError
from iak.pipeline.process import run_on_workers


def failed(run_dir, error, rank=0):
    failures.keep_failure(run_dir, rank, error)


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        pytest.param(OSError("connection reset"), True, id="a disk or a network"),
        pytest.param(dist.DistNetworkError("no route"), True, id="torch's network"),
        pytest.param(
            RuntimeError("[/p/gloo/transport/tcp/pair.cc:1] Connection closed by peer"),
            True,
            id="a lost peer",
        ),
        pytest.param(ValueError("save a non contiguous tensor"), False, id="a bug"),
        pytest.param(RuntimeError("shapes differ, see gloo/"), False, id="torch's own refusal"),
        pytest.param(MemoryError("no room"), False, id="memory"),
    ],
)
def test_only_what_may_pass_is_tried_again(tmp_path, error, is_retried):
    failed(tmp_path, error)
    assert failures.is_refused(tmp_path) != is_retried
    told = json.loads((tmp_path / "worker-0.error.json").read_text())
    assert told["error"] == f"{type(error).__name__}: {error}"


def test_a_bug_is_told_in_a_sentence_with_the_file_of_its_traceback(tmp_path):
    failed(tmp_path, KeyError("narrow"), rank=1)
    with pytest.raises(PipelineError, match=r"worker 1 failed with KeyError: 'narrow'") as told:
        failures.raise_refusal(tmp_path)
    assert str(tmp_path / "worker-1.error.json") in str(told.value)
    assert "Traceback" not in str(told.value)


def test_a_deliberate_error_keeps_its_kind(tmp_path):
    failed(tmp_path, BadLog("a hole in the log"))
    with pytest.raises(BadLog, match="a hole in the log"):
        failures.raise_refusal(tmp_path)


CPU = (
    "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)\nframe #0: c10"
)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(MemoryError(), id="Python"),
        pytest.param(pa.ArrowMemoryError("realloc of size 9 failed"), id="pyarrow"),
        pytest.param(RuntimeError(CPU), id="torch on a CPU"),
        pytest.param(torch.OutOfMemoryError("CUDA out of memory. Tried ..."), id="torch on a GPU"),
        pytest.param(RuntimeError("CUDA error: out of memory"), id="CUDA itself"),
    ],
)
def test_a_worker_without_memory_is_a_run_that_does_not_fit(tmp_path, error):
    failed(tmp_path, error, rank=3)
    with pytest.raises(DoesNotFit, match=r"worker 3 ran out of memory: ") as told:
        failures.raise_refusal(tmp_path)
    assert told.value.exit_code == 3
    assert "\n" not in str(told.value)
    assert str(tmp_path / "worker-3.error.json") in str(told.value)
    assert "frame #0" not in str(told.value)


def test_what_torch_really_raises_is_known_as_out_of_memory():
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**60, dtype=torch.uint8)
    assert failures.is_out_of_memory(told.value)
    assert not failures.is_out_of_memory(RuntimeError("shapes differ"))


def test_the_first_attempt_is_silent_and_every_other_says_why(tmp_path):
    told = []
    failures.announce_restart(tmp_path, told.append, workers=2)
    assert told == []
    failed(tmp_path, RuntimeError("[/p/gloo/pair.cc:1] Connection closed by peer"), rank=0)
    failed(tmp_path, OSError("stale file handle"), rank=1)
    failures.announce_restart(tmp_path, told.append, workers=2)
    failures.announce_restart(tmp_path, told.append, workers=2)
    assert told == [
        {"event": "restarted", "attempt": 2, "cause": "OSError: stale file handle"},
        {"event": "restarted", "attempt": 3, "cause": failures.KILLED},
    ]


def test_a_group_of_another_size_is_a_cause_of_its_own(tmp_path):
    told = []
    failures.announce_restart(tmp_path, told.append, workers=1)
    failures.announce_restart(tmp_path, told.append, workers=2)
    assert [event["cause"] for event in told] == [
        "the cluster now has room for 2 workers, and had for 1"
    ]


def test_a_success_leaves_no_failure_behind(tmp_path):
    failed(tmp_path, OSError("stale file handle"))
    failures.announce_restart(tmp_path, lambda _: None, workers=2)
    failures.forget_failures(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_workers_that_left_no_word_are_a_sentence_and_a_file_that_a_success_removes(tmp_path):
    told = failures.message_without_error(tmp_path, "Traceback\n  a\n  b")
    assert told.startswith("training failed on the workers: a worker ended without an error")
    assert "\n" not in told
    (path,) = failures.tracebacks(tmp_path)
    assert told.endswith(str(path))
    assert json.loads(path.read_text())["traceback"] == "Traceback\n  a\n  b"
    failures.forget_failures(tmp_path)
    assert not path.exists()


def test_a_diverged_run_is_refused_and_not_tried_again(tmp_path):
    failed(tmp_path, Diverged("the training loss is nan"), rank=1)
    assert failures.is_refused(tmp_path)
    assert failures.tracebacks(tmp_path) == []
    with pytest.raises(Diverged, match="the training loss is nan"):
        failures.raise_refusal(tmp_path)


def lose_a_peer(worker, place):
    """Let rank 1 go away without an error, and keep what rank 0 then sees."""
    if worker.rank == 1:
        os._exit(0)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever gloo raises
        dist.barrier()
    place.write_text(str(failures.is_worth_a_retry(caught.value)))


@pytest.mark.slow
def test_what_gloo_raises_for_a_lost_peer_is_worth_a_retry(tmp_path):
    with pytest.raises(RuntimeError, match="without an error"):
        run_on_workers(lose_a_peer, 2, tmp_path / "told")
    assert (tmp_path / "told").read_text() == "True"
