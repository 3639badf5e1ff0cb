"""Find the days of a night's windows that its base was trained on, and say what follows from it.

A base predicts rows that it was trained on better than new ones. So a kernel has less to add on
such rows: a gate that judges on them measures too small a gain, and a kernel that tunes on them
corrects too little.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.nightly.windows import last_ripe_day
from iak.schemas.log import Catalog, SplitName, SplitSpec, may_share_rows
from iak.schemas.log_snapshot import SplitRows
from iak.schemas.night import TaskWindow
from iak.schemas.task import TaskSpec

_DAY = timedelta(days=1)
_JUDGES: SplitName = "gate"
_TUNES: tuple[SplitName, ...] = ("tune", "valid")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedDays:
    """Days that a base was trained on, and which of their rows."""

    first: date
    last: date
    as_of: date | None
    """Day until whose end labels were collected; None where the base does not say."""
    rows: SplitSpec
    """Slice and values of the rows; its days are those above."""
    slice_by: str | None
    """Column whose hash cuts the slice; None cuts by the row's identity."""


def trained_days(base: PublishedBase) -> TrainedDays | None:
    """Return what a base's manifest says of its training days; None where it names no days."""
    snapshot, log = base.manifest.snapshot, base.catalog.log
    window = snapshot.splits.get("pretrain", SplitRows())
    if window.first is None or window.last is None:
        return None
    split = base.catalog.splits.get("pretrain", SplitSpec())
    return TrainedDays(
        first=window.first,
        last=window.last,
        as_of=date.fromisoformat(snapshot.as_of) if snapshot.as_of else None,
        rows=SplitSpec(where=split.where, slice=split.slice),
        slice_by=log.slice_by or log.row_id,
    )


def known_days(
    windows: Iterable[TaskWindow],
    catalog: Catalog,
    split: SplitName,
    trained: Iterable[TrainedDays],
) -> dict[str, list[date]]:
    """Return the days of each task's window of which a base may have learned a split's rows.

    A day of a task counts only where its labels were ripe when the base read them. Tasks without
    such a day are left out.

    Args:
        windows: days of each task.
        catalog: the night's catalogue, with the night's splits.
        split: name of one of them.
        trained: days of the base, and of the bases that it continues.
    """
    known: dict[str, set[date]] = {}
    tasks = {task.title: task for task in catalog.tasks}
    for days in trained:
        if not _may_share(catalog, split, days):
            continue
        for window in windows:
            last = min(days.last, window.last)
            if days.as_of is not None:
                last = min(last, _last_learned(tasks[window.task], days.as_of, catalog))
            first = max(days.first, window.first)
            both = {first + n * _DAY for n in range((last - first).days + 1)}
            known.setdefault(window.task, set()).update(both)
    return {task: sorted(days) for task, days in known.items() if days}


def _last_learned(task: TaskSpec, as_of: date, catalog: Catalog) -> date:
    """Return the last day with a label that was ripe when labels were collected."""
    last = last_ripe_day(task, as_of, catalog.log.time_zone)
    # Where rows have a time of day, labels of a part of the next day were ripe too.
    is_partly = catalog.log.event_time and (task.matures_after or timedelta(0)) % _DAY
    return last + _DAY if is_partly else last


def _may_share(catalog: Catalog, split: SplitName, trained: TrainedDays) -> bool:
    """Return whether a row of a night's split may be one that a base was trained on."""
    rows = trained.rows
    if trained.slice_by != (catalog.log.slice_by or catalog.log.row_id):
        rows = SplitSpec(where=rows.where)  # slices by two hashes share rows
    return may_share_rows(rows, catalog.splits[split])


def known_days_notices(
    windows: Sequence[TaskWindow], catalog: Catalog, trained: Sequence[TrainedDays]
) -> list[str]:
    """Return a notice where the base was trained on rows that a night judges or tunes on.

    Args:
        windows: days of each task.
        catalog: the night's catalogue, with the night's splits.
        trained: days of the base, and of the bases that it continues.
    """
    judged = known_days(windows, catalog, _JUDGES, trained)
    if judged:
        return [
            f"the base was trained on rows that the gate judges by: {_listed(judged, windows)}. "
            "It predicts them better than new rows, so the gain of every kernel over it is "
            "measured too small there. That is a bias against the kernels: a good one may be held, "
            "and none is promoted because of it. Train the base on earlier days or without the "
            f"gate's slice {list(catalog.splits[_JUDGES].slice)} of the rows, or shorten "
            f"window.days. {_until(judged, windows)}"
        ]
    tuned = [known_days(windows, catalog, split, trained) for split in _TUNES]
    known = {task: days for each in tuned for task, days in each.items()}
    if not known:
        return []
    return [
        f"the base was trained on rows that kernels tune on: {_listed(known, windows)}. The gate's "
        "rows are not among them, so its numbers hold. The base predicts the known rows better "
        "than new ones, so kernels may learn to correct it less than they could. Nothing needs to "
        f"be done. {_until(known, windows)}"
    ]


def _listed(known: Mapping[str, Sequence[date]], windows: Iterable[TaskWindow]) -> str:
    """Return the known days of each task as text, with the days of its window."""
    return "; ".join(
        f"{len(days)} of the {(window.last - window.first).days + 1} days of {window.task}, "
        f"{_span(days)}"
        for window in windows
        if (days := known.get(window.task))
    )


def _span(days: Sequence[date]) -> str:
    return f"{days[0]} to {days[-1]}" if days[1:] else str(days[0])


def _until(known: Mapping[str, Sequence[date]], windows: Iterable[TaskWindow]) -> str:
    """Return a sentence with the days after which no window has a known day, if the base stays."""
    # Windows move by a day a night, so a known day leaves its window in as many nights as it lies
    # after the window's first day, and one.
    nights = max(
        (days[-1] - window.first).days + 1 for window in windows if (days := known.get(window.task))
    )
    return f"With this base, the windows have no such day {nights} night{'s'[: nights - 1]} later"
