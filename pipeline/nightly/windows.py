"""Count a night's window back from its date, task by task, over days whose labels are ripe."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from iak.schemas.log import Catalog, SplitSpec
from iak.schemas.night import TaskWindow
from iak.schemas.nightly import WindowSpec
from iak.schemas.task import TaskSpec


def task_windows(catalog: Catalog, night: date, days: int) -> list[TaskWindow]:
    """Return the newest days with ripe labels of each task.

    Args:
        catalog: gives the tasks, when their labels are ripe, and the zone of the log's days.
        night: the last day that the night may read; labels were collected until its end.
        days: how many days each task gets.
    """
    windows = []
    for task in catalog.tasks:
        last = _last_ripe(task, night, catalog.log.time_zone)
        first = last - timedelta(days=days - 1)
        windows.append(TaskWindow(task=task.title, first=first, last=last))
    return windows


def window_days(windows: Sequence[TaskWindow], night: date) -> tuple[date, ...]:
    """Return every day that the night reads, oldest first: from the earliest window to its date."""
    first = min(window.first for window in windows)
    return tuple(first + timedelta(days=n) for n in range((night - first).days + 1))


def night_catalog(
    catalog: Catalog,
    days: Sequence[date],
    window: WindowSpec,
    *,
    admitted: tuple[str, Sequence[str]] | None = None,
) -> Catalog:
    """Return the catalogue that the night tunes by: the same log, cut into the night's splits.

    Args:
        catalog: the platform's catalogue.
        days: days that the night reads.
        window: shares of the rows that validate and that judge.
        admitted: a partition key and those of its values that are read; None reads all.
    """
    where = {admitted[0]: tuple(admitted[1])} if admitted else {}
    ends = (0.0, 1 - window.valid - window.gate, 1 - window.gate, 1.0)
    splits = {
        name: SplitSpec(dates=(days[0], days[-1]), where=where, slice=(ends[i], ends[i + 1]))
        for i, name in enumerate(("tune", "valid", "gate"))
    }
    return catalog.model_copy(update={"splits": splits, "as_of": days[-1]})


def _last_ripe(task: TaskSpec, night: date, time_zone: str) -> date:
    """Return the last day of which every label is ripe at the end of the night's date."""
    ripening = task.matures_after or timedelta(0)
    collected = _end_of(night, time_zone)
    # First guess: the time to ripen, rounded up to whole days.
    last = night - timedelta(days=-(-ripening // timedelta(days=1)))
    # A day has 23 or 25 hours where the clock changes: the ends of days decide.
    while _end_of(last, time_zone) + ripening.total_seconds() > collected:
        last -= timedelta(days=1)
    while _end_of(last + timedelta(days=1), time_zone) + ripening.total_seconds() <= collected:
        last += timedelta(days=1)
    return last


def _end_of(day: date, time_zone: str) -> float:
    """Return the Unix time at which a day ends in a zone."""
    after = day + timedelta(days=1)
    return datetime(after.year, after.month, after.day, tzinfo=ZoneInfo(time_zone)).timestamp()
