"""Define the manifests of a published base and of a published bundle.

A reader needs to trust only the manifest, since it has the SHA-256 of every file beside it. The
manifest's own identity is the SHA-256 of its canonical JSON.
"""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import (
    AwareDatetime,
    ConfigDict,
    Field,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from iak.schemas.base import JsonObject, SparseSpec, Spec, View
from iak.schemas.job import DomainStageSpec, KernelSpec, ModelSpec, Precision, StageSpec
from iak.schemas.log_snapshot import DataWindow, LogSnapshot
from iak.schemas.verdict import Verdict

BASE_FORMAT = 2
"""1: written before bases kept their optimiser's state; it is read as one without."""
BUNDLE_FORMAT = 2
BUNDLES_FORMAT = 1
"""Format of the index of a folder of bundles."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(Spec):
    """One file of a base: its bytes, and which block of which table they are."""

    path: str
    """Relative to the manifest."""
    sha256: Sha256
    bytes: NonNegativeInt
    table: str | None = None
    """The table whose block this is; None for the dense weights."""
    row_offset: NonNegativeInt = 0
    rows: NonNegativeInt = 0
    col_offset: NonNegativeInt = 0
    cols: NonNegativeInt = 0
    dtype: str

    @model_validator(mode="after")
    def _stays_inside(self) -> Self:
        parts = self.path.split("/")
        if self.path.startswith("/") or ".." in parts or "\\" in self.path or not self.path:
            raise ValueError(f"path {self.path!r} must be relative and stay below the manifest")
        return self


class TableEntry(Spec):
    """One embedding table of a base."""

    name: str
    rows: NonNegativeInt
    width: NonNegativeInt
    features: list[str]
    """Features that read it."""


class PrecisionEntry(Spec):
    """How the base predicts one task with all its tables in one precision."""

    precision: Precision
    task: str
    """Name of the task; a conversion is measured over all rows."""
    rows: NonNegativeInt
    """Labelled validation rows."""
    auc: float | None = None
    """None where a class has fewer than two labels."""
    auc_error: Annotated[float | None, Field(exclude_if=lambda error: error is None)] = None
    """Standard error of the AUC minus that in fp32, rows as independent; None in fp32."""
    log_loss: float | None = None
    """Nats a row."""
    reason: str = ""
    """Why nothing could be measured."""


class BaseMetric(SparseSpec):
    """A number of a base by its name, or the quality of one task on validation rows."""

    model_config = ConfigDict(extra="allow")  # what another version wrote is kept

    name: str = ""
    """`valid_loss`, or a number of a table; absent for a task."""
    table: str = ""
    value: float | None = None
    task: str = ""
    """Name of the task; the fields below are those of `TaskQuality`."""
    rows: NonNegativeInt = 0
    positives: NonNegativeInt = 0
    log_loss: float | None = None
    auc: float | None = None
    calibration: float | None = None
    reason: str = ""


UNSEALED = "0" * 64
"""Fingerprint of a manifest that has none yet."""


class BaseContents(Spec):
    """The fields of a base's manifest that describe its files and what they mean."""

    schema_hash: str
    tables: list[TableEntry]
    files: list[FileEntry]
    digest: dict[str, str]
    catalog: JsonObject
    """The catalogue as JSON values, as the manifest has it."""


class BaseSettings(View):
    """The settings of the run that made a base, as far as readers of the base need them."""

    model: ModelSpec | None = None
    """Sizes of the model; null for a base that was made elsewhere."""
    factory_source: str | None = None
    """SHA-256 of the source file that built an adopted module; null for any other base."""
    trial_settings: dict[str, float] = {}
    """Settings of the best trial; empty where the base was trained once."""
    from_: str | None = Field(default=None, alias="from")
    """Where the base lay that it continues; null for one that was trained from the beginning."""
    data_root: str | None = None
    """Folder or URI below which its log lay."""


class BaseManifest(Spec):
    """A published base: safetensors shards, and what they were made from.

    Catalogue and settings stay as they were written, because the fingerprint covers them.
    `PublishedBase.catalog` and `settings` read them as types.
    """

    kind: Literal["iak-base"] = "iak-base"
    format: Literal[2] = 2
    fingerprint: Sha256
    """`fingerprint_of` this document; a bundle names its base by it."""
    parent: str | None = None
    """Fingerprint of the base this one was refreshed from."""
    schema_hash: str
    """Digest of the features and tables; an input must have the same."""
    tables: list[TableEntry]
    files: list[FileEntry]
    optimizer: list[FileEntry] = []
    """State of the optimisers: read only to continue the base, and not part of its identity. The
    folder `optimizer/` may be removed."""
    digest: dict[str, str]
    """Digest of each tensor, the same for every sharding. It proves that the base is frozen."""
    catalog: JsonObject
    spec: JsonObject
    snapshot: LogSnapshot
    """The log that it was trained on, without its files."""
    versions: dict[str, str]
    metrics: list[BaseMetric]
    precisions: list[PrecisionEntry] = []
    """What each precision of the tables costs, on the base's own validation rows."""
    created_at: AwareDatetime

    @property
    def settings(self) -> BaseSettings:
        """Return the settings that readers of a base need.

        Raises:
            ValueError: this version refuses one of them.
        """
        return BaseSettings.model_validate(self.spec)


class StatisticsEntry(Spec):
    """The fresh statistics that a kernel reads."""

    definition: Sha256
    """Digest of everything that changes what a statistic means."""
    state: Sha256
    """Id of the counts that were published with the kernel, `statistics.safetensors` beside it."""


class BundleSettings(SparseSpec):
    """The settings that a bundle's manifest has: those of the kernel and of its tuning."""

    kernel: KernelSpec
    seed: int = 0
    pooled: StageSpec = StageSpec()
    domain: DomainStageSpec = DomainStageSpec()


class BundleManifest(Spec):
    """A published kernel with its adapters: one domain's, or the pooled one.

    Its settings stay as they were written, because its digest covers them. `kernel` reads those of
    the kernel as a type.
    """

    kind: Literal["iak-bundle"] = "iak-bundle"
    format: Literal[2] = 2
    name: str
    """Name of the bundle's folder: the domain's, escaped, or "pooled"."""
    level: list[str]
    """Keys of the domain, outermost first; empty for the pooled kernel."""
    domain: dict[str, str]
    """Value of each key; empty for the pooled kernel."""
    base_fingerprint: str
    """The one base this bundle was tuned on and may be used with."""
    schema_hash: str
    data_window: DataWindow
    spec: JsonObject
    verdict: Verdict
    """What the gate decided, and each task's numbers on the gate rows."""
    versions: dict[str, str]
    weights_sha256: Sha256
    """SHA-256 of the bytes of `kernel.safetensors`."""
    weights_digest: str
    """Digest of the tensors' names, types, shapes and values, however the file spells them."""
    shapes: dict[str, list[int]]
    statistics: StatisticsEntry | None = None
    """Null where the kernel reads no fresh statistics; the manifest then leaves the field out."""
    created_at: AwareDatetime
    manifest_sha256: Sha256
    """`sha256_of` this document without this field."""

    @property
    def kernel(self) -> KernelSpec:
        """Return the settings of the kernel.

        Raises:
            ValueError: there are none, or this version refuses one of them.
        """
        return KernelSpec.model_validate(self.spec.get("kernel"))

    @model_serializer(mode="wrap")
    def _without_statistics(self, handler: SerializerFunctionWrapHandler) -> JsonObject:
        """Leave out what a kernel without statistics lacks, so that old digests stay the same."""
        document: JsonObject = handler(self)
        if self.statistics is None:
            document.pop("statistics", None)
        return document

    @model_validator(mode="after")
    def _level_names_the_domain(self) -> Self:
        if sorted(self.level) != sorted(self.domain):
            raise ValueError(f"level {self.level} must list the keys of domain {self.domain}")
        return self


class BundleEntry(Spec):
    """One bundle of a night, as the index names it."""

    folder: str
    """Name of its folder: the domain's, escaped, or "pooled"."""
    domain: list[tuple[str, str]]
    """Pairs of key and value, outermost first; empty for the pooled kernel."""
    manifest_sha256: Sha256
    """SHA-256 of the bytes of `manifest.json`."""
    weights_sha256: Sha256
    """SHA-256 of the bytes of `kernel.safetensors`."""
    published: bool
    """Whether the gate published it; otherwise it is held back."""


class BundlesIndex(Spec):
    """All bundles of a night, written after the last of them."""

    kind: Literal["iak-bundles"] = "iak-bundles"
    format: Literal[1] = 1
    base_fingerprint: str
    """The one base they were tuned on."""
    schema_hash: str
    bundles: Annotated[list[BundleEntry], Field(min_length=1)]
    """By name of folder."""
    sha256: Sha256
    """SHA-256 of this document without this field."""


def canonical_json(doc: JsonObject) -> bytes:
    """Return a document as canonical JSON: keys sorted, no spaces, ASCII, no NaN."""
    return json.dumps(
        doc, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def sha256_of(doc: JsonObject, *, without: frozenset[str] = frozenset()) -> str:
    """Return the SHA-256 of a document's canonical JSON.

    Args:
        doc: the document, as JSON values.
        without: top-level fields that are left out first.
    """
    kept = {key: value for key, value in doc.items() if key not in without}
    return hashlib.sha256(canonical_json(kept)).hexdigest()


def fingerprint_of(doc: JsonObject) -> str:
    """Return a base's identity, a SHA-256 of its manifest.

    It leaves out the fingerprint itself, the time, and the optimisers' state, which may be removed.
    """
    return sha256_of(doc, without=frozenset({"fingerprint", "created_at", "optimizer"}))
