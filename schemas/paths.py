"""Define the paths that settings take: each is read or written, and is a file or a folder.

A job checks them before it starts (jobs/path_settings.py), so that a run of hours does not fail at
the end because a folder is a file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from iak.schemas.base import not_empty, printable

PICTURES = (".png", ".svg", ".pdf")
_REGISTRY = "registry:"


@dataclass(frozen=True, slots=True)
class Role:
    """What a path is for."""

    is_folder: bool
    is_written: bool
    may_be_in_registry: bool = False
    """Whether `registry:DIR@ALIAS` may stand in the place of a folder."""


def _path_text(value: object) -> object:
    """Refuse a text that no file system takes. An empty one would mean the current folder."""
    text = str(value) if isinstance(value, Path) else value
    if isinstance(text, str):
        not_empty(printable(text))
    return value


def in_registry(path: Path) -> tuple[Path, str] | None:
    """Return the folder and the alias that `registry:DIR@ALIAS` names; None for a plain path."""
    text = str(path)
    if not text.startswith(_REGISTRY):
        return None
    folder, _, alias = text.removeprefix(_REGISTRY).rpartition("@")
    return Path(folder), alias


def _picture(path: Path) -> Path:
    """Refuse a picture in a format that is not drawn."""
    if path.suffix.lower() not in PICTURES:
        raise ValueError(f"a picture's name ends in {', '.join(PICTURES)}, not '{path.suffix}'")
    return path


_TEXT = BeforeValidator(_path_text)
NamedPath = Annotated[Path, _TEXT]
"""A path that the job itself looks for: a file, or something shipped by its name."""
FileToRead = Annotated[Path, _TEXT, Role(is_folder=False, is_written=False)]
FolderToRead = Annotated[Path, _TEXT, Role(is_folder=True, is_written=False)]
BundlesToRead = Annotated[
    Path, _TEXT, Role(is_folder=True, is_written=False, may_be_in_registry=True)
]
"""A folder of bundles, or the bundles that a registry's alias means: `registry:DIR@champion`."""
FileToWrite = Annotated[Path, _TEXT, Role(is_folder=False, is_written=True)]
"""A file whose folder is made where it is missing."""
Picture = Annotated[FileToWrite, AfterValidator(_picture)]
FolderToWrite = Annotated[Path, _TEXT, Role(is_folder=True, is_written=True)]
"""A folder that is made where it is missing."""
