"""Build the model of a base that is known by its columns, with its towers where it has any."""

from pathlib import Path

from iak.pipeline.base.module_weights import load_published, load_weights, read_weights
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.given import GivenModel, TaskTowers
from iak.schemas.log import Catalog
from iak.schemas.manifest import BaseManifest


def adopt_given(catalog: Catalog, weights: Path | None) -> GivenModel:
    """Return the model of a catalogue's columns, with the towers of a file.

    Args:
        catalog: the log's catalogue, with a base of kind `columns`.
        weights: file with the weights of its towers; None where it declares none.

    Raises:
        BadRequest: there are weights without towers or towers without weights, or they do not
            agree.
    """
    model = given_model(catalog)
    if (model.towers is None) != (weights is None):
        raise BadRequest(
            f"weights={weights} are given, and [base] declares no towers for them. Declare them "
            "(towers = [] for one linear layer from h to each logit), or leave weights= out"
            if weights
            else "[base] declares towers, and weights= names no file with their weights. Give "
            "weights=towers.safetensors with TASK.0.weight, TASK.0.bias, TASK.1.weight, ..."
        )
    if model.towers is not None and weights is not None:
        own = model.towers.named_tensors(_titles(catalog))
        load_weights(own, read_weights(weights), where=str(weights))
    return model


def open_given(folder: Path, manifest: BaseManifest, catalog: Catalog) -> GivenModel:
    """Return the frozen model of a published base that is known by its columns.

    Args:
        folder: folder of the base.
        manifest: its manifest.
        catalog: its catalogue.

    Raises:
        Corrupt: the weights of its towers are not those that were published.
    """
    model = given_model(catalog)
    if model.towers is not None:
        load_published(model.towers.named_tensors(_titles(catalog)), folder, manifest.files)
    return model


def given_model(catalog: Catalog) -> GivenModel:
    """Return the model of a catalogue's columns; its towers have no weights yet."""
    base, tasks = catalog.columns_base, len(catalog.tasks)
    assert base is not None, "the catalogue's base is not of kind `columns`"
    if base.towers is None or base.units is None:
        return GivenModel(tasks=tasks)
    return GivenModel(
        tasks=tasks, towers=TaskTowers(tasks=tasks, units=base.units, hidden=base.towers)
    )


def _titles(catalog: Catalog) -> list[str]:
    return [task.title for task in catalog.tasks]
