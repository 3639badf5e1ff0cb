"""A run's own checkpoints: all workers write them together, and any number of workers reads them.

    checkpoints/step-00000400/          complete: renamed after everything was written
        dense.safetensors  tables/        the weights, as they are published
        momentum/  adam.safetensors       the optimisers' state (momentum: Adagrad's accumulators)
        state.json                        the files by SHA-256, the state of each worker, and the
                                          SHA-256 of these entries
    checkpoints/step-00000200/          the previous one
    checkpoints/.step-00000400.part/    a worker died while writing; removed by the next attempt

A checkpoint contains no pickle and no plan. Another number of workers, or another cut of the
tables, can read it (adagrad_state.py says what starts at zero then). Where any worker finds a
damaged file in the newest checkpoint, all workers read the previous one. It overwrites everything
that was read from the damaged one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch import distributed as dist

from iak.pipeline.base.checkpoint_folders import complete, folder_of, put_checkpoint
from iak.pipeline.base.train_state import TrainState
from iak.pipeline.errors import Corrupt
from iak.pipeline.files import empty_folder, not_permitted, put_file, remove_path
from iak.pipeline.formats import current_document, unchanged
from iak.pipeline.process import Worker
from iak.pipeline.sealed import SEAL, check_seal, parsed, seal, spelled
from iak.pipeline.sharding import adagrad_state, base_weights
from iak.pipeline.sharding.rectangles import (
    FileEntry,
    opened,
    save_tensors,
    together,
    verify_file,
)
from iak.schemas.base import JsonObject

STATE = "state.json"
CHECKPOINT_FORMAT = 2
"""Format 1 has no digest of its state, and is read without one."""
ADAM = "adam.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDocument:
    """`state.json`: the files of a checkpoint, and the state of each worker that wrote it."""

    step: int = 0
    """Steps that are done; 0 in a checkpoint of format 1, which names them in its folder alone."""
    weights: list[FileEntry]
    """Tables and dense weights."""
    momentum: list[FileEntry]
    """Adagrad's accumulators."""
    adam: FileEntry
    """The dense optimiser's tensors."""
    workers: list[TrainState]
    """By rank."""

    def as_json(self) -> JsonObject:
        """Return the document as JSON values, in the current format."""
        return {
            "format": CHECKPOINT_FORMAT,
            "step": self.step,
            "weights": [asdict(entry) for entry in self.weights],
            "momentum": [asdict(entry) for entry in self.momentum],
            "adam": asdict(self.adam),
            "workers": [state.as_json() for state in self.workers],
        }


_DOCUMENT = TypeAdapter(CheckpointDocument)


def list_complete(folder: Path, *, worker: Worker) -> list[Path]:
    """Return the complete checkpoints as worker 0 lists them, newest first; a collective call."""
    names = together(lambda: [path.name for path in complete(folder)], worker)[0]
    return [folder / name for name in names]


def save(
    folder: Path,
    model: nn.Module,
    adam: Mapping[str, Tensor],
    state: TrainState,
    *,
    worker: Worker,
) -> None:
    """Write a checkpoint; a collective call.

    Args:
        folder: folder of the run's checkpoints.
        model: sharded, its tables trained.
        adam: the dense optimiser's tensors, the same on every worker.
        state: this worker's state, whose step names the checkpoint. The checkpoint contains that of
            every worker.
        worker: this process.
    """
    path = folder_of(folder, state.step)
    part = path.with_name(f".{path.name}.part")
    make_folder(part, worker)
    weights = base_weights.write_base_weights(model, part, worker)
    accumulators = adagrad_state.write_accumulators(model, part, worker)
    states = [state] * worker.world
    dist.all_gather_object(states, state)
    if worker.rank == 0:
        document = CheckpointDocument(
            step=state.step,
            weights=weights,
            momentum=accumulators,
            adam=save_tensors(adam, part, ADAM),
            workers=states,
        )
        write_state(part, document)
    gather(part, worker)
    if worker.rank == 0:
        worker.files.call_on_driver(put_checkpoint, part, path)
    barrier(worker)  # no worker goes on before the checkpoint is complete


def make_folder(folder: Path, worker: Worker) -> None:
    """Make an empty folder to which all workers write; a collective call."""
    if worker.rank == 0:
        worker.files.call_on_driver(empty_folder, folder)
    barrier(worker)
    folder.mkdir(parents=True, exist_ok=True)  # where this machine has a disk of its own


def gather(folder: Path, worker: Worker) -> None:
    """Bring what all workers wrote to a folder to the driver's machine; a collective call."""
    barrier(worker)  # every worker has written its files
    worker.files.merge(folder)
    barrier(worker)


def write_state(folder: Path, document: CheckpointDocument) -> None:
    """Write a checkpoint's document, the last of its files."""
    put_file(folder / STATE, spelled(seal(document.as_json()), allow_nan=True))


def read_state(folder: Path) -> CheckpointDocument:
    """Read a checkpoint's document.

    Raises:
        OtherFormat: a newer version wrote it.
        Corrupt: it is missing, or not what was written.
        NotPermitted: this user may not read it.
    """
    path = folder / STATE
    try:
        data = path.read_bytes()
        document = parsed(data, allow_nan=True)
        # Before the format is looked at: a damaged number must not pass for another version's.
        if SEAL in document or document.get("format") == CHECKPOINT_FORMAT:
            check_seal(document, data, allow_nan=True)
            _check_step(folder, document)
    except PermissionError as error:
        raise not_permitted(path, error) from error
    except FileNotFoundError as error:
        raise Corrupt(
            f"{folder} has no {STATE}: it was lost, or an earlier version wrote the checkpoint"
        ) from error
    except (OSError, ValueError) as error:
        raise Corrupt(f"{path} is not what was written: {error}") from error
    current = current_document(
        document,
        kind="checkpoint",
        current=CHECKPOINT_FORMAT,
        where=path,
        remedy=f"Finish that run with the version that started it, or remove {folder.parent}",
        migrations={0: unchanged, 1: unchanged},
    )
    try:
        return _DOCUMENT.validate_python(current)
    except ValueError as error:
        raise Corrupt(f"{path} is not a checkpoint's document: {error}") from error


def _check_step(folder: Path, document: JsonObject) -> None:
    """Refuse a document that was copied from another checkpoint."""
    if folder.name != f"step-{document['step']:08d}":
        raise ValueError(f"it is of step {document['step']}, in a folder named {folder.name}")


def resume(
    paths: Sequence[Path], model: nn.Module, adam: Mapping[str, Tensor], *, worker: Worker
) -> tuple[list[TrainState], list[str]]:
    """Fill the model and the optimisers from the newest sound checkpoint; a collective call.

    Newer checkpoints that are damaged are removed, so that only sound ones count for `KEEP`.

    Args:
        paths: checkpoints of one run, newest first, the same on every worker; at least one.
        model: sharded, its tables trained.
        adam: the dense optimiser's tensors.
        worker: this process.

    Returns:
        As `load`, with a line for each damaged checkpoint.

    Raises:
        BadRequest: as `load`.
        Corrupt: all checkpoints are damaged.
    """
    problems: list[str] = []
    for number, path in enumerate(paths):
        try:
            states, lines = load(path, model, adam, worker=worker)
        except Corrupt as error:
            problems.append(f"checkpoint {path.name} is damaged: {error}")
            continue
        if problems:
            problems.append(
                f"the run goes on from {path.name}, the checkpoint before; the steps since then "
                "are replayed"
            )
        for damaged in paths[:number] if worker.rank == 0 else ():
            worker.files.call_on_driver(remove_path, damaged)
        return states, [*problems, *lines]
    folder = paths[0].parent
    listing = "\n".join(f"  {line}" for line in problems)
    raise Corrupt(
        f"no checkpoint in {folder} can be read:\n{listing}\n  Restore one from a copy, or remove "
        f"{folder} to start the run from the beginning. A run that an earlier version started must "
        "be finished by that version"
    )


def load(
    folder: Path, model: nn.Module, adam: Mapping[str, Tensor], *, worker: Worker
) -> tuple[list[TrainState], list[str]]:
    """Fill the model and the optimisers in place from one checkpoint; a collective call.

    Args:
        folder: folder of the checkpoint.
        model: sharded, its tables trained.
        adam: the dense optimiser's tensors.
        worker: this process.

    Returns:
        The state of each worker that wrote it, by rank; and a line for each part of the
        optimisers' state that starts at zero.

    Raises:
        BadRequest: the checkpoint is of another model.
        OtherFormat: a newer version wrote it.
        Corrupt: a file is missing or not what was written. All reach every worker.
    """
    document = together(lambda: read_state(folder), worker)[worker.rank]
    entry = document.adam
    base_weights.read_base_weights(model, folder, document.weights, worker)
    lines = adagrad_state.read_accumulators(model, folder, document.momentum, worker)

    def read_adam() -> None:
        verify_file(folder, entry)
        with opened(folder / entry.path) as file, torch.no_grad():
            for name, tensor in adam.items():
                tensor.copy_(file.get_tensor(name))

    together(read_adam, worker)
    return document.workers, lines


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return Adam's moments and counts by parameter name, not copied.

    Before the first step they do not exist. They are then created as zeros, as that step does.
    """
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
    """Wait for every worker; a collective call."""
    if worker.device.type == "cuda":
        # Without device_ids NCCL chooses a device by rank, which may be another worker's.
        dist.barrier(device_ids=[worker.device.index or 0])
    else:
        dist.barrier()
