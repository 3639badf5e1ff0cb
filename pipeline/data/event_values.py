"""Find values of `positive` that a log never has, such as a misspelt event."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.contract import Finding
from iak.pipeline.data.notice import notice
from iak.pipeline.data.task_labels import event_texts
from iak.schemas.log import Catalog
from iak.schemas.task import TaskSpec

_COUNTED = 1_000
"""Most values of a column that are counted, beside those of `positive`."""
_SHOWN = 5
"""Most values that a finding shows."""


class EventValues:
    """Counts of the values that sampled rows have in the columns of `positive`."""

    def __init__(self, catalog: Catalog) -> None:
        """Start with no rows.

        Args:
            catalog: the log's catalogue.
        """
        self.tasks = [task for task in catalog.tasks if task.positive]
        self.counts: dict[str, Counter[str]] = {task.label: Counter() for task in self.tasks}
        self._wanted = {value for task in self.tasks for value in task.positive}

    def add(self, rows: pa.RecordBatch) -> None:
        """Count normalised rows."""
        for column, counts in self.counts.items():
            for entry in pc.value_counts(event_texts(rows.column(column))).to_pylist():
                value, number = entry["values"], entry["counts"]
                if value is None:
                    continue
                if value in counts or value in self._wanted or len(counts) < _COUNTED:
                    counts[value] += number

    def findings(self) -> Iterator[Finding]:
        """Yield a warning for each task with values that never occur."""
        for task in self.tasks:
            counts = self.counts[task.label]
            absent = [value for value in task.positive if not counts[value]]
            if absent and counts.total():
                yield _finding(task, absent, counts)


def _finding(task: TaskSpec, absent: list[str], counts: Counter[str]) -> Finding:
    seen = [f"{value!r} ({number:,})" for value, number in counts.most_common(_SHOWN) if number]
    others = sum(1 for number in counts.values() if number) - len(seen)
    seen += [f"{others:,} others"] if others else []
    return notice(
        f"positive of task '{task.title}' names {', '.join(map(repr, absent))}, which no row that "
        f"was looked at has in {task.label}; seen are {', '.join(seen)}",
        column=task.label,
        count=counts.total(),
        remedy="Write the values as the log has them, with their upper and lower case; a rare one "
        "may be in other rows (sample_rows)",
    )
