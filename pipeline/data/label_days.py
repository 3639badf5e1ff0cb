"""Find days of which a label has one class alone, where the other days have both.

Nobody clicked in 6,000 rows of a day, and in 1,000 of each other day: the clicks are lost, or have
not come yet. A kernel that is tuned on such a day learns that nobody clicks.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import parquet
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.notice import EXAMPLES
from iak.pipeline.data.partition_days import Pairs, days_of_rows, partition_of
from iak.pipeline.data.splits import Selection
from iak.pipeline.data.task_labels import label_numbers
from iak.pipeline.errors import BadLog
from iak.schemas.log import Catalog

EXPECTED_ROWS = 50
"""Rows of the absent class that the other days lead to expect, from which a day stands out. By
chance alone it would have none of them once in e^50 days."""
_USUAL_DAYS = 3
"""Fewest other days that show which rate is usual."""


@dataclass(slots=True)
class DayCount:
    """Count a day's rows whose label of one task is known, and those where it is 1."""

    known: int = 0
    positive: int = 0

    def of(self, label: int) -> int:
        """Return the rows with a label, 0 or 1."""
        return self.positive if label else self.known - self.positive


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsentClass:
    """The class that a day's label lacks."""

    label: int
    """0 or 1."""
    known: int
    """Rows of the day whose label is known; none of them has this class."""
    expected: int
    """Rows of this class that as many rows of the other days have, at a low estimate."""

    def sentence(self, text: str) -> str:
        """Return what was seen and what was expected, as a part of a sentence.

        Args:
            text: the label in words, as messages name it.
        """
        return (
            f"{text} is {1 - self.label} in all its {self.known:,} labels; by the rates of the "
            f"other days at least {self.expected:,} would be {self.label}"
        )


class DayLabels:
    """Counts of the labels of each task by day."""

    def __init__(self, catalog: Catalog) -> None:
        """Start with no rows."""
        self._catalog = catalog
        # The event's time is not read where no split, label or statistic needs it.
        reads_time = catalog.log.event_time and catalog.needs_event_time
        self._is_dated = bool(catalog.log.date_key or reads_time)
        self.counts: dict[str, dict[date, DayCount]] = {
            task.title: defaultdict(DayCount) for task in catalog.tasks
        }

    def add(self, rows: pa.RecordBatch, masks: Mapping[str, npt.NDArray[np.bool_]]) -> None:
        """Count rows; one without a day is left out.

        Args:
            rows: rows in plain types with labels, and with the date key or the event time.
            masks: task -> rows whose label does not count.
        """
        if not self._is_dated:
            return
        days_B = days_of_rows(rows, self._catalog).fill_null(0).to_numpy()
        for task in self._catalog.tasks:
            labels_B = label_numbers(rows, task)
            is_known_B = ~np.isnan(labels_B) & (days_B > 0)
            if (mask_B := masks.get(task.title)) is not None:
                is_known_B &= ~mask_B
            self._add(task.title, days_B[is_known_B], labels_B[is_known_B])

    def _add(self, task: str, days: npt.NDArray[np.int64], labels: npt.NDArray[np.float64]) -> None:
        ordinals, codes = np.unique(days, return_inverse=True)
        known = np.bincount(codes, minlength=len(ordinals))
        positive = np.bincount(codes, weights=labels == 1, minlength=len(ordinals))
        for ordinal, rows, ones in zip(ordinals, known, positive, strict=True):
            count = self.counts[task][date.fromordinal(int(ordinal))]
            count.known += int(rows)
            count.positive += int(ones)

    def findings(self) -> Iterator[Finding]:
        """Yield a warning for each task with such days."""
        for task in self._catalog.tasks:
            days = self.counts[task.title]
            absent = {
                day: found
                for day in sorted(days)
                if (found := absent_class(days[day], [days[d] for d in days if d != day]))
            }
            if absent:
                first = next(iter(absent))
                more = f", the first of {len(absent):,} such days" if len(absent) > 1 else ""
                yield Finding(
                    level="warn",
                    what=f"on {first}{more}, {absent[first].sentence(task.label_text)}",
                    column=task.label,
                    count=sum(found.known for found in absent.values()),
                    examples=tuple(str(day) for day in absent)[:EXAMPLES],
                    remedy="Its labels may be lost or late, and a job would learn from them all "
                    "the same. Write the day again, set its labels to null, or let windows end "
                    "before it; where labels come late, declare matures_after",
                )


def count_labels(
    selection: Selection, catalog: Catalog
) -> Mapping[str, Mapping[tuple[Pairs, date], DayCount]]:
    """Count the labels of some rows, reading no other column than theirs and the day's.

    Row groups that cannot be decoded are left out.

    Args:
        selection: the rows.
        catalog: the log's catalogue, which says where a row's day stands.

    Returns:
        Task -> partition and day -> counts.
    """
    log = catalog.log
    labels = [task.label for task in catalog.tasks]
    wanted = tuple(dict.fromkeys([*labels, log.date_key or log.event_time or ""]))
    by_partition: dict[Pairs, DayLabels] = {}
    for index, group, _ in selection.groups:
        try:
            rows = parquet.selected_columns(selection, index, group, wanted, catalog)
        except BadLog:
            continue  # the job that reads these rows leaves them out, with a count
        partition = partition_of(selection.snapshot.files[index], catalog)
        by_partition.setdefault(partition, DayLabels(catalog)).add(rows, {})
    return {
        task.title: {
            (partition, day): count
            for partition, days in by_partition.items()
            for day, count in days.counts[task.title].items()
        }
        for task in catalog.tasks
    }


def absent_class(
    own: DayCount, others: Sequence[DayCount], *, expected_rows: int = EXPECTED_ROWS
) -> AbsentClass | None:
    """Return the class that a day lacks although the other days have it; None where it lacks none.

    As usual counts the rate that three quarters of the other days exceed. So a label that happens
    on some days only, such as that of a sale, is never missed.

    Args:
        own: labels of the day.
        others: labels of the other days.
        expected_rows: rows of the class that a day must have at the usual rate, to be found.
    """
    usual = [other for other in others if other.known]
    if len(usual) < _USUAL_DAYS:
        return None
    for label in (1, 0):
        rates = sorted(other.of(label) / other.known for other in usual)
        expected = math.floor(own.known * rates[len(rates) // 4])
        if not own.of(label) and expected >= expected_rows:
            return AbsentClass(label=label, known=own.known, expected=expected)
    return None
