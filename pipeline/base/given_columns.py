"""Check the columns of a given base before it is adopted, and measure how well they predict.

Shapes: n rows, T tasks.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import nn

from iak.pipeline.base.validation import qualities_of
from iak.pipeline.data import given
from iak.pipeline.data.batch import to_batch
from iak.pipeline.data.reader import Reader
from iak.pipeline.model.loss import TaskShape, probabilities
from iak.schemas.adoption import ColumnRange, DomainQuality, GivenQuality
from iak.schemas.log import Catalog

SURE = 30.0
"""Absolute logit beyond which one of p and 1 - p is more than e^30 times the other. No log has
enough rows to support that."""
CHANCE = 0.5
"""AUC of a model that ranks at random."""


@dataclass(slots=True)
class ColumnFindings:
    """Ranges and problems of the columns of a given base, over all rows that were read."""

    catalog: Catalog
    rows: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    """Why a column cannot be used -> number of rows."""
    low: dict[str, float] = field(default_factory=dict)
    """Column of logits -> its least value."""
    high: dict[str, float] = field(default_factory=dict)
    """Column of logits -> its greatest value."""

    def add(self, rows: pa.RecordBatch) -> None:
        """Add raw rows in plain types. Where the catalogue has no such columns, only count them."""
        self.rows += len(rows)
        if self.catalog.columns_base is None:
            return
        for is_bad_n, breach in given.unusable_rows(rows, self.catalog):
            self.unusable[breach.what] += int(is_bad_n.sum())
        for column in self.catalog.columns_base.logits.values():
            logit_n = given.logits(rows, column)
            logit_n = logit_n[np.isfinite(logit_n)]
            if len(logit_n):
                self.low[column] = min(self.low.get(column, np.inf), float(logit_n.min()))
                self.high[column] = max(self.high.get(column, -np.inf), float(logit_n.max()))

    def ranges(self) -> list[ColumnRange]:
        """Return the range of each column of logits that has any value."""
        return [
            ColumnRange(column=column, low=low, high=self.high[column])
            for column, low in self.low.items()
        ]

    def problems(self, *, max_unusable_share: float) -> Iterator[str]:
        """Yield a sentence for each reason why these columns are no base.

        Args:
            max_unusable_share: share of the rows that may lack a usable logit or h.
        """
        for what, count in self.unusable.items():
            if count > max_unusable_share * self.rows:
                yield (
                    f"{count:,} of {self.rows:,} rows have {what}. Log a finite value in every "
                    "row, or allow such rows by max_unusable_share=; they lose their labels"
                )
        for column, low in self.low.items():
            high = self.high[column]
            if low == high:
                yield f"{column} is {low:g} in every row. A logit differs from row to row"
            elif low >= 0 and high <= 1:
                yield (
                    f"every value of {column} lies between 0 and 1 ({low:g} to {high:g}), as those "
                    "of a probability do. Write the logit, ln(p / (1 - p))"
                )


@torch.no_grad()
def measure(
    reader: Reader, model: nn.Module, tasks: Sequence[TaskShape], *, batch_rows: int
) -> GivenQuality:
    """Measure a base's logits on labelled rows, over all rows and in each domain.

    Args:
        reader: reads the rows, all of them.
        model: the base.
        tasks: tasks of the catalogue.
        batch_rows: rows that are read at a time.
    """
    parts: dict[str, list[npt.NDArray[np.float32]]] = {}
    domains: list[npt.NDArray[np.object_]] = []
    level = len(reader.catalog.domain.levels) - 1
    for table in reader.in_step(batch_rows):
        batch = to_batch(table, reader.catalog)
        p = probabilities(model(batch.ids, batch.numeric_BN).double(), tasks)
        columns = {"own": p.own_BT, "entire": p.entire_BT}
        columns |= {"labels": batch.labels_BT, "mask": batch.mask_BT}
        for name, values_BT in columns.items():
            parts.setdefault(name, []).append(values_BT.to(torch.float32).numpy())
        domains.append(table.column(f"l.{level}").cast(pa.string()).to_numpy(zero_copy_only=False))
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    names = np.concatenate(domains) if domains else np.zeros(0, object)
    known = [name for name in dict.fromkeys(names.tolist()) if name is not None]
    return GivenQuality(
        tasks=tuple(qualities_of(whole, tasks)),
        domains=tuple(
            DomainQuality(domain=name, tasks=tuple(qualities_of(_only(whole, is_in_n), tasks)))
            for name, is_in_n in sorted((name, names == name) for name in known)
        ),
    )


def _only(
    rows: dict[str, npt.NDArray[np.float32]], chosen_n: npt.NDArray[np.bool_]
) -> dict[str, npt.NDArray[np.float32]]:
    return {name: values[chosen_n] for name, values in rows.items()}


def advice(findings: ColumnFindings, quality: GivenQuality) -> list[str]:
    """Return a sentence for each finding that is allowed, but most likely a mistake."""
    lines = [
        f"{column.column} reaches from {column.low:.1f} to {column.high:.1f}; beyond {SURE:g} a "
        "logit is a certainty that no log can support. Was it scaled?"
        for column in findings.ranges()
        if max(-column.low, column.high) > SURE
    ]
    lines += [
        f"{task.task} ranks worse than chance (AUC {task.auc:.3f}). Was the sign of its logit "
        "turned, or the column of another task taken?"
        for task in quality.tasks
        if task.auc is not None and task.auc < CHANCE
    ]
    return lines
