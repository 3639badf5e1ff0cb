"""Load catalogues, nightly files and sharding plans, and merge settings with presets."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from iak.pipeline.data.nearest import refuse_unknown_settings
from iak.pipeline.errors import BadRequest
from iak.pipeline.formats import first_format
from iak.pipeline.runs.documents import read_json, read_toml
from iak.pipeline.runs.explain import explain
from iak.schemas.base import JsonObject, Settings, Spec, shortened
from iak.schemas.job import CheckSpec, EvaluateSpec, FinetuneSpec, PlanSpec, PretrainSpec
from iak.schemas.log import Catalog
from iak.schemas.nightly import NightlySpec
from iak.schemas.plan import Job, PlacedSpec, PlacementSpec, PlanDocument, ResolvedPlacement

S = TypeVar("S", bound=Spec)


def load_catalog(name: Path) -> Catalog:
    """Return the catalogue in a TOML file, or a shipped one by its name.

    Raises:
        BadRequest: no such file or name, no TOML, or a catalogue that contradicts itself.
    """
    return parse_catalog(catalog_path(name))


def catalog_path(name: Path) -> Path:
    """Return the path of a catalogue: a file that exists, else a shipped catalogue's."""
    shipped = Path(str(resources.files("iak.schemas") / "catalog"))
    try:
        for path in (name, shipped / f"{name}.toml"):
            if path.is_file():
                return path
    except OSError as error:  # a name too long
        where = shortened(str(name))
        raise BadRequest(f"catalog {where} cannot be read: {error.strerror or error}") from error
    names = ", ".join(sorted(p.stem for p in shipped.glob("*.toml")))
    raise BadRequest(
        f"no catalogue '{name}' (catalog=): no such file, and the shipped ones are {names}"
    )


def parse_catalog(path: Path) -> Catalog:
    """Return the catalogue in a file."""
    document = read_toml(path, setting="catalog")
    try:
        catalog = Catalog.model_validate(document)
    except ValidationError as error:
        raise BadRequest(f"{path}: {explain(error, Catalog, document)}") from error
    refuse_unknown_presets(catalog)
    return catalog


def load_nightly(path: Path) -> NightlySpec:
    """Return the nights that a file describes.

    Raises:
        BadRequest: no such file, no TOML, or nights that contradict themselves.
    """
    document = read_toml(path, setting="file")
    try:
        return NightlySpec.model_validate(document)
    except ValidationError as error:
        raise BadRequest(f"{path}: {explain(error, NightlySpec, document)}") from error


SPECS: Mapping[str, type[BaseModel]] = {
    "check": CheckSpec,
    "pretrain": PretrainSpec,
    "finetune": FinetuneSpec,
    "evaluate": EvaluateSpec,
    "plan": PlanSpec,
}
"""Verb for which a catalogue may have presets -> its spec."""


def refuse_unknown_presets(catalog: Catalog) -> None:
    """Refuse a catalogue's presets for a verb or a setting that does not exist.

    Raises:
        BadRequest: the message names the table, the setting and the nearest that exist.
    """
    refuse_unknown_settings(list(catalog.presets), SPECS, "[presets]")
    for verb, settings in catalog.presets.items():
        for name in settings:
            if new := moved_setting(SPECS[verb], name):
                raise BadRequest(f"[presets.{verb}]: {name} is now {new}")
        names = known_settings(SPECS[verb])
        there = [*names, *(f"{name}." for name, is_open in names.items() if is_open)]
        refuse_unknown_settings(list(settings), there, f"[presets.{verb}]")


def resolve_placement(asked: PlacementSpec, *, job: Job) -> ResolvedPlacement:
    """Return a placement with the plan read from its file, where it names one.

    Args:
        asked: the job's settings. A plan must come without sharding types of single tables.
        job: name of the job.

    Raises:
        BadRequest: there is no such file, it is not a plan, it is another job's, or `sharding` is
            set as well.
    """
    if asked.plan and asked.sharding:
        raise BadRequest(
            "placement.plan places every table; leave out placement.sharding.* or placement.plan"
        )
    return asked.resolved(_load_plan(asked.plan, job) if asked.plan else None)


def _load_plan(path: Path, job: Job) -> PlanDocument:
    """Return the plan that `iak plan save=FILE` wrote to a file."""
    document = read_json(path, setting="placement.plan")
    try:
        plan = _plan_of(document, path)
    except ValidationError as error:
        raise BadRequest(f"plan {path}: {explain(error)}") from error
    except ValueError as error:
        raise BadRequest(f"plan {path}: {error}") from error
    if plan.job != job:
        raise BadRequest(f"plan {path} is for iak {plan.job}; plan again with job={job}")
    return plan


def _plan_of(document: JsonObject, where: Path) -> PlanDocument:
    """Return a plan in the current format."""
    return first_format(
        PlanDocument, document, kind="plan", where=where, remedy="Make it again: iak plan save=FILE"
    )


def nested(dotted: Settings) -> JsonObject:
    """Return `{"optim.lr": 1}` as `{"optim": {"lr": 1}}`."""
    tree: JsonObject = {}
    for name, value in dotted.items():
        *outer, last = name.split(".")
        inner = tree
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return tree


def merged(below: Settings, above: Settings) -> JsonObject:
    """Return two trees of settings as one; where both have a setting, `above` wins."""
    result = dict(below)
    for key, value in above.items():
        lower = result.get(key)
        both = isinstance(lower, dict) and isinstance(value, dict)
        result[key] = merged(lower, value) if both else value  # type: ignore[arg-type]
    return result


def known_settings(kind: type[BaseModel], below: str = "") -> dict[str, bool]:
    """Return the dotted name of each setting -> whether a user may append keys of his own.

    A setting with an alias has the alias as its name. A dictionary takes keys: `task_weights.ctr`.
    """
    names: dict[str, bool] = {}
    for field_name, field in kind.model_fields.items():
        name = f"{below}{field.alias or field_name}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names |= known_settings(inner, f"{name}.")
        else:
            names[name] = get_origin(inner) is dict
    return names


def moved_setting(kind: type[BaseModel], name: str) -> str | None:
    """Return the present name of a setting that older versions had elsewhere; None for any other.

    Args:
        kind: a spec.
        name: dotted name of the setting in it.
    """
    outer, _, rest = name.partition(".")
    field = kind.model_fields.get(outer)
    inner = field.annotation if field else None
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        new = moved_setting(inner, rest)
        return f"{outer}.{new}" if new else None
    return kind.moved(name) if issubclass(kind, PlacedSpec) else None


def spec_with_presets(kind: type[S], verb: str, catalog: Catalog, settings: Settings) -> S:
    """Return a verb's spec: its defaults, the catalogue's presets over them, the settings on top.

    Args:
        kind: the verb's spec.
        verb: verb whose presets of the catalogue count.
        catalog: the log's catalogue.
        settings: the caller's settings, nested.

    Raises:
        BadRequest: the message names the setting that is unknown or out of range.
    """
    presets = nested(dict(catalog.presets.get(verb, {})))
    try:
        return kind.model_validate(merged(presets, dict(settings)))
    except ValidationError as error:
        raise BadRequest(f"{verb}: {explain(error)}") from error
