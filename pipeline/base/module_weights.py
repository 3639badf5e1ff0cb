"""Read the weights of a module that was trained elsewhere, and publish them with a base."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.files import put_file
from iak.pipeline.sharding.rectangles import FileEntry, verify_file
from iak.schemas.manifest import FileEntry as ManifestEntry
from iak.schemas.manifest import TableEntry

WEIGHTS = "module.safetensors"
_PICKLED = (".pt", ".pth", ".bin")
_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFiles:
    """The files of an adopted module in a base's folder."""

    folder: Path
    files: Sequence[ManifestEntry]
    tables: Sequence[TableEntry]
    """The tables among them; none where the module lies whole in one file."""
    source: str
    """SHA-256 of the source file of the factory at adoption."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file: safetensors, or a state dict that needs no unpickled code.

    Raises:
        BadRequest: it is neither.
    """
    try:
        if path.suffix in _PICKLED:
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        return safetensors_torch.load_file(path)
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, EOFError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # UnpicklingError, whose message names the class that is not loaded
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> BadRequest:
    return BadRequest(
        f"weights={path} cannot be read: {error}. Expected safetensors, or a state dict of tensors "
        f"({', '.join(_PICKLED)}) that torch.load(weights_only=True) takes"
    )


def load_weights(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, where: str) -> None:
    """Copy weights into a module. Every weight of the module must be there.

    Args:
        own: name -> tensor of the module, which is overwritten, as `state_dict` returns them.
        weights: name -> tensor.
        where: the file of the weights, for messages.

    Raises:
        BadRequest: a weight is missing, unexpected, of another shape, or of whole numbers where the
            module has floats; the message names it.
    """
    given = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()}
    refuse_other_weights(own, given, where=where)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def refuse_other_weights(
    own: Mapping[str, Tensor],
    given: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    *,
    where: str,
) -> None:
    """Refuse weights that are not exactly those of a module.

    Args:
        own: name -> tensor of the module.
        given: name -> shape and type of each weight that is given.
        where: the file of the weights, for messages.

    Raises:
        BadRequest: a weight is missing, unexpected, of another shape, or of whole numbers where the
            module has floats; the message names it.
    """
    both = {name: (*given[name], own[name]) for name in own if name in given}
    problems = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {list(shape)}, the module has {list(tensor.shape)}"
            for name, (shape, _, tensor) in both.items()
            if shape != tensor.shape
        ],
        # A quantised table is whole numbers without their scales. `copy_` and torch's checkpoints
        # take them for floats, and cut floats to whole numbers, in silence (torch 2.13).
        "of another type": [
            f"{name} {dtype}, the module has {tensor.dtype}"
            for name, (_, dtype, tensor) in both.items()
            if dtype.is_floating_point != tensor.is_floating_point()
        ],
    }
    if any(problems.values()):
        listing = "; ".join(
            f"{what}: {', '.join(names[:_NAMES_SHOWN])}" + (" ..." if names[_NAMES_SHOWN:] else "")
            for what, names in problems.items()
            if names
        )
        raise BadRequest(
            f"the weights in {where} are not those of the module: {listing}. Build the module that "
            "was trained, or give its weights. base.names renames weights, and base.ignore leaves "
            "some out"
        )


def write_weights(own: Mapping[str, Tensor], folder: Path) -> ManifestEntry:
    """Write a module's weights into a base's folder, and return their entry for the manifest.

    Args:
        own: name -> tensor of the module.
        folder: folder of the base.
    """
    # Cloned, because safetensors refuses tied weights, which are two names of one memory.
    weights = {name: t.detach().cpu().contiguous().clone() for name, t in own.items()}
    data = safetensors_torch.save(weights)
    put_file(folder / WEIGHTS, data)
    digest = hashlib.sha256(data).hexdigest()
    return ManifestEntry(path=WEIGHTS, sha256=digest, bytes=len(data), dtype="as named in the file")


def load_published(own: Mapping[str, Tensor], folder: Path, files: Sequence[ManifestEntry]) -> None:
    """Give a module the weights that were published with a base, all but its tables.

    Args:
        own: name -> tensor of the module, which is overwritten.
        folder: folder of the base.
        files: its files.

    Raises:
        BadRequest: the module has other weights than the one that was adopted.
        Corrupt: the file is not the one that was published.
    """
    (entry,) = (entry for entry in files if entry.table is None)
    path = folder / entry.path
    verify_file(folder, FileEntry(**entry.model_dump()))
    try:
        weights = safetensors_torch.load_file(path)
    except SafetensorError as error:
        raise Corrupt(f"{path} is not a safetensors file: {error}") from error
    load_weights(own, weights, where=str(path))
