"""Let workers of other machines reach the driver's scratch, by an actor on the driver's machine.

On a cluster whose machines share no disk, the run folder is the driver's copy of a folder on an
object store. An actor serves that disk (pipeline/storage/driver_disk.py). A worker whose own
scratch is the driver's does not use it.
"""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train import get_context

from iak.pipeline.events import FilesCarried, Report
from iak.pipeline.launcher import Launch, Result, Work
from iak.pipeline.run_files import SHARED_DISK, RunFiles, SharedDisk
from iak.pipeline.storage.driver_disk import (
    DriverDisk,
    RemoteFiles,
    marked_scratch,
    packed,
    sees_scratch,
)
from iak.pipeline.storage.working_copy import scratch


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverMachine:
    """The driver's machine, as workers reach it."""

    mark: str
    """Name of a file in the driver's scratch."""
    disk: ActorHandle[DriverDisk]
    """Actor that reads and writes the scratch for workers of other machines."""


def for_workers(launch: Launch[Work, Result], machine: DriverMachine | None) -> dict[str, Any]:
    """Return a launch as Ray passes it to a worker on any machine.

    Args:
        launch: what the workers do. Its run folder is a path on the driver's machine.
        machine: the driver's machine; None where all workers see its disk.
    """
    if machine is None:
        return {"launch": launch, "machine": None}
    return {"packed": packed(launch), "machine": machine}


def launch_here(config: Mapping[str, Any]) -> Launch[Any, Any]:
    """Return the launch that `for_workers` passed, with the paths of this machine."""
    if config["machine"] is None:
        launch: Launch[Any, Any] = config["launch"]
    else:
        launch = pickle.loads(config["packed"])
    return launch


def files_here(machine: DriverMachine | None) -> RunFiles:
    """Return the run's files as this worker reaches them."""
    if machine is None:
        return SHARED_DISK
    is_first = get_context().get_local_rank() == 0
    if sees_scratch(machine.mark):
        return SharedDisk(is_first=is_first)

    def call(method: str, *arguments: object) -> Any:  # noqa: ANN401 - what the method returns
        return ray.get(getattr(machine.disk, method).remote(*arguments))

    return RemoteFiles(call, is_first=is_first)


@contextmanager
def reached_by_workers(run_dir: Path, report: Report) -> Iterator[DriverMachine | None]:
    """Serve this machine's scratch to workers of other machines for the length of the block.

    Args:
        run_dir: run folder on this machine.
        report: gets what was carried, when the block ends.

    Yields:
        This machine; None where the cluster has no other one that would need it.
    """
    machines = sum(1 for node in ray.nodes() if node["Alive"])
    # A cluster may grow while a run works, but a run folder that all machines see needs no help.
    if machines == 1 and not run_dir.is_relative_to(scratch()):
        yield None
        return
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    serve: Any = ray.remote(num_cpus=0, label_selector=here)(DriverDisk)
    with marked_scratch() as mark:
        disk = serve.remote(scratch())
        try:
            yield DriverMachine(mark=mark, disk=disk)
        finally:
            with suppress(RayError):  # the cluster may be gone
                received, sent = ray.get(disk.carried.remote())
                report(
                    FilesCarried(
                        files_received=received.files,
                        bytes_received=received.bytes,
                        files_sent=sent.files,
                        bytes_sent=sent.bytes,
                    )
                )
                ray.kill(disk)
