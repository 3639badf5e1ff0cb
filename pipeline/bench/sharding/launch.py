"""Start the same worker function in three ways.

spawned    this process starts gloo workers
torchrun   torch.distributed.run starts them, on this machine
ray        Ray Train starts them; jobs/ passes this function in, since only jobs/ imports Ray
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
    """Return the launchers that `spec` asks for, by name."""
    asked: dict[str, Launch] = {}
    if spec.as_ray:
        assert on_ray is not None, "as_ray needs Ray, which jobs/ passes in"
        asked["ray"] = on_ray
    if spec.as_torchrun:
        asked["torchrun"] = with_torchrun
    return asked or {"spawned": spawned}


def spawned(work: Work, report: Report) -> dict[str, Any]:
    """Run the work on gloo workers that this process starts.

    Raises:
        BadRequest: GPUs are asked for, which need another launcher.
    """
    if work.spec.device == "cuda":
        raise BadRequest("device=cuda needs a launcher: add as_torchrun=true or as_ray=true")
    with followed(Path(work.progress), report):
        result = run_on_workers(spawned_on_worker, work.spec.workers, work)[0]
    Path(work.progress).unlink(missing_ok=True)
    return result


def spawned_on_worker(worker: Worker, work: Work) -> dict[str, Any]:
    """Run as a spawned worker."""
    return on_worker(worker, work, writer(Path(work.progress), worker))


def with_torchrun(work: Work, report: Report) -> dict[str, Any]:
    """Run the work on workers that torchrun starts.

    Raises:
        PipelineError: a worker died.
        DoesNotFit: there are too few GPUs.
    """
    backend_of(work.spec)
    with tempfile.TemporaryDirectory(prefix="iak-bench-torchrun-") as folder_name:
        folder = Path(folder_name)
        (folder / WORK).write_bytes(pickle.dumps(work))
        with followed(Path(work.progress), report):
            run_with_torchrun(f"{__package__}.torchrun", [str(folder)], work.spec.workers)
        Path(work.progress).unlink(missing_ok=True)
        result: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return result


def backend_of(spec: BenchShardingSpec) -> Backend:
    """Return the backend of torchrun's workers: NCCL where each has a GPU, else gloo.

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
