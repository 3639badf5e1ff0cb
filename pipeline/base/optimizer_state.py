"""What the optimisers remember, kept beside a published base so that it can be continued.

    optimizer/momentum/<table>/r<row>-c<band>.safetensors   row-wise Adagrad: one float a row
    optimizer/adam.safetensors                              Adam's moments of trunk and towers

The files are listed in the manifest, apart from the weights. Nothing but `iak pretrain from=`
reads them, so the folder may be removed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.model.inputs import carry_over
from iak.pipeline.process import Worker
from iak.pipeline.sharding import adagrad_state
from iak.pipeline.sharding.adagrad_state import NOTHING_GROWN
from iak.pipeline.sharding.growth import Growth
from iak.pipeline.sharding.rectangles import FileEntry, opened, save_tensors, together, verify_file
from iak.pipeline.sharding.shard import unwrap

FOLDER = "optimizer"
MOMENTUM = f"{FOLDER}/{adagrad_state.FOLDER}"
ADAM = f"{FOLDER}/adam.safetensors"


def has_state(base: PublishedBase) -> bool:
    """Return whether the base brings its optimiser's state."""
    return bool(base.manifest.optimizer) and (base.folder / FOLDER).is_dir()


def write_state(
    model: nn.Module, adam: Mapping[str, Tensor], directory: Path, worker: Worker
) -> list[dict[str, object]]:
    """Write the state below `directory`; a collective call.

    Args:
        model: sharded, its tables trained.
        adam: the dense optimiser's tensors, the same on every worker.
        directory: of the base that is being written.
        worker: this process.

    Returns:
        On rank 0 the fields of a `FileEntry` per file; elsewhere nothing.
    """
    entries = adagrad_state.write_momentum(model, directory, worker, folder=MOMENTUM)
    if worker.rank == 0:
        entries.append(save_tensors(adam, directory, ADAM))
    return entries


def read_state(
    model: nn.Module,
    adam: Mapping[str, Tensor],
    directory: Path,
    entries: Sequence[Mapping[str, object]],
    worker: Worker,
    *,
    sizes_before: Mapping[str, tuple[int, int]] | None = None,
    growth: Growth = NOTHING_GROWN,
) -> list[str]:
    """Fill the optimisers with what a base's remembered; a collective call.

    A row of a grown table brings the memory of the row that its id used before; the row of a new
    id starts without one, and so does a tensor of another shape.

    Args:
        model: sharded, its tables trained.
        adam: this run's tensors of the dense optimiser; they are overwritten in place.
        directory: of that base.
        entries: what `write_state` returned, on every rank.
        worker: this process.
        sizes_before: rows and width of each of the base's tables; the model's own when absent.
        growth: where grown tables and moved inputs start from.

    Returns:
        A line for all that starts anew, the same on every rank.

    Raises:
        Corrupt: a file is missing or not what the manifest says.
    """
    of_adam = [FileEntry(**entry) for entry in entries if entry["path"] == ADAM]  # type: ignore[arg-type]
    told = adagrad_state.read_momentum(
        model,
        directory,
        [entry for entry in entries if entry["path"] != ADAM],
        worker,
        folder=MOMENTUM,
        sizes_before=sizes_before,
        growth=growth,
    )
    return [
        *told,
        *together(lambda: _read_adam(model, adam, directory, of_adam, growth), worker)[0],
    ]


def _read_adam(
    model: nn.Module,
    adam: Mapping[str, Tensor],
    folder: Path,
    entries: Sequence[FileEntry],
    growth: Growth,
) -> list[str]:
    """Copy Adam's moments and counts, parameter by parameter."""
    along = unwrap(model).along_x()
    origin = growth.inputs if growth.inputs is not None and not growth.inputs.is_same else None
    anew: dict[str, None] = {}
    for entry in entries:
        verify_file(folder, entry)
    with opened(folder / ADAM) as file, torch.no_grad():
        kept = set(file.keys())
        for name, tensor in adam.items():
            parameter, _, what = name.rpartition(".")
            before = file.get_tensor(name) if name in kept else None
            moves = origin is not None and parameter in along and what != "step"
            if before is None:
                anew[parameter] = None
            elif moves and origin and origin.fits(along[parameter], tensor.shape, before.shape):
                carry_over(tensor, before, along[parameter], origin)
            elif before.shape == tensor.shape:
                tensor.copy_(before)
            else:
                anew[parameter] = None
        for name, tensor in adam.items():
            if name.rpartition(".")[0] in anew:
                tensor.zero_()
    return [f"dense {name}: its Adam starts anew" for name in anew]
