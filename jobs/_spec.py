"""Catalogues and settings from files, and errors that a person can act on."""

import difflib
import types
from collections.abc import Collection, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from iak.jobs._documents import read_json, read_toml
from iak.jobs._explain import explain
from iak.pipeline.data.nearest import refuse_unknown_settings
from iak.pipeline.errors import BadRequest
from iak.pipeline.formats import first_format
from iak.schemas.base import shortened
from iak.schemas.job import CheckSpec, EvaluateSpec, FinetuneSpec, PlanSpec, PretrainSpec
from iak.schemas.log import Catalog
from iak.schemas.plan import Job, PlanDocument

_ALIKE = 0.8


def load_catalog(name: Path) -> Catalog:
    """The catalogue in a TOML file, or a shipped one by its name.

    Raises:
        BadRequest: no such file or name, no TOML, or a catalogue that contradicts itself.
    """
    return parse_catalog(catalog_path(name))


def catalog_path(name: Path) -> Path:
    """Where a catalogue lies: a path that exists, else a shipped catalogue's."""
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
    """The catalogue in a file."""
    document = read_toml(path, setting="catalog")
    try:
        catalog = Catalog.model_validate(document)
    except ValidationError as error:
        raise BadRequest(f"{path}: {explain(error, Catalog, document)}") from error
    refuse_unknown_presets(catalog)
    return catalog


SPECS: Mapping[str, type[BaseModel]] = {
    "check": CheckSpec,
    "pretrain": PretrainSpec,
    "finetune": FinetuneSpec,
    "evaluate": EvaluateSpec,
    "plan": PlanSpec,
}
"""The verbs that read a catalogue, by what they may be asked."""


def refuse_unknown_presets(catalog: Catalog) -> None:
    """Refuse a catalogue's presets for a verb or a setting that does not exist.

    Raises:
        BadRequest: naming the table, the setting and the nearest that exist.
    """
    refuse_unknown_settings(list(catalog.presets), SPECS, "[presets]")
    for verb, settings in catalog.presets.items():
        names = known_settings(SPECS[verb])
        there = [*names, *(f"{name}." for name, is_open in names.items() if is_open)]
        refuse_unknown_settings(list(settings), there, f"[presets.{verb}]")


def load_plan(path: Path | None, *, job: Job, sharding: Mapping[str, str]) -> PlanDocument | None:
    """The plan that a job is to follow: what `iak plan save=FILE` wrote, or none.

    Args:
        path: the file.
        job: which job asks.
        sharding: types that the job was asked for, by table; a plan leaves no room for them.

    Raises:
        BadRequest: no such file, it is no plan or another job's, or it is not all that is asked.
    """
    if path is None:
        return None
    document = read_json(path, setting="plan")
    try:
        plan = _plan_of(document, path)
    except ValidationError as error:
        raise BadRequest(f"plan {path}: {explain(error)}") from error
    except ValueError as error:
        raise BadRequest(f"plan {path}: {error}") from error
    if plan.job != job:
        raise BadRequest(f"plan {path} is for iak {plan.job}; plan again with job={job}")
    if sharding:
        raise BadRequest("plan= says where every table lies; leave sharding.* out, or plan=")
    return plan


def _plan_of(document: Mapping[str, Any], where: Path) -> PlanDocument:
    """Return a plan in the current format."""
    return first_format(
        PlanDocument, document, kind="plan", where=where, mend="Make it again: iak plan save=FILE"
    )


def nested(dotted: dict[str, Any]) -> dict[str, Any]:
    """`{"optim.lr": 1}` as `{"optim": {"lr": 1}}`."""
    tree: dict[str, Any] = {}
    for name, value in dotted.items():
        *outer, last = name.split(".")
        place = tree
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two trees of settings as one; where both speak, `above` wins."""
    result = dict(below)
    for key, value in above.items():
        held = result.get(key)
        both = isinstance(held, dict) and isinstance(value, dict)
        result[key] = merged(held, value) if both else value  # type: ignore[arg-type]
    return result


def dotted(tree: Mapping[str, Any], below: str = "") -> list[str]:
    """Return every leaf of a tree of settings by its dotted name."""
    found: list[str] = []
    for key, value in tree.items():
        inner = isinstance(value, Mapping) and bool(value)
        found += dotted(value, f"{below}{key}.") if inner else [f"{below}{key}"]
    return found


def known_settings(kind: type[BaseModel], below: str = "") -> dict[str, bool]:
    """Return dotted name of every setting of a spec, by alias -> whether any name may follow it.

    A dictionary takes keys of its own: `sharding.item_id` is one of `sharding`.
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


def refuse_unknown(kind: type[BaseModel], asked: Iterable[str], *, command: str) -> None:
    """Refuse a setting that the spec does not have, and name those that are spelled alike.

    Args:
        kind: the command's spec.
        asked: dotted names, dashes read as underscores.
        command: as the user types it, for the message.

    Raises:
        BadRequest: naming the setting and its neighbours.
    """
    names = known_settings(kind)
    for name in asked:
        plain = name.replace("-", "_")
        outer, dot, last = plain.rpartition(".")
        for prefix in ("no_", "empty_"):
            if plain not in names:
                plain = f"{outer}{dot}{last.removeprefix(prefix)}"
        if plain in names or any(n.startswith(f"{plain}.") for n in names):
            continue
        if any(plain.startswith(f"{n}.") for n, is_open in names.items() if is_open):
            continue
        raise BadRequest(f"{command}: there is no setting {name!r}. {near_settings(plain, names)}")


def refuse_other_than_text(
    kind: type[BaseModel], settings: Mapping[str, Any], *, command: str, below: str = ""
) -> None:
    """Refuse a number or a truth of a file where a setting takes text: `out = 1` is no path.

    Args:
        kind: the spec.
        settings: as files and presets give them, with their types.
        command: as the user types it, for the message.
        below: dotted name of what they are settings of, with a dot at its end.

    Raises:
        BadRequest: naming the setting.
    """
    for name, field in kind.model_fields.items():
        value, inner = settings.get(field.alias or name), field.annotation
        setting = f"{below}{field.alias or name}"
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if isinstance(value, Mapping):
                refuse_other_than_text(inner, value, command=command, below=f"{setting}.")
        elif value is not None and not _is_text(value, inner):
            raise BadRequest(f"{command}: {setting}: expected text in quotes, seen {value!r}")


def _is_text(value: object, annotation: object) -> bool:
    """Return whether a value is text where its setting takes text, or a list of it; else True."""
    if _takes_text(annotation):
        return isinstance(value, str)
    if get_origin(annotation) is tuple and _takes_text(get_args(annotation)[0]):
        is_count = isinstance(value, int) and not isinstance(value, bool)  # `regions = 8`
        entries = value if isinstance(value, list) else [value]
        return is_count or all(isinstance(entry, str) for entry in entries)
    return True


def _takes_text(annotation: Any) -> bool:  # noqa: ANN401 - any annotation
    """Return whether a setting is a text or a path, and nothing else."""
    if get_origin(annotation) is Annotated:
        return _takes_text(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return all(_takes_text(m) for m in get_args(annotation) if m is not type(None))
    return annotation in (str, Path)


def near_settings(name: str, names: Collection[str]) -> str:
    """Say what an unknown setting may have meant: whole names, or last parts, that are near."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    last = name.rpartition(".")[2]
    near += [
        n
        for n in names
        if difflib.SequenceMatcher(None, last, n.rpartition(".")[2]).ratio() > _ALIKE
    ]
    told = list(dict.fromkeys(near))[:4]
    return f"Did you mean {' or '.join(told)}?" if told else "iak VERB --help lists them all"
