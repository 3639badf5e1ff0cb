"""Define a bad input and its outcome."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Program = Literal["iak", "benchmarks"]
"""`iak`, or `python -m infra.benchmarks`."""
Kind = Literal["settings", "paths", "catalogues", "files"]
Verdict = Literal["refused by name", "wrong", "crashed"]


def nothing(_folder: Path) -> None:
    """Make no file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadInput:
    """A command that must be refused."""

    kind: Kind
    name: str
    """Description of what is bad, different for each item."""
    words: tuple[str, ...]
    """Words after the program's; `{folder}` stands for the item's own folder."""
    must_name: tuple[str, ...]
    """Names that the refusal must contain: of the setting, or of the file."""
    program: Program = "iak"
    """Program that gets the words."""
    make: Callable[[Path], None] = nothing
    """Write the files that it needs into its folder."""
    reaches_job: bool = False
    """Whether the verb's job must begin to find it: otherwise it ends with the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Reaction of `iak` to a bad input."""

    kind: Kind
    name: str
    outcome: Verdict
    """`wrong`: it was accepted, or refused without saying what; `crashed`: with a traceback."""
    message: str
    """Message that the user saw."""
