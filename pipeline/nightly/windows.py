"""Count a night's window back from its date, task by task, over days whose labels are ripe."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from iak.pipeline.data.splits import Period
from iak.schemas.log import Catalog, SplitSpec
from iak.schemas.night import TaskWindow
from iak.schemas.nightly import WindowSpec
from iak.schemas.task import TaskSpec


def task_windows(catalog: Catalog, night: date, days: int) -> list[TaskWindow]:
    """Return the days of each task whose labels a night reads: all those that are ripe.

    The rows are the same for all tasks. They begin so early that the task whose labels ripen last
    has as many days as are asked for. So the other tasks have more.

    Args:
        catalog: gives the tasks, when their labels are ripe, and the zone of the log's days.
        night: the last day that the night may read; labels were collected until its end.
        days: how many days each task gets at least.
    """
    lasts = {t.title: last_ripe_day(t, night, catalog.log.time_zone) for t in catalog.tasks}
    first = min(lasts.values()) - timedelta(days=days - 1)
    return [TaskWindow(task=task, first=first, last=last) for task, last in lasts.items()]


def window_days(windows: Sequence[TaskWindow], night: date) -> tuple[date, ...]:
    """Return every day that the night reads, oldest first: from the earliest window to its date."""
    first = min(window.first for window in windows)
    return tuple(first + timedelta(days=n) for n in range((night - first).days + 1))


def expected_days(days: Sequence[date], period: Period) -> tuple[date, ...]:
    """Return the days that a log may have files of: all, or the last days of weeks or months.

    Args:
        days: days that a night reads.
        period: what the log's folders name; a week or a month stands for its last day.
    """
    if period == "day":
        return tuple(days)
    nexts = ((day, day + timedelta(days=1)) for day in days)
    return tuple(
        d for d, after in nexts if (after.weekday() == 0 if period == "week" else after.day == 1)
    )


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


def last_ripe_day(task: TaskSpec, collected_on: date, time_zone: str) -> date:
    """Return the last day of which every label of a task is ripe at the end of another day.

    Args:
        task: says how long its labels take to ripen.
        collected_on: the day until whose end labels were collected.
        time_zone: name of the zone that days are in.
    """
    ripening = task.matures_after or timedelta(0)
    collected = _end_of(collected_on, time_zone)
    # First guess: the time to ripen, rounded up to whole days.
    last = collected_on - timedelta(days=-(-ripening // timedelta(days=1)))
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
