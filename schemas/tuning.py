"""Define the result of a tuning run: every kernel after the gate, and counts of rows and labels."""

from typing import Literal

from pydantic import Field, NonNegativeInt

from iak.schemas.base import JsonObject, ResultSpec, SparseSpec, Spec, View
from iak.schemas.chain import ChainVerdict
from iak.schemas.prediction import UntunedDomain
from iak.schemas.table_placement import TablePlacement
from iak.schemas.verdict import Verdict

UNCHANGED = 1e-6
"""Change of a probability up to which a kernel predicts what the base does; fp32 rounds to less."""


class CodeDiagnostics(Spec):
    """What a kernel's information bottleneck does on its gate rows."""

    units: NonNegativeInt
    """Units of its code."""
    active_units: NonNegativeInt
    """Units whose mean varies over the rows, with a variance above 0.01 (Burda et al. 2016,
    "Importance weighted autoencoders")."""
    label_nats: dict[str, tuple[float, float]] = {}
    """Task -> lower bounds of the nats a row that base and kernel tell about the label: entropy of
    the rate less log-loss."""
    prior_distance: float | None = None
    """KL divergence of its prior from the pooled kernel's in nats; null for the pooled kernel."""
    largest_change: float
    """Largest change of a probability against the base."""

    def flaw(self) -> str:
        """Return what is wrong with the code, and an empty text where nothing is."""
        said = f"{self.active_units} of {self.units} units of the code are active"
        if self.largest_change <= UNCHANGED:
            return f"{said}, and no probability changes: the kernel does nothing"
        if self.active_units == 0:
            return f"{said}: the code has collapsed, and every row gets the same correction"
        return ""


class OutsideLoss(Spec):
    """What a kernel would cost on rows of other domains: a fixed sample of their gate rows."""

    rows: NonNegativeInt
    """Labelled rows of the sample outside the kernel's domain."""
    change: float
    """Mean loss of the kernel on them minus that of the base, in nats a row. Above 0, the kernel
    has forgotten something that the base knows."""
    error: float
    """Standard error of `change`; rows count as independent."""

    def words(self) -> str:
        """Return the change with its error and rows, in words."""
        word = "costs" if self.change > 0 else "saves"
        return (
            f"{word} {abs(self.change):.4f} nats a row against the base, with a standard error of "
            f"{self.error:.4f}, on {self.rows:,} rows of other domains"
        )


class TrainingPoint(Spec):
    """One epoch of a kernel on the information plane: means over the training rows it met."""

    phase: Literal["compression", "matching"]
    epoch: NonNegativeInt
    """Number of the epoch in its phase, from 1."""
    beta: float
    """Weight of the rate at the end of the epoch, in loss units per nat."""
    rate: float
    """Nats a row that the code keeps of its inputs."""
    label_nats: float | None = None
    """Nats that predictions tell of the labels, at least: entropy of each task's rate less its
    loss, summed over tasks; null where no task has labels of both classes."""


class KernelResult(Spec):
    """One kernel of a run after the gate."""

    domain: str
    """Name of its domain; `pooled` for the kernel of all domains."""
    tuning_rows: NonNegativeInt
    """Tuning rows of the domain."""
    published: bool
    reason: str
    """Why it is published or held."""
    gate: Verdict
    """The kernel against the base."""
    chain: ChainVerdict | None = None
    """What all nights decided, which `published` and `reason` then follow; null where the gate
    judges one night alone."""
    best_epoch: NonNegativeInt
    """Epoch after which it validated best; 0 where no epoch was better than the start."""
    valid_gain: float
    """Nats a labelled row by which tuning lowered its validation loss."""
    rate: float | None = None
    """Mean rate of its code in nats per gate row; null without such rows."""
    code: CodeDiagnostics | None = None
    """What its information bottleneck does; null without gate rows."""
    path: list[TrainingPoint] = []
    """Its epochs on the information plane, in order; none where it was not trained in this run."""
    reliability: dict[str, list[tuple[float, float, NonNegativeInt]]] = {}
    """Task -> its calibration curve on the gate rows: mean prediction, observed share and rows of
    each bin."""
    own_share: float | None = None
    """Share of its own change that it keeps, where it borrows from its parent (`domain.borrow`).
    `valid_gain` is of the kernel before that."""
    outside: OutsideLoss | None = None
    """What it would cost outside its domain; null for the pooled kernel, and where the log has no
    labelled row of another domain."""
    bundle: str
    """Folder of its bundle below the run's `bundles`; a kernel that is held has one as well."""

    def borrowed(self) -> str:
        """Return what it borrows from its parent, and an empty text for nothing."""
        if self.own_share is None:
            return ""
        if self.own_share == 0:
            return (
                "its parent's kernel alone, since the gains of this level do not exceed their "
                "errors"
            )
        return f"{self.own_share:.0%} of its own change, and its parent's kernel for the rest"


class StandardisationResult(Spec):
    """The standardisation that the kernels read through."""

    from_: str = Field(alias="from")
    """Where it comes from: `live kernels`, `the cache`, or `this run's rows`."""
    digest: str
    """SHA-256 of its tensors."""


class CacheUse(SparseSpec):
    """What a run read from the activation cache and added to it, over all workers."""

    folder: str = ""
    """Folder of the cache; empty where nothing was stored on disk."""
    rows_read: NonNegativeInt = 0
    """Rows whose activations were stored."""
    rows_moved: NonNegativeInt = 0
    """Those among them that are in other blocks today than when they were computed."""
    rows_computed: NonNegativeInt = 0
    """Rows that the base computed, because they were not stored."""
    bytes_written: NonNegativeInt = 0
    entries_evicted: NonNegativeInt = 0
    entries_damaged: NonNegativeInt = 0
    stopped: str = ""
    """Why reading or writing stopped on the first worker where it did; empty where on none."""


class TuningResult(ResultSpec):
    """What a tuning run measured, over all workers."""

    kernels: tuple[KernelResult, ...]
    """Level by level, those with most rows first."""
    below_floor: dict[str, NonNegativeInt]
    """Domains with fewer tuning rows than their floor, and how many they have."""
    not_reached: tuple[str, ...] = ()
    """Domains that were not begun before the run's deadline."""
    failed: dict[str, str] = {}
    """Domain whose kernel diverged -> what was seen, in a sentence. It is neither judged nor
    published."""
    stopped_at_cap: tuple[str, ...]
    """Domains whose last epoch was their best. They may improve with more epochs."""
    epochs: tuple[NonNegativeInt, ...]
    """By level, the epochs of the kernel that took most."""
    contract: dict[str, NonNegativeInt]
    """Quarantined rows by reason."""
    labels: dict[str, NonNegativeInt]
    """`known TASK` and `positive TASK` -> tuning rows."""
    cache: CacheUse
    """What the activation cache was used for; nothing is set where nothing was stored on disk."""
    standardisation: StandardisationResult
    digest: str
    """Digest of the base's tables and trunk after tuning."""
    digest_before: str
    """Digest of the base's tables and trunk before tuning."""
    tables_and_trunk_unchanged: bool
    parameters_per_kernel: NonNegativeInt
    gate_seconds: float = 0.0
    """Seconds in which the gate's rows were predicted in fp32; 0 where only one night is judged."""
    plan: tuple[TablePlacement, ...]
    """Where each table was placed."""

    def as_json(self) -> JsonObject:
        """Return the document as JSON values, under the keys of a run record."""
        return self.model_dump(mode="json", by_alias=True)


class TunedBase(View):
    """The base that kernels were tuned on, as the record of their run has it under `result`."""

    base_fingerprint: str | None = None


class TuningRunResult(TuningResult):
    """All that the record of a tuning run has."""

    base_fingerprint: str
    """The base that the kernels were tuned on."""
    live: tuple[str, ...]
    """Domains whose kernels served when the run began."""
    untuned_domains: tuple[UntunedDomain, ...]
    """Domains that are judged and had no tuning row."""
