"""Define the documents of a folder on an object store: its versions, and its writer's lease."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, NonNegativeInt, PositiveInt

from iak.schemas.base import Spec, not_empty, printable
from iak.schemas.manifest import Sha256


def _inside(path: str) -> str:
    """Return a relative path unchanged, or refuse one that leads out of its folder."""
    not_empty(printable(path))
    parts = PurePosixPath(path).parts
    if path.startswith("/") or "\\" in path or ".." in parts or path != "/".join(parts):
        raise ValueError(f"{path!r} is no path below a folder; expected names with / between them")
    return path


PathInside = Annotated[str, AfterValidator(_inside)]
"""A path below a folder, with `/` between its parts."""


class FileInVersion(Spec):
    """One file of a version."""

    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}-[0-9a-f]{16}$")]
    """Name of the object: the SHA-256 of its bytes, the lease (six hexadecimal digits) under which
    it was uploaded, and a mark drawn then. So no clean-up of an older version ever removes what a
    newer one has uploaded again."""
    bytes: NonNegativeInt

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the file's bytes."""
        return self.key.partition("-")[0]


class FolderVersion(Spec):
    """`versions/LEASE-NUMBER.json`: all files of a folder at one moment."""

    kind: Literal["iak-folder"] = "iak-folder"
    format: Literal[1] = 1
    lease: PositiveInt
    """Lease of the writer. Every version of a later lease is newer."""
    number: NonNegativeInt
    """Number of the version under this lease."""
    made_at: AwareDatetime
    files: dict[PathInside, FileInVersion]
    """Path below the folder -> the object with its bytes."""
    sha256: Sha256
    """SHA-256 of this document without this field."""


class LeaseDocument(Spec):
    """`leases/NUMBER.json`: who may write the folder. The newest number is valid."""

    kind: Literal["iak-lease"] = "iak-lease"
    format: Literal[1] = 1
    owner: str
    """Process, host and command, in words."""
    machine: str
    """Boot and process namespace of the owner, as Linux reports them; empty elsewhere."""
    process: NonNegativeInt
    """Number of the owner's process there."""
    mark: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """Drawn for each attempt to take a lease. A store may report a key as taken although the
    writer's own request took it. The writer then compares the bytes, so no two writers may write
    the same."""
    seconds: PositiveInt
    """Time after the last sign of life at which another writer may take over."""
    is_released: bool = False
    """Whether the owner has ended its work."""
