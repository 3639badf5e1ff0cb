"""Two machines without a common disk: a worker's files reach the driver's, and the other way."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest

from iak.pipeline.files import empty_folder, replace_folder
from iak.pipeline.progress import append_line
from iak.pipeline.storage import driver_disk
from iak.pipeline.storage.driver_disk import (
    DriverDisk,
    RemoteFiles,
    marked_scratch,
    packed,
    sees_scratch,
)
from iak.pipeline.storage.working_copy import local_folder, scratch
from iak.schemas.traffic import Carried

URI = "s3://shop/runs/R1"


class Machines:
    """The driver's and a worker's; this process goes from one to the other."""

    def __init__(self, folder, monkeypatch):
        self._folder, self._patch = folder, monkeypatch
        self.use("driver")
        self.disk, self.there = DriverDisk(scratch()), local_folder(URI, "runs")
        self.use("worker")
        self.here = local_folder(URI, "runs")

    def use(self, name):
        self._patch.setenv("XDG_CACHE_HOME", str(self._folder / name))

    def files(self, *, is_first=True):
        def call(method, *arguments):
            return getattr(self.disk, method)(*pickle.loads(pickle.dumps(arguments)))

        return RemoteFiles(call, is_first=is_first)


@pytest.fixture
def machines(tmp_path, monkeypatch):
    return Machines(tmp_path, monkeypatch)


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_machine_gets_the_folder_as_the_driver_has_it(machines):
    write(machines.there / "step-1", state="one")
    write(machines.there, record="r")
    write(machines.there / "ray", log="of the driver's machine alone")
    write(machines.there, **{".record.12.ab.part": "half"})
    write(machines.here / "step-0", state="gone on the driver's")
    write(machines.here / "activations", kept="of this machine")
    machines.files().fetch(machines.here)
    assert content(machines.here) == {
        "activations/kept": "of this machine", "record": "r", "step-1/state": "one",
    }  # fmt: skip
    machines.files().fetch(machines.here / "step-1" / "state")
    machines.files().fetch(machines.here / "absent")
    assert not (machines.here / "absent").exists()


def test_a_folder_without_files_is_made_as_well(machines):
    machines.there.mkdir(parents=True)
    machines.files().fetch(machines.here)
    assert machines.here.is_dir()


def test_what_is_gone_there_goes_here(machines):
    write(machines.here / "best", weights="old")
    machines.files().fetch(machines.here / "best")
    assert not (machines.here / "best").exists()


def test_a_file_is_carried_again_only_where_it_changed(machines, monkeypatch):
    monkeypatch.setattr(driver_disk, "CHUNK_BYTES", 4)
    write(machines.there, same="ten bytes!", other="abc")
    files = machines.files()
    files.fetch(machines.here)
    assert machines.disk.carried() == (Carried(), Carried(files=2, bytes=13))
    files.fetch(machines.here)
    assert machines.disk.carried() == (Carried(), Carried(files=2, bytes=13))
    (machines.there / "other").write_text("xyz")  # as many bytes, another time
    os.utime(machines.there / "other", ns=(1, 1))
    files.fetch(machines.here)
    assert machines.disk.carried() == (Carried(), Carried(files=3, bytes=16))
    assert content(machines.here) == {"same": "ten bytes!", "other": "xyz"}


def test_a_file_and_a_folder_are_replaced_whole(machines, monkeypatch):
    monkeypatch.setattr(driver_disk, "CHUNK_BYTES", 4)
    write(machines.there / "bundles", old="gone", both="before")
    write(machines.here / "bundles", both="after", empty="")
    write(machines.here, result="0123456789")
    files = machines.files(is_first=False)
    files.send(machines.here / "bundles")
    files.send(machines.here / "result")
    assert content(machines.there) == {
        "bundles/both": "after", "bundles/empty": "", "result": "0123456789",
    }  # fmt: skip
    assert machines.disk.carried() == (Carried(files=3, bytes=15), Carried())


def test_all_machines_files_meet_in_the_drivers_folder_by_the_first_worker_of_each(machines):
    write(machines.there / ".step.part", driver="d")
    write(machines.here / ".step.part", worker="w")
    part = machines.here / ".step.part"
    machines.files(is_first=False).merge(part)
    assert content(machines.there / ".step.part") == {"driver": "d"}
    machines.files().merge(part)
    assert content(machines.there / ".step.part") == {"driver": "d", "worker": "w"}
    assert not part.exists()
    machines.files().call_on_driver(replace_folder, part, machines.here / "step")
    assert content(machines.there) == {"step/driver": "d", "step/worker": "w"}


def test_functions_run_on_the_drivers_disk(machines, tmp_path):
    files = machines.files()
    files.call_on_driver(empty_folder, machines.here / "made")
    files.call_on_driver(append_line, machines.here / "made" / "progress", "a line")
    files.call_on_driver(append_line, tmp_path / "seen by all", "a line")
    assert content(machines.there) == {"made/progress": "a line\n"}
    assert (tmp_path / "seen by all").read_text() == "a line\n"
    assert not machines.here.exists()


def test_paths_that_all_machines_see_are_left_alone(machines, tmp_path):
    write(tmp_path / "volume", result="r")
    files = machines.files()
    for act in (files.fetch, files.send, files.merge):
        act(tmp_path / "volume")
    assert content(tmp_path / "volume") == {"result": "r"}
    assert machines.disk.carried() == (Carried(), Carried())


@dataclass(frozen=True)
class Work:
    run_dir: Path
    volume: Path
    rest: dict


def test_work_has_the_paths_of_the_machine_that_unpacks_it(machines, tmp_path):
    machines.use("driver")
    work = Work(machines.there, tmp_path / "volume", {"bundles": [machines.there / "b"], "n": 3})
    data = packed(work)
    assert pickle.loads(data) == work
    machines.use("worker")
    here = Work(machines.here, tmp_path / "volume", {"bundles": [machines.here / "b"], "n": 3})
    assert pickle.loads(data) == here


def test_a_machine_knows_the_drivers_scratch_by_its_mark(machines):
    machines.use("driver")
    with marked_scratch() as mark:
        assert sees_scratch(mark)
        machines.use("worker")
        assert not sees_scratch(mark)
        machines.use("driver")
    assert not sees_scratch(mark)
