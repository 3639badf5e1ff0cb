"""Check that a catalogue gives a model what it reads, and write the part that would."""

from collections.abc import Iterator

from iak.pipeline.easyrec.config import Config
from iak.schemas.feature import FIRST_ROW, CategoricalSpec, FeatureSpec, ListSpec, NumericSpec
from iak.schemas.log import Catalog


def problems_with(config: Config, catalog: Catalog) -> list[str]:
    """Return what a catalogue must change.

    Args:
        config: the model.
        catalog: the catalogue of the log.
    """
    given = {feature.name: feature for feature in catalog.features}
    problems = [
        problem
        for name, feature in config.features.items()
        for problem in _problems_of(name, feature.rows, given.get(name), catalog)
    ]
    numbers = catalog.number_names[: len(config.numbers)]
    if not problems and numbers != config.numbers:
        problems.append(
            f"numbers come to the model in the order of the catalogue, {list(numbers)}; it reads "
            f"{list(config.numbers)}"
        )
    return problems + list(_problems_of_tasks(config, catalog))


def _problems_of(
    name: str, rows: int, given: FeatureSpec | None, catalog: Catalog
) -> Iterator[str]:
    """Yield what is wrong with one feature of the catalogue."""
    if given is None:
        yield f"feature {name} is missing; add\n{_expected(name, rows)}"
    elif not rows:
        if not _is_raw(given):
            yield f"feature {name} is read as it is logged; expected\n{_expected(name, rows)}"
    elif not isinstance(given, CategoricalSpec | ListSpec):
        yield f"feature {name} is one id, or a list of ids; expected\n{_expected(name, rows)}"
    else:
        table = given.table or name
        found = catalog.table_specs[table].rows
        if found != rows + FIRST_ROW:
            yield (
                f"[tables.{table}] of feature {name} has rows = {found}; expected "
                f"{rows + FIRST_ROW}, the {rows} of the model and {FIRST_ROW}"
            )


def _is_raw(given: FeatureSpec) -> bool:
    """Return whether a number reaches the model as the log has it."""
    if not isinstance(given, NumericSpec):
        return False
    return not (given.is_bucketed or given.standardise or given.log)


def _expected(name: str, rows: int) -> str:
    """Return the part of a catalogue that gives a feature to the model."""
    kind = (
        '    kind = "categorical"      # or "list"'
        if rows
        else '    kind = "numeric"\n    standardise = false'
    )
    feature = f'    [[features]]\n    name = "{name}"\n{kind}'
    table = f'    [tables.{name}]\n    encoding = "identity"\n    rows = {rows + FIRST_ROW}'
    return f"{feature}\n{table}" if rows else feature


def _problems_of_tasks(config: Config, catalog: Catalog) -> Iterator[str]:
    titles = [task.title for task in catalog.tasks]
    towers = [tower.tower_name for tower in config.towers]
    if not towers and len(titles) != 1:
        yield f"the model has one task, and the catalogue has {titles}"
    if towers and towers != titles:
        yield (
            f"the towers of the model are {towers}, in this order, and the tasks of the catalogue "
            f"{titles}; name each task as its tower"
        )
    has_click = any(task.kind == "click" for task in catalog.tasks)
    for tower, task in zip(config.towers, catalog.tasks, strict=False):
        if has_click and task.kind == "conversion" and not tower.is_conditional:
            yield (
                f"task {task.title} is a conversion, whose logit is that of p(conversion | click); "
                "its tower learned from all rows. Give the task kind = 'binary'"
            )
