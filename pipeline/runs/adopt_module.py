"""Adopt a torch module: build it, load its weights, prove that it answers as it did, publish it."""

from collections.abc import Mapping

from torch import Tensor, nn

from iak.pipeline.base import adopted_module
from iak.pipeline.base.distributed_checkpoint import load_checkpoint
from iak.pipeline.base.module_weights import load_weights, read_weights
from iak.pipeline.base.weight_names import weight_names
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.adopted import AdoptedModel
from iak.pipeline.runs.adopt_tables import publish_module
from iak.pipeline.runs.adoption import (
    measure,
    new_folder,
    open_checked_log,
    publish_adopted,
    record_adoption,
)
from iak.pipeline.runs.compare_scores import (
    refuse_other_scores,
    refuse_unknown_layers,
    with_scores,
)
from iak.pipeline.runs.record import OpenRecord
from iak.schemas.adoption import AdoptionResult
from iak.schemas.given_base import ModuleBaseSpec
from iak.schemas.job import AdoptSpec
from iak.schemas.log import Catalog
from iak.schemas.manifest import BaseManifest
from iak.schemas.paths import in_registry


def adopt_module(
    spec: AdoptSpec, catalog: Catalog, record: OpenRecord
) -> tuple[AdoptionResult, BaseManifest]:
    """Publish the module that a catalogue's factory builds, with the weights of a file.

    Args:
        spec: settings of `iak adopt`.
        catalog: the log's catalogue, with a base of kind `torch`.
        record: record of the run.

    Raises:
        BadLog: the module's logits are not its own scores in the log.
        BadRequest: the factory or the weights cannot be used.
    """
    base = catalog.base
    assert isinstance(base, ModuleBaseSpec), "columns have no module"
    model, source = _module(spec, base, catalog)
    log = open_checked_log(
        spec, catalog, record, reading=with_scores(catalog, spec.scores),
        what="the columns of scores=", factory_source=source,
    )  # fmt: skip
    with record.phase("metrics"):
        refuse_other_scores(spec, log.view.catalog, log.reader, model)
        quality = measure(log, model)
    with record.phase("publish"):
        folder = new_folder(spec.run_dir, log.reader.encoding)
        published = publish_module(
            model, folder, factory=base.call, source=source, reader=log.reader,
            report=record.report,
        )  # fmt: skip
        manifest = publish_adopted(folder, spec, log, published.written, quality.tasks)
    adoption = record_adoption(record, spec, manifest, log, quality, advice=published.advice)
    return adoption, manifest


def _module(spec: AdoptSpec, base: ModuleBaseSpec, catalog: Catalog) -> tuple[AdoptedModel, str]:
    """Return the frozen module with its weights, and the digest of its factory's source."""
    titles = [task.title for task in catalog.tasks]
    if spec.weights is None:
        raise BadRequest(
            f"base.factory={base.factory} builds a module, and weights= names no file of weights. "
            "Give weights=model.safetensors"
        )
    if unknown := sorted(set(spec.scores) - set(titles)):
        raise BadRequest(f"scores names unknown tasks {unknown}; there are {titles}")
    module, source = adopted_module.build_module(base.call)
    if base.source not in (None, source):
        raise BadRequest(
            f"the source of base.factory={base.factory} has SHA-256 {source}, and base.source "
            f"names {base.source}. Restore that source, or leave base.source out to adopt this one"
        )
    _refuse_other_inputs(module, catalog)
    refuse_unknown_layers(spec, module)
    _load_weights(spec, base, module.state_dict())
    return AdoptedModel(module, tasks=len(titles)), source


def _refuse_other_inputs(module: nn.Module, catalog: Catalog) -> None:
    """Refuse a catalogue that does not give a module what it reads, where the module can tell."""
    ask = getattr(module, "problems_with", None)
    if ask is not None and (problems := ask(catalog)):
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise BadRequest(f"the catalogue does not give the module what it reads:\n{listing}")


def _load_weights(spec: AdoptSpec, base: ModuleBaseSpec, own: Mapping[str, Tensor]) -> None:
    """Copy the weights of a file, or of a folder of torch.distributed.checkpoint, into a module."""
    path = spec.weights
    assert path is not None, "a module without weights was refused"
    if path.is_dir() or in_registry(path):
        load_checkpoint(own, path, base, is_trusted=spec.trust == "pickle")
        return
    if spec.trust:
        raise BadRequest(
            f"trust={spec.trust} allows to unpickle the metadata of a checkpoint's folder, and "
            f"weights={path} is a file, of which nothing is unpickled. Leave trust= out"
        )
    weights = read_weights(path)
    names = weight_names(weights, base)
    load_weights(own, {names[entry]: weights[entry] for entry in names}, where=str(path))
