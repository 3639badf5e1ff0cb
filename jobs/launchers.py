"""Choose what starts a job's workers: Ray on a cluster, processes on this machine."""

from iak.jobs.worker_server import is_under_ray
from iak.pipeline.launcher import Launcher
from iak.schemas.job import WorkersSpec


def launcher_of(spec: WorkersSpec) -> Launcher:
    """Return the launcher that a job's settings and the environment ask for."""
    if is_under_ray(spec):
        from iak.jobs.ray_launcher import RayLauncher  # Ray takes seconds to import

        return RayLauncher.of(spec)
    from iak.jobs.local_launcher import LocalLauncher

    return LocalLauncher(hung_after_s=spec.hung_after_s)
