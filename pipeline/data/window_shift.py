"""Measure how far a log has moved between two windows: its inputs, its labels, its unseen ids.

Both windows are sampled from evenly spread row groups, so that the cost does not grow with the log.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import unseen
from iak.pipeline.data.drift import Word, drift_of, sampled_rows, word_of
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.partition_days import select_days
from iak.pipeline.data.task_labels import label_numbers
from iak.schemas.domain import Domain
from iak.schemas.log import Catalog
from iak.schemas.task import TaskSpec

HALF_WIDTH = 1.96
"""Standard errors within which 95 of 100 samples lie."""
SAMPLED_ROWS = 50_000
"""Rows of each window that are read at most, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How far one input or label has moved."""

    name: str
    index: float
    """Population stability index; of a label, the relative change of its rate."""
    noise: float
    """What 95 of 100 samples of this size stay below if nothing moved."""
    word: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowShift:
    """How far a log has moved."""

    shifts: tuple[Shift, ...]
    """Inputs and labels, those that moved furthest first."""
    unseen: Mapping[str, float]
    """Table -> share of the later window's ids that the base does not know."""


def measure_shift(
    catalog: Catalog,
    data_root: str,
    *,
    before: tuple[date, date],
    after: tuple[date, date],
    encoding: Encoding,
) -> WindowShift:
    """Compare the rows of two windows of days.

    Args:
        catalog: the log's catalogue.
        data_root: folder or URI below which `log.path` lies.
        before: first and last day of the older window; its files may be gone.
        after: first and last day of the newer one.
        encoding: the base's encoding; an id that it lacks is unseen.

    Raises:
        BadLog: a file cannot be decoded.
        BadRequest: there is no such folder.
    """
    earlier, later = (select_days(catalog, data_root, days) for days in (before, after))
    old, new = (sampled_rows(rows, catalog, SAMPLED_ROWS) for rows in (earlier, later))
    counted = unseen.count_unseen(later, catalog, encoding)
    shifts = [*_inputs(catalog, old, new), *_labels(catalog, old, new)] if old and new else []
    return WindowShift(
        shifts=tuple(sorted(shifts, key=lambda shift: -abs(shift.index))),
        unseen=counted.shares(),
    )


def _inputs(
    catalog: Catalog, old: Sequence[pa.RecordBatch], new: Sequence[pa.RecordBatch]
) -> Iterator[Shift]:
    """Yield how far each input has moved.

    One with a single value in every file of both windows, such as the weekday, follows from the
    calendar. It differs between any two windows, and is left out unless a folder names it.
    """
    keys = catalog.log.partition_keys
    for feature in catalog.features:
        named = [column for column in feature.columns if column not in keys]
        if named and all(_is_constant(rows, named) for rows in (*old, *new)):
            continue
        drift = drift_of(feature, "before", "after", old, new)
        yield Shift(name=feature.name, index=drift.index, noise=drift.noise, word=drift.word)


def _labels(
    catalog: Catalog, old: Sequence[pa.RecordBatch], new: Sequence[pa.RecordBatch]
) -> Iterator[Shift]:
    """Yield the relative change of each label's rate.

    A label that ripens is left out: the newest rows have not got theirs yet.
    """
    for task in catalog.tasks:
        if task.matures_after:
            continue
        before, after = (_known_labels(rows, task) for rows in (old, new))
        if not (len(before) and len(after) and before.any()):
            continue
        rate = before.mean()
        index = float(after.mean() / rate - 1)
        error = np.sqrt(rate * (1 - rate) * (1 / len(before) + 1 / len(after))) / rate
        noise = float(HALF_WIDTH * error)
        yield Shift(name=task.title, index=index, noise=noise, word=word_of(abs(index), noise))


def _known_labels(batches: Sequence[pa.RecordBatch], task: TaskSpec) -> npt.NDArray[np.float64]:
    """Return the labels that are not null, as numbers."""
    labels = [label_numbers(rows, task) for rows in batches]
    return np.concatenate([own[~np.isnan(own)] for own in labels] or [np.zeros(0)])


def domain_drift(
    catalog: Catalog,
    data_root: str,
    domain: Domain,
    *,
    before: tuple[date, date],
    after: tuple[date, date],
) -> float | None:
    """Return the largest stability index of a domain's inputs; one within its noise counts as 0.

    Args:
        catalog: the log's catalogue.
        data_root: folder or URI below which `log.path` lies.
        domain: the domain whose rows are compared.
        before: first and last day of the older window.
        after: first and last day of the newer one.

    Returns:
        None where one of the windows has no row of the domain.

    Raises:
        BadLog: a file cannot be decoded.
        BadRequest: there is no such folder.
    """
    old, new = (
        sampled_rows(select_days(catalog, data_root, days, domain), catalog, SAMPLED_ROWS)
        for days in (before, after)
    )
    if not (old and new):
        return None
    indices = [s.index if s.index > s.noise else 0.0 for s in _inputs(catalog, old, new)]
    return max(indices, default=0.0)


def _is_constant(rows: pa.RecordBatch, columns: Sequence[str]) -> bool:
    """Tell whether columns have one value in all rows; a list counts as many."""
    for name in columns:
        column = rows.column(name)
        if pa.types.is_dictionary(column.type):  # pyarrow 26 counts no distinct values of these
            column = column.dictionary_decode()
        if pa.types.is_nested(column.type) or len(column.unique()) > 1:
            return False
    return True
