"""Build a module by its factory, and open the base that was made of it.

The manifest has the SHA-256 of the weights and of the factory's source file. Changed source may
compute something else from the same weights, so it is refused. To use changed source, adopt the
base again: `iak adopt` compares what the module predicts with the scores that the log has. Or name
its SHA-256 in the catalogue, which compares nothing.

Tables that were published as tables are never whole in a worker's memory: the factory builds them
without values, and layers that look rows up take their place.
"""

import hashlib
import importlib
import inspect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from iak.pipeline.base.module_tables import TablesOnWorker, fill_tables, frozen_tables
from iak.pipeline.base.module_weights import ModuleFiles, load_published
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.adopted import NEEDED, AdoptedModel
from iak.pipeline.model.module_tables import LookUp, find_tables, replace_tables
from iak.pipeline.model.tables import TableShape
from iak.pipeline.sharding.rectangles import together
from iak.schemas.manifest import BaseManifest


def build_module(factory: str) -> tuple[nn.Module, str]:
    """Call a factory.

    Args:
        factory: `package.module:name` of a function without arguments, or
            `package.module:name(file)` of one that takes the path of a file.

    Returns:
        Its module, without weights yet, and the SHA-256 of the source file of the factory, with
        the file that it was called with.

    Raises:
        BadRequest: it cannot be imported or called, or its module lacks what a base needs.
    """
    called, _, file = factory.removesuffix(")").partition("(")
    package, _, name = called.partition(":")
    files = [Path(file)] if file else []
    try:
        function = getattr(importlib.import_module(package), name)
        sources = [Path(inspect.getsourcefile(function) or ""), *files]
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
        module = function(*files)
    except BadRequest:  # one that is shipped with this package says itself what is wrong
        raise
    except Exception as error:  # the factory is code of others, which may raise anything
        raise BadRequest(
            f"base.factory={factory} cannot build the module: {type(error).__name__}: {error}. "
            "Name a function without arguments in a package that every worker can import "
            "(PYTHONPATH), or one that takes the file of base.config"
        ) from error
    missing = [part for part in NEEDED if not hasattr(module, part)]
    if not isinstance(module, nn.Module) or missing:
        raise BadRequest(
            f"base.factory={factory} returns {type(module).__name__} without "
            f"{', '.join(missing) or 'being a torch.nn.Module'}; a base needs units, "
            "represent(ids, numbers) and tail(h) (pipeline/model/adopted.py)"
        )
    return module, digest


def build_hollow(
    factory: str, shapes: Sequence[TableShape] | None, look_up: LookUp
) -> tuple[nn.Module, str]:
    """Call a factory, and have its tables looked up elsewhere; they take no memory here.

    Args:
        factory: `package.module:name` of a function without arguments.
        shapes: the tables, named as the module's layers; None for all that `find_tables` returns.
        look_up: returns the rows of ids of a table.

    Returns:
        As `build_module`.

    Raises:
        BadRequest: as `build_module`; or the module does not have these tables.
    """
    try:
        with _tables_without_values():
            module, source = build_module(factory)
        _replace(module, shapes, look_up, factory)
        _allocate_others(module)
        if not any(t.is_meta for t in itertools.chain(module.parameters(), module.buffers())):
            return module, source
    except BadRequest:
        pass
    # The factory reads values of a table, or computes others from them. It gets a whole one.
    module, source = build_module(factory)
    _replace(module, shapes, look_up, factory)
    return module, source


def files_of(folder: Path, manifest: BaseManifest) -> ModuleFiles:
    """Return the files of a published base that was a module.

    Args:
        folder: folder of the base.
        manifest: its manifest.
    """
    source = manifest.settings.factory_source or "unknown"
    return ModuleFiles(folder=folder, files=manifest.files, tables=manifest.tables, source=source)


def open_module(
    factory: str,
    published: ModuleFiles,
    *,
    tasks: int,
    at: TablesOnWorker,
    allowed_source: str | None = None,
) -> AdoptedModel:
    """Return the frozen module of a published base; a collective call.

    Args:
        factory: `package.module:name` of the function that builds the module.
        published: its files.
        tasks: tasks that it predicts.
        at: how this worker stores the tables, and which part of them.
        allowed_source: SHA-256 of the source that builds it instead of the one that the base was
            adopted with; None for that one.

    Raises:
        BadRequest: the factory's source is another one, or it cannot build the module; or the
            tables cannot be placed or stored so.
        Corrupt: the weights are not those that were published.
    """
    tables = frozen_tables(published.tables, at) if published.tables else None
    opened: list[nn.Module] = []

    def read() -> None:
        if tables is None:
            module, source = build_module(factory)
        else:
            module, source = build_hollow(factory, tuple(tables.shapes.values()), tables.rows)
        _check_source(source, published.source, allowed_source, factory)
        load_published(module.state_dict(), published.folder, published.files)
        if tables is not None:
            fill_tables(tables, published)
        opened.append(module)

    together(read, at.worker)
    return AdoptedModel(opened[0], tasks=tasks, tables=tables)


def _check_source(source: str, adopted: str, allowed: str | None, factory: str) -> None:
    """Refuse a source that is neither the one of the adoption nor the allowed one."""
    wanted = allowed or adopted
    if source != wanted:
        origin = "base.source allows" if allowed else "the base was adopted with"
        raise BadRequest(
            f"the source of base.factory={factory} has SHA-256 {source[:12]}, {origin} "
            f"{wanted[:12]}. Restore that source, or adopt the base again with this one. Where you "
            f'know that it computes the same, allow it by source = "{source}" in [base]'
        )


@contextmanager
def _tables_without_values() -> Iterator[None]:
    """Put each embedding table that is built inside this context on the device `meta`."""

    def without_values(
        layer: nn.Module, name: str, weight: nn.Parameter | None
    ) -> nn.Parameter | None:
        # Only as the layer is built: a weight that replaces it later may be that of another layer.
        is_new = name == "weight" and name not in layer._parameters
        if weight is None or not is_new or not isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            return None
        return nn.Parameter(torch.empty_like(weight, device="meta"))

    # torch 2.13 types the hook as one that returns nothing, and documents that it may.
    handle = register_module_parameter_registration_hook(without_values)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def _replace(
    module: nn.Module, shapes: Sequence[TableShape] | None, look_up: LookUp, factory: str
) -> None:
    """Replace the tables of a module that was built without values.

    Raises:
        BadRequest: the module does not have these tables.
    """
    if shapes is None:
        replace_tables(module, find_tables(module).tables, look_up)
        return
    sizes = {
        name: (layer.num_embeddings, layer.embedding_dim)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    }
    wanted = {shape.name: (shape.rows, shape.width) for shape in shapes}
    if wrong := [f"{n} {s}, here {sizes.get(n)}" for n, s in wanted.items() if sizes.get(n) != s]:
        raise BadRequest(
            f"base.factory={factory} builds a module without tables that the base has (rows, "
            f"width): {'; '.join(wrong)}. Restore the source that the base was adopted with, or "
            "adopt it again"
        )
    replace_tables(module, wanted, look_up)


def _allocate_others(module: nn.Module) -> None:
    """Allocate weights that were built without values, and are read from the dense part."""
    allocated: dict[int, nn.Parameter] = {}  # by identity: layers may share a weight
    for layer in module.modules():
        for name, weight in layer._parameters.items():
            if weight is not None and weight.is_meta:
                new = nn.Parameter(torch.empty_like(weight, device="cpu"), requires_grad=False)
                layer._parameters[name] = allocated.setdefault(id(weight), new)
