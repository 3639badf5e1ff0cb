"""Find the files, days and rows of its log that a job cannot read, and the loss of each split.

The footer of a file counts its rows. Where the footer is damaged, the rows are estimated from the
file's bytes and the bytes per row of the readable files. Messages then say "about".
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median

from iak.pipeline.data import splits
from iak.pipeline.data.file_classifier import OUTSIDE
from iak.pipeline.data.snapshot import LogFile, Snapshot, Unreadable
from iak.pipeline.data.splits import Split
from iak.pipeline.errors import BadLog
from iak.pipeline.first_few import first_few
from iak.schemas.log import LogSpec

_EXAMPLES = 3
DaysOf = Callable[[str], Mapping[date, int] | None]
"""A file's path -> its rows by date, None where its dates are unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFiles:
    """Files that are skipped for one reason."""

    reason: str
    files: int
    rows: int
    is_estimated: bool
    """Whether some of these files have no footer that counts their rows."""
    days: tuple[date, ...]
    """Days that their rows belong to, where these are known."""
    examples: tuple[str, ...]
    """Paths of the first few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLoss:
    """Rows and days that a window loses to skipped files, before its splits cut their slices."""

    splits: tuple[str, ...]
    """The splits that share the window."""
    lost: int
    """Rows of the window that cannot be read."""
    rows: int
    """All rows of the window, the lost ones among them."""
    is_estimated: bool
    whole_days: tuple[date, ...]
    """Days of the window of which no row can be read."""
    reasons: tuple[str, ...]

    @property
    def share(self) -> float:
        """Return the share of the window's rows that is lost; 1 where no row count is known."""
        return self.lost / self.rows if self.rows else float(bool(self.reasons))

    @property
    def amount(self) -> str:
        """Return the lost rows and days, in one line."""
        about = "about " if self.is_estimated else ""
        days = f", and all of {days_listed(self.whole_days)}" if self.whole_days else ""
        names = ", ".join(f"'{name}'" for name in self.splits)
        who = f"split {names} loses" if len(self.splits) == 1 else f"splits {names} lose"
        return f"{who} {about}{self.lost:,} of {self.rows:,} rows ({self.share:.1%}){days}"

    @property
    def message(self) -> str:
        """Return the lost rows and days with the reasons, in one line."""
        return f"{self.amount}: {'; '.join(self.reasons)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """The part of a log that a job cannot read."""

    files: tuple[SkippedFiles, ...] = ()
    """One entry for each reason, most rows first."""
    windows: tuple[WindowLoss, ...] = ()
    """Windows that lose rows or days."""
    undated: int = 0
    """Rows of readable files that lie in no window, because they have no event time."""
    rows: int = 0
    """Rows of readable files."""

    @property
    def undated_share(self) -> float:
        """Return the share of the readable rows that have no event time."""
        return self.undated / self.rows if self.rows else 0.0


def find_skipped(
    snapshot: Snapshot, wanted: Iterable[Split], *, log: LogSpec, days_of: DaysOf
) -> Skipped:
    """Find the skipped files by reason, and the loss of each window.

    Args:
        snapshot: the files that a job would read, and those that it cannot.
        wanted: the splits that it reads.
        log: the catalogue's `[log]`.
        days_of: rows by date of a file whose folder does not name its day.
    """
    estimate = _row_estimate(snapshot)

    def rows_by_day(file: LogFile | Unreadable) -> Mapping[date | None, int]:
        rows = estimate(file)
        if log.date_key:
            return {splits.day_of(dict(file.partition).get(log.date_key), log): rows}
        days = days_of(file.path)
        return {None: rows} if days is None else dict(days.items())

    windows: dict[str, list[Split]] = defaultdict(list)
    for split in wanted:
        windows[f"{split.first} {split.last} {sorted(split.where.items())}"].append(split)
    losses = (_loss(own, snapshot, log, rows_by_day) for own in windows.values())
    return Skipped(
        files=_by_reason(snapshot.unreadable, rows_by_day),
        windows=tuple(loss for loss in losses if loss is not None),
        undated=sum(file.rows - sum(rows_by_day(file).values()) for file in snapshot.files),
        rows=snapshot.rows,
    )


RowsByDay = Callable[[LogFile | Unreadable], Mapping[date | None, int]]


def _row_estimate(snapshot: Snapshot) -> Callable[[LogFile | Unreadable], int]:
    """Return a function that counts or estimates the rows of a file.

    It takes the footer's count, else the file's bytes over the bytes per row of the readable files.
    A file without a byte, or one that a table names and that is gone, counts as a median file.
    """
    size = sum(file.size_bytes for file in snapshot.files)
    per_byte = snapshot.rows / size if size else 0.0
    usual = median([file.rows for file in snapshot.files if file.rows] or [1])

    def rows(file: LogFile | Unreadable) -> int:
        if file.rows is None:
            return max(round(file.size_bytes * per_byte if file.size_bytes else usual), 1)
        return file.rows

    return rows


def _by_reason(
    unreadable: Sequence[Unreadable], rows_by_day: RowsByDay
) -> tuple[SkippedFiles, ...]:
    groups: dict[str, list[Unreadable]] = defaultdict(list)
    for file in unreadable:
        groups[reason_of(file)].append(file)
    skipped = []
    for reason, files in groups.items():
        counts: Counter[date | None] = Counter()
        for file in files:
            counts.update(rows_by_day(file))
        skipped.append(
            SkippedFiles(
                reason=reason,
                files=len(files),
                rows=counts.total(),
                is_estimated=any(file.rows is None for file in files),
                days=tuple(sorted(day for day in counts if day)),
                examples=tuple(file.path for file in files[:_EXAMPLES]),
            )
        )
    return tuple(sorted(skipped, key=lambda group: -group.rows))


def reason_of(file: Unreadable) -> str:
    """Return why a file is skipped, without details of this file alone (sizes, offsets)."""
    kind, _, _ = file.reason.partition(": ")
    return kind if file.rows is None else file.reason


def _loss(
    sharing: Sequence[Split], snapshot: Snapshot, log: LogSpec, rows_by_day: RowsByDay
) -> WindowLoss | None:
    """Return the loss of splits that share a window; None where they lose nothing."""
    split = sharing[0]
    kept: Counter[date | None] = Counter()
    for file in snapshot.files:
        kept.update(_in_window(split, file, log, rows_by_day))
    broken = [
        (file, rows)
        for file in snapshot.unreadable
        if (rows := _in_window(split, file, log, rows_by_day))
    ]
    if not broken:
        return None
    lost: Counter[date | None] = Counter()
    for _, rows in broken:
        lost.update(rows)
    return WindowLoss(
        splits=tuple(split.name for split in sharing),
        lost=lost.total(),
        rows=lost.total() + kept.total(),
        is_estimated=any(file.rows is None for file, _ in broken),
        whole_days=tuple(sorted(day for day in lost if day and lost[day] and not kept[day])),
        reasons=tuple(dict.fromkeys(reason_of(file) for file, _ in broken)),
    )


def _in_window(
    split: Split, file: LogFile | Unreadable, log: LogSpec, rows_by_day: RowsByDay
) -> dict[date | None, int]:
    """Return, by date, the rows of a file that may lie in the split's window.

    A row whose date is unknown may lie in it.
    """
    partition = file.exact_partition if isinstance(file, LogFile) else dict(file.partition)
    is_outside = isinstance(file, Unreadable) and file.reason.startswith(OUTSIDE)
    if is_outside:  # its folder names no values, so no split would read it
        return {}
    if not splits.admits(split, partition, log=log):
        return {}
    return {
        day: rows
        for day, rows in rows_by_day(file).items()
        if not (day and split.first and split.last) or split.first <= day <= split.last
    }


def refuse_skipped(skipped: Skipped, *, max_share: float, where: str) -> None:
    """Refuse a log of which a window loses a whole day, or too great a share of its rows.

    Args:
        skipped: files and rows that were skipped.
        max_share: largest share of a window's rows that may be lost, and of all rows that may have
            no event time.
        where: folder of the log.

    Raises:
        BadLog: the message names splits, days, rows, reasons and the setting.
    """
    grave = [loss for loss in skipped.windows if loss.whole_days or loss.share > max_share]
    lines = [loss.message for loss in grave]
    if skipped.undated_share > max_share:
        lines.append(undated_message(skipped))
    if not lines:
        return
    examples = ", ".join(path for group in skipped.files for path in group.examples[:1])
    example = f" (for one, {examples})" if examples else ""
    raise BadLog(
        f"too much of {where} cannot be read{example}:\n  " + "\n  ".join(lines) + "\n"
        f"A window may lose no whole day, and {max_share:.1%} of its rows (max_skipped_share). "
        "Write those files again or change the catalogue; or run without them: allow_skipped=true"
    )


def undated_message(skipped: Skipped) -> str:
    """Return a line with the number of rows without event time."""
    return (
        f"{skipped.undated:,} of {skipped.rows:,} rows ({skipped.undated_share:.1%}) have no event "
        "time; no window of days holds them"
    )


def days_listed(days: Sequence[date]) -> str:
    """Return up to three days as text, and how many more there are."""
    return first_few(days, _EXAMPLES)
