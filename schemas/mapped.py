"""Define the index of a folder of mapped tables: their base, and a digest of each block."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from iak.schemas.base import Spec
from iak.schemas.manifest import Sha256

MAPPED_FORMAT = 1
BlockDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class MappedFile(Spec):
    """One file of rows."""

    bytes: NonNegativeInt
    blocks: list[BlockDigest]
    """xxh3_128 of each block, in order; the last block may be shorter."""


class MappedIndex(Spec):
    """The index of a folder of mapped tables, written last."""

    kind: Literal["iak-mapped"] = "iak-mapped"
    format: Literal[1] = 1
    base_fingerprint: str
    """The base whose rows these are."""
    block_bytes: PositiveInt
    files: dict[str, MappedFile]
    sha256: Sha256
    """SHA-256 of this document without this field."""
