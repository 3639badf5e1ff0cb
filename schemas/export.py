"""Define `iak export`: its settings, and the documents of the folders that it writes."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from iak.schemas.base import Spec
from iak.schemas.feature import FeatureSpec
from iak.schemas.job import EvaluatedTablesSpec, ModelSpec, Precision
from iak.schemas.log import TimeUnit
from iak.schemas.manifest import Sha256
from iak.schemas.paths import BaseToRead, BundlesToRead, FolderToWrite, NamedPath


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


class ExportedGiven(Spec):
    """The columns by which a base is known that is never run here."""

    logits: tuple[str, ...]
    """Column of each task's logit, in the order of the tasks."""
    h: str | None
    """Column with the lists of activations; None where there is none."""
    units: PositiveInt | None
    """Length of every list."""
    tower_layers: PositiveInt | None = None
    """Layers between h and each logit; None where kernels only read h."""


class ExportedHistory(Spec):
    """A history whose values are read one by one."""

    feature: str
    target: str
    """Feature of the same table that it is compared with."""
    positions: PositiveInt
    """Newest values that are read."""


class ExportedBaseStatistics(Spec):
    """Fresh statistics that a base reads as numbers. Their counts stay those of the base."""

    statistics: "ExportedStatistics"
    mean: tuple[float, ...]
    scale: tuple[float, ...]


class ExportDocument(Spec):
    """`export.json`: everything but the weights. `iak_runtime.py` beside it reads it."""

    kind: Literal["iak-export"] = "iak-export"
    format: Literal[2] = 2
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
    """Sizes of trunk and towers; not read where the base is known by its columns."""
    histories: tuple[ExportedHistory, ...] = ()
    """In the order of their readers; empty where only means are read."""
    given: ExportedGiven | None = None
    """Null where the base has a trunk."""
    fresh: ExportedBaseStatistics | None = None
    """Null where the base reads no fresh statistics."""
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


class ExportedRate(Spec):
    """One rate of fresh statistics: whose labels count, and from when on they are known."""

    index: NonNegativeInt
    """Index of the rate. A table of counts has its known labels, then its positive ones."""
    lag: PositiveInt
    """Days between a row and the newest day whose labels it may read."""


class ExportedCounts(Spec):
    """Rates and counts of a key, as `[[fresh]]` of kind `counts` declares them."""

    kind: Literal["counts"] = "counts"
    chains: tuple[tuple[tuple[str, ...], ...], ...]
    """Each key whose numbers are read, as its columns, with its ancestors before it."""
    windows: tuple[PositiveInt | None, ...]
    """Days that count; None for all."""
    rates: tuple[ExportedRate, ...]
    prior: float
    """Rows that the parent's rate counts for."""


class ExportedLifts(Spec):
    """How often an item met those of a history, as `[[fresh]]` of kind `co_occurrence` says."""

    kind: Literal["co_occurrence"] = "co_occurrence"
    item: str
    """Column of the row's item."""
    history: str
    """Column of its history."""
    last: PositiveInt
    """Items of the history that count, from its end."""
    padding: int | str | None
    """Value that fills short histories up."""
    pairs: str
    """Name of the table that counts an item with an item of its history."""
    others: str
    """Name of the table that counts the items of histories."""
    rate: ExportedRate
    prior: float
    """Pairs that are added to the observed and to the expected count."""


class ExportedState(Spec):
    """The counts of one night: a file of the bank."""

    last: int | None
    """Last day that was counted, in days since 1970-01-01; None where periods are folds."""
    sha256: Sha256
    """SHA-256 of the file."""


class ExportedStatistics(Spec):
    """The fresh statistics that a bank's kernels read, and how a row is looked up in them."""

    reads: tuple[Annotated[ExportedCounts | ExportedLifts, Field(discriminator="kind")], ...]
    """The statistics, in the order in which encoders read them."""
    date_key: str | None
    """Column of a row's day; a row without it reads what is newest."""
    date_unit: Annotated[Literal["d"] | None, Field(exclude_if=lambda value: value is None)] = None
    """What numbers in that column count; see the catalogue's key of this name."""
    event_time: str | None
    """Column of a row's time, where no column has its day."""
    event_time_unit: TimeUnit
    """Unit of a time that is a number."""
    event_time_format: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """How a time is written that is text or digits; see the catalogue's key of this name."""
    time_zone: str
    """Zone in which a time's day is cut."""
    fold_by: str | None
    """Column that decides a row's fold in a log without days; None where that is its identity."""
    row_id: str | None
    """Column of a row's identity; None where it is the row's number."""
    states: tuple[ExportedState, ...]
    """One for each `statistics-N.safetensors`."""
    state_of_kernel: tuple[NonNegativeInt, ...]
    """Index of each kernel's state."""


class BankDocument(Spec):
    """`bank.json`: the kernels of `bank.safetensors`, in the order of their slots."""

    kind: Literal["iak-bank"] = "iak-bank"
    format: Literal[2] = 2
    base_fingerprint: Sha256
    """The one base that the kernels were tuned on."""
    kernels: tuple[ExportedKernel, ...]
    reads_x: bool
    """Whether encoders read x beside h."""
    sha256: Sha256
    """SHA-256 of `bank.safetensors`."""
    statistics: ExportedStatistics | None = None
    """The fresh statistics that the kernels read; None where they read none."""


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
    format: Literal[2] = 2
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
