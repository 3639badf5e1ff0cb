"""Build a module by its factory, and open the base that was made of it.

The manifest has the SHA-256 of the weights and of the factory's source file. Changed source may
compute something else from the same weights, so it is refused. To use changed source, adopt the
base again: `iak adopt` compares what the module predicts with the scores that the log has. Or name
its SHA-256 in the catalogue, which compares nothing.
"""

import hashlib
import importlib
import inspect
from pathlib import Path

from torch import nn

from iak.pipeline.base.module_weights import load_published
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.adopted import NEEDED, AdoptedModel
from iak.schemas.manifest import BaseManifest

SOURCE = "factory_source"
"""Key of the source's digest among the settings in the manifest."""


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


def open_module(
    folder: Path,
    manifest: BaseManifest,
    factory: str,
    *,
    tasks: int,
    allowed_source: str | None = None,
) -> AdoptedModel:
    """Return the frozen module of a published base.

    Args:
        folder: folder of the base.
        manifest: its manifest.
        factory: `package.module:name` of the function that builds the module.
        tasks: tasks that it predicts.
        allowed_source: SHA-256 of the source that builds it instead of the one that the base was
            adopted with; None for that one.

    Raises:
        BadRequest: the factory's source is another one, or it cannot build the module.
        Corrupt: the weights are not those that were published.
    """
    module, source = build_module(factory)
    wanted = allowed_source or manifest.settings.factory_source or "unknown"
    if source != wanted:
        origin = "base.source allows" if allowed_source else "the base was adopted with"
        raise BadRequest(
            f"the source of base.factory={factory} has SHA-256 {source[:12]}, {origin} "
            f"{wanted[:12]}. Restore that source, or adopt the base again with this one. Where you "
            f'know that it computes the same, allow it by source = "{source}" in [base]'
        )
    load_published(module.state_dict(), folder, manifest)
    return AdoptedModel(module, tasks=tasks)
