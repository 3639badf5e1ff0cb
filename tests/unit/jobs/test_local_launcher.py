"""Workers as processes of this machine: who answers, what starts them again, what ends the run."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from iak.jobs import local_launcher
from iak.jobs.heartbeat import Heartbeats
from iak.jobs.local_launcher import LocalLauncher
from iak.pipeline.errors import BadLog, DoesNotFit, PipelineError
from iak.pipeline.events import StoresUsed
from iak.pipeline.fork_server import fork_server
from iak.pipeline.launcher import Launch
from iak.pipeline.runs.nightly_traffic import TrafficCounter
from iak.pipeline.storage.store_counter import OF_PROCESS, StoreCounter
from iak.schemas.traffic import Carried

WAIT_S = 60.0


@pytest.fixture(autouse=True)
def _small_server(monkeypatch):
    """Fork from a process without the verbs' modules, which take seconds to import."""
    server = fork_server(["iak.jobs.local_launcher"])
    monkeypatch.setattr(local_launcher, "worker_server", lambda: server)


def run(run_dir, function, work=None, *, workers=2, device="cpu", max_failures=1):
    """Return the result and the kinds of the events."""
    events = []
    launch = Launch(
        function=function, work=work, result=dict, title="t", run_dir=run_dir, workers=workers,
        device=device, max_failures=max_failures,
    )  # fmt: skip
    return LocalLauncher(hung_after_s=WAIT_S).run(launch, events.append), events


def attempts(run_dir, rank):
    """Return how often a worker has begun, this time included."""
    path = run_dir / f"begun-{rank}"
    with path.open("a") as file:
        file.write("x")
    return len(path.read_text())


def answer(worker, work, report):
    report({"event": "step", "what": f"w{worker.rank}", "step": 1, "of": 1})
    return {"rank": worker.rank, "of": worker.world, "work": work, "pid": os.getpid()}


def die_once(worker, run_dir, _report):
    begun = attempts(Path(run_dir), worker.rank)
    if begun == 1 and worker.rank == 1:
        while not (Path(run_dir) / "begun-0").exists():
            time.sleep(0.01)  # else the other may be ended before it has begun
        os.kill(os.getpid(), signal.SIGKILL)
    return {"begun": begun}


def die_always(worker, _run_dir, _report):
    if worker.rank == 1:
        os.write(1, b"the last words")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(WAIT_S)


def stop_once(worker, run_dir, _report):
    begun = attempts(Path(run_dir), worker.rank)
    if begun == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return {"begun": begun}


def use_stores_and_die_once(worker, run_dir, _report):
    first = attempts(Path(run_dir), worker.rank) == 1
    OF_PROCESS.count_read(10 + worker.rank)
    OF_PROCESS.count_written(1)
    if first and worker.rank == 1:
        while len(stores_used(Path(run_dir))) < 2:  # of both workers
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def stores_used(run_dir):
    path = run_dir / "progress.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if StoresUsed.name in line]


def lose_the_disk_once(worker, run_dir, _report):
    if attempts(Path(run_dir), worker.rank) == 1:
        raise OSError("stale file handle")
    return {}


def refuse(worker, run_dir, _report):
    attempts(Path(run_dir), worker.rank)
    raise BadLog("a hole in the log")


def test_every_worker_works_worker_0_answers_and_reports_from_another_process(tmp_path):
    result, events = run(tmp_path, answer, [7], workers=2)
    assert result.pop("pid") != os.getpid()
    assert result == {"rank": 0, "of": 2, "work": [7]}
    assert [event["event"] for event in events] == ["workers_started", "step", "workers_ended"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress.jsonl", "result.json"]


def test_a_killed_worker_starts_all_again_with_a_message_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(local_launcher, "OWN_ERROR_WITHIN_S", 0.5)
    result, events = run(tmp_path, die_once, str(tmp_path))
    assert result == {"begun": 2}
    (restart,) = (event for event in events if event["event"] == "restarted")
    assert restart["attempt"] == 2
    assert "killed" in restart["cause"]
    assert not [*tmp_path.glob("*error*")]


def test_what_a_killed_worker_exchanged_with_stores_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(local_launcher, "OWN_ERROR_WITHIN_S", 0.5)
    _, events = run(tmp_path, use_stores_and_die_once, str(tmp_path))
    traffic = TrafficCounter(StoreCounter())
    count = traffic.counted(lambda _: None)
    for event in events:
        count(event)
    assert [event["attempt"] for event in events if event["event"] == "restarted"] == [2]
    used = traffic.take()
    # Two workers, and two attempts of each.
    assert used.from_stores == Carried(files=4, bytes=2 * (10 + 11))
    assert used.to_stores == Carried(files=4, bytes=4)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals that stop a process")
def test_a_single_worker_that_is_stopped_starts_again(tmp_path, monkeypatch):
    class OfTheFirst(Heartbeats):
        """Take no starved worker of the second attempt for dead."""

        def has_one_stopped(self):
            begun = tmp_path / "begun-0"
            return super().has_one_stopped() and begun.exists() and begun.read_text() == "x"

    monkeypatch.setattr(local_launcher, "BEAT_S", 0.1)  # looks ten times as often
    monkeypatch.setattr(local_launcher, "Heartbeats", OfTheFirst)
    result, events = run(tmp_path, stop_once, str(tmp_path), workers=1)
    assert result == {"begun": 2}
    (restart,) = (event for event in events if event["event"] == "restarted")
    assert "gave no answer" in restart["cause"]


def test_after_the_last_retry_the_message_names_a_file_with_what_workers_printed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(local_launcher, "OWN_ERROR_WITHIN_S", 0.5)
    with pytest.raises(PipelineError, match="ended without an error") as caught:
        run(tmp_path, die_always, str(tmp_path), max_failures=0)
    path = Path(str(caught.value).rpartition(" ")[2])
    assert "worker 1:\nthe last words" in json.loads(path.read_text())["traceback"]


def test_an_error_that_may_be_gone_is_tried_again(tmp_path):
    result, events = run(tmp_path, lose_the_disk_once, str(tmp_path), workers=1)
    assert result == {}
    (cause,) = (event["cause"] for event in events if event["event"] == "restarted")
    assert "stale file handle" in cause


def test_a_refusal_ends_the_run_at_once_and_keeps_its_kind(tmp_path):
    with pytest.raises(BadLog, match="a hole in the log"):
        run(tmp_path, refuse, str(tmp_path), workers=1, max_failures=3)
    assert attempts(tmp_path, 0) == 2  # the worker's once, and this one


def test_gpus_that_are_not_there_are_refused_before_a_worker_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(DoesNotFit, match="this machine has 1 GPUs"):
        run(tmp_path, answer, device="cuda", workers=2)
    assert [*tmp_path.iterdir()] == []
