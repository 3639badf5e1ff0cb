"""Define `iak shadow`: its settings, and the document that it writes."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from iak.schemas.base import Spec
from iak.schemas.explaining import ChosenRowsSpec
from iak.schemas.log import SplitName
from iak.schemas.manifest import Sha256
from iak.schemas.numbers import BatchRows, Count, Margin, Number, Share, Size, Whole
from iak.schemas.paths import BundlesToRead


class ShadowLimits(Spec):
    """How far a candidate may be from what is live. A limit that is absent bounds nothing."""

    mean_change: Share | None = None
    """Largest mean change of a task's probability in a domain, up or down."""
    rank_correlation: Annotated[Number, Field(ge=-1, le=1)] | None = None
    """Lowest correlation of ranks within users, of a task in a domain."""
    auc_loss: Share | None = None
    """Largest fall of a task's AUC in a domain."""
    calibration: Margin | None = None
    """Largest distance of the candidate's predicted over observed positives from 1."""
    latency: Size | None = None
    """Largest time of the candidate's pass over the live one's."""
    min_rows: Count = 100
    """Rows of a domain and task below which its limits are not looked at. AUC and calibration count
    labelled rows."""

    @property
    def bounds_something(self) -> bool:
        """Return whether any limit is given."""
        return any(value is not None for name, value in self if name != "min_rows")


ReplayedShare = Annotated[Number, Field(gt=0, le=1)]
"""A share of a log's rows, above 0."""


class ShadowGateSpec(ShadowLimits):
    """Which replay a night's kernels must pass before they are promoted. Absent: none."""

    mean_change: Share | None = 0.05
    """Largest mean change of a task's probability in a domain, up or down."""
    days: Count = 1
    """Newest days of the log, up to the night's date, whose rows are replayed."""
    share: ReplayedShare = 1.0
    """Share of these rows, by the catalogue's slice key. One of at most `window.gate` replays rows
    that kernels were not tuned on."""


class ShadowSpec(ChosenRowsSpec):
    """Replay rows of a log through live and candidate kernels, and compare what they answer."""

    live: BundlesToRead | None = None
    """Bundles that serve: a folder, or `registry:PLACE@champion`; the base alone when absent."""
    candidate: BundlesToRead
    """Bundles that may serve next, on the same base: a folder, or `registry:PLACE@candidate`."""
    split: SplitName | None = None
    """Split of the catalogue whose rows are replayed, in the place of `dates`, `where` and `share`.
    """
    share: ReplayedShare = 1.0
    """Share of the rows that is replayed, by the catalogue's slice key."""
    labels: bool = True
    """Compare AUC and calibration too; false for a log whose columns of labels are not there
    yet."""
    batch_rows: BatchRows = 8192
    """Rows that are predicted at a time."""
    moved: Annotated[Whole, Field(ge=0, le=1_000)] = 10
    """Rows that are listed, those whose probability changed most."""
    limits: ShadowLimits = ShadowLimits()

    @model_validator(mode="after")
    def _rows_are_chosen_once(self) -> Self:
        if self.split and (self.dates or self.where or self.share < 1):
            raise ValueError(
                f"split={self.split} names the rows, and so do dates, where or share; give one of "
                "them"
            )
        return self


class ScoreChange(Spec):
    """One task in one domain: candidate minus live, over all rows that both predict."""

    domain: str
    """The rows' domain; `pooled` for all rows together."""
    task: str
    candidate_kernel: str | None = None
    """Domain of the candidate's kernel that predicts these rows, or `base`; null where they have
    several."""
    rows: NonNegativeInt
    mean: float
    """Mean change of the probability."""
    mean_absolute: float
    quantiles: dict[str, float]
    """`p01`, `p10`, `p50`, `p90`, `p99` of the change."""
    rank_correlation: float | None
    """Spearman's, within users where the log declares them, else over the domain's rows. Null where
    no group has two rows with different scores."""
    groups: NonNegativeInt
    """Groups within which ranks were correlated."""
    labelled: NonNegativeInt = 0
    """Rows with a label."""
    positives: NonNegativeInt = 0
    live_auc: float | None = None
    candidate_auc: float | None = None
    delta_auc: float | None = None
    delta_auc_low: float | None = None
    """Bounds of the 95 % interval of the difference."""
    delta_auc_high: float | None = None
    live_calibration: float | None = None
    """Positives predicted over positives observed."""
    candidate_calibration: float | None = None


class MovedRow(Spec):
    """A row whose probability changed much."""

    row: int
    """Key of the row, as in the files of `iak predict`."""
    id: str | None
    domain: str
    task: str
    live: float
    candidate: float
    live_kernel: str
    candidate_kernel: str


class Exceeded(Spec):
    """A limit that does not hold."""

    limit: str
    """Its setting."""
    domain: str | None
    """Domain in which it does not hold; null for the latency."""
    task: str | None
    seen: float
    allowed: float


class ShadowDocument(Spec):
    """The file of `iak shadow json=FILE`."""

    kind: Literal["shadow"] = "shadow"
    format: Literal[1] = 1
    base_fingerprint: str
    live: str
    """What the setting named; `base` where it was absent."""
    candidate: str
    """What the setting named."""
    rows: NonNegativeInt
    """Rows that both predict."""
    not_predicted: NonNegativeInt
    """Rows that break the log's contract, which neither predicts."""
    other_kernel: NonNegativeInt
    """Rows for which the two sides choose kernels of different domains."""
    latency: float
    """Seconds of the candidate's pass over those of the live one, base included."""
    changes: tuple[ScoreChange, ...]
    """By domain and task."""
    moved: tuple[MovedRow, ...]
    """The rows that moved most, largest change first."""
    exceeded: tuple[Exceeded, ...]
    """Limits that do not hold; with one, the exit code is 4."""
    limits: ShadowLimits = ShadowLimits()
    """Limits that were looked at."""
    kernels: dict[str, Sha256] = {}
    """Domain -> digest of the candidate's published kernel, as a registry names it."""
