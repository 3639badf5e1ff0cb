"""Run a function on the workers of Ray Train, which are restarted when one dies.

Workers compute in their own process group (gloo on CPUs, NCCL on GPUs).
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray._private import services
from ray._private.node import Node
from ray.train import FailureConfig, RunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from torch import distributed as dist

from iak.jobs.attempt import attempt_on, attempts_at, failure_message, result_of
from iak.jobs.elastic import sized_by_what_is_free
from iak.jobs.failures import is_refused
from iak.jobs.machines import (
    DriverMachine,
    files_here,
    for_workers,
    launch_here,
    reached_by_workers,
)
from iak.jobs.progress import announce
from iak.jobs.session import private_folder
from iak.pipeline.errors import DoesNotFit, PipelineError
from iak.pipeline.events import Report
from iak.pipeline.fork_server import WORKER_ENVIRONMENT
from iak.pipeline.launcher import Launch, Result, Work
from iak.pipeline.process import current_worker, keep_freed_memory
from iak.schemas.job import WorkersSpec

OBJECT_STORE_BYTES = 200 * 2**20
"""Memory of a local Ray's object store, which needs to hold little more than a run's work. Ray's
default is a share of the machine's memory."""
QUIET = {
    "RAY_event_stats": "0",
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_num_workers_soft_limit": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
"""Settings of a local Ray, which shares its cores with the workers. They turn off statistics that
nobody reads, and processes that one machine does not need. The controller looks at its few workers
more often than every 2 s, so that a run ends when they do."""
PATIENT = {
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
}
"""How long a Ray that this project starts waits for its own processes. Ray's defaults, 30 to 60
seconds, are too short for a busy machine."""
_LOST_SOON = {"gcs_rpc_server_reconnect_timeout_s": 10, "health_check_period_ms": 1000}
"""How soon a local Ray gives up its head and its node once they are gone. Nobody starts them again,
so that waiting for them by Ray's defaults, 60 s and five times 3 s, would be in vain."""
STARTS = 5
"""How often a local Ray is started before it counts as broken. Its raylet gives its agents 15 s to
start, and the driver 30 s to the raylet: constants of 2.60 that a busy machine exceeds."""
RESIZE_S = 30.0
"""Seconds between two checks whether a group can have more workers. If so, all of them restart."""
_log = logging.getLogger(__name__)


@contextmanager
def ray_cluster(workers: int) -> Iterator[None]:
    """Connect to the Ray that the environment names, else start a local one on loopback."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    settings: dict[str, Any] = {"address": address} if address else local_settings(workers)
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # by default 15: any other process would go first
    if not address:  # the processes of a running cluster no longer read these variables
        for name, value in {**WORKER_ENVIRONMENT, **QUIET, **PATIENT}.items():
            os.environ.setdefault(name, value)
    starting = "1 worker" if workers == 1 else f"{workers} workers"
    starting += f", at {address}" if address else ""
    with (
        announce("starting Ray", starting),
        _loopback_stays_loopback(),
        _without_log_monitor(),
        _failed_start_leaves_no_process(),
    ):
        _init(settings, starts=1 if address else STARTS)
    try:
        with nullcontext() if address else _without_helpers():
            yield
    finally:
        ray.shutdown()


def _init(settings: dict[str, Any], *, starts: int) -> None:
    """Call `ray.init`, and again where a process of Ray did not answer in time.

    Args:
        settings: what it takes, beside the ones for logs.
        starts: how often to call it at most.
    """
    for others in reversed(range(starts)):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
        except Exception as error:  # Ray has no class for it (2.60)
            if others == 0 or "timed out" not in str(error).lower():
                raise
            _log.warning("Ray did not start, and is started again: %s", error)
        else:
            return


@contextmanager
def _failed_start_leaves_no_process() -> Iterator[None]:
    """Stop the processes of a Ray that does not come up, before its error is raised.

    Ray leaves them running until this process ends (2.60), and they would slow the next start.
    """
    start = Node.__init__

    def start_or_stop(node: Node, *given: Any, **named: Any) -> None:  # noqa: ANN401 - Ray's own
        try:
            start(node, *given, **named)
        except Exception:
            if getattr(node, "all_processes", None):
                node.kill_all_processes(check_alive=False, allow_graceful=False)
            raise

    Node.__init__ = start_or_stop  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Node.__init__ = start  # type: ignore[method-assign]


@contextmanager
def _without_log_monitor() -> Iterator[None]:
    """Start no process that sends workers' logs to this one, which does not read them.

    `log_to_driver=False` still starts it, and it takes processor time. Ray has no public setting
    for it (2.60), so the method that starts it is replaced while the block lasts.
    """
    start = Node.start_log_monitor
    Node.start_log_monitor = lambda _: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Node.start_log_monitor = start  # type: ignore[method-assign]


@contextmanager
def _without_helpers() -> Iterator[None]:
    """Start no processes beside the controller of a run that a local Ray does not need.

    Each of them imports Ray for two seconds of processor time: one that gives back the resources of
    a run whose controller died, which here end with this process, and one that hands out shards of
    Ray's datasets, of which there are none. Ray has no public setting for them (2.60), so the
    classes that start them are replaced while the block lasts.
    """
    names = ("PlacementGroupCleanerCallback", "DatasetsCallback")
    before = {name: getattr(data_parallel_trainer, name) for name in names}
    for name in names:
        setattr(data_parallel_trainer, name, _no_callback)
    try:
        yield
    finally:
        for name, callback in before.items():
            setattr(data_parallel_trainer, name, callback)


def _no_callback(**_: object) -> ControllerCallback:
    """Return a callback of Ray Train that does nothing."""
    return ControllerCallback()


@contextmanager
def _loopback_stays_loopback() -> Iterator[None]:
    """Let a local Ray listen on 127.0.0.1 alone.

    Ray replaces that address by the machine's routable one, and its servers then listen on every
    interface. Ray has no public setting for it (2.60), so the function that does it is replaced
    while the block lasts.
    """
    resolve = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = resolve


def local_settings(workers: int) -> dict[str, Any]:
    """Return what `ray.init` takes for a local Ray that has a core for each worker and one more."""
    return {
        "num_cpus": max(workers + 1, os.cpu_count() or 1),
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
        "_temp_dir": str(private_folder() / "ray"),
        # Not by the environment, which this process may have read before.
        "_system_config": {
            name: value for name, value in _LOST_SOON.items() if f"RAY_{name}" not in os.environ
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RayLauncher:
    """Start workers by Ray Train, on the cluster of the environment or on a local Ray."""

    hung_after_s: int = 600
    """Seconds without an answer after which a worker counts as dead."""
    min_workers: int = 0
    """Fewest workers with which a run starts and goes on; 0 for all that it asks for."""

    @classmethod
    def of(cls, spec: WorkersSpec) -> "RayLauncher":
        """Return the launcher that a job's settings ask for."""
        return cls(hung_after_s=spec.hung_after_s, min_workers=spec.min_workers)

    @property
    def is_elsewhere(self) -> bool:
        """Return whether the environment names a cluster, whose machines are not this one."""
        return bool(os.environ.get("RAY_ADDRESS"))

    def run(self, launch: Launch[Work, Result], report: Report) -> Result:
        """Run a function on every worker; restart all of them when one dies. See `Launcher.run`.

        Raises:
            PipelineError: the error that a worker raised, or one with its traceback after the last
                retry failed.
        """
        launch = replace(launch, run_dir=launch.run_dir.resolve())
        with (
            ray_cluster(launch.workers),
            attempts_at(launch, report),
            self._reached(launch.run_dir, report) as machine,
        ):
            trainer = self._trainer(launch, machine)
            try:
                with sized_by_what_is_free():
                    trainer.fit()
            except TrainingFailedError as failure:
                raise PipelineError(failure_message(launch.run_dir, str(failure))) from failure
            except SystemExit as stop:  # Ray raises it on Ctrl-C while it trains
                raise KeyboardInterrupt from stop
        return result_of(launch)

    def _reached(
        self, run_dir: Path, report: Report
    ) -> AbstractContextManager[DriverMachine | None]:
        """Let workers of other machines reach the run folder; a local Ray has none."""
        return reached_by_workers(run_dir, report) if self.is_elsewhere else nullcontext()

    def _trainer(self, launch: Launch[Work, Result], machine: DriverMachine | None) -> TorchTrainer:
        """Return Ray's trainer for a run.

        Raises:
            DoesNotFit: the cluster has fewer GPUs than workers that ask for one.
        """
        use_gpu = _use_gpu(launch.device, launch.workers)
        # A process that hangs is given up in two ways: by its peers, whose collectives time out,
        # and by Ray, which polls it and reads this variable (2.60).
        os.environ[WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR] = str(self.hung_after_s)
        # By reference: Ray's controller unpickles its arguments, and would import torchrec.
        config = {"launch": ray.put(for_workers(launch, machine))}
        return TorchTrainer(
            _worker_loop,
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=(self.min_workers, launch.workers)
                if self.min_workers
                else launch.workers,
                elastic_resize_monitor_interval_s=RESIZE_S,
                use_gpu=use_gpu,
                resources_per_worker={"GPU": 1, "CPU": 1} if use_gpu else {"CPU": 1},
            ),
            torch_config=TorchConfig(
                backend="nccl" if use_gpu else "gloo", timeout_s=self.hung_after_s
            ),
            run_config=RunConfig(
                name=f"attempt-{time.time_ns()}",
                storage_path=str(launch.run_dir / "ray"),
                failure_config=FailureConfig(max_failures=launch.max_failures),
            ),
        )


def _worker_loop(train_loop_config: dict[str, "ray.ObjectRef[dict[str, Any]]"]) -> None:
    """Run one worker under Ray Train, in the process group that it has made."""
    config = ray.get(train_loop_config["launch"])
    launch = launch_here(config)
    files = files_here(config["machine"])
    if files.is_first:
        files.fetch(launch.run_dir)
    dist.barrier()  # this machine has the run folder as the driver's has it
    if is_refused(launch.run_dir):  # Ray restarts the group anyway, so end at once
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    worker = replace(current_worker(), files=files)
    attempt_on(worker, launch)


def _use_gpu(device: str, workers: int) -> bool:
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device == "cuda" and gpus < workers:
        raise DoesNotFit(
            f"device=cuda with workers={workers}, but this Ray cluster has {gpus} GPUs. "
            "Ask for fewer workers, or device=cpu"
        )
    return gpus >= workers and device != "cpu"
