"""A run on Ray's workers: who answers, what a refusal ends, which error is tried again.

No Ray is started. Its trainer is replaced by one that runs the workers' loop on threads, and starts
all of them again when one has failed, as Ray Train does.
"""

import json
import os
import threading
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from unittest import mock

import pytest
import ray
from ray._private import services
from ray._private.node import Node
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from iak.jobs import ray_launcher
from iak.jobs.ray_launcher import RayLauncher, ray_cluster
from iak.pipeline.errors import BadLog, DoesNotFit, PipelineError
from iak.pipeline.events import WorkersEnded, WorkersStarted, silent
from iak.pipeline.launcher import Launch
from iak.pipeline.process import Worker
from tests.unit.workers import outcomes


class ThreadTrainer:
    """In the place of Ray's TorchTrainer."""

    last: "ThreadTrainer"

    def __init__(self, loop, *, train_loop_config, scaling_config, torch_config, run_config):
        self.loop, self.config = loop, train_loop_config
        self.scaling, self.torch = scaling_config, torch_config
        self.max_failures = run_config.failure_config.max_failures
        self.attempts = 0
        ThreadTrainer.last = self

    def fit(self):
        while True:
            self.attempts += 1
            ended = outcomes(self._work, self.scaling.num_workers)
            failed = {rank: end for rank, end in enumerate(ended) if end is not None}
            if not failed:
                return
            if self.attempts > self.max_failures:
                raise WorkerGroupError("a worker died", failed)

    def _work(self, worker: Worker):
        _THREAD.worker = worker
        self.loop(self.config)


@dataclass(frozen=True)
class Stored:
    """A reference to an object in Ray's store."""

    value: object


_THREAD = threading.local()
POLLED = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"


@pytest.fixture(autouse=True)
def _threads_for_ray(monkeypatch):
    monkeypatch.setattr(ray_launcher, "TorchTrainer", ThreadTrainer)
    monkeypatch.setattr(ray_launcher, "ray_cluster", lambda _workers: nullcontext())
    monkeypatch.setattr(ray_launcher, "current_worker", lambda: _THREAD.worker)
    monkeypatch.setattr(ray_launcher, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(ray, "put", Stored)
    monkeypatch.setattr(ray, "get", lambda stored: stored.value)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setenv(POLLED, "600")  # a run sets it, and it must not outlive the test


def run(run_dir, function, work=None, *, report=silent, hung_after_s=600, **changed):
    settings = {"workers": 2, "device": "cpu", "max_failures": 3} | changed
    launch = Launch(
        function=function, work=work, result=dict, title="t", run_dir=run_dir, **settings
    )
    return RayLauncher(hung_after_s=hung_after_s).run(launch, report)


def progress(run_dir):
    path = run_dir / "progress.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def left_behind(run_dir):
    """What is told of failures in a run's folder."""
    return sorted(path.name for path in run_dir.glob("*.json") if path.name != "result.json")


@pytest.fixture
def met():
    """How often each worker called the function, in any attempt."""
    return Counter()


def test_every_worker_works_and_worker_0_answers(tmp_path, met):
    def work(worker, document, _report):
        met[worker.rank] += 1
        return {"rank": worker.rank, "of": worker.world, "document": document}

    assert run(tmp_path, work, [7], workers=3) == {"rank": 0, "of": 3, "document": [7]}
    assert met == {0: 1, 1: 1, 2: 1}
    assert left_behind(tmp_path) == []


def test_ray_s_controller_gets_the_work_by_reference(tmp_path):
    run(tmp_path, lambda *_: {}, work=[7])
    assert {type(value) for value in ThreadTrainer.last.config.values()} == {Stored}


def test_progress_is_worker_0_s_alone_a_line_an_event_with_its_time(tmp_path):
    def work(worker, _, report):
        for step in range(3):
            report({"event": "step", "what": f"w{worker.rank}", "step": step, "of": 3})
        return {}

    run(tmp_path, work)
    lines = progress(tmp_path)
    assert [(line["what"], line["step"]) for line in lines] == [("w0", 0), ("w0", 1), ("w0", 2)]
    assert all(line["at"] > 1e9 for line in lines)


def test_a_refusal_ends_the_run_at_once_and_keeps_its_kind(tmp_path, met):
    def work(worker, _, _report):
        met[worker.rank] += 1
        if worker.rank == 1:
            raise BadLog("a hole in the log")
        return {}

    with pytest.raises(BadLog, match="a hole in the log"):
        run(tmp_path, work)
    assert met == {0: 1, 1: 1}


def test_a_bug_is_not_tried_again_and_its_traceback_is_kept(tmp_path, met):
    def work(worker, _, _report):
        met[worker.rank] += 1
        if worker.rank == 1:
            raise KeyError("narrow")
        return {}

    with pytest.raises(PipelineError, match="worker 1 failed with KeyError: 'narrow'"):
        run(tmp_path, work)
    assert met == {0: 1, 1: 1}
    kept = json.loads((tmp_path / "worker-1.error.json").read_text())
    assert 'raise KeyError("narrow")' in kept["traceback"]


def test_a_lost_disk_is_tried_again_and_said_and_a_success_leaves_no_trace_of_it(tmp_path, met):
    def work(worker, _, _report):
        met[worker.rank] += 1
        if worker.rank == 1 and met[1] == 1:
            raise OSError("the disk is gone")
        return {"attempt": met[worker.rank]}

    assert run(tmp_path, work) == {"attempt": 2}
    assert met == {0: 2, 1: 2}
    (restart,) = progress(tmp_path)
    del restart["at"]
    assert restart == {
        "event": "restarted", "attempt": 2, "cause": "OSError: the disk is gone",
    }  # fmt: skip
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("max_failures", [0, 2])
def test_what_comes_again_at_every_attempt_is_raised_with_the_files_of_its_tracebacks(
    tmp_path, met, max_failures
):
    def work(worker, _, _report):
        met[worker.rank] += 1
        raise OSError(f"no disk at worker {worker.rank}")

    with pytest.raises(PipelineError) as failed:
        run(tmp_path, work, max_failures=max_failures)
    assert met[0] == met[1] == max_failures + 1
    told = str(failed.value)
    assert told.startswith("training failed on the workers: OSError: no disk at worker 0\n")
    assert all(str(tmp_path / f"worker-{rank}.error.json") in told for rank in (0, 1))
    assert isinstance(failed.value.__cause__, TrainingFailedError)


def test_workers_that_end_without_a_word_leave_what_ray_says_of_them(tmp_path, monkeypatch):
    def fit(_):
        raise WorkerGroupError("a worker died of signal 9", {})

    monkeypatch.setattr(ThreadTrainer, "fit", fit)
    with pytest.raises(PipelineError, match="a worker ended without an error"):
        run(tmp_path, lambda *_: {})
    kept = json.loads((tmp_path / "worker-any.error.json").read_text())
    assert "signal 9" in kept["traceback"]


def test_what_an_earlier_run_left_is_forgotten(tmp_path):
    """Else its refusal would end this one, and its result be this one's."""
    (tmp_path / "refused.json").write_text('{"kind": "BadLog", "message": "of before"}')
    (tmp_path / "started.json").write_text('{"attempt": 4}')
    (tmp_path / "worker-9.error.json").write_text('{"error": "of before"}')
    (tmp_path / "result.json").write_text('{"of": "before"}')
    assert run(tmp_path, lambda *_: {"of": "now"}) == {"of": "now"}
    assert progress(tmp_path) == []
    assert left_behind(tmp_path) == []


def test_a_result_of_before_is_not_a_failed_run_s(tmp_path):
    def work(*_):
        raise BadLog("no")

    run(tmp_path, lambda *_: {"of": "before"})
    with pytest.raises(BadLog):
        run(tmp_path, work)
    assert not (tmp_path / "result.json").exists()


def test_ctrl_c_while_ray_trains_is_an_interruption(tmp_path, monkeypatch):
    """Ray answers to it with SystemExit, which would end iak as if all were well."""

    def fit(_):
        raise SystemExit(0)

    monkeypatch.setattr(ThreadTrainer, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, lambda *_: {})


@pytest.mark.parametrize(
    ("device", "gpus", "backend"),
    [("cpu", 8, "gloo"), ("auto", 1, "gloo"), ("auto", 2, "nccl"), ("cuda", 2, "nccl")],
)
def test_workers_get_a_gpu_each_where_there_are_enough_and_the_device_allows(
    tmp_path, monkeypatch, device, gpus, backend
):
    monkeypatch.setattr(ray, "put", Stored)
    monkeypatch.setattr(ray, "get", lambda stored: stored.value)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": float(gpus)})
    run(tmp_path, lambda *_: {}, device=device)
    asked = ThreadTrainer.last
    assert asked.torch.backend == backend
    assert asked.scaling.use_gpu == (backend == "nccl")
    gpu = {"GPU": 1} if backend == "nccl" else {}
    assert asked.scaling.resources_per_worker == {"CPU": 1, **gpu}


def test_a_worker_without_an_answer_is_dead_to_its_peers_and_to_ray_at_the_same_time(
    tmp_path,
):
    run(tmp_path, lambda *_: {}, max_failures=0, hung_after_s=7)
    assert ThreadTrainer.last.torch.timeout_s == 7
    assert os.environ[POLLED] == "7"


def test_more_workers_than_gpus_are_refused_before_any_starts(tmp_path, met):
    with pytest.raises(DoesNotFit, match=r"device=cuda with workers=2, .* has 0 GPUs"):
        run(tmp_path, lambda worker, *_: met.update([worker.rank]), device="cuda")
    assert not met


@pytest.fixture
def started(monkeypatch):
    """What Ray was started with; its functions and the environment are as before afterwards."""
    asked = []
    monkeypatch.setattr(ray, "init", lambda **settings: asked.append(settings))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: asked.append("shut down"))
    with mock.patch.dict(os.environ):
        os.environ.pop("RAY_ADDRESS", None)
        yield asked


def test_a_local_ray_listens_on_loopback_alone(started):
    with ray_cluster(3):
        assert started[0]["_node_ip_address"] == "127.0.0.1"
        assert started[0]["include_dashboard"] is False
        assert started[0]["num_cpus"] >= 4


def replaced():
    """Return what a local Ray replaces of Ray's own."""
    return services.resolve_ip_for_localhost, Node.start_log_monitor, *helpers()


def helpers():
    """Return what starts processes beside a run's controller."""
    of_ray = data_parallel_trainer
    return of_ray.PlacementGroupCleanerCallback, of_ray.DatasetsCallback


def test_a_ray_ends_with_its_block_and_leaves_rays_functions_as_they_were(started):
    before = replaced()
    with pytest.raises(RuntimeError, match="inside"), ray_cluster(3):
        raise RuntimeError("inside")
    assert started[1:] == ["shut down"]
    assert replaced() == before


@pytest.mark.usefixtures("started")
def test_a_run_of_a_local_ray_starts_no_process_beside_controller_and_workers():
    """On a cluster it does, where resources of a dead controller would stay taken."""
    before = helpers()
    with ray_cluster(1):
        made = [helper() for helper in helpers()]
        assert [type(helper) for helper in made] == [ControllerCallback] * 2
    os.environ["RAY_ADDRESS"] = "ray://head:10001"
    with ray_cluster(1):
        assert helpers() == before


def test_a_local_ray_does_not_wait_a_minute_for_a_head_that_nobody_starts_again(started):
    soon = {"gcs_rpc_server_reconnect_timeout_s": 10, "health_check_period_ms": 1000}
    for name in soon:
        os.environ.pop(f"RAY_{name}", None)
    with ray_cluster(1):
        assert started[0]["_system_config"] == soon
    os.environ.update({"RAY_health_check_period_ms": "99"})
    with ray_cluster(1):
        assert started[-1]["_system_config"] == {"gcs_rpc_server_reconnect_timeout_s": 10}


def test_while_a_local_ray_starts_its_address_stays_loopback(started, monkeypatch):
    def init(**_):
        started.append(services.resolve_ip_for_localhost("127.0.0.1"))

    monkeypatch.setattr(ray, "init", init)
    with ray_cluster(1):
        assert started == ["127.0.0.1"]


SLOW = Exception("The current node timed out during startup.")


def refusing(errors, started):
    """Return a `ray.init` that raises each error once, and then starts."""

    def init(**settings):
        if errors:
            raise errors.pop(0)
        started.append(settings)

    return init


def test_a_local_ray_whose_processes_were_slow_is_started_again(started, monkeypatch):
    monkeypatch.setattr(ray, "init", refusing([SLOW, RuntimeError("Timed out waiting")], started))
    with ray_cluster(1):
        assert len(started) == 1


@pytest.mark.parametrize("error", [ValueError("num_cpus is negative"), SLOW])
def test_what_would_fail_again_and_a_ray_that_never_starts_are_raised(started, monkeypatch, error):
    errors = [error] * (99 if error is SLOW else 1)
    monkeypatch.setattr(ray, "init", refusing(errors, started))
    with pytest.raises(type(error), match=str(error)), ray_cluster(1):
        pass
    assert started == []


def test_a_cluster_that_does_not_answer_is_asked_once(started, monkeypatch):
    os.environ["RAY_ADDRESS"] = "ray://head:10001"
    monkeypatch.setattr(ray, "init", refusing([SLOW], started))
    with pytest.raises(Exception, match="timed out"), ray_cluster(1):
        pass
    assert started == []


def test_a_ray_that_did_not_start_leaves_no_process(started, monkeypatch):
    def never_up(node):
        node.all_processes = {"gcs_server": ["one"]}
        raise SLOW

    def kill(_node, **how):
        started.append(how)

    monkeypatch.setattr(Node, "__init__", never_up)
    monkeypatch.setattr(Node, "kill_all_processes", kill)
    monkeypatch.setattr(ray, "init", lambda **_: Node())
    with pytest.raises(Exception, match="timed out"), ray_cluster(1):
        pass
    assert started == [{"check_alive": False, "allow_graceful": False}] * ray_launcher.STARTS
    assert Node.__init__ is never_up


def test_a_cluster_that_the_environment_names_is_used_as_it_is(started):
    os.environ["RAY_ADDRESS"] = "ray://head:10001"
    before = {name for name in os.environ if name.startswith("RAY_")}
    with ray_cluster(3):
        assert started[0]["address"] == "ray://head:10001"
        assert "num_cpus" not in started[0]
    added = {name for name in os.environ if name.startswith("RAY_")} - before
    assert added <= {"RAY_worker_niceness"}, "its processes are started already"


def test_a_ray_that_runs_already_is_neither_started_nor_ended(started, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with ray_cluster(3):
        pass
    assert started == []


@pytest.mark.usefixtures("started")
def test_a_local_ray_is_quiet_and_a_variable_that_is_set_stays_as_it_is():
    expected = {
        "RAY_num_workers_soft_limit": "7", "RAY_TRAIN_METRICS_ENABLED": "0",
        "RAY_worker_niceness": "0", "THP_MEM_ALLOC_ENABLE": "1",
    }  # fmt: skip
    for name in expected:
        os.environ.pop(name, None)
    os.environ.update({"RAY_num_workers_soft_limit": "7"})
    with ray_cluster(1):
        assert {name: os.environ[name] for name in expected} == expected


@pytest.mark.parametrize("error", [None, BadLog("a hole in the log")])
def test_the_start_and_the_end_of_workers_are_reported_whatever_they_come_to(tmp_path, error):
    def work(worker, _, report):
        report({"event": "rows", "of": worker.rank})
        if error is not None:
            raise error
        return {}

    events = []
    with pytest.raises(BadLog) if error else nullcontext():
        run(tmp_path, work, report=events.append, max_failures=0)
    assert (events[0], events[-1]) == (WorkersStarted("t"), WorkersEnded("t"))
    assert [event["of"] for event in events[1:-1]] == [0], "worker 0's lines, in between"
