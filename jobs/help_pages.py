"""Show help: the list of verbs, and the settings of one command in groups."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import App, Group, Parameter
from cyclopts.help import HelpEntry, HelpPanel, InlineText
from cyclopts.help.formatters import DefaultFormatter

from iak.jobs.verbs import GROUPS, VERBS

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

    from iak.jobs.command import Command

SPELLINGS = """
Every setting of a verb can be given in three ways that mean the same:
  --config FILE.toml   batch_rows = 4096, and below [optim]: table_lr = 0.05
  key=value            batch_rows=4096 optim.table_lr=0.05 model.mlp=[256,128]
  --key value          --batch-rows 4096 --optim.table-lr 0.05
What is true or false: --bf16, --bf16 false, --no-bf16, bf16=false.
"""
EXIT_CODES = """
Exit codes: 0 ok, 1 failed, 2 bad request, 3 does not fit, 4 some held,
5 some failed, 6 nothing to do, 130 interrupted.
"""
FIRST_STEPS = """
From a log to kernels:
  iak init /data/shop/events out=shop.toml
  iak check catalog=shop.toml data_root=/data/shop
  iak pretrain catalog=shop.toml data_root=/data/shop run_dir=R1
  iak finetune catalog=shop.toml data_root=/data/shop base=R1 run_dir=R2
  iak show R2

iak VERB --help lists the settings of a verb, with an example.
"""
CHAPTERS = {
    "Begin": ("demo", "synth", "doctor"),
    "Know the log": ("init", "check"),
    "Train and judge": ("pretrain", "adopt", "finetune", "evaluate", "compare"),
    "Every night": ("nightly", "registry"),
    "Use it": ("predict", "explain", "shadow", "serve", "export"),
    "Look": ("show", "report"),
    "On other machines": ("plan", "submit", "jobs", "infra", "bench"),
}
"""Verbs and groups of verbs, in the order of the list."""
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
        help_epilogue=FIRST_STEPS + EXIT_CODES,
        help_format="plaintext",
        result_action="return_value",
    )
    for title, names in CHAPTERS.items():
        chapter = Group.create_ordered(title)
        for number, name in enumerate(names):
            entry = _group_app(name) if name in GROUPS else App(name=name, help=VERBS[name].help)
            entry.group, entry.sort_key = chapter, number
            if name == "doctor":
                entry.default(doctor)
            app.command(entry)
    return app


def _group_app(group: str) -> App:
    """Return the list of a group's verbs, with an example of each."""
    verbs = {name: verb for name, verb in VERBS.items() if name.startswith(f"{group} ")}
    examples = "".join(f"  {verb.example}\n" for verb in verbs.values())
    app = App(
        name=group,
        help=GROUPS[group],
        help_epilogue=f"\nExamples:\n{examples}{EXIT_CODES}",
        help_format="plaintext",
    )
    for name, verb in verbs.items():
        app.command(App(name=name.removeprefix(f"{group} "), help=verb.help))
    return app


def command_app(command: "Command") -> App:
    """Return the program of one command, without its settings."""
    example = f"\nExample: {command.example}\n" if command.example else ""
    return App(
        name=command.name,
        help=command.help + ".",
        usage=usage(command),
        help_epilogue=example + SPELLINGS + EXIT_CODES,
        help_format="plaintext",
        help_formatter=_GroupedHelp(_needed(command)),
        version_flags=(),
        result_action="return_value",
    )


def _needed(command: "Command") -> frozenset[str]:
    return frozenset(name for name, f in command.kind.model_fields.items() if f.is_required())


def usage(command: "Command") -> str:
    """Return the usage line: settings that need no name, then those that must be named."""
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
            return  # the only command is --help itself
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
    """Return an entry without the line breaks that its text has in the source code."""
    from rich.text import Text

    shown = entry.description
    if isinstance(shown, InlineText) and isinstance(shown.primary_renderable, Text):
        text = InlineText(Text(" ".join(shown.primary_renderable.plain.split())))
        text.texts = shown.texts  # what cyclopts appends: choices, the default
        return entry.copy(description=text)
    return entry
