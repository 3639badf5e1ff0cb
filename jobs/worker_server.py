"""Start the process that this machine's workers are forked from, before anything large is imported.

It imports what workers need, while the command imports its own part and lists the log. It lives as
long as the command, so that workers of later steps start in milliseconds.
"""

import os
import sys
from multiprocessing.context import ForkServerContext

from iak.pipeline.fork_server import fork_server
from iak.schemas.job import WorkersSpec

_MODULES = (
    "iak.jobs.local_launcher",
    "iak.pipeline.runs.finetune",
    "iak.pipeline.runs.pretrain",
    "iak.pipeline.runs.evaluate",
    "iak.pipeline.runs.predict",
    "iak.pipeline.base.frozen_model",
    "iak.pipeline.base.pretrain",
    "pandas",
)
"""What the workers of any verb import. A command leaves to them what trains a base or loads one,
because TorchRec takes seconds to import. pyarrow (26.0.1) imports pandas, where it is installed,
when it makes its first array: each worker would do so by itself, which takes as long as some
epochs."""


def worker_server() -> ForkServerContext:
    """Return the context of processes that start as workers of this machine."""
    return fork_server(_MODULES)


def prepare_workers(spec: WorkersSpec) -> None:
    """Start the server where the workers of a job will be processes of this machine."""
    if not is_under_ray(spec):
        worker_server()


def is_under_ray(spec: WorkersSpec) -> bool:
    """Return whether Ray starts the workers of a job.

    It does on a cluster that the environment names or that this process has joined already, and
    where a run may have fewer workers than it asks for.
    """
    return bool(os.environ.get("RAY_ADDRESS")) or spec.min_workers > 0 or _has_joined_ray()


def _has_joined_ray() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
