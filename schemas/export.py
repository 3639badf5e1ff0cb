"""Define `iak export`: its settings, and the documents of the folders that it writes."""

from pathlib import Path
from typing import Literal, Self

from pydantic import NonNegativeInt, model_validator

from iak.schemas.base import Spec
from iak.schemas.feature import FeatureSpec
from iak.schemas.job import EvaluatedTablesSpec, ModelSpec, Precision
from iak.schemas.manifest import Sha256
from iak.schemas.paths import BaseToRead, BundlesToRead, FolderToWrite, NamedPath

EXPORT_FORMAT = 1


class ExportSpec(Spec):
    """Write base, kernels and catalogue as a folder that torch and NumPy alone can predict with."""

    catalog: NamedPath
    """The catalogue: a TOML file, or the name of a shipped one."""
    base: BaseToRead
    """Run or folder of the published base, or `registry:PLACE@champion`: the one it runs on."""
    bundles: BundlesToRead | None = None
    """Folder of bundles, or `registry:PLACE@champion`; the base alone is exported when absent."""
    out: FolderToWrite
    """Folder that is written, whole or not at all. An earlier export in it is replaced."""
    to: Literal["runtime", "peft"] = "runtime"
    """`runtime`: base and kernels for `iak_runtime.py`. `peft`: the adapters of each published
    kernel in PEFT's layout, without the rest of the kernel, which LoRA cannot express."""
    only: Literal["bank"] | None = None
    """`bank`: write the kernels alone, for an export of the same base."""
    tables: EvaluatedTablesSpec = EvaluatedTablesSpec()

    @model_validator(mode="after")
    def _has_a_bank(self) -> Self:
        if self.only == "bank" and self.bundles is None:
            raise ValueError("only=bank writes kernels, and no bundles are given; set bundles=")
        if self.to == "peft" and self.bundles is None:
            raise ValueError("to=peft writes adapters, and no bundles are given; set bundles=")
        if self.to == "peft" and self.only is not None:
            raise ValueError("only=bank is a part of to=runtime; leave one of them out")
        return self


class ExportedTable(Spec):
    """One embedding table of an export."""

    encoding: Literal["vocabulary", "hash", "identity"]
    """How an id becomes a row, as in the catalogue."""
    ids: NonNegativeInt | None = None
    """Ids that a hash or identity table has rows for; None for a vocabulary."""
    precision: Precision
    """Type of an entry."""


class ExportedTask(Spec):
    """One column of the logits."""

    name: str
    """Title of the task."""
    given: NonNegativeInt | None = None
    """Index of the click that a conversion is conditional on; None for other tasks."""


class ExportedProbability(Spec):
    """One probability of the answers."""

    name: str
    """`ctr`, `cvr`, `ctcvr`, ..."""
    task: NonNegativeInt
    """Index of its task."""
    space: Literal["own", "all"]
    """`own`: a conversion's probability given its click; `all`: over all rows."""


class ExportDocument(Spec):
    """`export.json`: everything but the weights. `iak_runtime.py` beside it reads it."""

    kind: Literal["iak-export"] = "iak-export"
    format: Literal[1] = 1
    base_fingerprint: Sha256
    """The base that was exported. A bank of another one is refused."""
    features: tuple[FeatureSpec, ...]
    """The catalogue's features, in the order in which the trunk reads them."""
    tables: dict[str, ExportedTable]
    statistics: dict[str, tuple[float, float]]
    """Numeric feature -> mean and standard deviation."""
    partition_keys: tuple[str, ...]
    """Columns whose values are read as text."""
    user: str | None
    """Column that must not be null; None where the log declares no user."""
    domain_keys: tuple[str, ...]
    parent_keys: tuple[str, ...]
    domains: tuple[tuple[str, ...], ...]
    """The declared domains; empty where all are accepted."""
    tasks: tuple[ExportedTask, ...]
    probabilities: tuple[ExportedProbability, ...]
    model: ModelSpec
    """Sizes of trunk and towers."""
    files: dict[str, Sha256]
    """Each file of weights -> its SHA-256."""


class ExportedKernel(Spec):
    """One slot of a bank."""

    domain: str
    """Name of its domain."""
    version: Sha256
    """SHA-256 of the bundle's `manifest.json`."""
    published: bool
    """Whether it predicts; else the gate held it, and what is above it predicts."""


class BankDocument(Spec):
    """`bank.json`: the kernels of `bank.safetensors`, in the order of their slots."""

    kind: Literal["iak-bank"] = "iak-bank"
    format: Literal[1] = 1
    base_fingerprint: Sha256
    """The one base that the kernels were tuned on."""
    kernels: tuple[ExportedKernel, ...]
    reads_x: bool
    """Whether encoders read x beside h."""
    is_shared: bool
    """Whether all kernels have one standardisation, which is then stored once."""
    sha256: Sha256
    """SHA-256 of `bank.safetensors`."""


class PeftKernel(Spec):
    """One folder of adapters."""

    folder: str
    """Name of the folder."""
    domain: str
    """Name of its domain."""
    version: Sha256
    """SHA-256 of the bundle's `manifest.json`."""


class PeftDocument(Spec):
    """`peft.json`: where the adapters of kernels belong, and what of the kernels is not in them."""

    kind: Literal["iak-peft"] = "iak-peft"
    format: Literal[1] = 1
    base_fingerprint: Sha256
    """The one base that the adapters were tuned on."""
    modules: dict[str, str]
    """Title of a task -> name that the first layer of its tower must have in the base module."""
    kernels: tuple[PeftKernel, ...]
    left_out: tuple[str, ...]
    """Parts of a kernel that PEFT cannot express."""


class ExportResult(Spec):
    """What was exported."""

    out: Path
    """The folder."""
    base_fingerprint: Sha256
    kernels: NonNegativeInt
    """Published kernels."""
    bytes: NonNegativeInt
    """Size of all files."""
    left_out: tuple[str, ...] = ()
    """Parts of the kernels that the format cannot express."""
