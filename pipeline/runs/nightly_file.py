"""Write a commented `nightly.toml`, every setting with its meaning and its default."""

import json
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from textwrap import wrap
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from iak.schemas.base import Settings
from iak.schemas.nightly import NightlySpec
from iak.schemas.reference import type_name

_WIDTH = 98
_OTHER_VERBS = ("finetune",)
"""Sections with the settings of a verb, which its own help explains."""


def commented(settings: Settings) -> str:
    """Return a `nightly.toml` with every setting, its meaning and its default.

    Args:
        settings: settings that have a value of their own, those of a section as a mapping; the
            others stand as comments.
    """
    lines = [
        "# The nights of one platform. `iak nightly check` says what is wrong with this file,",
        "# `iak nightly run` runs a night by it. A setting behind a # shows its default.",
        "",
    ]
    sections: list[tuple[str, type[BaseModel]]] = []
    for name, field in NightlySpec.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            sections.append((name, section))
            continue
        lines += [*_comment(field.description or ""), _setting(name, field, settings), ""]
    for name, kind in sections:
        whole = NightlySpec.model_fields[name]
        lines += _section_lines(name, kind, whole, settings.get(name, {}))
    return "\n".join(lines).rstrip() + "\n"


def _section_lines(
    name: str, kind: type[BaseModel], whole: FieldInfo, settings: Settings
) -> Iterator[str]:
    """Yield a section: its meaning, then its settings as comments."""
    yield from _comment(whole.description or kind.__doc__ or "")
    if name in _OTHER_VERBS:
        yield f"# `iak {name} --help` explains them. Those of a group: [{name}.kernel] code = 16"
    is_open = whole.default is None
    yield f"# [{name}]" if is_open else f"[{name}]"
    for setting, field in kind.model_fields.items():
        inner = _section(field.annotation)
        if inner is not None:
            continue
        if name not in _OTHER_VERBS:
            yield from _comment(field.description or "")
        yield _setting(setting, field, settings)
    yield ""


def _section(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - any annotation
    """Return the document that a field is; None where it is a plain setting."""
    members = [annotation, *getattr(annotation, "__args__", ())]
    kinds = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]
    return kinds[0] if kinds else None


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in wrap(" ".join(text.split()), _WIDTH, break_on_hyphens=False)]


def _setting(name: str, field: FieldInfo, settings: Settings) -> str:
    """Return a setting's line; one without a value of its own is a comment."""
    if name in settings:
        return f"{name} = {toml_value(settings[name])}"
    default = field.get_default(call_default_factory=True)
    if default is None or field.is_required():
        return f"# {name} = ...  # {_kind(field)}; not set"
    return f"# {name} = {toml_value(default)}"


def _kind(field: FieldInfo) -> str:
    name = type_name(field.annotation)
    return "text" if name == "Path" else name


def toml_value(value: Any) -> str:  # noqa: ANN401 - any value that a setting may have
    """Return a value as TOML writes it.

    Args:
        value: text, a number, a date, a time, a duration, a path, or a list or table of these.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | date | time):
        return str(value)
    if isinstance(value, timedelta):
        return json.dumps(TypeAdapter(timedelta).dump_python(value, mode="json"))
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{toml_value(str(k))} = {toml_value(v)}" for k, v in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    # JSON's escapes of characters beyond U+FFFF are no TOML.
    return json.dumps(str(value), ensure_ascii=False)
