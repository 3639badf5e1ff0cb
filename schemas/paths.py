"""Define the paths that settings take: each is read or written, and is a file or a folder.

A job checks them before it starts (jobs/path_settings.py), so that a run of hours does not fail at
the end because a folder is a file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from iak.schemas.base import without_userinfo

PICTURES = (".png", ".svg", ".pdf")
BUCKET = "s3://"
_REGISTRY = "registry:"
_COLLAPSED = "s3:/"
"""What a path makes of `s3://`."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a path is for."""

    is_folder: bool | None
    """None where it may be either."""
    is_written: bool
    may_be_in_registry: bool = False
    """Whether `registry:PLACE@ALIAS` may stand in the place of a folder."""
    may_be_in_bucket: bool = False
    """Whether `s3://bucket/prefix` may stand in the place of a folder."""


def _path_text(value: object) -> object:
    """Refuse a text that no file system takes. An empty one would mean the current folder."""
    text = str(value) if isinstance(value, Path) else value
    if isinstance(text, str):
        without_userinfo(text)
    return value


def in_registry(path: Path) -> tuple[str, str] | None:
    """Return the registry's place and the alias that a reference names; None for a plain path.

    Args:
        path: `registry:DIR@ALIAS` or `registry:s3://bucket/prefix@ALIAS`, which a path holds with
            one slash less.
    """
    text = reference_text(path)
    if not text.startswith(_REGISTRY):
        return None
    registry, _, alias = text.removeprefix(_REGISTRY).rpartition("@")
    return registry, alias


def bucket_uri(path: Path | str) -> str | None:
    """Return the `s3://bucket/prefix` that a path stands for; None for a plain path.

    Args:
        path: a URI, which a path holds with one slash less.
    """
    text = str(path)
    if text.startswith(BUCKET):
        return text.rstrip("/")
    return BUCKET + text.removeprefix(_COLLAPSED) if text.startswith(_COLLAPSED) else None


def reference_text(path: Path) -> str:
    """Return a path, a URI or a reference into a registry, as a person writes it."""
    text = str(path).replace(f"{_REGISTRY}{_COLLAPSED}", f"{_REGISTRY}{BUCKET}", 1)
    return bucket_uri(text) or text


def _registry_place(text: str) -> str:
    """Refuse a URI on which no registry can lie."""
    if "://" in text and not text.startswith(BUCKET):
        raise ValueError("expected a folder or s3://bucket/prefix")
    return without_userinfo(text)


def _picture(path: Path) -> Path:
    """Refuse a picture in a format that is not drawn."""
    if path.suffix.lower() not in PICTURES:
        raise ValueError(f"a picture's name ends in {', '.join(PICTURES)}, not '{path.suffix}'")
    return path


_TEXT = BeforeValidator(_path_text)
NamedPath = Annotated[Path, _TEXT]
"""A path that the job itself looks for: a file, or something shipped by its name."""
FileToRead = Annotated[Path, _TEXT, Role(is_folder=False, is_written=False)]
FileOrFolderToRead = Annotated[Path, _TEXT, Role(is_folder=None, is_written=False)]
FolderToRead = Annotated[Path, _TEXT, Role(is_folder=True, is_written=False)]
_IN_REGISTRY = Role(
    is_folder=True, is_written=False, may_be_in_registry=True, may_be_in_bucket=True
)
_REFERENCE = PlainSerializer(reference_text, return_type=str)
BundlesToRead = Annotated[Path, _TEXT, _REFERENCE, _IN_REGISTRY]
"""A folder of bundles, `s3://bucket/prefix`, or the bundles that a registry's alias means:
`registry:DIR@champion`."""
BaseToRead = Annotated[Path, _TEXT, _REFERENCE, _IN_REGISTRY]
"""A run or folder of a base, `s3://bucket/prefix`, or the base that a registry's alias runs on."""
_PLACE = AfterValidator(_registry_place)
RegistryToRead = Annotated[str, _TEXT, _PLACE, Role(is_folder=True, is_written=False)]
"""A registry: a folder, or `s3://bucket/prefix`."""
RegistryToWrite = Annotated[str, _TEXT, _PLACE, Role(is_folder=True, is_written=True)]
"""A registry that is made where it is missing."""
FileToWrite = Annotated[Path, _TEXT, Role(is_folder=False, is_written=True)]
"""A file whose folder is made where it is missing."""
Picture = Annotated[FileToWrite, AfterValidator(_picture)]
FolderToWrite = Annotated[Path, _TEXT, Role(is_folder=True, is_written=True)]
"""A folder that is made where it is missing."""
PlaceToWrite = Annotated[
    Path, _TEXT, _REFERENCE, Role(is_folder=True, is_written=True, may_be_in_bucket=True)
]
"""A folder that is made where it is missing, or `s3://bucket/prefix`."""
PlaceToRead = Annotated[
    Path, _TEXT, _REFERENCE, Role(is_folder=True, is_written=False, may_be_in_bucket=True)
]
"""A folder, or `s3://bucket/prefix`."""
