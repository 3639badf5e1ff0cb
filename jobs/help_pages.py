"""Show help: the list of verbs, and the settings of one command in groups."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import App, Parameter
from cyclopts.help import HelpEntry, HelpPanel, InlineText
from cyclopts.help.formatters import DefaultFormatter

from iak.jobs.verbs import GROUPS, VERBS

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

    from iak.jobs.command import Command

EPILOGUE = """
Every setting is a field of the verb's spec, and can be given in three ways that mean the same:
  --config FILE.toml      batch_rows = 4096, or [optim] table_lr = 0.05
  key=value               batch_rows=4096 optim.table_lr=0.05 model.mlp=[256,128]
  --key value             --batch-rows 4096 --optim.table-lr 0.05
What is true or false: --smoke, --smoke false, --no-smoke, smoke=false.
Exit codes: 0 ok, 1 failed, 2 bad request, 3 does not fit, 4 some held, 5 some failed,
6 nothing to do, 130 interrupted.
"""
CONFIG = Parameter(
    name="--config",
    help="TOML file of settings; of several files, a later one wins.",
    negative="",
    show_default=False,
)
_NEEDED, _OTHERS = "Needed", "Settings"


def verbs_app(doctor: Callable[[], int]) -> App:
    """Return the program without a verb: help, version, `doctor`, and the list of verbs.

    Args:
        doctor: the one verb that has no settings.
    """
    app = App(
        name="iak",
        help="Kernels that adapt a frozen recommender every night.",
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        result_action="return_value",
    )
    groups = {
        name: App(name=name, help=text, help_format="plaintext", help_epilogue=EPILOGUE)
        for name, text in GROUPS.items()
    }
    for name, verb in VERBS.items():
        group, _, last = name.rpartition(" ")
        parent = groups[group] if group else app
        parent.command(doctor if name == "doctor" else _listed(verb.help), name=last)
    for group_app in groups.values():
        app.command(group_app)
    return app


def _listed(text: str) -> Callable[[], None]:
    """Return a verb for the list of verbs; its own help is made when it is asked for."""

    def verb() -> None:
        return

    verb.__doc__ = text
    return verb


def command_app(command: "Command") -> App:
    """Return the program of one command, without its settings."""
    example = f"\nExample: {command.example}\n" if command.example else ""
    return App(
        name=command.name,
        help=command.help + ".",
        usage=usage(command),
        help_epilogue=example + EPILOGUE,
        help_format="plaintext",
        help_formatter=_GroupedHelp(_needed(command)),
        version_flags=(),
        result_action="return_value",
    )


def _needed(command: "Command") -> frozenset[str]:
    return frozenset(name for name, f in command.kind.model_fields.items() if f.is_required())


def usage(command: "Command") -> str:
    """Return the usage line: what needs no name, then what has to be given by its name."""
    words: list[str] = []
    for name in command.positional:
        is_needed = command.kind.model_fields[name].is_required()
        words.append(name.upper() if is_needed else f"[{name.upper()}]")
    for name, field in command.kind.model_fields.items():
        if field.is_required() and name not in command.positional:
            words.append(f"{field.alias or name}={name.upper()}")
    return f"Usage: {' '.join([command.name, *words])} [SETTINGS]"


@dataclass(frozen=True, slots=True)
class _GroupedHelp:
    """Help of one command: what is needed first, then each group of settings by itself."""

    needed: frozenset[str]
    """Settings without a default."""

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: HelpPanel) -> None:
        if panel.format == "command":
            return  # --help alone
        groups: dict[str, list[HelpEntry]] = {_NEEDED: [], _OTHERS: []}
        for entry in panel.entries:
            groups.setdefault(self._group_of(entry), []).append(_reflowed(entry))
        for title, entries in groups.items():
            if entries:
                DefaultFormatter()(console, options, panel.copy(title=title, entries=entries))

    def _group_of(self, entry: HelpEntry) -> str:
        """Return the group of a setting: the first part of its dotted name."""
        name = entry.positive_names[0].removeprefix("--").replace("-", "_")
        group, dot, _ = name.partition(".")
        if dot:
            return group
        return _NEEDED if name in self.needed else _OTHERS


def _reflowed(entry: HelpEntry) -> HelpEntry:
    """Return an entry whose text does not break where the source does."""
    from rich.text import Text

    shown = entry.description
    if isinstance(shown, InlineText) and isinstance(shown.primary_renderable, Text):
        text = InlineText(Text(" ".join(shown.primary_renderable.plain.split())))
        text.texts = shown.texts  # what cyclopts appends: choices, the default
        return entry.copy(description=text)
    return entry
