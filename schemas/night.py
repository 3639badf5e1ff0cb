"""Define what a night decided and did: `night.json`, from which the morning page is made."""

from datetime import date
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, NonNegativeInt

from iak.schemas.base import Spec
from iak.schemas.chain import Service
from iak.schemas.domain import Domain
from iak.schemas.manifest import Sha256
from iak.schemas.record import Machine
from iak.schemas.shadow import Exceeded, ScoreChange, ShadowLimits
from iak.schemas.traffic import NightTraffic
from iak.schemas.tuning import CodeDiagnostics, OutsideLoss, TrainingPoint
from iak.schemas.verdict import Verdict

Level = Literal["pooled", "parent", "domain"]
Choice = Literal["train", "wait", "hold"]
"""`train`: tuned tonight. `wait`: nothing to do, or not within the budget. `hold`: its data is not
fit to be read."""
Outcome = Literal["promoted", "held", "failed", "waiting"]
"""`promoted`: its new kernel serves. `held`: the new kernel, or its data, was not good enough.
`failed`: tuning or publishing it failed. `waiting`: it did not train."""
PartitionState = Literal["complete", "open", "absent", "shrunken", "changed", "one_class"]
"""`open`: no marker, and not quiet for long enough. `shrunken`: far fewer rows than in the days
before. `changed`: its content differs from what an earlier night read. `one_class`: a label is 0 in
all rows, or 1 in all, and both in the other days."""


class PartitionDay(Spec):
    """One day of one partition of the log, as the night saw it."""

    partition: list[tuple[str, str]] = []
    """Partition keys besides the date, with their values, outermost first; empty where the log has
    no others."""
    day: date
    state: PartitionState
    files: NonNegativeInt
    rows: NonNegativeInt
    content: str = ""
    """SHA-256 of the content of its files; empty where there is none."""
    is_late: bool = False
    """Whether an earlier night tuned without it."""
    holds: bool = False
    """Whether the domains of this partition are held tonight because of it."""
    reason: str = ""
    """What was seen and what was expected; empty for a complete day."""


class TaskWindow(Spec):
    """Days of which a task's labels were read."""

    task: str
    first: date
    last: date
    rows: NonNegativeInt = 0
    """Labelled tuning rows."""
    positives: NonNegativeInt = 0


class Decision(Spec):
    """Whether a domain trains tonight, and why."""

    domain: list[tuple[str, str]]
    """Pairs of key and value, outermost first; empty for the pooled kernel."""
    level: Level
    choice: Choice
    reason: str
    """One plain sentence with its numbers."""
    new_rows: NonNegativeInt = 0
    """Rows since its last tuning."""
    window_rows: NonNegativeInt = 0
    age_days: NonNegativeInt | None = None
    """Days since the live kernel was tuned; null where none serves."""
    drift: float | None = None
    """Largest population stability index of its inputs since then."""
    worth: float | None = None
    """Expected gain in nats a row, times rows a day: the order in which a budget is spent."""

    @property
    def name(self) -> str:
        """Return the domain's name."""
        return Domain(tuple(self.domain)).name


Method = Literal["base", "live", "candidate"]
"""What predicts the gate's rows: the base alone, the kernel that serves, or tonight's kernel."""
METHODS: tuple[Method, ...] = ("base", "live", "candidate")
"""Order of the methods in the fields of `Scores`."""


class Scores(Spec):
    """One task of a domain on the gate's rows, by each of `METHODS`; null where there is none."""

    task: str
    rows: NonNegativeInt
    positives: NonNegativeInt
    auc: tuple[float | None, float | None, float | None] = (None, None, None)
    """AUC of the base, of the live kernel and of the candidate."""
    gauc: tuple[float | None, float | None, float | None] = (None, None, None)
    """The same, of AUC within users."""
    log_loss: tuple[float | None, float | None, float | None] = (None, None, None)
    calibration: tuple[float | None, float | None, float | None] = (None, None, None)
    """Positives predicted over positives observed."""
    delta_auc: tuple[float, float, float] | None = None
    """Candidate minus base, with the 95 % interval: value, low, high."""
    reliability: list[tuple[float, float, NonNegativeInt]] = []
    """The candidate's calibration curve: mean prediction, observed share, rows of each bin."""


class DomainNight(Spec):
    """What a night did for one domain."""

    decision: Decision
    outcome: Outcome
    sentence: str
    """The decision of the gate, or the failure, in one plain sentence."""
    served_by: Service
    """What serves it after the night."""
    bundle: Sha256 | None = None
    """Digest of the bundle that serves it after the night; null for the base."""
    candidate: Sha256 | None = None
    """Digest of the bundle that the night tuned."""
    verdict: Verdict | None = None
    scores: list[Scores] = []
    rate: float | None = None
    """Rate of its code in nats a row: what the information bottleneck lets through."""
    code: CodeDiagnostics | None = None
    """What its information bottleneck does; null without gate rows."""
    path: list[TrainingPoint] = []
    """Epochs of its tuning on the information plane, in order."""
    own_share: float | None = None
    """Share of its own change that its kernel keeps, where it borrows from its parent."""
    outside: OutsideLoss | None = None
    """What its kernel would cost outside its domain; null where that was not measured."""
    scratch_gain: float | None = None
    """Gain of a kernel from scratch minus that of the chain, in nats per row; null unless both were
    tuned."""
    log_evidence: float | None = None
    """Natural logarithm of the evidence that its chain has gathered over nights."""
    evidence_needed: float | None = None
    """Natural logarithm of the evidence that proves the chain; null where none ever does."""
    evidence_nights: NonNegativeInt | None = None
    """Nights that the evidence is of."""
    proved_on: date | None = None
    """Night in which the chain was proved; null before."""
    canary: str = ""
    """What the newest hours by themselves say of the candidate, in words; empty without a canary.
    """
    worker_seconds: float = 0.0
    """Its part of the tuning time, by its tuning rows."""
    cost: float = 0.0
    """Price of that time, in the currency of `nightly.toml`."""


class DriftLine(Spec):
    """How far an input or a label has moved between the base's days and the night's."""

    name: str
    index: float
    """Population stability index; of a label, the relative change of its rate."""
    noise: float = 0.0
    """95th percentile of the index over samples of this size where nothing moved."""
    word: Literal["stable", "moved", "changed"]


class RefreshResult(Spec):
    """Result of a refresh of the base."""

    reason: str
    """Why the base was due."""
    published: bool
    fingerprint: str | None = None
    """Fingerprint of the new base; null where its parent was better."""
    run_dir: str
    carried: list[str] = []
    """Domains that had a kernel on the base before, and have one on the new base. Each started from
    that kernel where it validated better than what is above it."""
    dropped: list[str] = []
    """Domains that had a kernel on the base before, and have none on the new one yet."""


class NightShadow(Spec):
    """Replay of the newest days through what serves and through tonight's kernels.

    It is repeated without the kernels that exceeded a limit, until the others exceed none.
    """

    first: date
    """First day whose rows are replayed."""
    last: date
    against: Literal["live", "base"]
    """What tonight's kernels are compared with: the live kernels, or the base where none serves."""
    limits: ShadowLimits
    rows: NonNegativeInt
    """Rows that both predict."""
    replays: NonNegativeInt
    """Number of passes, one more for each time that kernels were held."""
    latency: float
    """Time of the candidate's pass over the live one's, in the last replay."""
    changes: list[ScoreChange]
    """Changes over all rows in the last replay, by task."""
    exceeded: list[Exceeded]
    """Limits that did not hold, in any replay."""
    held: dict[str, str]
    """Domain whose kernel is not promoted -> why."""


class TuningCost(Spec):
    """What a night's tuning took, under the names of the night's record."""

    parameters_per_kernel: NonNegativeInt
    windows: list[TaskWindow]
    """Every task's days, with its labelled rows."""
    rows_tuned: NonNegativeInt
    rows_from_cache: NonNegativeInt
    worker_seconds: float
    cost: float
    """Price of that time, in the currency of `nightly.toml`."""


class NightRecord(Spec):
    """`night.json`: one night from its decisions to its promotion."""

    kind: Literal["iak-night"] = "iak-night"
    format: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """Digest of base, domains, window and settings: the same night again has the same id."""
    name: str
    """Name of the service, from `nightly.toml`."""
    night: date
    """Nominal date: the last day of the log that the night may read."""
    status: Literal["planned", "running", "finished", "failed", "interrupted"]
    exit_code: int | None = None
    """0 every trained kernel promoted, 4 some held, 5 some failed, 6 nothing to do, 1 failed."""
    error: str | None = None
    started_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    deadline: AwareDatetime | None = None
    attempts: int = 1
    base_fingerprint: str
    base: str
    """Where the base lies."""
    base_age_days: NonNegativeInt | None = None
    registry: str
    registry_before: NonNegativeInt = 0
    """Number of the registry's newest commit when the night began."""
    registry_after: NonNegativeInt | None = None
    """Number of the night's own commit; null where nothing moved."""
    run_dir: str | None = None
    """Run folder of the tuning; null where nothing was tuned."""
    page: str | None = None
    """The morning page."""
    windows: list[TaskWindow] = []
    days: list[PartitionDay] = []
    domains: list[DomainNight] = []
    """Pooled first, then parents, then domains, those of most expected worth first."""
    drift: list[DriftLine] = []
    unseen: dict[str, float] = {}
    """Table -> share of the window's ids that the base does not know."""
    refresh: RefreshResult | None = None
    shadow: NightShadow | None = None
    """Null where no replay was asked for, or where the gate published no kernel."""
    is_scratch_night: bool = False
    """Whether kernels were also tuned from scratch."""
    timings_s: dict[str, float] = {}
    """Seconds by phase."""
    parameters_per_kernel: NonNegativeInt | None = None
    """Numbers that tuning sets in one kernel; null where nothing was tuned."""
    rows_tuned: NonNegativeInt = 0
    rows_from_cache: NonNegativeInt = 0
    """Of these, rows whose activations an earlier run had computed."""
    worker_seconds: float = 0.0
    cost: float = 0.0
    currency: str = "USD"
    traffic: NightTraffic = NightTraffic()
    notices: list[str] = []
    """What a person should know: skipped files, quarantined rows, a cap that was reached."""
    versions: dict[str, str] = {}
    machine: Machine = Machine()
    sha256: Sha256 | None = None
    """SHA-256 of this document without this field."""

    @property
    def counts(self) -> dict[Outcome, int]:
        """Return how many domains had each outcome."""
        outcomes: tuple[Outcome, ...] = ("promoted", "held", "failed", "waiting")
        return {o: sum(d.outcome == o for d in self.domains) for o in outcomes}
