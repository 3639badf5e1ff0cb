"""Derive bad settings and paths of every command from its spec."""

import functools
import types
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from iak.jobs.path_settings import roles_of
from iak.jobs.verbs import VERBS, spec_class
from iak.schemas.paths import Role
from infra.benchmarks.__main__ import BENCHMARKS, kind_of
from infra.benchmarks.bad_inputs.items import BadInput, Program

HUGE = "1" + "0" * 30
NEEDED: dict[str, dict[str, str]] = {
    "check": {"catalog": "frappe", "data_root": "{folder}/nowhere"},
    "pretrain": {
        "catalog": "frappe",
        "data_root": "{folder}/nowhere",
        "run_dir": "{folder}/run",
    },
    "adopt": {
        "catalog": "frappe",
        "data_root": "{folder}/nowhere",
        "run_dir": "{folder}/run",
    },
    "finetune": {
        "catalog": "frappe",
        "data_root": "{folder}/nowhere",
        "run_dir": "{folder}/run",
        "base": "{folder}/folder",
    },
    "evaluate": {
        "catalog": "frappe",
        "data_root": "{folder}/nowhere",
        "run_dir": "{folder}/run",
        "base": "{folder}/folder",
    },
    "predict": {
        "catalog": "frappe",
        "data_root": "{folder}/nowhere",
        "run_dir": "{folder}/run",
        "base": "{folder}/folder",
    },
    "explain": {
        "catalog": "frappe",
        "data_root": "{folder}/nowhere",
        "base": "{folder}/folder",
        "bundles": "{folder}/folder",
    },
    "shadow": {
        "catalog": "frappe",
        "data_root": "{folder}/nowhere",
        "base": "{folder}/folder",
        "live": "{folder}/folder",
        "candidate": "{folder}/folder",
    },
    "serve": {"catalog": "frappe", "base": "{folder}/folder"},
    "export": {"catalog": "frappe", "base": "{folder}/folder", "out": "{folder}/export"},
    "compare": {"first": "{folder}/folder", "second": "{folder}/folder"},
    "init": {"log": "{folder}/nowhere"},
    "report": {"path": "{folder}/folder"},
    "show": {"path": "{folder}/folder"},
    "synth": {"out": "{folder}/log"},
    "plan": {"catalog": "planted"},
    "submit": {"command": "check"},
    "nightly run": {"file": "{folder}/file"},
    "nightly backfill": {"file": "{folder}/file", "nights": "2026-10-20..2026-10-28"},
    "nightly watch": {"file": "{folder}/file"},
    "nightly status": {"file": "{folder}/file"},
    "nightly check": {"file": "{folder}/file"},
    "nightly init": {"catalog": "frappe", "base": "{folder}/folder"},
    "registry list": {"registry": "{folder}/folder"},
    "registry show": {"registry": "{folder}/folder"},
    "registry diff": {"registry": "{folder}/folder"},
    "registry promote": {"registry": "{folder}/registry", "run": "{folder}/folder"},
    "registry rollback": {"registry": "{folder}/folder", "domain": "pooled"},
    "registry verify": {"registry": "{folder}/folder"},
    "registry gc": {"registry": "{folder}/folder"},
    "registry forget": {"registry": "{folder}/folder", "rows_of": "{folder}/file"},
    "jobs logs": {"job": "iak-check"},
    "jobs stop": {"job": "iak-check"},
    "infra render": {"file": "{folder}/file", "out": "{folder}/deploy"},
}
"""Settings that a verb requires, by verb."""
_OF_A_KNOWN_ONE = 2
"""Values that are tried of a setting that another verb has too, since both read it alike."""
_NO_TEXT = ("nul\0byte", "line\nend", "half\udcffbyte")


class Command(NamedTuple):
    """A command whose settings are tried: a verb of `iak`, or a benchmark of this project."""

    program: Program
    name: str
    """Its words after the program's."""
    kind: type[BaseModel]
    """Class of its settings."""


class Leaf(NamedTuple):
    """A setting of a command that holds a value, not further settings."""

    name: str
    annotation: Any
    metadata: list[Any]
    is_required: bool


def bad_settings() -> Iterator[BadInput]:
    """Yield, for every setting of every command, values that it cannot have."""
    tried: set[tuple[str, str]] = set()
    for command in commands():
        for leaf in leaves(command.kind):
            yield _misspelt(command, leaf.name)
            is_known = (leaf.name, str(leaf.annotation)) in tried
            tried.add((leaf.name, str(leaf.annotation)))
            for value in bad_values(leaf)[: _OF_A_KNOWN_ONE if is_known else None]:
                yield _setting(command, leaf.name, value)
            if is_known:
                continue
            for literal in bad_literals(leaf):
                yield _in_a_file(command, leaf.name, literal)


def bad_paths() -> Iterator[BadInput]:
    """Yield bad values for every path of every command."""
    for command in commands():
        for leaf in leaves(command.kind):
            if plain_type(leaf.annotation) is Path:
                yield from _paths(command, leaf)


def commands() -> list[Command]:
    """Return every verb that has settings, and every benchmark of this project."""
    verbs = [Command("iak", verb, spec_class(verb)) for verb in VERBS if verb != "doctor"]
    return verbs + [Command("benchmarks", name, kind_of(name)) for name in BENCHMARKS]


@functools.cache
def leaves(kind: type[BaseModel], below: str = "") -> list[Leaf]:
    """Return every setting of a spec, with its dotted name."""
    settings: list[Leaf] = []
    for name, field in kind.model_fields.items():
        inner = field.annotation
        full = f"{below}{field.alias or name}"
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            settings += leaves(inner, f"{full}.")
        else:
            settings.append(Leaf(full, inner, _metadata(field), field.is_required()))
    return settings


def _metadata(field: FieldInfo) -> list[Any]:
    """Return the bounds of a field, its own and those inside a union with None."""
    return [*field.metadata, *_inner_metadata(field.annotation)]


def _inner_metadata(annotation: Any) -> list[Any]:  # noqa: ANN401 - any annotation
    bounds: list[Any] = []
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            bounds += _inner_metadata(member)
    if get_origin(annotation) is Annotated:
        inner, *entries = get_args(annotation)
        bounds += _inner_metadata(inner)
        for entry in entries:
            bounds += entry.metadata if isinstance(entry, FieldInfo) else [entry]
    return bounds


def plain_type(annotation: Any) -> Any:  # noqa: ANN401 - any annotation
    """Return a type without its bounds, and without a None that it also takes."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        members = [m for m in get_args(annotation) if m is not type(None)]
        return plain_type(members[0])
    return annotation


def _lowest(metadata: list[Any]) -> float:
    """Return the lowest value within the bounds; minus infinity without a bound."""
    bounds = [float(str(e.ge)) for e in metadata if isinstance(e, Ge)]
    bounds += [float(str(e.gt)) + 1e-9 for e in metadata if isinstance(e, Gt)]
    return max(bounds, default=float("-inf"))


def bad_values(leaf: Leaf) -> list[str]:
    """Return texts of the command line that a setting cannot have."""
    kind, lowest = plain_type(leaf.annotation), _lowest(leaf.metadata)
    origin = get_origin(kind)
    if kind is bool:
        return ["maybe", "2", "nan"]
    if kind in (int, float):
        too_low = [text for text in ("-1", "0") if float(text) < lowest]
        odd = ["1.5", "1_0.5"] if kind is int else ["1,5"]
        return ["nan", "inf", "-inf", "1e23", HUGE, "text", "", "[1, 2]", *odd, *too_low]
    if origin is Literal:
        return ["nonsense", "", str(get_args(kind)[0]).upper() + "x"]
    if kind is date:
        return ["tomorrow", "2026-13-45", "nan", ""]
    if origin is tuple:
        return _bad_lists(leaf, kind)
    if origin is dict and plain_type(get_args(kind)[1]) in (int, float):
        return []  # under a name of its own: see _bad_entries
    return []


def _bad_lists(leaf: Leaf, kind: Any) -> list[str]:  # noqa: ANN401 - any annotation
    item = get_args(kind)[0]
    inner = Leaf(leaf.name, item, _inner_metadata(item), is_required=False)
    lists = [f"[{v}]" for v in bad_values(inner) if v and not v.startswith("[") and v != "1,5"]
    lists = [text for text in lists if plain_type(item) in (int, float) and text[1:2] != "t"]
    return [*lists, *(["[]"] if any(isinstance(e, MinLen) for e in leaf.metadata) else [])]


def bad_literals(leaf: Leaf) -> list[str]:
    """Return values in TOML that a setting cannot have."""
    kind, lowest = plain_type(leaf.annotation), _lowest(leaf.metadata)
    origin = get_origin(kind)
    if kind in (int, float):
        too_low = [text for text in ("-1", "0") if float(text) < lowest]
        half = ["1.5"] if kind is int else []
        is_text_too = any(plain_type(member) is str for member in get_args(leaf.annotation))
        text = [] if is_text_too else ['"text"']
        return ["nan", "inf", "1e23", HUGE, "true", "[1]", "{ a = 1 }", *text, *half, *too_low]
    if kind is bool:
        return ['"maybe"', "2", "[true]", "nan"]
    if kind in (str, Path) or origin is Literal:
        return ["1", "true", "[1]", "{ a = 1 }", '"nul\\u0000byte"']
    if origin is dict:
        inner = get_args(kind)[1]
        entry = Leaf(leaf.name, inner, _inner_metadata(inner), is_required=False)
        return ["1", "true", *(f"{{ some = {text} }}" for text in bad_literals(entry))]
    if origin is tuple:
        return ["{ a = 1 }", "true", "nan"]
    return []


def words_of(verb: str) -> tuple[str, ...]:
    """Return the words of a verb with all settings that it requires."""
    return _words(Command("iak", verb, spec_class(verb)))


def _words(command: Command, **changes: str) -> tuple[str, ...]:
    """Return the words of a command with all required settings, some of them changed."""
    settings = _needed(command) | changes
    return (*command.name.split(), *(f"{name}={value}" for name, value in settings.items()))


def _needed(command: Command) -> dict[str, str]:
    """Return the settings that a command requires; a benchmark requires none."""
    return NEEDED.get(command.name, {}) if command.program == "iak" else {}


def _setting(command: Command, name: str, value: str) -> BadInput:
    shown = value if len(value) < 20 else f"{value[:6]}... ({len(value)} digits)"
    return BadInput(
        program=command.program,
        kind="settings",
        name=f"{command.program} {command.name} {name}={shown}",
        words=_words(command, **{name: value}),
        must_name=(name,),
        make=materials,
    )


def _in_a_file(command: Command, name: str, literal: str) -> BadInput:
    """Return a value that stands in the file of --config, with its type."""
    *outer, last = name.split(".")
    section = f"[{'.'.join(outer)}]\n" if outer else ""

    def make(folder: Path) -> None:
        materials(folder)
        (folder / "settings.toml").write_text(f"{section}{last} = {literal}\n")

    needed = {key: value for key, value in _needed(command).items() if key != name}
    words = (*command.name.split(), "--config={folder}/settings.toml")
    return BadInput(
        program=command.program,
        kind="settings",
        name=f"{command.program} {command.name} --config with {name} = {literal}",
        words=(*words, *(f"{key}={value}" for key, value in needed.items())),
        must_name=(name,),
        make=make,
    )


def _misspelt(command: Command, name: str) -> BadInput:
    """Return a setting with a letter too many at its end."""
    return BadInput(
        program=command.program,
        kind="settings",
        name=f"{command.program} {command.name} {name}q=1",
        words=_words(command, **{f"{name}q": "1"}),
        must_name=(f"{name}q",),
        make=materials,
    )


def materials(folder: Path) -> None:
    """Make a file, a folder, a link to nothing and a link to itself."""
    (folder / "file").write_text("text\n")
    (folder / "folder").mkdir()
    (folder / "dangling").symlink_to(folder / "gone")
    (folder / "circle").symlink_to(folder / "circle")


def _paths(command: Command, leaf: Leaf) -> Iterator[BadInput]:
    role = next(roles_of(leaf.metadata, leaf.annotation), None)
    values = {"empty": "", "blank": " ", "too long a name": "{folder}/" + "n" * 300}
    values |= {f"with {text!r}": f"{{folder}}/{text}" for text in _NO_TEXT}
    values |= {"too long a path": "{folder}" + "/folder" * 800}
    values |= _unfit(role)
    for what, value in values.items():
        yield BadInput(
            program=command.program,
            kind="paths",
            name=f"{command.program} {command.name} {leaf.name}: {what}",
            words=_words(command, **{leaf.name: value}),
            must_name=(leaf.name,),
            make=materials,
            reaches_job=role is None,  # a catalogue, which the job itself looks for
        )


def _unfit(role: Role | None) -> dict[str, str]:
    """Return paths that do not suit a role."""
    links = {"a link to nothing": "{folder}/dangling", "a link to itself": "{folder}/circle"}
    if role is None:
        return {"a folder": "{folder}/folder", "missing": "{folder}/gone", **links}
    wrong = {
        True: {"a file": "{folder}/file"},
        False: {"a folder": "{folder}/folder"},
        None: dict[str, str](),
    }[role.is_folder]
    if role.is_written:
        return {**wrong, **links, "below a file": "{folder}/file/below"}
    return {**wrong, **links, "missing": "{folder}/gone"}
