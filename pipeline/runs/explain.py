"""Turn pydantic's errors into sentences for the person who wrote the document."""

import json
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from iak.pipeline.data.nearest import listed, nearest
from iak.schemas.base import JsonObject, redacted, shortened
from iak.schemas.reference import type_name

_SECTIONS = {
    "log": "[log]",
    "domain": "[domain]",
    "features": "[[features]]",
    "tasks": "[[tasks]]",
    "splits": "[splits.NAME]",
    "tables": "[tables.NAME]",
    "presets": "[presets.VERB]",
}
"""Part of a catalogue -> its spelling in TOML."""


def explain(
    error: ValidationError,
    kind: type[BaseModel] | None = None,
    document: JsonObject | None = None,
) -> str:
    """Return pydantic's errors, one per line: where, what was expected, what was seen.

    Args:
        error: the errors.
        kind: type of the document, to name similar keys; None names none.
        document: the document that was read, to name a feature or a task beside its position.
    """
    lines: dict[str, None] = {}
    errors = error.errors(include_url=False)
    for finding in errors:
        depth = len(finding["loc"])
        if finding["type"] == "too_short" and any(
            len(other["loc"]) > depth and other["loc"][:depth] == finding["loc"] for other in errors
        ):
            continue  # it counts only valid entries; those that are not have errors of their own
        path, owner, wanted = _follow(finding["loc"], kind)
        where = _where(path, document)
        lines[f"  {where}: {_sentence(finding, path, owner, wanted)}"] = None
    head = "one thing to fix:" if len(lines) == 1 else f"{len(lines)} things to fix:"
    return redacted("\n".join([head, *lines]))


def _follow(
    loc: Sequence[int | str], kind: type[BaseModel] | None
) -> tuple[list[int | str], Any, Any]:
    """Follow a location into the types of a document.

    Returns:
        The location without the steps by which pydantic names the member of a union; the type of
        the document or dictionary that holds the value; and the type of the value, None where it
        is unknown.
    """
    path: list[int | str] = []
    annotation: Any = kind
    owner: Any = None
    for step in loc:
        annotation = _without_none(annotation)
        origin, inner = get_origin(annotation), get_args(annotation)
        if origin in (Union, types.UnionType):
            chosen = [m for m in inner if _tag_of(m) == step]
            if not chosen:
                return path, owner, annotation
            annotation = chosen[0]
            continue
        path.append(step)
        owner = annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(step))
            annotation = field.annotation if field else None
        elif origin is tuple:
            annotation = inner[0]
        elif origin is dict:
            annotation = inner[1]
        else:
            annotation = None
    return path, owner, _without_none(annotation)


def _without_none(annotation: Any) -> Any:  # noqa: ANN401 - any annotation
    """Return an annotation without its bounds, and without a None that it also takes."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        members = [m for m in get_args(annotation) if m is not type(None)]
        return _without_none(members[0]) if len(members) == 1 else annotation
    return annotation


def _tag_of(member: Any) -> str | None:  # noqa: ANN401
    """Return the `kind` that a member of a tagged union is known by."""
    fields = getattr(member, "model_fields", {})
    return get_args(fields["kind"].annotation)[0] if "kind" in fields else None


def _where(path: Sequence[int | str], document: JsonObject | None) -> str:
    """Return a location in TOML's spelling, with the name of its feature or task."""
    where = ".".join(str(part) for part in path if part != "[key]") or "(whole document)"
    entry: Any = document
    for step in path[:2]:
        try:
            entry = entry[step]
        except (KeyError, IndexError, TypeError):
            return where
    if len(path) > 1 and isinstance(path[1], int) and isinstance(entry, Mapping):
        name = entry.get("name") or entry.get("label")
        return f"{where} ('{name}')" if name else where
    return where


def _sentence(finding: Any, path: Sequence[int | str], owner: Any, wanted: Any) -> str:  # noqa: ANN401
    """Return a sentence about the problem of one value."""
    value, problem = finding.get("input"), finding["type"]
    if problem == "extra_forbidden" and isinstance(owner, type) and issubclass(owner, BaseModel):
        keys = list(owner.model_fields)
        return f"there is no such key.{nearest(str(path[-1]), keys)} Keys here: {listed(keys)}"
    if problem == "missing":
        section = _SECTIONS.get(str(path[0])) if len(path) == 1 else None
        return f"it is missing; add {section}" if section else "it is required, and missing"
    if problem in ("union_tag_not_found", "union_tag_invalid"):
        return _kind_sentence(finding["ctx"], problem)
    text = finding["msg"].removeprefix("Value error, ")
    if problem == "literal_error" and isinstance(value, str):
        near = nearest(value, list(_words(finding))).strip()
        text += f" (d{near[1:]})" if near else ""
    elif path[:1] == ["presets"] and len(path) > 1:
        text = _preset_sentence(path)
    elif wanted is not None and problem not in ("value_error", "literal_error"):
        text = f"expected {type_name(wanted)}" if _is_kind_error(problem) else text
        text += _as_list(value, wanted)
    return f"{text}, seen {_shown(value)}" if isinstance(value, str | int | float | bool) else text


def _is_kind_error(problem: str) -> bool:
    """Return whether a value is of another type. Pydantic's text on dates is better than ours."""
    return problem.endswith(("_type", "_parsing", "_from_float")) and "date" not in problem


def _as_list(value: Any, wanted: Any) -> str:  # noqa: ANN401
    """Return a hint that spells one text as a list, where a list is expected."""
    is_open = get_origin(wanted) is tuple and get_args(wanted)[-1] is Ellipsis
    return f"; write [{json.dumps(value)}]" if is_open and isinstance(value, str) else ""


def _kind_sentence(context: JsonObject, problem: str) -> str:
    words = [word.strip(" '") for word in context.get("expected_tags", "").split(",") if word]
    if problem == "union_tag_not_found":
        return 'kind is missing; write kind = "categorical", "list", "numeric" or "cross"'
    tag = str(context["tag"])
    return f'kind = "{tag}" is none of {", ".join(words)}.{nearest(tag, words)}'.rstrip(".")


def _preset_sentence(path: Sequence[int | str]) -> str:
    name = ".".join(str(part) for part in path[2:])
    return (
        "a setting is a number, a text, true or false, or a list of whole numbers. One of a group "
        f'is written under [presets.{path[1]}] as a dotted name in quotes: "{name}.NAME" = ...'
    )


def _words(finding: JsonObject) -> Iterator[str]:
    """Yield the words of a literal."""
    for word in finding["ctx"]["expected"].replace(" or ", ", ").split(", "):
        yield word.strip("'")


def _shown(value: str | float) -> str:
    return shortened(repr(value) if isinstance(value, str) else json.dumps(value))
