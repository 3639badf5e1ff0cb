"""Define the snapshot of a log: the exact files and rows of a run, as its record has them.

Every field may be absent. A base's manifest leaves out the files, and versions before this one knew
fewer fields. A snapshot is written with the fields that were set.
"""

from collections.abc import Iterator
from datetime import date
from typing import Literal

from pydantic import ConfigDict, NonNegativeInt

from iak.schemas.base import SparseSpec


class _Part(SparseSpec):
    """A part of a snapshot. Fields that another version wrote are kept as they are."""

    model_config = ConfigDict(extra="allow")


class TableVersion(_Part):
    """The version of a lakehouse table that a run reads."""

    format: Literal["delta", "iceberg"] | None = None
    version: int | None = None
    """Version of a Delta table, snapshot id of an Iceberg table; null where it has none yet."""
    metadata: str = ""
    """File that describes the version, below the table's folder."""


class ReadFile(_Part):
    """A file that a run reads."""

    path: str = ""
    """Below the log's folder; a URI where the file lies elsewhere."""
    rows: NonNegativeInt = 0
    """Rows of the log in it, without those that a table has deleted."""
    bytes: NonNegativeInt = 0
    fingerprint: str = ""
    """SHA-256 of what the catalogue reads of it."""
    features: str = ""
    """SHA-256 of the columns that the base reads."""
    others: str = ""
    """SHA-256 of the other columns that the catalogue reads."""
    deleted_rows: NonNegativeInt = 0
    """Rows in the file that a table has deleted."""


class QuarantinedFile(_Part):
    """A file of the log that cannot be read."""

    path: str = ""
    reason: str = ""
    rows: NonNegativeInt | None = None
    """Null where its footer cannot be read."""
    bytes: NonNegativeInt = 0


class IgnoredFile(_Part):
    """A file or folder that is not part of the log."""

    path: str = ""
    reason: str = ""


class LogFiles(_Part):
    """The files of a log."""

    uri: str = ""
    """Folder of the log."""
    table: TableVersion | None = None
    """Null where the log is a plain folder."""
    fingerprint: str = ""
    """SHA-256 over the files."""
    rows: NonNegativeInt = 0
    files: tuple[ReadFile, ...] = ()
    quarantined_files: tuple[QuarantinedFile, ...] = ()
    ignored_files: tuple[IgnoredFile, ...] = ()


class SplitRows(_Part):
    """The rows of a split that a run reads."""

    rows: NonNegativeInt = 0
    first: date | None = None
    """First day; null in a split without dates."""
    last: date | None = None
    row_groups: NonNegativeInt = 0
    """Row groups with any of its rows."""


class DataWindow(_Part):
    """The rows that a kernel was tuned and judged on, and the log that they are of."""

    snapshot: str = ""
    """Fingerprint of the log."""
    tune: SplitRows = SplitRows()
    valid: SplitRows = SplitRows()
    gate: SplitRows = SplitRows()
    tuning_rows: NonNegativeInt | None = None
    """Rows of the split `tune` that its own domain has; absent where a run's kernels share this."""


class SkippedGroup(_Part):
    """Files that are skipped for one reason."""

    reason: str = ""
    files: NonNegativeInt = 0
    rows: NonNegativeInt = 0
    is_estimated: bool = False
    """Whether some of these files have no footer that counts their rows."""
    days: tuple[date, ...] = ()
    """Days that their rows belong to, where these are known."""
    examples: tuple[str, ...] = ()
    """Paths of the first few."""


class LostRows(_Part):
    """Rows and days that a window of days loses to skipped files."""

    splits: tuple[str, ...] = ()
    """The splits that share the window."""
    lost: NonNegativeInt = 0
    """Rows of the window that cannot be read."""
    rows: NonNegativeInt = 0
    """All rows of the window, the lost ones among them."""
    is_estimated: bool = False
    whole_days: tuple[date, ...] = ()
    """Days of the window of which no row can be read."""
    reasons: tuple[str, ...] = ()
    share: float = 0.0
    """Share of the window's rows that is lost."""


class SkippedRows(_Part):
    """The part of a log that a run cannot read."""

    files: tuple[SkippedGroup, ...] = ()
    windows: tuple[LostRows, ...] = ()
    rows_without_a_time: NonNegativeInt = 0
    folders_without_a_date: dict[str, NonNegativeInt] = {}
    """Value of the date's partition key that names no date -> rows."""


class DatesRead(_Part):
    """The dates of a log."""

    first: date | None = None
    """First date that windows are counted from; null in a log without dates."""
    last: date | None = None
    stray: dict[date, NonNegativeInt] = {}
    """Dates that are far from the others and nearly empty -> rows."""
    beyond_today: dict[date, NonNegativeInt] = {}
    """Dates beyond today -> rows."""
    today: str = ""
    """The last date that a row can have; empty where no clock bounds the log."""


class Warned(_Part):
    """A problem of the log that the run warned of."""

    level: str = ""
    what: str = ""
    column: str = ""
    count: NonNegativeInt = 0
    """Number of units in which it occurs."""
    remedy: str = ""
    unit: str = ""
    share: float = 0.0
    examples: tuple[str, ...] = ()


class CountedRows(_Part):
    """The rows that fresh statistics count."""

    fingerprint: str = ""
    """SHA-256 over the files and their counted rows."""
    rows: NonNegativeInt = 0
    last_day: date | None = None
    """Last day that is counted; null in a log without days."""
    files: tuple[ReadFile, ...] = ()
    """Files with such rows that no split reads."""


class LogSnapshot(LogFiles):
    """The files of a log that a run reads, and its rows by split."""

    splits: dict[str, SplitRows] = {}
    as_of: str = ""
    """Day on which labels were collected; empty where the log has no dates."""
    skipped: SkippedRows = SkippedRows()
    dates: DatesRead = DatesRead()
    warnings: tuple[Warned, ...] = ()
    counted: CountedRows | None = None
    """Absent where the catalogue declares no fresh statistics."""

    def without_files(self) -> "LogSnapshot":
        """Return the snapshot as a base's manifest has it. A long log has many thousand files."""
        return self.model_validate(self.model_dump(exclude={"files"}))

    def all_files(self) -> Iterator[ReadFile]:
        """Yield every file that is read, for a split or for fresh statistics."""
        yield from self.files
        if self.counted is not None:
            yield from self.counted.files
