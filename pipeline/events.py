"""Define the events that a run reports. Callers show them; the library prints nothing.

An event is a frozen type that reads as the JSON object it becomes. Workers report plain mappings,
which are the lines of `progress.jsonl`; both kinds fit one `Report`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

Report = Callable[[Mapping[str, Any]], None]
"""Takes one event at a time. Workers call it from their own threads and processes."""


def silent(_: Mapping[str, Any]) -> None:
    """Take an event and do nothing with it."""


class Event(Mapping[str, Any]):
    """An event as a mapping: its fields, and its name under `event`."""

    __slots__ = ()
    name: ClassVar[str]

    def _names(self) -> tuple[str, ...]:
        return ("event", *(field.name for field in fields(self)))  # type: ignore[arg-type]

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 - fields have types of their own
        """Return a field by its name."""
        if key not in self._names():
            raise KeyError(key)
        return self.name if key == "event" else getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the fields, `event` first."""
        return iter(self._names())

    def __len__(self) -> int:
        """Count the fields, `event` included."""
        return len(self._names())


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
