"""Judge the partitions of a night: which days are fit to be read, and which hold their domains.

A partition's day is complete when it has the marker, or when it has been quiet for long enough. A
day that is not fit holds the domains of its partition for one night. The next night takes it as it
then is, unless it is still open. So whoever corrects a partition has a day to do it, and a day that
never comes does not hold a domain forever.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from statistics import median
from typing import Any

from iak.pipeline.data.label_days import DayCount, absent_class
from iak.pipeline.data.partition_days import Pairs, PartitionFiles
from iak.schemas.night import PartitionDay
from iak.schemas.nightly import ReadySpec

Key = tuple[Pairs, date]
"""A partition and a day of it."""
Labels = Mapping[str, Mapping[Key, DayCount]]
"""Task -> partition and day -> its labels that are ripe."""
_USUAL_DAYS = 3
"""Fewest days before that show how many rows are usual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The present moment, and the settings that say when a day is complete."""

    now: datetime
    """With a zone."""
    ready: ReadySpec


def is_complete(files: PartitionFiles, clock: Clock) -> bool:
    """Return whether a partition's day is written to its end."""
    if files.has_marker:
        return True
    return not clock.ready.needs_marker and clock.now - files.newest >= clock.ready.quiet_for


def last_complete_day(
    listed: Sequence[PartitionFiles], clock: Clock, *, before: date | None
) -> date | None:
    """Return the last day of which more than half of the partitions are complete.

    One partition that is late must not keep the night from the others; its domains are held.

    Args:
        listed: the newest days.
        clock: now, and what counts as complete.
        before: the first day that is not over yet; None where no clock bounds the log.

    Returns:
        The day; None where there is none.
    """
    partitions = {files.partition for files in listed}
    complete: dict[date, int] = {}
    for files in listed:
        if is_complete(files, clock) and not files.unreadable:
            complete[files.day] = complete.get(files.day, 0) + 1
    ready = [day for day, count in complete.items() if 2 * count > len(partitions)]
    return max((day for day in ready if before is None or day < before), default=None)


def judge_partitions(
    listed: Sequence[PartitionFiles],
    days: Sequence[date],
    clock: Clock,
    earlier: Mapping[Key, PartitionDay],
    labels: Labels,
) -> list[PartitionDay]:
    """Return the state of every partition on every day of the window.

    Args:
        listed: files of the window, and of the days before it that show how many rows are usual.
        days: the window.
        clock: now, and what counts as complete.
        earlier: what the newest earlier night that looked at a partition's day saw of it.
        labels: the labels of the window.

    Returns:
        By partition, then by day. A partition that no day has a file of is unknown, and left out.
    """
    by_key = {(files.partition, files.day): files for files in listed}
    partitions = sorted({files.partition for files in listed})
    return [
        _judge(partition, day, by_key, clock, earlier.get((partition, day)), labels)
        for partition in partitions
        for day in days
    ]


def held_partitions(days: Sequence[PartitionDay]) -> dict[Pairs, str]:
    """Return the partitions that hold their domains tonight, each with its reasons.

    A reason stands once for all days that are in the same state, with the newest of them.
    """
    holding: dict[Pairs, dict[str, list[PartitionDay]]] = {}
    for day in days:
        if day.holds:
            of_partition = holding.setdefault(tuple(day.partition), {})
            of_partition.setdefault(day.state, []).append(day)
    return {
        partition: "; ".join(_reason_of(alike) for alike in by_state.values())
        for partition, by_state in holding.items()
    }


def _reason_of(days: Sequence[PartitionDay]) -> str:
    """Return the reason of the newest of some days in one state, and how many are like it."""
    newest = max(days, key=lambda day: day.day)
    if len(days) == 1:
        return newest.reason
    oldest = min(day.day for day in days)
    return f"{newest.reason} ({len(days) - 1} days before are like it, from {oldest} on)"


def partition_holding(domain: Pairs, held: Mapping[Pairs, str]) -> str | None:
    """Return why a domain is held for a partition that its rows come from; None where it is not.

    A domain that shares no key with the partition has rows of all partitions. It is not held: the
    night leaves out the rows of the partitions that are. A log of one partition holds every domain.

    Args:
        domain: the domain's pairs of key and value.
        held: partition -> reason.
    """
    values = dict(domain)
    for partition, reason in held.items():
        shared = [(key, value) for key, value in partition if key in values]
        if not partition or (shared and all(values[key] == value for key, value in shared)):
            return reason
    return None


def _judge(
    partition: Pairs,
    day: date,
    by_key: Mapping[Key, PartitionFiles],
    clock: Clock,
    before: PartitionDay | None,
    labels: Labels,
) -> PartitionDay:
    """Return the state of one day of a partition."""
    files = by_key.get((partition, day))
    if files is None:
        return _absent(partition, day, by_key, before)
    fields: dict[str, Any] = {
        "partition": list(partition),
        "day": day,
        "files": files.files,
        "rows": files.rows,
        "content": files.content,
    }
    if problem := _unfinished(files, clock):
        return PartitionDay(**fields, state="open", holds=True, reason=problem)
    if before is not None and before.content == files.content:
        # An earlier night saw this very content: what it held for is now accepted.
        return PartitionDay(**fields, state="complete", is_late=before.holds)
    is_late = before is not None and (before.holds or before.state == "absent")
    if before is not None and not is_late:
        problem = _changed(files, before)
        return PartitionDay(**fields, state="changed", holds=True, reason=problem)
    if problem := _shrunken(files, by_key, clock.ready):
        return PartitionDay(**fields, state="shrunken", is_late=is_late, holds=True, reason=problem)
    if problem := _one_class(files, labels, clock.ready):
        return PartitionDay(
            **fields, state="one_class", is_late=is_late, holds=True, reason=problem
        )
    return PartitionDay(**fields, state="complete", is_late=is_late)


def _absent(
    partition: Pairs,
    day: date,
    by_key: Mapping[Key, PartitionFiles],
    before: PartitionDay | None,
) -> PartitionDay:
    """Return the state of a day without a file; days before the partition's first are no gap."""
    has_begun = any(known == partition and earlier < day for known, earlier in by_key)
    is_new = before is None or before.state != "absent"
    return PartitionDay(
        partition=list(partition),
        day=day,
        state="absent",
        files=0,
        rows=0,
        holds=has_begun and is_new,
        reason=f"{_named(partition, day)} has no file" if has_begun else "",
    )


def _unfinished(files: PartitionFiles, clock: Clock) -> str:
    """Return why a partition's day is not complete, or an empty text where it is."""
    name = _named(files.partition, files.day)
    if files.unreadable:
        return f"{name} has a file that cannot be read: {files.unreadable[0]}"
    if is_complete(files, clock):
        return ""
    if clock.ready.needs_marker:
        return f"{name} has no {clock.ready.marker}"
    quiet = (clock.now - files.newest) // timedelta(minutes=1)
    wanted = clock.ready.quiet_for // timedelta(minutes=1)
    return (
        f"{name} has no {clock.ready.marker}, and its newest file is {quiet:,} minutes old; with "
        f"{wanted:,} it counts as complete. Write the marker; or, for days that are whole when "
        'they arrive (a copied log), set quiet_for = "PT0S" under [ready]'
    )


def _changed(files: PartitionFiles, before: PartitionDay) -> str:
    name = _named(files.partition, files.day)
    rows = f"{before.rows:,} rows then, {files.rows:,} now"
    if before.rows == files.rows:
        rows = f"its {files.rows:,} rows are not those that it had then"
    return f"{name} changed after an earlier night had read it: {rows}"


def _shrunken(files: PartitionFiles, by_key: Mapping[Key, PartitionFiles], ready: ReadySpec) -> str:
    """Say how few rows a partition's day has against its days before; empty where it has enough."""
    days = [files.day - timedelta(days=n) for n in range(1, ready.history_days + 1)]
    rows = [by_key[files.partition, day].rows for day in days if (files.partition, day) in by_key]
    if len(rows) < _USUAL_DAYS or files.rows >= ready.shrunken_below * median(rows):
        return ""
    return (
        f"{_named(files.partition, files.day)} has {files.rows:,} rows, its {len(rows)} days "
        f"before have {median(rows):,.0f} in the median; less than {ready.shrunken_below:.0%} of it"
    )


def _one_class(files: PartitionFiles, labels: Labels, ready: ReadySpec) -> str:
    """Say which labels of a partition's day have one class alone; empty where none has."""
    problems = []
    for task, counts in labels.items():
        own = counts.get((files.partition, files.day))
        if own is None or not ready.one_class_from:
            continue
        others = [
            count
            for (partition, day), count in counts.items()
            if partition == files.partition and day != files.day
        ]
        if found := absent_class(own, others, expected_rows=ready.one_class_from):
            problems.append(f"{_named(files.partition, files.day)}: {found.sentence(task)}")
    return "; ".join(problems)


def _named(partition: Pairs, day: date) -> str:
    """Return a partition's day for a message."""
    return "/".join([*(f"{key}={value}" for key, value in partition), str(day)])
