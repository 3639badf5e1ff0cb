"""Read a module's weights from a folder that torch.distributed.checkpoint wrote, on any ranks.

A table that was cut over ranks lies there in pieces. Each is copied to its rows and columns of the
module's own tensor, so memory has the module and one piece. No process group is needed.

The folder's `.metadata` is a pickle, which can run any code when it is read (torch 2.13). The
tensors themselves are read by `torch.load(weights_only=True)`.
"""

import hashlib
import itertools
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torch.distributed import checkpoint
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    ChunkStorageMetadata,
    TensorStorageMetadata,
)

from iak.pipeline.base.module_weights import refuse_other_weights
from iak.pipeline.base.weight_names import weight_names
from iak.pipeline.errors import BadRequest
from iak.pipeline.files import sha256_of_file
from iak.schemas.given_base import ModuleBaseSpec
from iak.schemas.paths import bucket_uri, in_registry

_METADATA = ".metadata"


def load_checkpoint(
    own: Mapping[str, Tensor], folder: Path, base: ModuleBaseSpec, *, is_trusted: bool
) -> None:
    """Copy the weights in a folder into a module. Every entry is a weight, or is left out by name.

    Args:
        own: name -> tensor of the module, which is overwritten, as `state_dict` returns them.
        folder: folder of the checkpoint, on a disk of this machine.
        base: its `names` and `ignore` say which entry is which weight.
        is_trusted: whether a person allowed its metadata to be unpickled.

    Raises:
        BadRequest: the folder is not trusted or cannot be read, or a weight is missing, unexpected,
            of another shape, of whole numbers where the module has floats, or not whole.
    """
    if in_registry(folder) or bucket_uri(folder):
        raise BadRequest(
            f"weights={folder} is no folder of this machine. The metadata of a checkpoint is a "
            "pickle, and is never read from a registry or an object store. Copy the folder here"
        )
    if not is_trusted:
        raise BadRequest(
            f"weights={folder} is a folder of torch.distributed.checkpoint. Its {_METADATA} is a "
            "pickle, which can run any code as this user when it is read: read and delete files, "
            "or take keys. Where you trust everybody who could write there, say trust=pickle. "
            "Otherwise have its owner save a safetensors file"
        )
    stored = _stored_entries(folder)
    names = weight_names(stored, base)
    if others := [e for e in names if not isinstance(stored[e], TensorStorageMetadata)]:
        raise BadRequest(
            f"entries {others} in {folder} are no tensors. Leave them out by base.ignore"
        )
    tensors = {e: t for e, t in stored.items() if isinstance(t, TensorStorageMetadata)}
    given = {names[e]: (tuple(tensors[e].size), tensors[e].properties.dtype) for e in names}
    refuse_other_weights(own, given, where=str(folder))
    if cut := [entry for entry in names if not _is_whole(tensors[entry])]:
        raise BadRequest(
            f"the pieces of {cut} in {folder} do not make up the whole tensor. Save the checkpoint "
            "on all ranks of its run"
        )
    _copy({entry: own[name] for entry, name in names.items()}, folder)


def digest_of_checkpoint(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of all files in a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = [f"{sha256_of_file(file)} {file.relative_to(folder).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _stored_entries(folder: Path) -> Mapping[str, STORAGE_TYPES]:
    """Return what a checkpoint says about each of its entries; this unpickles its metadata."""
    try:
        return checkpoint.FileSystemReader(folder).read_metadata().state_dict_metadata
    except Exception as error:  # a pickle may raise anything
        raise BadRequest(
            f"weights={folder} cannot be read: {type(error).__name__}: {error}. Expected a folder "
            f"with {_METADATA}, which torch.distributed.checkpoint.save writes last"
        ) from error


def _is_whole(tensor: TensorStorageMetadata) -> bool:
    """Return whether the stored pieces of a tensor cover it, each element once."""
    covered = sum(math.prod(chunk.sizes) for chunk in tensor.chunks)
    # Most tensors have a few pieces, and a table one for each rank: pairs are few.
    pairs = itertools.combinations(tensor.chunks, 2)
    return (
        covered == math.prod(tensor.size)
        and all(_is_inside(chunk, tensor) for chunk in tensor.chunks)
        and not any(_overlap(one, other) for one, other in pairs)
    )


def _is_inside(chunk: ChunkStorageMetadata, tensor: TensorStorageMetadata) -> bool:
    ends = zip(chunk.offsets, chunk.sizes, tensor.size, strict=True)
    return all(first >= 0 and first + length <= size for first, length, size in ends)


def _overlap(one: ChunkStorageMetadata, other: ChunkStorageMetadata) -> bool:
    sides = zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
    return all(a < c + d and c < a + b for a, b, c, d in sides)


def _copy(own: Mapping[str, Tensor], folder: Path) -> None:
    """Copy every piece of the named entries into the tensors.

    Args:
        own: name in the checkpoint -> tensor, which is overwritten.
        folder: folder of the checkpoint.
    """
    planner = checkpoint.DefaultLoadPlanner(
        flatten_state_dict=False,  # names are flat already
        flatten_sharded_tensors=False,
    )
    reader = checkpoint.FileSystemReader(folder)
    try:
        with warnings.catch_warnings():
            # torch 2.13 warns that it assumes a single process, which is what is wanted.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            checkpoint.load(dict(own), storage_reader=reader, planner=planner, no_dist=True)
    # CheckpointException is no Exception (torch 2.13).
    except (Exception, checkpoint.CheckpointException) as error:
        raise BadRequest(
            f"weights={folder} cannot be read: {error}. A file of it is missing or damaged. Copy "
            "the folder again"
        ) from error
