"""Find values of a label's column that its task does not read as a person meant.

That is a value of `positive` that the log never has, such as a misspelt event, and a word where
`at_least` reads numbers.
"""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.contract import Finding
from iak.pipeline.data.notice import notice
from iak.pipeline.data.task_labels import event_texts, label_of
from iak.pipeline.data.written import is_text
from iak.schemas.log import Catalog
from iak.schemas.task import TaskSpec

_COUNTED = 1_000
"""Most values of a column that are counted, beside those of `positive`."""
_SHOWN = 5
"""Most values that a finding shows."""


class LabelValues:
    """Counts of the values that sampled rows have in columns of words."""

    def __init__(self, catalog: Catalog) -> None:
        """Start with no rows.

        Args:
            catalog: the log's catalogue.
        """
        self._of_words = [task for task in catalog.tasks if task.positive]
        self._of_numbers = [task for task in catalog.tasks if task.at_least is not None]
        self._words: dict[str, Counter[str]] = {task.label: Counter() for task in self._of_words}
        self._no_numbers: dict[str, Counter[str]] = {t.title: Counter() for t in self._of_numbers}
        self._wanted = {value for task in self._of_words for value in task.positive}

    def add(self, rows: pa.RecordBatch) -> None:
        """Count rows in plain types."""
        for column, counts in self._words.items():
            self._count(event_texts(rows.column(column)), counts)
        for task in self._of_numbers:
            values = rows.column(task.label)
            if is_text(values.type):
                texts = event_texts(values)
                is_missing = pc.is_in(texts, value_set=pa.array(task.missing, pa.string()))
                no_number = pc.and_not(label_of(rows, task).is_null(), is_missing)
                self._count(texts.filter(no_number), self._no_numbers[task.title])

    def _count(self, texts: pa.Array, counts: Counter[str]) -> None:
        for entry in pc.value_counts(texts.drop_null()).to_pylist():
            value = entry["values"]
            if value in counts or value in self._wanted or len(counts) < _COUNTED:
                counts[value] += entry["counts"]

    def findings(self) -> Iterator[Finding]:
        """Yield a warning for each task whose column has other values than it reads."""
        for task in self._of_words:
            counts = self._words[task.label]
            absent = [value for value in task.positive if not counts[value]]
            if absent and counts.total():
                yield _absent(task, absent, counts)
        for task in self._of_numbers:
            if counts := self._no_numbers[task.title]:
                yield _no_number(task, counts)


def _absent(task: TaskSpec, absent: list[str], counts: Counter[str]) -> Finding:
    return notice(
        f"positive of task '{task.title}' names {', '.join(map(repr, absent))}, which no row that "
        f"was looked at has in {task.label}; seen are {_listing(counts)}",
        column=task.label,
        count=counts.total(),
        remedy="Write the values as the log has them, with their upper and lower case; a rare one "
        "may be in other rows (sample_rows)",
    )


def _no_number(task: TaskSpec, counts: Counter[str]) -> Finding:
    return notice(
        f"at_least of task '{task.title}' reads numbers, and {task.label} has words: "
        f"{_listing(counts)}",
        column=task.label,
        count=counts.total(),
        remedy="These rows have no label. Where the words are the label, give positive instead",
    )


def _listing(counts: Counter[str]) -> str:
    seen = [f"{value!r} ({number:,})" for value, number in counts.most_common(_SHOWN)]
    others = len(counts) - len(seen)
    return ", ".join([*seen, f"{others:,} others"] if others else seen)
