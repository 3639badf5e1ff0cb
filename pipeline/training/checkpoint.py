"""A run's own checkpoints: written by all workers, complete or not there.

torch.distributed.checkpoint holds the sharded tables with their optimiser's state; it pickles its
metadata, so these folders are trusted, stay inside the run and are never published.

    checkpoints/step-00000400/          complete: renamed into place after all was written
    checkpoints/.step-00000400.part/    a worker died while writing; removed by the next attempt
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import checkpoint as dcp

from pipeline.process import Worker

KEEP = 2


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    complete = sorted(folder.glob("step-*"))
    return complete[-1] if complete else None


def save(
    folder: Path, step: int, state: Mapping[str, Any], meta: Mapping[str, Any], *, worker: Worker
) -> None:
    """Write a checkpoint; a collective call.

    Args:
        folder: of the run's checkpoints.
        step: its number.
        state: nested tensors and sharded tensors, the same keys on every worker.
        meta: plain data of this worker; every worker's is kept.
        worker: this process.
    """
    part, place = folder / f".step-{step:08d}.part", folder / f"step-{step:08d}"
    if worker.rank == 0:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    barrier(worker)
    dcp.save(dict(state), checkpoint_id=part)
    metas: list[Mapping[str, Any]] = [{} for _ in range(worker.world)]
    dist.all_gather_object(metas, dict(meta))
    if worker.rank == 0:
        (part / "meta.json").write_text(json.dumps(metas))
        shutil.rmtree(place, ignore_errors=True)
        part.rename(place)
        for old in sorted(folder.glob("step-*"))[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)
    barrier(worker)


def load(place: Path, state: dict[str, Any], *, worker: Worker) -> dict[str, Any]:
    """Fill `state` in place, and return this worker's meta.

    The run's world must be the one that wrote the checkpoint: a worker's place in the log is its
    own.
    """
    metas: list[dict[str, Any]] = json.loads((place / "meta.json").read_text())
    if len(metas) != worker.world:
        raise ValueError(
            f"checkpoint {place} was written by {len(metas)} workers, this run has {worker.world}; "
            "resume with the same workers="
        )
    dcp.load(state, checkpoint_id=place)
    return metas[worker.rank]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """An Adam's moments and counts by parameter name, created at rest where it has not stepped."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        tensors |= {f"{name}.{key}": value for key, value in state.items()}
    return tensors


def barrier(worker: Worker) -> None:
    """Wait for every worker."""
    if worker.device.type == "cuda":
        dist.barrier(device_ids=[worker.device.index or 0])
    else:
        dist.barrier()
