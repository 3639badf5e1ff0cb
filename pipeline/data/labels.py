"""Count the labels that a task learns from: known labels, and labels that are 1."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data.task_labels import label_numbers
from iak.pipeline.errors import BadLog
from iak.schemas.log import Catalog
from iak.schemas.task import TaskSpec

Mask = npt.NDArray[np.bool_]

UNDECIDED = 0.5
"""Probability that a conversion starts from, see `rates`."""


class LabelCounts:
    """Counts of each label: rows where it is known, and rows where it is 1."""

    def __init__(self, catalog: Catalog) -> None:
        """Start with counts of zero."""
        self.tasks = catalog.tasks
        self.known = dict.fromkeys((t.title for t in catalog.tasks), 0)
        self.positive = dict(self.known)

    def add(
        self,
        rows: pa.RecordBatch,
        quarantined: Mask | None,
        masked: Mapping[str, Mask] | None = None,
    ) -> None:
        """Count raw rows.

        Args:
            rows: with the label columns of the log.
            quarantined: rows that lose every label.
            masked: task -> rows that lose its label, or whose label is not ripe.
        """
        for task in self.tasks:
            values = label_numbers(rows, task)
            counts = ~np.isnan(values)
            for mask in (quarantined, (masked or {}).get(task.title)):
                if mask is not None:
                    counts &= ~mask
            self._add(task, values[counts])

    def add_encoded(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Count encoded rows: a label that does not count is null there."""
        for task in self.tasks:
            column = rows.column(f"y.{task.title}").drop_null()
            self._add(task, column.to_numpy(zero_copy_only=False))

    def _add(self, task: TaskSpec, values: npt.NDArray[np.floating[Any]]) -> None:
        self.known[task.title] += len(values)
        self.positive[task.title] += int((values == 1).sum())

    @property
    def rates(self) -> tuple[float, ...]:
        """Return the probability that each task starts from.

        That is the task's rate, with half a row of either class added. A conversion starts at 0.5
        instead: started at its rate, its share of the entire-space gradient is so small that it
        never catches up with the click (on retailrocket's validation rows, cart ended at an AUC of
        .58 instead of .74).
        """
        return tuple(
            UNDECIDED
            if t.kind == "conversion"
            else (self.positive[t.title] + 0.5) / (self.known[t.title] + 1.0)
            for t in self.tasks
        )

    def counts(self) -> dict[str, int]:
        """Return both counts in one mapping, as workers gather them."""
        known = {f"known {task}": count for task, count in self.known.items()}
        return known | {f"positive {task}": count for task, count in self.positive.items()}

    def update(self, counts: Mapping[str, int]) -> None:
        """Replace the counts by what `counts` returned, summed over workers."""
        for task in self.known:
            self.known[task] = counts[f"known {task}"]
            self.positive[task] = counts[f"positive {task}"]

    def describe(self) -> str:
        """Return the rows that each task learns from, as text for the console."""
        return ", ".join(
            f"{task} {known:,} ({self.positive[task]:,} positive)"
            for task, known in self.known.items()
        )

    def problems(self) -> dict[str, str]:
        """Return the tasks that cannot be trained, each with the reason."""
        problems: dict[str, str] = {}
        for task in self.tasks:
            known, positive = self.known[task.title], self.positive[task.title]
            if not known:
                problems[task.title] = "no row has a label"
            elif not positive or positive == known:
                lacking = "negative" if positive else "positive"
                problems[task.title] = f"none of its {known:,} labelled rows is {lacking}"
        return problems

    def refuse_untrainable(self, window: str) -> None:
        """Refuse tasks that could only be trained on nothing or on one class.

        Args:
            window: name of the split that was counted, for the message.

        Raises:
            BadLog: the message names the tasks, the reasons, and what to do.
        """
        weights = {task.title: task.weight for task in self.tasks}
        labels = {task.title: task.label_text for task in self.tasks}
        problems = {t: problem for t, problem in self.problems().items() if weights[t]}
        if problems:
            listing = "\n".join(f"  {t} ({labels[t]}): {p}" for t, p in problems.items())
            raise BadLog(
                f"tasks that cannot be trained on split '{window}':\n{listing}\n"
                "Check the label columns with positive or at_least, matures_after with as_of, and "
                "the split's window; or take the task out of [[tasks]]"
            )
