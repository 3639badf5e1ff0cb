"""Check the names and types of settings, and refuse an unknown one with similar names."""

import difflib
import types
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.load import known_settings, moved_setting
from iak.schemas.base import Settings

_MIN_SIMILARITY = 0.8
"""Ratio of `difflib` above which the last parts of two dotted names count as similar."""
_SAME = {"out": "run_dir", "run_dir": "out"}
"""Where a verb writes: a run has a folder, and an export or a file a place of its own."""
_FEW_SETTINGS = 12
"""Most settings that a message names, a group counted once."""


def dotted(tree: Settings, below: str = "") -> list[str]:
    """Return every leaf of a tree of settings by its dotted name."""
    names: list[str] = []
    for key, value in tree.items():
        inner = isinstance(value, Mapping) and bool(value)
        names += dotted(value, f"{below}{key}.") if inner else [f"{below}{key}"]
    return names


def refuse_unknown(kind: type[BaseModel], asked: Iterable[str], *, command: str) -> None:
    """Refuse a setting that the spec does not have, and name those with a similar spelling.

    Args:
        kind: the command's spec.
        asked: dotted names, dashes read as underscores.
        command: the command as the user types it, for the message.

    Raises:
        BadRequest: names the setting and similar ones.
    """
    names = known_settings(kind)
    for name in asked:
        plain = name.replace("-", "_")
        if new := moved_setting(kind, plain):
            raise BadRequest(f"{command}: {plain} is now {new}")
        plain = plain_name(plain, names)
        if plain in names or any(n.startswith(f"{plain}.") for n in names):
            continue
        if any(plain.startswith(f"{n}.") for n, is_open in names.items() if is_open):
            continue
        advice = near_settings(plain, names) or _every_setting(names, command)
        raise BadRequest(f"{command}: there is no setting {name!r}. {advice}")


def _every_setting(names: Iterable[str], command: str) -> str:
    """Return a sentence that names all settings of a verb that has few; else one with its help."""
    outer = dict.fromkeys(name.partition(".")[0] + ".*" * ("." in name) for name in names)
    if len(outer) > _FEW_SETTINGS:
        return f"{command} --help lists them all"
    return f"It takes {', '.join(outer)}"


def plain_name(name: str, names: Collection[str]) -> str:
    """Return the setting that `no_bf16` turns off or that `empty_allow` empties; else the name.

    cyclopts makes these names for flags and for lists.
    """
    outer, dot, last = name.rpartition(".")
    for prefix in ("no_", "empty_"):
        if name not in names:
            name = f"{outer}{dot}{last.removeprefix(prefix)}"
    return name


def refuse_other_than_text(
    kind: type[BaseModel], settings: Settings, *, command: str, below: str = ""
) -> None:
    """Refuse a number or a boolean of a file where a setting takes text: `out = 1` is not a path.

    Args:
        kind: the spec.
        settings: settings from files and presets, with the types that TOML gave them.
        command: the command as the user types it, for the message.
        below: dotted name of the setting that holds these, with a dot at its end; else empty.

    Raises:
        BadRequest: names the setting.
    """
    for name, field in kind.model_fields.items():
        value, inner = settings.get(field.alias or name), field.annotation
        setting = f"{below}{field.alias or name}"
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if isinstance(value, Mapping):
                refuse_other_than_text(inner, value, command=command, below=f"{setting}.")
            elif value is not None:
                raise BadRequest(f"{command}: {group_problem(setting)}")
        elif value is not None and not _is_text(value, inner):
            raise BadRequest(f"{command}: {setting}: expected text in quotes, seen {value!r}")


def group_problem(setting: str) -> str:
    """Return what is wrong with a value for a group of settings."""
    return f"{setting} is a group of settings and takes no value; write {setting}.NAME=VALUE"


def _is_text(value: object, annotation: object) -> bool:
    """Return whether a value suits its setting: only a setting of text needs text."""
    if _takes_text(annotation):
        return isinstance(value, str)
    if get_origin(annotation) is tuple and _takes_text(get_args(annotation)[0]):
        is_count = isinstance(value, int) and not isinstance(value, bool)  # `regions = 8`
        entries = value if isinstance(value, list) else [value]
        return is_count or all(isinstance(entry, str) for entry in entries)
    if get_origin(annotation) is dict and _takes_text(get_args(annotation)[1]):
        entries = list(value.values()) if isinstance(value, Mapping) else []
        return all(isinstance(entry, str) for entry in entries)
    return True


def _takes_text(annotation: Any) -> bool:  # noqa: ANN401 - any annotation
    """Return whether a setting is a text or a path, and nothing else."""
    if get_origin(annotation) is Annotated:
        return _takes_text(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return all(_takes_text(m) for m in get_args(annotation) if m is not type(None))
    return annotation in (str, Path)


def near_settings(name: str, names: Collection[str]) -> str:
    """Return a sentence with settings whose name or its last part is similar; empty if none is."""
    near = [same for same in [_SAME.get(name, "")] if same in names]
    near += difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    last = name.rpartition(".")[2]
    near += [
        n
        for n in names
        if difflib.SequenceMatcher(None, last, n.rpartition(".")[2]).ratio() > _MIN_SIMILARITY
    ]
    neighbours = list(dict.fromkeys(near))[:4]
    return f"Did you mean {' or '.join(neighbours)}?" if neighbours else ""
