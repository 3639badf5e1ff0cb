"""A run folder that only this machine has is refused on a cluster of several machines."""

import pytest
import ray

from iak.jobs.ray_launcher import refuse_other_machines
from iak.pipeline.errors import BadRequest
from iak.pipeline.storage.working_copy import local_folder


@pytest.fixture
def copy(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return local_folder("s3://bucket/runs/R1", "runs")


def machines(monkeypatch, *are_alive):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": alive} for alive in are_alive])


def test_several_machines_are_refused_for_the_copy_of_a_stored_run(copy, monkeypatch):
    machines(monkeypatch, True, False, True)
    with pytest.raises(BadRequest, match=r"has 2 machines, whose workers would not see it\. Give"):
        refuse_other_machines(copy)


def test_one_machine_and_shared_folders_are_fine(copy, monkeypatch, tmp_path):
    machines(monkeypatch, True, False)
    refuse_other_machines(copy)
    machines(monkeypatch, True, True)
    refuse_other_machines(tmp_path / "shared" / "R1")
