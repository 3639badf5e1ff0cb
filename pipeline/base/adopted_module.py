"""Build a module by its factory, load its weights, publish them with a base, and open that base.

The manifest has the SHA-256 of the weights and of the factory's source file. Changed source may
compute something else from the same weights, so it is refused. `iak adopt` then compares the module
with its own scores again.
"""

import hashlib
import importlib
import inspect
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.files import put_file
from iak.pipeline.model.adopted import NEEDED, AdoptedModel
from iak.pipeline.sharding.rectangles import FileEntry, verify_file
from iak.schemas.manifest import BaseManifest
from iak.schemas.manifest import FileEntry as ManifestEntry

WEIGHTS = "module.safetensors"
SOURCE = "factory_source"
"""Key of the source's digest among the settings in the manifest."""
_PICKLED = (".pt", ".pth", ".bin")
_NAMES_SHOWN = 5


def build_module(factory: str) -> tuple[nn.Module, str]:
    """Call a factory.

    Args:
        factory: `package.module:name` of a function without arguments.

    Returns:
        Its module, without weights yet, and the SHA-256 of the source file of the factory.

    Raises:
        BadRequest: it cannot be imported or called, or its module lacks what a base needs.
    """
    package, _, name = factory.partition(":")
    try:
        function = getattr(importlib.import_module(package), name)
        source = Path(inspect.getsourcefile(function) or "").read_bytes()
        module = function()
    except Exception as error:  # the factory is code of others, which may raise anything
        raise BadRequest(
            f"base.factory={factory} cannot build the module: {type(error).__name__}: {error}. "
            "Name a function without arguments in a package that every worker can import "
            "(PYTHONPATH)"
        ) from error
    missing = [part for part in NEEDED if not hasattr(module, part)]
    if not isinstance(module, nn.Module) or missing:
        raise BadRequest(
            f"base.factory={factory} returns {type(module).__name__} without "
            f"{', '.join(missing) or 'being a torch.nn.Module'}; a base needs units, "
            "represent(ids, numbers) and tail(h) (pipeline/model/adopted.py)"
        )
    return module, hashlib.sha256(source).hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file: safetensors, or a state dict that torch reads without code.

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


def load_weights(module: nn.Module, weights: dict[str, Tensor], *, where: str) -> None:
    """Give a module its weights, every one of them.

    Args:
        module: from its factory.
        weights: name -> tensor.
        where: the file of the weights, for messages.

    Raises:
        BadRequest: a weight is missing, unexpected or of another shape; the message names it.
    """
    own = module.state_dict()
    problems = {
        "missing": [name for name in own if name not in weights],
        "unexpected": [name for name in weights if name not in own],
        "of another shape": [
            f"{name} {list(weights[name].shape)}, the module has {list(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ],
    }
    if any(problems.values()):
        listing = "; ".join(
            f"{what}: {', '.join(names[:_NAMES_SHOWN])}" + (" ..." if names[_NAMES_SHOWN:] else "")
            for what, names in problems.items()
            if names
        )
        raise BadRequest(
            f"the weights in {where} are not those of the factory's module: {listing}. Build the "
            "module that was trained, or give its weights"
        )
    module.load_state_dict(weights)


def write_weights(module: nn.Module, folder: Path) -> ManifestEntry:
    """Write a module's weights into a base's folder; return their entry of its manifest."""
    # Cloned, because safetensors refuses tied weights, which are two names of one memory.
    weights = {n: t.detach().cpu().contiguous().clone() for n, t in module.state_dict().items()}
    data = safetensors_torch.save(weights)
    put_file(folder / WEIGHTS, data)
    digest = hashlib.sha256(data).hexdigest()
    return ManifestEntry(path=WEIGHTS, sha256=digest, bytes=len(data), dtype="as named in the file")


def open_module(folder: Path, manifest: BaseManifest, factory: str, *, tasks: int) -> AdoptedModel:
    """Return the frozen module of a published base.

    Args:
        folder: folder of the base.
        manifest: its manifest.
        factory: `package.module:name` of the function that builds the module.
        tasks: tasks that it predicts.

    Raises:
        BadRequest: the factory's source changed, or it cannot build the module.
        Corrupt: the weights are not those that were published.
    """
    module, source = build_module(factory)
    adopted_source = manifest.spec.get(SOURCE)
    if source != adopted_source:
        raise BadRequest(
            f"the source of base.factory={factory} has SHA-256 {source[:12]}, the base was adopted "
            f"with {str(adopted_source)[:12]}. Restore that source, or adopt the base again with "
            "this one"
        )
    (entry,) = manifest.files
    verify_file(folder, FileEntry(**entry.model_dump()))
    try:
        weights = safetensors_torch.load_file(folder / entry.path)
    except SafetensorError as error:
        raise Corrupt(f"{folder / entry.path} is not a safetensors file: {error}") from error
    load_weights(module, weights, where=str(folder / entry.path))
    return AdoptedModel(module, tasks=tasks)
