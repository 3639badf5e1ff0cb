"""A run's own checkpoints: written by all workers, complete or not there, read by any workers.

    checkpoints/step-00000400/          complete: renamed into place after all was written
        dense.safetensors  tables/        the weights, as they are published
        momentum/  adam.safetensors       what the optimisers remember
        state.json                        the files by SHA-256, what each worker says of itself, and
                                          the SHA-256 of all that
    checkpoints/step-00000200/          the one before it
    checkpoints/.step-00000400.part/    a worker died while writing; removed by the next attempt

There is no pickle in it, and no plan: another number of workers, or another cut of the tables,
reads it (adagrad_state.py says what stays behind then). Where any worker finds a damaged file in
the newest one, all workers go back to the one before it, which overwrites all that was read.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from iak.pipeline.errors import Corrupt
from iak.pipeline.files import not_permitted, put_file, put_folder
from iak.pipeline.formats import current_document, unchanged
from iak.pipeline.process import Worker
from iak.pipeline.sealed import SEAL, check_seal, parsed, seal, spelled
from iak.pipeline.sharding import adagrad_state, base_weights
from iak.pipeline.sharding.rectangles import FileEntry, opened, save_tensors, together, verify_file

KEEP = 2
STATE = "state.json"
CHECKPOINT_FORMAT = 2
"""1: its state carries no digest of itself, and is taken as it is."""
ADAM = "adam.safetensors"


def found_in(folder: Path, *, worker: Worker) -> list[Path]:
    """Return the complete checkpoints as worker 0 lists them, newest first; a collective call."""
    return together(lambda: complete(folder), worker)[0]


def complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints, newest first."""
    steps = {
        int(named[1]): path
        for path in folder.glob("step-*")
        if (named := re.fullmatch(r"step-(\d+)", path.name))
    }
    return [steps[step] for step in sorted(steps, reverse=True)]


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
    weights = base_weights.write_base_weights(model, part, worker)
    remembered = adagrad_state.write_momentum(model, part, worker)
    metas: list[Mapping[str, Any]] = [{} for _ in range(worker.world)]
    dist.all_gather_object(metas, dict(meta))
    if worker.rank == 0:
        document = {
            "format": CHECKPOINT_FORMAT,
            "step": step,
            "weights": weights,
            "momentum": remembered,
            "adam": save_tensors(adam, part, ADAM),
            "workers": metas,
        }
        write_state(part, document)
        put_folder(part, place)
        shutil.rmtree(part, ignore_errors=True)
        for old in complete(folder)[KEEP:]:
            shutil.rmtree(old, ignore_errors=True)
    barrier(worker)


def write_state(place: Path, document: Mapping[str, Any]) -> None:
    """Write what a checkpoint says of itself, the last of its files."""
    put_file(place / STATE, spelled(seal(document), allow_nan=True))


def read_state(place: Path) -> dict[str, Any]:
    """Read what a checkpoint says of itself.

    Raises:
        OtherFormat: a newer version wrote it.
        Corrupt: it is missing, or not what was written.
        NotPermitted: this user may not read it.
    """
    path = place / STATE
    try:
        data = path.read_bytes()
        document = parsed(data, allow_nan=True)
        if SEAL in document or document.get("format") == CHECKPOINT_FORMAT:
            check_seal(document, data, allow_nan=True)
            _check_step(place, document)
    except PermissionError as error:
        raise not_permitted(path, error) from error
    except FileNotFoundError as error:
        raise Corrupt(
            f"{place} has no {STATE}: it was lost, or an earlier version wrote the checkpoint"
        ) from error
    except (OSError, ValueError) as error:
        raise Corrupt(f"{path} is not what was written: {error}") from error
    return current_document(
        document,
        kind="checkpoint",
        current=CHECKPOINT_FORMAT,
        where=path,
        mend=f"Finish that run with the version that started it, or remove {place.parent}",
        migrations={0: unchanged, 1: unchanged},
    )


def _check_step(place: Path, document: Mapping[str, Any]) -> None:
    if place.name != f"step-{document['step']:08d}":
        raise ValueError(f"it is of step {document['step']}, in a folder named {place.name}")


def resume(
    places: Sequence[Path], model: nn.Module, adam: Mapping[str, Tensor], *, worker: Worker
) -> tuple[list[dict[str, Any]], list[str]]:
    """Fill the model and the optimisers from the newest sound checkpoint; a collective call.

    The damaged ones before it are removed, so that they take no sound one's place.

    Args:
        places: checkpoints of one run, newest first, the same on every worker; at least one.
        model: sharded, its tables trained.
        adam: the dense optimiser's tensors.
        worker: this process.

    Returns:
        As `load`; what is wrong with damaged checkpoints is among the lines.

    Raises:
        BadRequest: as `load`.
        Corrupt: every one is damaged.
    """
    told: list[str] = []
    for number, place in enumerate(places):
        try:
            metas, left = load(place, model, adam, worker=worker)
        except Corrupt as error:
            told.append(f"checkpoint {place.name} is damaged: {error}")
            continue
        if told:
            told.append(
                f"the run goes on from {place.name}, the checkpoint before; the steps since then "
                "are replayed"
            )
        for damaged in places[:number] if worker.rank == 0 else ():
            shutil.rmtree(damaged, ignore_errors=True)
        return metas, [*told, *left]
    folder = places[0].parent
    listing = "\n".join(f"  {line}" for line in told)
    raise Corrupt(
        f"no checkpoint in {folder} can be read:\n{listing}\n  Restore one from a copy, or remove "
        f"{folder} to start the run from the beginning. A run that an earlier version started must "
        "be finished by that version"
    )


def load(
    place: Path, model: nn.Module, adam: Mapping[str, Tensor], *, worker: Worker
) -> tuple[list[dict[str, Any]], list[str]]:
    """Fill the model and the optimisers in place; a collective call.

    Returns:
        What each worker that wrote it said of itself, by rank; and what was left behind, a line
        each.

    Raises:
        BadRequest: it is not of this model.
        OtherFormat: a newer version wrote it.
        Corrupt: a file is missing or not what was written. All reach every worker.
    """
    document = together(lambda: read_state(place), worker)[worker.rank]
    base_weights.read_base_weights(model, place, document["weights"], worker)
    left = adagrad_state.read_momentum(model, place, document["momentum"], worker)
    entry = FileEntry(**document["adam"])

    def read_adam() -> None:
        verify_file(place, entry)
        with opened(place / entry.path) as file, torch.no_grad():
            for name, tensor in adam.items():
                tensor.copy_(file.get_tensor(name))

    together(read_adam, worker)
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
