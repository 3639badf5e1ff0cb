"""Which runs serve the driver's disk to other machines, and what a worker makes of it."""

from types import NoneType, SimpleNamespace

import pytest
import ray

from iak.jobs import machines
from iak.jobs.machines import (
    DriverMachine,
    files_here,
    for_workers,
    launch_here,
    reached_by_workers,
)
from iak.pipeline.events import FilesCarried, silent
from iak.pipeline.launcher import Launch
from iak.pipeline.run_files import SHARED_DISK, SharedDisk
from iak.pipeline.runs.predict import score_on_worker
from iak.pipeline.storage.driver_disk import DriverDisk, RemoteFiles, marked_scratch
from iak.pipeline.storage.working_copy import local_folder


class Actor:
    """In the place of Ray's handle: the object itself, called at once."""

    def __init__(self, disk):
        self._disk = disk

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self._disk, name))


@pytest.fixture(autouse=True)
def _ray(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "driver"))
    served = {"num_cpus": 0, "label_selector": {"ray.io/node-id": "driver's"}}

    def remote(**settings):
        assert settings == served
        return lambda kind: SimpleNamespace(remote=lambda *given: Actor(kind(*given)))

    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "get", lambda result: result)
    monkeypatch.setattr(ray, "kill", lambda _: None)
    context = SimpleNamespace(get_node_id=lambda: "driver's")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(machines, "get_context", lambda: SimpleNamespace(get_local_rank=lambda: 1))


def alive(monkeypatch, *are_alive):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": one} for one in are_alive])


def launch_in(run_dir, work):
    return Launch(
        function=score_on_worker, work=work, result=NoneType, title="t", run_dir=run_dir, workers=2,
        device="cpu", max_failures=0,
    )  # fmt: skip


def test_a_run_folder_of_the_only_machine_or_of_all_is_not_served(monkeypatch, tmp_path):
    alive(monkeypatch, True, False)
    with reached_by_workers(tmp_path / "R1", silent) as machine:
        assert machine is None
    launch = launch_in(tmp_path / "R1", "work")
    assert launch_here(for_workers(launch, None)) == launch
    assert files_here(None) is SHARED_DISK


def test_a_worker_of_another_machine_sends_its_files_and_their_bytes_are_reported(
    monkeypatch, tmp_path
):
    alive(monkeypatch, True, True)
    told = []
    run_dir = local_folder("s3://shop/R1", "runs")
    with reached_by_workers(run_dir, told.append) as machine:
        config = for_workers(launch_in(run_dir, {"bundles": run_dir / "b"}), machine)
        on_drivers = files_here(machine)
        assert isinstance(on_drivers, SharedDisk)
        assert not on_drivers.is_first
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "worker"))
        here = launch_here(config).run_dir
        assert here == local_folder("s3://shop/R1", "runs") != run_dir
        assert launch_here(config) == launch_in(here, {"bundles": here / "b"})
        files = files_here(machine)
        assert isinstance(files, RemoteFiles)
        here.mkdir(parents=True)
        (here / "result.json").write_text("{}")
        files.send(here / "result.json")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "driver"))
    assert (run_dir / "result.json").read_text() == "{}"
    assert told == [FilesCarried(files_received=1, bytes_received=2, files_sent=0, bytes_sent=0)]


def test_a_copy_of_a_stored_run_is_served_although_other_machines_are_yet_to_come(monkeypatch):
    alive(monkeypatch, True)
    with reached_by_workers(local_folder("s3://shop/R1", "runs"), silent) as machine:
        assert machine is not None


def test_the_mark_alone_tells_machines_apart(tmp_path):
    with marked_scratch() as mark:
        machine = DriverMachine(mark=mark, disk=Actor(DriverDisk(tmp_path)))
        assert isinstance(files_here(machine), SharedDisk)
