"""Compare an adopted module with what it answered elsewhere: its scores, and outputs of its layers.

The log has the scores, and where the platform can log them also outputs of single layers. A score
that differs says that the module is another one here. The first layer whose output differs says
where: every layer before it still answers as it did.

Shapes: B rows, N numbers, T tasks, U units of a layer's output.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from iak.pipeline.data.batch import FULL_ROWS, Batch, to_batch
from iak.pipeline.data.reader import Reader
from iak.pipeline.errors import BadLog, BadRequest
from iak.pipeline.events import silent
from iak.pipeline.first_few import first_few
from iak.pipeline.model.adopted import AdoptedModel
from iak.pipeline.model.given import GivenModel
from iak.pipeline.runs.adoption import BATCH_ROWS
from iak.pipeline.runs.log import list_log
from iak.schemas.given_base import GivenBaseSpec
from iak.schemas.job import AdoptSpec
from iak.schemas.log import Catalog

_ROWS_SHOWN = 5
_LAYERS_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedLayer:
    """A layer whose output the log has."""

    layer: str
    """Its name among the module's submodules."""
    column: str
    reader: Reader
    """Reads the column as the h of a base that is known by its columns."""
    units: int
    """U, the length of its output in a row."""


def with_scores(
    catalog: Catalog, scores: Mapping[str, str], *, h: str | None = None, units: int | None = None
) -> Catalog:
    """Return a catalogue that also reads what the module answered elsewhere.

    Scores are read like the logits of a base of kind `columns`, and `h` like its activations.

    Args:
        catalog: the log's catalogue.
        scores: task -> column of its scores; empty leaves the catalogue as it is.
        h: column with the output of a layer; None for none.
        units: length of every list in `h`.
    """
    if not scores:
        return catalog
    given = GivenBaseSpec(kind="columns", logits=dict(scores), h=h, units=units)
    return catalog.model_copy(update={"base": given})


def refuse_unknown_layers(spec: AdoptSpec, module: nn.Module) -> None:
    """Refuse outputs of layers that the module does not have, or of columns that scores name.

    Raises:
        BadRequest: the message names them and some that it has.
    """
    if spec.outputs and not spec.scores:
        raise BadRequest(
            "outputs= names outputs of layers, which are looked at where scores differ, and "
            "scores= names no score. Add scores.TASK=COLUMN"
        )
    if twice := sorted(set(spec.outputs) & set(spec.scores.values())):
        raise BadRequest(
            f"outputs and scores both name columns {twice}. Give each output its own list column"
        )
    known = [name for name, _ in module.named_modules() if name]
    if unknown := [name for name in spec.outputs.values() if name not in known]:
        raise BadRequest(
            f"outputs names unknown layers {unknown}; the module has "
            f"{first_few(known, _LAYERS_SHOWN)}"
        )


def refuse_other_scores(
    spec: AdoptSpec, reading: Catalog, reader: Reader, model: AdoptedModel
) -> None:
    """Compare the module's logits here with the scores that it gave elsewhere, which the log has.

    Args:
        spec: settings of the run.
        reading: the catalogue that also reads the scores (`with_scores`).
        reader: reads the validation rows as the module's own catalogue says.
        model: the frozen module.

    Raises:
        BadLog: they differ; the message has the first rows that do, and the first layer.
        BadRequest: a logged output cannot be read as that of its layer.
    """
    if not spec.scores:
        return
    logged = list(_logged_layers(spec, reader, model))
    beside = replace(reader, catalog=reading, as_of=None)
    count, first = _counted(_differences(spec, beside, reader.catalog, model))
    if count:
        raise BadLog(
            f"the module gives other scores here: {count:,} logits differ by more than "
            f"{spec.scores_tolerance:g} from its scores in the log. The first ones:\n"
            f"{_listing(first)}\n{_where(spec, logged, reader, model, first[0][0])}\n"
            "Check the weights, the order of features, and whether ids are shifted (row numbers "
            "here are id + 2)"
        )


def refuse_other_towers(spec: AdoptSpec, reader: Reader, model: GivenModel) -> None:
    """Compare what the towers of a base of columns make of the logged h with the logged logits.

    Args:
        spec: settings of the run.
        reader: reads the validation rows.
        model: the base; one without towers is not compared.

    Raises:
        BadLog: they differ; the message has the first rows that do.
    """
    if model.towers is None:
        return
    titles = [task.title for task in reader.catalog.tasks]
    count, first = _counted(_tower_differences(spec, reader, model, titles))
    if count:
        raise BadLog(
            f"the towers make other logits of h: {count:,} differ by more than "
            f"{spec.scores_tolerance:g} from those in the log. The first ones:\n{_listing(first)}\n"
            "Check that h was logged as these layers read it, behind its ReLU. Where it was logged "
            "in 16 bits, allow its rounding by scores_tolerance="
        )


def _counted(differences: Iterable[tuple[int, str]]) -> tuple[int, list[tuple[int, str]]]:
    """Count differences, and keep the first ones: their rows and the words for them."""
    count, first = 0, list[tuple[int, str]]()
    for difference in differences:
        count += 1
        if count <= _ROWS_SHOWN:
            first.append(difference)
    return count, first


def _listing(differences: Iterable[tuple[int, str]]) -> str:
    return "\n".join(f"  {words}" for _, words in differences)


@torch.no_grad()
def _tower_differences(
    spec: AdoptSpec, reader: Reader, model: GivenModel, titles: Sequence[str]
) -> Iterator[tuple[int, str]]:
    """Yield, for each logit that the towers make otherwise, its row and the numbers."""
    first, tasks = 0, len(titles)
    for table in reader.in_step(BATCH_ROWS):
        batch = to_batch(table, reader.catalog)
        # The first units of h are what rounding lost: the logged logit minus that of the towers.
        lost_BT = model.represent(batch.ids, batch.numeric_BN).h_BH[:, :tasks]
        logged_BT = batch.numeric_BN[:, -tasks:]
        for row, task in _is_other(logged_BT - lost_BT, logged_BT, spec).nonzero().tolist():
            logged, lost = float(logged_BT[row, task]), float(lost_BT[row, task])
            yield (
                first + row,
                f"row {first + row} of the split, {titles[task]}: {logged - lost:.6f} by the "
                f"towers, {logged:.6f} in the log",
            )
        first += len(table)


@torch.no_grad()
def _differences(
    spec: AdoptSpec, reader: Reader, catalog: Catalog, model: AdoptedModel
) -> Iterator[tuple[int, str]]:
    """Yield, for each logit that differs from the module's score, its row and a line on it."""
    titles, first = [task.title for task in catalog.tasks], 0
    for table in reader.in_step(BATCH_ROWS):
        batch = to_batch(table, reader.catalog)
        # `with_scores` adds the scores behind the numbers that the module reads.
        scores_BT = batch.numeric_BN[:, -len(spec.scores) :]
        logits_BT = model(batch.ids, batch.numeric_BN[:, : -len(spec.scores)])
        here_BT = logits_BT[:, [titles.index(task) for task in spec.scores]]
        for row, index in _is_other(here_BT, scores_BT, spec).nonzero().tolist():
            here, own = float(here_BT[row, index]), float(scores_BT[row, index])
            task = list(spec.scores)[index]
            yield (
                first + row,
                f"row {first + row} of the split, {task}: {here:.6f} here, {own:.6f} in the log",
            )
        first += len(table)


def _is_other(here: Tensor, logged: Tensor, spec: AdoptSpec) -> Tensor:
    tolerance = spec.scores_tolerance
    return ~torch.isclose(here, logged, rtol=tolerance, atol=tolerance)


def _where(
    spec: AdoptSpec,
    logged: Sequence[LoggedLayer],
    reader: Reader,
    model: AdoptedModel,
    row: int,
) -> str:
    """Return the first layer whose output differs in a row, or how to have it found."""
    if not logged:
        names = [name for name, layer in model.module.named_modules() if not [*layer.children()]]
        computed = _outputs(model, names, _batch_of(reader, row)[0])
        return (
            "Log the outputs of layers and name them by outputs.COLUMN=LAYER, and the first one "
            "that differs is named here. The module computes "
            f"{first_few(computed, _LAYERS_SHOWN)}"
        )
    batch, index = _batch_of(reader, row)
    computed = _outputs(model, [layer.layer for layer in logged], batch)
    agreeing: list[str] = []
    for layer in logged:
        here_U = _by_row(computed[layer.layer], batch.rows)[index]
        own, position = _batch_of(layer.reader, row)
        numbers = len(reader.catalog.number_names)
        logged_U = own.numeric_BN[position, numbers : numbers + layer.units]
        units = _is_other(here_U, logged_U, spec).nonzero().flatten().tolist()
        if units:
            return (
                f"In row {row} the first layer whose output differs is {layer.layer}: "
                f"{len(units)} of its {layer.units} units, of which unit {units[0]} is "
                f"{float(here_U[units[0]]):.6f} here, {float(logged_U[units[0]]):.6f} in "
                f"{layer.column}. {_agree(agreeing)} before it"
            )
        agreeing.append(layer.layer)
    return f"In row {row} {_agree(agreeing).lower()}; the module differs behind them"


def _agree(layers: Sequence[str]) -> str:
    return f"Layers {', '.join(layers)} agree" if layers else "No logged layer lies"


def _logged_layers(spec: AdoptSpec, reader: Reader, model: AdoptedModel) -> Iterator[LoggedLayer]:
    """Yield the layers whose outputs the log has, in the order in which they are computed."""
    columns = {layer: column for column, layer in spec.outputs.items()}
    batch, _ = _batch_of(reader, 0)
    computed = _outputs(model, list(columns), batch) if columns else {}
    if unused := sorted(set(columns) - set(computed)):
        raise BadRequest(
            f"outputs names layers {unused}, which represent(ids, numbers) and tail(h) do not "
            "call. Name layers that they call"
        )
    split = reader.selection.split.name
    for layer, output in computed.items():
        units = _by_row(output, batch.rows, what=layer).shape[1]
        catalog = with_scores(reader.catalog, spec.scores, h=columns[layer], units=units)
        # Listed as a log of its own, so that a wrong name, type or length is refused as elsewhere.
        view = list_log(spec, catalog, silent, wanted=[split])
        if view.selections[split].rows != reader.selection.rows:
            raise BadRequest(
                f"outputs.{columns[layer]}={layer}: {view.selections[split].rows:,} of the "
                f"{reader.selection.rows:,} rows of split {split} lie in files with this column. "
                "Log it in every file"
            )
        own = replace(reader, selection=view.selections[split], catalog=catalog, as_of=None)
        yield LoggedLayer(layer=layer, column=columns[layer], reader=own, units=units)


def _batch_of(reader: Reader, row: int) -> tuple[Batch, int]:
    """Return a small batch with a row of the split, and the row's index in it."""
    for number, table in enumerate(reader.in_step(FULL_ROWS)):
        if row < (number + 1) * FULL_ROWS:
            return to_batch(table, reader.catalog), row - number * FULL_ROWS
    raise AssertionError(f"the split has no row {row}")


@torch.no_grad()
def _outputs(model: AdoptedModel, layers: Sequence[str], batch: Batch) -> dict[str, object]:
    """Return what layers return for a batch, in the order in which they are computed."""
    outputs: dict[str, object] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_layer: nn.Module, _given: object, output: object) -> None:
            # Cloned, because a ReLU in place overwrites the output of the layer before it.
            outputs.setdefault(name, output.clone() if isinstance(output, Tensor) else output)

        return hook

    with _hooks(model.module, {name: keep(name) for name in layers}):
        model(batch.ids, batch.numeric_BN)
    return outputs


@contextmanager
def _hooks(module: nn.Module, hooks: Mapping[str, Callable[..., None]]) -> Iterator[None]:
    """Have hooks called behind layers, inside this context alone."""
    handles = [module.get_submodule(n).register_forward_hook(h) for n, h in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_row(output: object, rows: int, *, what: str = "") -> Tensor:
    """Return a layer's output as a matrix of one row for each row of the log.

    Raises:
        BadRequest: it is no tensor, or it has not one entry for each row.
    """
    if not isinstance(output, Tensor) or not output.dim() or len(output) != rows:
        has = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise BadRequest(
            f"outputs names layer {what}, which returns {has} for {rows} rows. Name a layer that "
            "returns one tensor with an entry for each row"
        )
    return output.reshape(rows, -1).float()
