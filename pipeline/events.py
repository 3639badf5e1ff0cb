"""Define the events that a run reports. Callers show them; the library prints nothing.

An event is a frozen type that reads as the JSON object it becomes. The driver's are `Event`. The
workers' are `WorkerEvent`: worker 0 appends them to `progress.jsonl`, and the driver reports the
lines of that file as plain mappings. All fit one `Report`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

Plain = str | int | float | bool | None
"""A value of an event that a line of JSON has as it is."""
Numbers = Mapping[str, Plain]
"""Values of an event that stand beside its fields, by name."""
AnyEvent = Mapping[str, Any]
"""An event of this module, or a line of `progress.jsonl`."""
Report = Callable[[AnyEvent], None]
"""Takes one event at a time. Workers call it from their own threads and processes."""


def silent(_: AnyEvent) -> None:
    """Take an event and do nothing with it."""


class _Fields(Mapping[str, Any]):
    """An event as a mapping: its name under `event`, then its fields.

    A field `numbers` is a mapping itself, whose entries stand beside the other fields.
    """

    __slots__ = ()
    name: ClassVar[str]
    part_of_name: ClassVar[str] = ""
    """The field that the name of the event has already, and that the mapping leaves out."""

    @property
    def event(self) -> str:
        """Return the name of the event."""
        return self.name

    def _names(self) -> tuple[str, ...]:
        own = [each.name for each in fields(self)]  # type: ignore[arg-type]
        own = [name for name in own if name not in ("numbers", self.part_of_name)]
        return ("event", *own, *getattr(self, "numbers", ()))

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 - fields have types of their own
        """Return a field, or an entry of `numbers`, by its name."""
        numbers = getattr(self, "numbers", {})
        if key in numbers:
            return numbers[key]
        if key not in self._names():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the fields, `event` first."""
        return iter(self._names())

    def __len__(self) -> int:
        """Count the fields, `event` included."""
        return len(self._names())


class Event(_Fields):
    """An event of the driver."""

    __slots__ = ()


class WorkerEvent(_Fields):
    """An event of a worker. It is written as a line of JSON, so its fields are plain values.

    It equals the mapping that is read from that line.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class PhaseStarted(Event):
    """A phase of the driver began."""

    name: ClassVar[str] = "phase_started"
    phase: str
    """Name of the phase, a key of the record's `timings_s`."""
    description: str = ""
    """The work, in words; empty where workers show their own progress."""
    detail: str = ""
    """Size of the work, where that is known."""
    show_after_s: float = 0.0
    """Seconds that must pass before it is worth showing, for what is mostly quick."""


@dataclass(frozen=True, slots=True)
class PhaseAdvanced(Event):
    """The phase that began last got further."""

    name: ClassVar[str] = "phase_advanced"
    detail: str
    """Progress of the phase: `5,000 of 9,000 rows`."""


@dataclass(frozen=True, slots=True)
class PhaseEnded(Event):
    """The phase that began last is over, whether or not it succeeded."""

    name: ClassVar[str] = "phase_ended"
    phase: str


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """A sentence that a reader of the run wants to see."""

    name: ClassVar[str] = "notice"
    text: str
    is_warning: bool = False
    """Whether something may be wrong."""
    is_minor: bool = False
    """Whether it may be shown faintly."""


@dataclass(frozen=True, slots=True)
class LogListed(Event):
    """The log's files are known; nothing else has been read of them yet."""

    name: ClassVar[str] = "log_listed"
    files: int
    rows: int


@dataclass(frozen=True, slots=True)
class NotRead:
    """Files or folders that a run leaves out of its log, for one reason."""

    reason: str
    files: int | None = None
    """Number of files; None where folders are counted, which may hold any number of files."""
    rows: int | None = None
    """Number of rows; None where it is unknown."""
    is_estimated: bool = False
    """Whether `rows` is an estimate."""
    days: str = ""
    """The dates that lose rows, as text."""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogPartlyRead(Event):
    """The run leaves out files or folders of its log."""

    name: ClassVar[str] = "log_partly_read"
    log: str
    """Name of the log in its catalogue."""
    groups: tuple[NotRead, ...]


@dataclass(frozen=True, slots=True)
class FilesCarried(Event):
    """Workers of other machines exchanged files with the driver's machine, which had them."""

    name: ClassVar[str] = "files_carried"
    files_received: int
    """Files that came to the driver's machine."""
    bytes_received: int
    files_sent: int
    """Files that went from it."""
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class WorkersStarted(Event):
    """Workers are being started. Their lines follow as plain mappings."""

    name: ClassVar[str] = "workers_started"
    title: str
    """Name of their work: `pretrain`."""


@dataclass(frozen=True, slots=True)
class WorkersEnded(Event):
    """The workers are gone, whether or not they succeeded."""

    name: ClassVar[str] = "workers_ended"
    title: str


@dataclass(frozen=True, slots=True, eq=False)
class WorkDone(WorkerEvent):
    """A part of a worker's work is done, one of several alike."""

    name: ClassVar[str] = "step"
    what: str
    """The parts, in words: `test rows`."""
    step: int
    """Parts that are done."""
    of: int
    """All parts."""
    numbers: Numbers = field(default_factory=dict)
    """Further values of this part."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingStep(WorkerEvent):
    """A step of pre-training was taken."""

    name: ClassVar[str] = "step"
    step: int
    of: int
    loss: float
    """Mean loss since the last such event."""
    rows_per_s: float


@dataclass(frozen=True, slots=True, eq=False)
class BaseValidated(WorkerEvent):
    """The base was validated: at a step, or as the parent that is continued."""

    part_of_name: ClassVar[str] = "of"
    of: Literal["validated", "parent"]
    """`validated` at a step; `parent` for the base that is continued."""
    step: int
    valid_loss: float
    best: bool
    """Whether no validation before was better."""
    tasks: Sequence[Mapping[str, Any]]
    """Each task on validation rows."""

    @property
    def event(self) -> str:
        """Return what was validated."""
        return self.of


@dataclass(frozen=True, slots=True, eq=False)
class TrialEnded(WorkerEvent):
    """A pre-training finished a trial: it trained to the end with one of its sets of settings."""

    name: ClassVar[str] = "trial"
    trial: str
    """Its name."""
    number: int
    """Its number among all trials, from 1."""
    of: int
    """All trials."""
    valid_loss: float | None
    """Its best validation loss; None where it diverged."""


@dataclass(frozen=True, slots=True, eq=False)
class TowersValidated(WorkerEvent):
    """The towers of the tasks were validated, each by itself."""

    name: ClassVar[str] = "towers"
    step: int
    numbers: Mapping[str, float]
    """Task -> validation loss."""


@dataclass(frozen=True, slots=True, eq=False)
class NotLoaded(WorkerEvent):
    """A part was not loaded as it was, from a base or a checkpoint."""

    name: ClassVar[str] = "loaded"
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResumed(WorkerEvent):
    """Pre-training goes on from a checkpoint."""

    name: ClassVar[str] = "resumed"
    step: int


@dataclass(frozen=True, slots=True, eq=False)
class BaseOpened(WorkerEvent):
    """The frozen base is loaded."""

    name: ClassVar[str] = "base"
    digest: str
    """Beginning of the digest of its tables and trunk."""


@dataclass(frozen=True, slots=True, eq=False)
class StoresUsed(WorkerEvent):
    """A worker exchanged objects with object stores since it last reported so. Any worker does."""

    name: ClassVar[str] = "stores_used"
    objects_read: int
    bytes_read: int
    objects_written: int
    bytes_written: int


@dataclass(frozen=True, slots=True, eq=False)
class RowsDone(WorkerEvent):
    """A worker has done some of its rows. Any worker reports it.

    Who follows the progress file gets the rows of all workers together, as `WorkDone`.
    """

    name: ClassVar[str] = "rows_done"
    what: str
    """What is done with them, in words: `rows read`."""
    rank: int
    done: int
    """Rows that this worker has done so far."""
    of: int
    """All rows that it has to do."""


@dataclass(frozen=True, slots=True, eq=False)
class RowsRead(WorkerEvent):
    """The rows of a night are read."""

    name: ClassVar[str] = "rows"
    numbers: Mapping[str, int]
    """Split -> rows of all workers; and how many rows' activations came from the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class LevelResumed(WorkerEvent):
    """A level goes on from a checkpoint."""

    name: ClassVar[str] = "resumed"
    level: int
    epoch: int


@dataclass(frozen=True, slots=True, eq=False)
class LevelAdvanced(WorkerEvent):
    """A level of kernels took an epoch, or is tuned."""

    part_of_name: ClassVar[str] = "level"
    level: int
    numbers: Numbers
    """Losses and counts of the epoch, or of the level."""

    @property
    def event(self) -> str:
        """Return the name of the event, which has the number of the level."""
        return f"level {self.level}"


@dataclass(frozen=True, slots=True, eq=False)
class KernelFailed(WorkerEvent):
    """A kernel diverged and was given up; the others of its level go on."""

    name: ClassVar[str] = "failed"
    level: int
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class BenchAdvanced(WorkerEvent):
    """A benchmark got further."""

    part_of_name: ClassVar[str] = "what"
    what: str
    """What it did, in words."""
    numbers: Mapping[str, object] = field(default_factory=dict)

    @property
    def event(self) -> str:
        """Return what was done."""
        return self.what


@dataclass(frozen=True, slots=True, eq=False)
class WorkersRestarted(WorkerEvent):
    """A worker died, and all are started again."""

    name: ClassVar[str] = "restarted"
    attempt: int
    cause: str
