"""Read a command's settings from its words, files, the catalogue's presets and the defaults.

cyclopts parses `--key value` and `--key=value`. Its `config` hooks see the parsed arguments before
they become a spec, and add the rest: `key=value`, lists in TOML's spelling, and the files. The
command line wins over files, and a later file over an earlier one. Files win over the catalogue's
presets, and presets over defaults.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

from cyclopts import (
    UNSET,
    App,
    Argument,
    ArgumentCollection,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    Token,
)
from cyclopts.config import Dict
from pydantic import BaseModel, ValidationError

from iak.jobs import help_pages, setting_names
from iak.pipeline.errors import BadRequest
from iak.pipeline.runs import load
from iak.pipeline.runs.documents import read_toml
from iak.pipeline.runs.explain import explain
from iak.schemas.base import Settings, shortened
from iak.schemas.reference import type_name

_WORDS = "_words"
"""Parameter that takes what cyclopts reads as no option: pairs, names, unknown options."""
_PAIR = re.compile(r"-{0,2}([\w.-]+)=(.*)", re.DOTALL)
_OPTION = re.compile(r"--?([\w.-]+)")
_TRUTHS = ("true", "false")
_YES = ("true", "1", "yes", "on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command whose settings are the fields of a spec."""

    name: str
    """The command as a user types it: `iak bench sharding`."""
    kind: type[BaseModel]
    """The spec."""
    help: str
    """A line that says what it does, without a full stop."""
    example: str = ""
    positional: tuple[str, ...] = ()
    """Settings that may be given without their names, in this order."""
    files: tuple[Path, ...] = ()
    """Settings that come with it, as TOML; a later file wins."""
    smoke_files: tuple[Path, ...] = ()
    """Further ones for `--smoke`."""
    presets: str = ""
    """Section of a catalogue's presets that it reads; none where empty."""


def read_command(command: Command, words: Sequence[str]) -> BaseModel | None:
    """Return a command's frozen spec, or None when help was asked for and shown.

    Args:
        command: the command to read.
        words: the words after its name.

    Raises:
        BadRequest: a setting is wrong. The message names it, what was seen and what was expected.
    """
    kind, specs = command.kind, list[BaseModel]()
    app = help_pages.command_app(command)

    @app.default
    def take(
        *_words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        _config: Annotated[tuple[Path, ...], help_pages.CONFIG] = (),
        # The spec's class is known only here: the annotation is evaluated with the function.
        spec: Annotated[kind, Parameter(name="*")] | None = None,  # type: ignore[valid-type]
    ) -> None:
        specs.append(spec or kind())

    reader = _Reader(command)
    app.config = (reader.spell_out, reader.add_files)
    try:
        app(_with_truths(app, words), exit_on_error=False, print_error=False)
    except (CycloptsError, ValidationError) as error:
        problem = _problem(error, kind)
        raise BadRequest(f"{command.name}: {problem}\nSee {command.name} --help") from error
    return specs[0] if specs else None


@dataclass(frozen=True, slots=True)
class _Reader:
    """The hooks of one command."""

    command: Command

    def spell_out(
        self, _app: App, _commands: tuple[str, ...], arguments: ArgumentCollection
    ) -> None:
        """Move each `key=value` to its argument, and each entry of a list to a token of its own."""
        words = next(a for a in arguments if a.field_info.name == _WORDS)
        bare = iter(self.command.positional)
        for token in words.tokens:
            key, value = _pair(token.value) or (self._name_of(token.value, bare), token.value)
            self._refuse_unknown([key])
            argument, keys, implicit = arguments.match(f"--{key}")
            if implicit not in (UNSET, True):  # `--no-KEY`, which has no value
                raise BadRequest(f"{self.command.name}: {key} takes no value; write it as --{key}")
            argument.append(Token(keyword=f"--{key}", value=value, keys=keys, source="cli"))
        words.tokens.clear()
        for argument in arguments:
            argument.tokens = [
                entry for token in argument.tokens for entry in _entries(token, argument)
            ]
            if argument.children and any(not _is_object(token) for token in argument.tokens):
                setting = _setting(argument.name)
                raise BadRequest(f"{self.command.name}: {setting_names.group_problem(setting)}")

    def add_files(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Give every argument that has no value yet the one of the files or the presets."""
        command = self.command
        files = [Path(token.value) for token in _argument(arguments, "config").tokens]
        settings: Settings = {}
        for file in [*self._shipped(arguments), *files]:
            settings = load.merged(settings, read_toml(file, setting="--config"))
        below = load.merged(self._presets(arguments, settings), settings)
        self._refuse_unknown(setting_names.dotted(below))
        setting_names.refuse_other_than_text(command.kind, below, command=command.name)
        Dict(below, source="--config", use_commands_as_keys=False)(app, commands, arguments)

    def _name_of(self, word: str, bare: Iterator[str]) -> str:
        """Return the setting that a word without a name gives a value to."""
        name = next(bare, None)
        if name is None:
            raise BadRequest(
                f"{self.command.name}: {word!r} is no setting; write key=value, or --key value"
            )
        return name

    def _refuse_unknown(self, names: Iterable[str]) -> None:
        known = [name.lstrip("-") for name in names if name.lstrip("-") != "config"]
        setting_names.refuse_unknown(self.command.kind, known, command=self.command.name)

    def _shipped(self, arguments: ArgumentCollection) -> list[Path]:
        """Return the files that come with the command; with `--smoke`, the small ones on top."""
        is_smoke = self.command.smoke_files and _is_set(_argument(arguments, "smoke"))
        files = [*self.command.files, *(self.command.smoke_files if is_smoke else ())]
        return [file for file in files if file.is_file()]

    def _presets(self, arguments: ArgumentCollection, settings: Settings) -> Settings:
        """Return the presets that the named catalogue suggests for the command."""
        if not self.command.presets or "catalog" not in self.command.kind.model_fields:
            return {}
        tokens = _argument(arguments, "catalog").tokens
        named = tokens[0].value if tokens else settings.get("catalog")
        if not (named and isinstance(named, str)):  # another type is refused with the settings
            return {}
        presets = load.load_catalog(Path(named)).presets.get(self.command.presets, {})
        return load.nested(dict(presets))


def _pair(word: str) -> tuple[str, str] | None:
    """Return key and value of `key=value`; of an option that cyclopts does not know, its key."""
    if pair := _PAIR.fullmatch(word):
        return pair[1], pair[2]
    option = _OPTION.fullmatch(word)
    return (option[1], "") if option else None


def _is_object(token: Token) -> bool:
    """Return whether a token gives settings by their names: `{"table_lr": 0.1}`."""
    return token.value.startswith("{")


def _argument(arguments: ArgumentCollection, name: str) -> Argument:
    """Return the argument of a setting."""
    return arguments.match(f"--{name}")[0]


def _is_set(argument: Argument) -> bool:
    """Return whether a flag was given, and not as false."""
    return any(token.implicit_value is True or token.value in _YES for token in argument.tokens)


def _with_truths(app: App, words: Sequence[str]) -> list[str]:
    """Return the words, each flag joined with the `true` or `false` that follows it.

    cyclopts 5.4 reads `--flag=false`, but takes `--flag false` for a flag and a word.
    """
    arguments = app.assemble_argument_collection()
    joined: list[str] = []
    for word in words:
        if word in _TRUTHS and joined and _is_flag(joined[-1], arguments):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _is_flag(word: str, arguments: ArgumentCollection) -> bool:
    """Return whether a word is the name of a setting that is true or false."""
    try:
        return word.startswith("--") and isinstance(arguments.match(word)[2], bool)
    except ValueError:
        return False


def _entries(token: Token, argument: Argument) -> Iterator[Token]:
    """Yield a token for each entry of a list; any other token as it is.

    TOML's lists may have text in single quotes and numbers such as 1_000, which JSON's may not. A
    list of numbers, or of some known words, may also be written without brackets: `1,10,100`.
    """
    is_list = get_origin(argument.resolved_hint) is tuple
    entries: list[object] | None = None
    if is_list and token.value.startswith("["):
        try:
            entries = tomllib.loads(f"entries = {token.value}")["entries"]
        except tomllib.TOMLDecodeError:
            entries = None  # the spec refuses the text, by its name
    elif is_list and "," in token.value and _has_no_free_text(argument.resolved_hint):
        entries = [entry.strip() for entry in token.value.split(",")]
    if entries is None:
        yield token
    elif not entries:
        yield token.evolve(value="", implicit_value=[])
    for entry in entries or ():
        yield token.evolve(value=str(entry))


def _has_no_free_text(hint: object) -> bool:
    """Return whether the entries of a list are numbers or known words, which have no comma."""
    entry, *_ = get_args(hint)
    if get_origin(entry) is Annotated:
        entry, *_ = get_args(entry)
    return entry in (int, float) or get_origin(entry) is Literal


def _problem(error: CycloptsError | ValidationError, kind: type[BaseModel]) -> str:
    """Return what is wrong with the words, by the dotted name of the setting."""
    for problem in (error, error.__cause__, error.__context__):
        if isinstance(problem, ValidationError):
            return explain(problem, kind)
    if isinstance(error, MissingArgumentError) and error.keyword:
        name = _setting(error.keyword)
        return f"{name}: the value is missing; write {name}=VALUE or {error.keyword} VALUE"
    if isinstance(error, RepeatArgumentError):
        name = setting_names.plain_name(
            _setting(error.token.keyword or ""), load.known_settings(kind)
        )
        return f"{name} is given twice; give it once"
    if isinstance(error, CoercionError) and error.token and not error.msg:
        name, wanted = _setting(error.token.keyword or ""), type_name(error.target_type)
        return f"{name}: expected {wanted}, seen {shortened(error.token.value)!r}"
    return str(error)


def _setting(keyword: str) -> str:
    """Return the dotted name of `--optim.table-lr`, or of `[optim][table_lr]`, a file's setting."""
    return keyword.strip("-[]").replace("][", ".").replace("-", "_")
