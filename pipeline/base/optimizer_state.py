"""Store the optimisers' state beside a published base, so that training can continue it.

    optimizer/momentum/<table>/r<row>-c<band>.safetensors   row-wise Adagrad: one float per row
    optimizer/adam.safetensors                              Adam's moments of trunk and towers

The manifest lists the files apart from the weights. Only `iak pretrain from=` reads them, so that
the folder may be removed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from iak.pipeline.base.published_base import OPTIMIZER
from iak.pipeline.model.inputs import carry_over
from iak.pipeline.process import Worker
from iak.pipeline.sharding import adagrad_state
from iak.pipeline.sharding.growth import NO_GROWTH, Growth
from iak.pipeline.sharding.rectangles import FileEntry, opened, save_tensors, together, verify_file
from iak.pipeline.sharding.shard import unwrap

ACCUMULATORS = f"{OPTIMIZER}/{adagrad_state.FOLDER}"
ADAM = f"{OPTIMIZER}/adam.safetensors"


def write_state(
    model: nn.Module, adam: Mapping[str, Tensor], directory: Path, worker: Worker
) -> list[FileEntry]:
    """Write the state below `directory`; a collective call.

    Args:
        model: sharded, its tables trained.
        adam: the dense optimiser's tensors, the same on every worker.
        directory: folder of the base that is being written.
        worker: this process.

    Returns:
        On rank 0 an entry per file; elsewhere nothing.
    """
    entries = adagrad_state.write_accumulators(model, directory, worker, folder=ACCUMULATORS)
    if worker.rank == 0:
        entries.append(save_tensors(adam, directory, ADAM))
    return entries


def read_state(
    model: nn.Module,
    adam: Mapping[str, Tensor],
    directory: Path,
    entries: Sequence[FileEntry],
    worker: Worker,
    *,
    sizes_before: Mapping[str, tuple[int, int]] | None = None,
    growth: Growth = NO_GROWTH,
) -> list[str]:
    """Fill the optimisers with a base's state; a collective call.

    A row of a grown table gets the state of the row that its id used before. The row of a new id
    starts at zero, and so does a tensor of another shape.

    Args:
        model: sharded, its tables trained.
        adam: this run's tensors of the dense optimiser. They are overwritten in place.
        directory: folder of the base.
        entries: the entries that `write_state` returned, the same on every rank.
        worker: this process.
        sizes_before: rows and width of each of the base's tables; the model's own when absent.
        growth: the origins of grown tables and of moved inputs.

    Returns:
        A line for each part that starts at zero, the same on every rank.

    Raises:
        Corrupt: a file is missing or not what the manifest says.
    """
    of_adam = [entry for entry in entries if entry.path == ADAM]
    lines = adagrad_state.read_accumulators(
        model,
        directory,
        [entry for entry in entries if entry.path != ADAM],
        worker,
        folder=ACCUMULATORS,
        sizes_before=sizes_before,
        growth=growth,
    )
    return [
        *lines,
        *together(lambda: _read_adam(model, adam, directory, of_adam, growth), worker)[0],
    ]


def _read_adam(
    model: nn.Module,
    adam: Mapping[str, Tensor],
    folder: Path,
    entries: Sequence[FileEntry],
    growth: Growth,
) -> list[str]:
    """Copy Adam's moments and counts; return a line for each parameter that starts at zero."""
    along = unwrap(model).along_x()
    origin = growth.inputs if growth.inputs is not None and not growth.inputs.is_same else None
    zeroed: dict[str, None] = {}
    for entry in entries:
        verify_file(folder, entry)
    with opened(folder / ADAM) as file, torch.no_grad():
        stored = set(file.keys())
        for name, tensor in adam.items():
            parameter, _, what = name.rpartition(".")
            before = file.get_tensor(name) if name in stored else None
            moves = origin is not None and parameter in along and what != "step"
            if before is None:
                zeroed[parameter] = None
            elif moves and origin and origin.fits(along[parameter], tensor.shape, before.shape):
                carry_over(tensor, before, along[parameter], origin)
            elif before.shape == tensor.shape:
                tensor.copy_(before)
            else:
                zeroed[parameter] = None
        # Moments and count of a parameter belong together: where one cannot be read, all are zero.
        for name, tensor in adam.items():
            if name.rpartition(".")[0] in zeroed:
                tensor.zero_()
    return [f"dense {name}: its Adam state starts at zero" for name in zeroed]
