"""A run's own checkpoints: written by all workers, complete or not there, read by any workers.

    checkpoints/step-00000400/          complete: renamed into place after all was written
        dense.safetensors  tables/        the weights, as they are published
        momentum/  adam.safetensors       what the optimisers remember
        state.json                        the files by SHA-256, and what each worker says of itself
    checkpoints/.step-00000400.part/    a worker died while writing; removed by the next attempt

There is no pickle in it, and no plan: another number of workers, or another cut of the tables,
reads it (momentum.py tells what stays behind then).
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from pipeline.errors import BadRequest
from pipeline.files import put_file, put_folder
from pipeline.formats import current_document, unchanged
from pipeline.process import Worker
from pipeline.sharding import momentum, published
from pipeline.sharding.rectangles import FileEntry, opened, save_tensors, verify_file

KEEP = 2
STATE = "state.json"
CHECKPOINT_FORMAT = 1
ADAM = "adam.safetensors"


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    complete = sorted(folder.glob("step-*"))
    return complete[-1] if complete else None


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    adam: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    *,
    worker: Worker,
) -> None:
    """Write a checkpoint; a collective call.

    Args:
        folder: of the run's checkpoints.
        step: its number.
        model: sharded, its tables trained.
        adam: the dense optimiser's tensors, the same on every worker.
        meta: plain data of this worker; every worker's is kept.
        worker: this process.
    """
    part, place = folder / f".step-{step:08d}.part", folder / f"step-{step:08d}"
    if worker.rank == 0:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    barrier(worker)
    weights = published.write_base_weights(model, part, worker)
    remembered = momentum.write_momentum(model, part, worker)
    metas: list[Mapping[str, Any]] = [{} for _ in range(worker.world)]
    dist.all_gather_object(metas, dict(meta))
    if worker.rank == 0:
        document = {
            "format": CHECKPOINT_FORMAT,
            "weights": weights,
            "momentum": remembered,
            "adam": save_tensors(adam, part, ADAM),
            "workers": metas,
        }
        put_file(part / STATE, json.dumps(document))
        put_folder(part, place)
        shutil.rmtree(part, ignore_errors=True)
        for old in sorted(folder.glob("step-*"))[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)
    barrier(worker)


def load(
    place: Path, model: nn.Module, adam: Mapping[str, Tensor], *, worker: Worker
) -> tuple[list[dict[str, Any]], list[str]]:
    """Fill the model and the optimisers in place; a collective call.

    Returns:
        What each worker that wrote it said of itself, by rank; and what was left behind, a line
        each.

    Raises:
        BadRequest: it is not of this model, or was written by an earlier version.
        Corrupt: a file is missing or not what was written.
    """
    if not (place / STATE).is_file():
        raise BadRequest(
            f"{place} has no {STATE}: an earlier version wrote it. Finish that run with the "
            f"version that started it, or remove {place.parent} to start it again"
        )
    document = current_document(
        json.loads((place / STATE).read_text()),
        kind="checkpoint",
        current=CHECKPOINT_FORMAT,
        where=place / STATE,
        mend=f"Finish that run with the version that started it, or remove {place.parent}",
        migrations={0: unchanged},
    )
    published.read_base_weights(model, place, document["weights"], worker)
    left = momentum.read_momentum(model, place, document["momentum"], worker)
    entry = FileEntry(**document["adam"])
    verify_file(place, entry)
    with opened(place / entry.path) as file, torch.no_grad():
        for name, tensor in adam.items():
            tensor.copy_(file.get_tensor(name))
    return document["workers"], left


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
