"""Define the documents of a registry of bundles: its entries, its pointers and their history.

The history is a chain of commits, each a whole list of pointers. A promotion of many domains is one
commit, so a reader sees all of it or nothing.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, NonNegativeInt, PositiveInt

from iak.schemas.base import Spec
from iak.schemas.chain import ChainState
from iak.schemas.domain import Domain
from iak.schemas.log_snapshot import DataWindow
from iak.schemas.manifest import BundleManifest, Sha256, sha256_of

MARKER_FORMAT = 1
"""Format of the document that makes a folder a registry."""
ENTRY_FORMAT = 2
"""1: a bundle was stored under its digest alone."""
COMMIT_FORMAT = 3
"""1: written before commits had chains; it is read as one without. 2: bundles were stored under
their digests alone."""
Alias = Literal["champion", "candidate"]
"""`champion` serves. `candidate` waits for a decision."""
ALIASES: tuple[Alias, ...] = ("champion", "candidate")
FolderName = Annotated[str, Field(pattern=r"^[a-z0-9_%=,~-]{1,160}$")]
"""A domain as a name of a folder (`publish/bundle.py`); it cannot leave its folder."""
StoredName = Annotated[str, Field(pattern=r"^[0-9a-f]{64}(-[0-9a-f]{16})?$")]
"""Folder of a stored bundle: its digest, and a mark drawn when it was stored. A bundle that gc gave
up is never stored under its old name again, so that a slow gc removes nothing newer."""
Token = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class RegistryMarker(Spec):
    """`registry.json`: this folder is a registry, laid out in this format."""

    kind: Literal["iak-registry"] = "iak-registry"
    format: Literal[1] = 1
    sha256: Sha256
    """SHA-256 of this document without this field."""


class StoredFile(Spec):
    """One file of a stored bundle."""

    name: Annotated[str, Field(pattern=r"^[a-z]+\.[a-z]+$")]
    sha256: Sha256
    """SHA-256 of its bytes."""
    bytes: NonNegativeInt


class Lineage(Spec):
    """Where a bundle comes from."""

    base_fingerprint: str
    """The base it was tuned on."""
    base: str | None = None
    """Where that base lay when the bundle was promoted; null where no record says it."""
    schema_hash: str
    """Digest of the features and tables that it reads."""
    parent: Sha256 | None = None
    """Digest of the live bundle of its domain that tuning started from; null where it started from
    none, or where that bundle is no longer what the run read."""
    data_window: DataWindow
    run: str
    """Run folder of the `iak finetune` that made it."""
    record_sha256: Sha256 | None = None
    """SHA-256 that the run's record carries."""
    code: str | None = None
    """Commit of the code that ran, with `+` when the tree was changed."""
    tuned_at: AwareDatetime
    """When its manifest was written."""
    added_at: AwareDatetime
    """When it came into the registry."""


class Entry(Spec):
    """`entry.json`: one stored bundle, every byte of it named."""

    kind: Literal["iak-registry-entry"] = "iak-registry-entry"
    format: Literal[2] = 2
    digest: Sha256
    """`bundle_digest` of its manifest."""
    stored: StoredName
    """Name of its folder in the registry."""
    folder: FolderName
    """Name of the bundle's own folder inside: the domain's, escaped, or "pooled"."""
    domain: list[tuple[str, str]]
    """Pairs of key and value, outermost first; empty for the pooled kernel."""
    form: Sha256
    """`form_of` its manifest: bundles of different forms cannot serve together."""
    files: Annotated[list[StoredFile], Field(min_length=1)]
    published: bool
    """Whether the gate let it through."""
    reason: str
    """The gate's sentence."""
    gain: float | None = None
    """The gate's gain, in nats a gate row."""
    lineage: Lineage
    sha256: Sha256
    """SHA-256 of this document without this field."""


class Pointer(Spec):
    """The bundle that an alias means for one domain."""

    domain: list[tuple[str, str]]
    """Pairs of key and value, outermost first; empty for the pooled kernel."""
    bundle: Sha256
    """Digest of the bundle."""
    stored: StoredName
    """The folder it is stored in."""
    base_fingerprint: str
    """The base that the bundle runs on."""
    form: Sha256
    """The bundle's form."""
    generation: PositiveInt
    """Commit that set this pointer; what a compare-and-swap compares."""
    before: PositiveInt | None = None
    """Commit that set the pointer to which a rollback returns; null: the domain had none."""
    reach: PositiveInt | None = None
    """Oldest commit whose pointer rollbacks may return to: gc removed what came before. Null: the
    first one."""

    @property
    def name(self) -> str:
        """Return the domain's name, for tables and messages."""
        return Domain(tuple(self.domain)).name


class Move(Spec):
    """One pointer that a commit moved."""

    alias: Alias
    folder: FolderName
    before: Sha256 | None
    """Bundle before; null: there was no pointer."""
    after: Sha256 | None
    """Bundle after; null: the pointer was removed."""
    reason: str


class Commit(Spec):
    """One step of the history: all pointers after it, and what it changed."""

    kind: Literal["iak-registry-commit"] = "iak-registry-commit"
    format: Literal[3] = 3
    generation: PositiveInt
    """Its number: 1, 2, ... without gaps."""
    parent_sha256: Sha256 | None
    """`sha256` of the commit before; null in the first."""
    action: Literal["promote", "rollback", "gc"]
    at: AwareDatetime
    """When, by the writer's clock. The order of commits is their numbers alone."""
    by: str
    """User and host."""
    token: Token
    """Drawn at random by the writer, who knows its own commit by it when an answer was lost."""
    moves: list[Move] = []
    removed: list[StoredName] = []
    """Stored bundles that this commit removed."""
    pointers: dict[Alias, dict[FolderName, Pointer]]
    """Alias -> folder name of a domain -> its pointer."""
    chains: dict[FolderName, ChainState] = {}
    """Folder name of a domain -> the evidence that its chain of kernels has gathered."""
    sha256: Sha256
    """SHA-256 of this document without this field."""


def bundle_digest(manifest: BundleManifest) -> str:
    """Return a bundle's identity: SHA-256 of its manifest, without its time.

    The bytes of `kernel.safetensors` are left out: safetensors 0.8 may spell the same tensors in
    different bytes. The manifest's `weights_digest` stands for them. It is of the names, types,
    shapes and bits of the tensors.
    """
    spelling = frozenset({"weights_sha256", "manifest_sha256", "created_at"})
    return sha256_of(manifest.model_dump(mode="json"), without=spelling)


def form_of(manifest: BundleManifest) -> str:
    """Return a digest of what bundles that serve together share.

    That is: shapes, kernel settings, and the definition of the statistics that they read.
    """
    shared = {"shapes": manifest.shapes, "kernel": manifest.spec.get("kernel")}
    if manifest.statistics is not None:
        shared["statistics"] = manifest.statistics.definition
    return sha256_of(shared)
