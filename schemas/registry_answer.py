"""Define the answers of `iak registry`, as `json=` writes them."""

from pydantic import NonNegativeInt

from iak.schemas.base import JsonObject, SparseSpec, Spec
from iak.schemas.log_snapshot import DataWindow
from iak.schemas.registry import Alias, Commit, Move


class RegistryAnswer(Spec):
    """What a verb of the registry saw or did."""

    registry: str
    """Path or URI of the registry."""

    def as_json(self) -> JsonObject:
        """Return the document as JSON values."""
        return self.model_dump(mode="json")


class ChainRow(Spec):
    """The evidence on a domain's kernels over nights, in numbers and words."""

    domain: str
    log_evidence: float
    needed: float | None
    """Evidence that is enough to prove the kernel; null where none ever is."""
    nights: NonNegativeInt
    """Nights that were counted."""
    began: str
    """Date of the first night."""
    last_night: str
    proved_on: str | None
    """Date of the night that proved it; null where none has."""
    proved_by: str | None
    """Kind of evidence that proved it."""
    gain: float | None
    """Gain of the last judged kernel over the base, in nats a row."""
    gain_low: float | None
    """Lower end of that gain."""
    stands: str
    """Where the chain stands, in words."""


class PointerRow(Spec):
    """A pointer, and the facts of the bundle that it names."""

    domain: str
    generation: int
    """Commit that set the pointer."""
    before: int | None
    """Commit that set the pointer to which a rollback returns; null where the domain had none."""
    bundle: str
    """Digest of the bundle."""
    published: bool
    """Whether the gate published it; otherwise it was forced."""
    reason: str
    gain: float | None
    """Nats a row on its gate rows."""
    parent: str | None
    """Digest of the bundle that its tuning started from."""
    base_fingerprint: str
    run: str
    """Run folder that tuned it."""
    code: str | None
    """Commit of the code."""
    tuned_at: str
    added_at: str
    data_window: DataWindow


class _ByAlias(SparseSpec, RegistryAnswer):
    """An answer that leaves out the aliases which were not asked for."""

    candidate: list[PointerRow] = []
    champion: list[PointerRow] = []


class PointersAnswer(_ByAlias):
    """`list`: the pointers of each alias."""

    generation: int | None
    """The newest commit; null in an empty registry."""


class DomainAnswer(_ByAlias):
    """`show` of a domain: its evidence, and its pointers alias by alias, the newest first."""

    domain: str
    chain: ChainRow | None = None


class HistoryAnswer(RegistryAnswer):
    """`show`: all commits, without the pointers after each, and the chains of all domains."""

    commits: list[Commit]
    chains: list[ChainRow]

    def as_json(self) -> JsonObject:
        """Return the document as JSON values, without the pointers after each commit."""
        return self.model_dump(mode="json", exclude={"commits": {"__all__": {"pointers"}}})


class DomainDifference(Spec):
    """The bundles of a domain under two sets of pointers; null where one has none."""

    domain: str
    first: str | None
    second: str | None
    first_gain: float | None
    """Gain of the bundle on the gate rows of its own night."""
    second_gain: float | None


class DiffAnswer(RegistryAnswer):
    """`diff`: every domain of two sets of pointers."""

    first: str
    second: str
    domains: list[DomainDifference]


class PromoteAnswer(RegistryAnswer):
    """`promote`: what moved, and what did not."""

    alias: Alias
    generation: int | None
    """The new commit; null where nothing moved."""
    moves: list[Move]
    unchanged: list[str]
    """Domains that the same bundle serves already."""
    forced: list[str]
    """Domains whose bundle the gate held."""
    held: dict[str, str]
    """Domain that was not promoted -> why the gate held it."""


class RollbackAnswer(RegistryAnswer):
    """`rollback`: the new commit and its moves."""

    generation: int
    moves: list[Move]


class VerifyAnswer(RegistryAnswer):
    """`verify`: what was read, and what is damaged."""

    commits: NonNegativeInt
    bundles: NonNegativeInt
    bytes: NonNegativeInt
    uncommitted: NonNegativeInt
    """Bundles of promotions that were killed before their commit."""
    problems: list[str]


class StaleFolder(Spec):
    """A folder outside the registry that nothing needs any more."""

    what: str
    path: str
    bytes: NonNegativeInt


class GcAnswer(RegistryAnswer):
    """`gc`: what was removed, or would be."""

    dry_run: bool
    removed: list[str]
    bytes: NonNegativeInt
    kept: NonNegativeInt
    folders: list[StaleFolder]
