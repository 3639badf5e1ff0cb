"""Which launcher a job gets."""

from iak.jobs.launchers import launcher_of
from iak.jobs.local_launcher import LocalLauncher
from iak.jobs.ray_launcher import RayLauncher
from iak.schemas.job import WorkersSpec


def test_workers_are_processes_of_this_machine_unless_a_cluster_is_named(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert launcher_of(WorkersSpec(hung_after_s=9)) == LocalLauncher(hung_after_s=9)
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    assert launcher_of(WorkersSpec(hung_after_s=9)) == RayLauncher(hung_after_s=9)


def test_a_range_of_workers_goes_to_ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    asked = WorkersSpec(workers=2, min_workers=1)
    assert launcher_of(asked) == RayLauncher.of(asked)
