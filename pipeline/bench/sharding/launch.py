"""The same worker function, started in three ways.

spawned    this process starts gloo workers
torchrun   torch.distributed.run starts them, on this machine
ray        Ray Train does; handed in by whoever may import Ray
"""

import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from iak.pipeline.bench.progress import Report, followed, writer
from iak.pipeline.bench.sharding.worker import Work, on_worker
from iak.pipeline.errors import BadRequest, DoesNotFit
from iak.pipeline.process import (
    Backend,
    Worker,
    run_on_workers,
    run_with_torchrun,
)
from iak.schemas.bench import BenchShardingSpec

Launch = Callable[[Work, Report], dict[str, Any]]
WORK, RESULT = "work.pickle", "result.json"


def launchers(spec: BenchShardingSpec, on_ray: Launch | None) -> dict[str, Launch]:
    """The launchers that `spec` asks for, by name."""
    asked: dict[str, Launch] = {}
    if spec.as_ray:
        assert on_ray is not None, "as_ray needs Ray, which jobs/ hands in"
        asked["ray"] = on_ray
    if spec.as_torchrun:
        asked["torchrun"] = with_torchrun
    return asked or {"spawned": spawned}


def spawned(work: Work, report: Report) -> dict[str, Any]:
    """Workers of this process.

    Raises:
        BadRequest: they were to compute on GPUs.
    """
    if work.spec.device == "cuda":
        raise BadRequest("device=cuda needs a launcher: add as_torchrun=true or as_ray=true")
    with followed(Path(work.progress), report):
        found = run_on_workers(spawned_on_worker, work.spec.workers, work)[0]
    Path(work.progress).unlink(missing_ok=True)
    return found


def spawned_on_worker(worker: Worker, work: Work) -> dict[str, Any]:
    """A spawned worker's life."""
    return on_worker(worker, work, writer(Path(work.progress), worker))


def with_torchrun(work: Work, report: Report) -> dict[str, Any]:
    """Workers of torchrun.

    Raises:
        PipelineError: a worker died.
        DoesNotFit: there are too few GPUs.
    """
    backend_of(work.spec)
    with tempfile.TemporaryDirectory(prefix="iak-bench-torchrun-") as place:
        folder = Path(place)
        (folder / WORK).write_bytes(pickle.dumps(work))
        with followed(Path(work.progress), report):
            run_with_torchrun(f"{__package__}.torchrun", [str(folder)], work.spec.workers)
        Path(work.progress).unlink(missing_ok=True)
        found: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return found


def backend_of(spec: BenchShardingSpec) -> Backend:
    """What torchrun's workers talk through: NCCL where there is a GPU for each.

    Raises:
        DoesNotFit: GPUs are asked for, and there are too few.
    """
    cards = torch.cuda.device_count()
    if spec.device == "cuda" and cards < spec.workers:
        raise DoesNotFit(
            f"device=cuda with workers={spec.workers}, but this machine has {cards} GPUs. "
            "Ask for fewer workers, or device=cpu"
        )
    return "nccl" if spec.device != "cpu" and cards >= spec.workers else "gloo"
