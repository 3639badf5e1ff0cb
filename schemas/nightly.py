"""Define `nightly.toml`: everything that a platform's nights need, in one file.

`iak nightly`, `iak submit`, `iak infra render` and the morning page read this file and no other.
"""

from datetime import date, datetime, time, timedelta
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, model_validator

from iak.schemas.base import Column, Spec, Value, printable, without_userinfo
from iak.schemas.feature import Name
from iak.schemas.job import TuningSpec, WorkersSpec
from iak.schemas.numbers import Count, CountOrZero, Days, Margin, Money, Number, Rows, Share, Whole
from iak.schemas.paths import BaseToRead, FolderToWrite, NamedPath, PlaceToWrite, RegistryToWrite
from iak.schemas.shadow import ShadowGateSpec

JobServer = Annotated[str, Field(pattern=r"^(local|https?://[^/@\s]+/?)$")]
"""`local`, or the address of a Ray job server."""
VariableName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,127}$")]
"""Name of an environment variable. Its value, which may be a secret, stands in no file."""
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
"""Name of a file; it cannot leave its folder."""
TrackingServer = Annotated[str, Field(pattern=r"^https?://[^/@?#\s]+(/[^?#\s]*)?$")]
"""Address of an MLflow server, which names no user."""
KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Uri = Annotated[str, AfterValidator(without_userinfo)]
Pause = Annotated[timedelta, Field(ge=timedelta(0), le=timedelta(days=7))]
"""A duration of a week at most, as ISO 8601: `PT2H` is two hours."""
Minutes = Annotated[Number, Field(gt=0, le=10_000)]
"""Minutes of tuning."""


def _zone(name: str) -> str:
    """Return the name of a time zone unchanged, or refuse it."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("no such time zone; expected a name such as Asia/Shanghai") from error
    return name


Zone = Annotated[str, AfterValidator(_zone)]


def _crontab(line: str) -> str:
    """Return a crontab line unchanged, or refuse it."""
    if len(line.split()) != 5:  # CronSim 2.8 takes a sixth field, for seconds
        raise ValueError(f"{len(line.split())} fields; expected five: {CRON_FIELDS}")
    try:
        fields = CronSim(line, datetime(2000, 1, 1))
    except CronSimError as error:
        raise ValueError(f"{error}; expected {CRON_FIELDS}, such as 30 2 * * *") from error
    days = {*fields.days, *fields.weekdays}
    if not all(isinstance(day, int) and day >= 0 for day in days):  # CronSim's own `L` and `5#2`
        raise ValueError("L and # are no standard crontab; other schedulers read them differently")
    return line


CRON_FIELDS = "minute, hour, day of month, month, day of week"
Crontab = Annotated[str, AfterValidator(printable), AfterValidator(_crontab)]
"""A line of crontab, in its standard meaning: 0 and 7 are Sunday, and a day matches when either
the day of the month or the day of the week does, where both are given."""


class WindowSpec(Spec):
    """Which rows a night tunes on, validates on and judges by.

    The window ends with the night's date. It replaces the catalogue's splits `tune`, `valid` and
    `gate`, whose shares of the hashed rows are given here.
    """

    days: Count = 7
    """Newest days with ripe labels that each task has at least. A task whose labels ripen later has
    its days earlier, so the window begins earlier by the longest `matures_after` of the catalogue.
    Tasks whose labels ripen sooner read these earlier days too. Where folders name weeks or months,
    each counts on its last day: 45 days have the last two months."""
    valid: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """Share of the rows, by the catalogue's slice key, that choose the best epoch."""
    gate: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """Share of the rows that judge, and that nothing else uses."""

    @model_validator(mode="after")
    def _leaves_rows_to_tune_on(self) -> Self:
        if self.valid + self.gate >= 1:
            raise ValueError(
                f"valid {self.valid} and gate {self.gate} leave no rows to tune on; together they "
                "must be less than 1"
            )
        return self


class ReadySpec(Spec):
    """When a day of the log counts as complete."""

    marker: FileName = "_SUCCESS"
    """File that a finished partition holds, in the folder of its day or in one below."""
    needs_marker: bool = False
    """Whether a day without the marker is never complete, however long it has been quiet."""
    quiet_for: Pause = timedelta(hours=2)
    """Time without a new file after which a day without the marker is taken as complete."""
    shrunken_below: Share = 0.5
    """Share of the median rows of a domain's days before; a newest day with fewer rows is taken as
    half-written, and its domain is held."""
    history_days: Count = 14
    """Earlier days over which this median is taken."""
    one_class_from: CountOrZero = 50
    """A day whose label is 0 in all rows, or 1 in all, holds its domains where at least this many
    rows would be of the other class by the rates of the window's other days. 0 never holds."""


class ChoiceSpec(Spec):
    """Which domains train tonight."""

    min_new_rows: CountOrZero = 1
    """New rows since a domain's last tuning that it needs to train."""
    max_age_days: Days = 7.0
    """Age at which a domain trains even if it has few new rows."""
    drift: Margin = 0.1
    """Drift at which a domain trains even if it has few new rows: the largest population stability
    index of its inputs since its last tuning."""
    domains: tuple[Column, ...] = ()
    """Names of the only domains that may train, such as `region=rome`; all when absent."""


class BudgetSpec(Spec):
    """What a night may spend. Domains of less expected worth wait for the next night."""

    rows: Rows | None = None
    """Tuning rows of all domains together."""
    minutes: Minutes | None = None
    """Minutes of tuning, as expected from the rows a second of the newest night that tuned. A first
    night has none to expect from: which domains train is decided before any row is tuned on.
    `schedule.deadline` bounds that night too."""


class ScheduleSpec(Spec):
    """When nights run."""

    cron: Crontab = "30 2 * * *"
    """Minute, hour, day of month, month, day of week, in the standard meaning of crontab. A tick in
    an hour that the clock repeats or skips fires exactly once."""
    time_zone: Zone = "UTC"
    """Zone of `cron` and `deadline`."""
    deadline: time | None = None
    """Time of day, after the tick, at which what is ready is promoted and the rest is held. Domains
    are tuned in the order of their expected worth."""
    missed: Literal["in_order", "coalesce"] = "in_order"
    """Nights that were missed run one after the other, or the newest stands for all of them."""
    if_busy: Literal["leave", "wait"] = "wait"
    """What a night does when another one of the same nights runs."""


class RefreshSpec(Spec):
    """When the base is trained further, and how. Absent: never."""

    unseen_share: Share | None = None
    """Share of the window's ids unknown to the base at which it is refreshed."""
    age_days: Days | None = None
    """Age at which the base is refreshed."""
    gain_below: Margin | None = None
    """Median gain of the kernels over the base, in nats per row, below which it is refreshed."""
    dates: tuple[date, ...] = ()
    """Dates of nights that refresh the base in any case."""
    epochs: Count = 1
    """Passes over the days since the base."""
    from_rates: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Factor on the rates of pre-training."""


class KeepSpec(Spec):
    """What is kept, and for how long."""

    nights: Count = 30
    """Nights whose run folders are kept; records and pages of all are."""
    bundles: CountOrZero = 3
    """Earlier pointers of each domain that a rollback can return to."""


class NotifySpec(Spec):
    """Who hears of a night."""

    webhook: VariableName | None = None
    """Environment variable with the address to which one line of JSON is sent."""
    tracking: TrackingServer | None = None
    """Address of an MLflow server, `http://…` or `https://…`, that keeps every night as a run.
    Absent: none."""
    tensorboard: bool = False
    """Also write TensorBoard files into the night's folder."""
    metrics: FolderToWrite | None = None
    """Folder of the node exporter's textfile collector, for Prometheus. Absent: no file."""


class CostSpec(Spec):
    """Price of a worker's time."""

    per_worker_hour: Money = 0.0
    """Price of one worker for an hour."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"


class DeploySpec(Spec):
    """How nights run on a cluster: what `iak infra render` writes."""

    image: Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9._/:@-]{0,254}$")] = "iak:latest"
    """Container image."""
    namespace: KubernetesName = "iak"
    cpus: Count = 4
    """Processors of each worker's pod."""
    memory_gib: Count = 16
    """Memory of each worker's pod."""
    gpus: CountOrZero = 0
    """GPUs of each worker's pod."""
    secret: KubernetesName | None = None
    """Secret whose entries become environment variables: keys of an object store, webhooks."""
    volume_claim: KubernetesName | None = None
    """Claim of the volume that every pod mounts. Absent: everything lies on an object store."""
    mount: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]*$")] = "/iak"
    """Where the volume is mounted."""
    operator: KubernetesName = "kuberay-operator"
    """Namespace of KubeRay's operator, which asks the head's dashboard for the state of a job."""
    monitoring: KubernetesName = "monitoring"
    """Namespace of Prometheus, which may read metrics."""
    egress_ports: tuple[Annotated[Whole, Field(ge=1, le=65535)], ...] = ()
    """TCP ports that pods may reach besides 443, 6443 and those of servers named in this file: an
    object store's of your own, for example."""
    retries: CountOrZero = 2
    """Times that a failed night is started again."""
    ok_codes: tuple[Literal[0, 4, 5, 6], ...] = (0, 4, 6)
    """Exit codes that a scheduler takes for success: 4 some held, 5 some failed, 6 nothing new."""


class NightlySpec(Spec):
    """One platform's nights."""

    name: Name
    """Name of this service, on pages and in metrics."""
    catalog: NamedPath
    """The catalogue: a TOML file, or the name of a shipped one."""
    data_root: Uri
    """Folder or URI below which the catalogue's paths are."""
    base: BaseToRead
    """Run or folder of the published base that the first night freezes, or `s3://bucket/prefix`.
    Later ones take the base that the nights before have refreshed, if any."""
    registry: RegistryToWrite
    """Folder or `s3://bucket/prefix` of the registry."""
    nights: PlaceToWrite
    """Folder of the nights, or `s3://bucket/prefix`: a run folder, a record and a page each, and
    the index over them."""
    cluster: JobServer = "local"
    """Where nights run: on this machine, or on the cluster of a Ray job server."""
    allow: tuple[Value, ...] = ()
    """Environment variables, by name, that a submitted night takes along."""
    workers: WorkersSpec = WorkersSpec()
    finetune: TuningSpec = TuningSpec()
    """Settings of tuning and of the gate, as `iak finetune` has them."""
    window: WindowSpec = WindowSpec()
    ready: ReadySpec = ReadySpec()
    choice: ChoiceSpec = ChoiceSpec()
    budget: BudgetSpec = BudgetSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    scratch_every: CountOrZero = 7
    """Every so many nights, kernels also start from scratch and are compared with those that
    started from the live ones; 0 never."""
    refresh: RefreshSpec | None = None
    # Without it a night has the id that it had before this setting.
    shadow: Annotated[ShadowGateSpec | None, Field(exclude_if=lambda gate: gate is None)] = None
    keep: KeepSpec = KeepSpec()
    notify: NotifySpec = NotifySpec()
    cost: CostSpec = CostSpec()
    deploy: DeploySpec = DeploySpec()
