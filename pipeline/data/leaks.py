"""Find columns that alone predict a label almost perfectly; most were written after the event.

Each column is scored by the AUC of its own values: a number as it is, a word by the label's mean in
the other half of the rows, and both by whether there is a value at all. A conversion is scored on
clicked rows, so that a column that predicts the click is not reported twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import hashing, normal
from iak.pipeline.data.task_labels import label_numbers
from iak.schemas.log import Catalog
from iak.schemas.task import TaskSpec

SUSPECT_AUC = 0.98
"""Least AUC at which a column is suspected."""
MIN_OF_CLASS = 30
"""Least positives, and least negatives, on which a column is scored."""
_ROWS_PER_WORD = 10
"""Least mean rows of a word. With fewer, the words identify rows and are not classes."""
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A column that predicts a label nearly by itself."""

    column: str
    task: str
    auc: float
    rows: int
    """Labelled rows that it was scored on."""


def suspects(rows: Sequence[pa.RecordBatch], catalog: Catalog) -> Iterator[Suspect]:
    """Yield the columns of these rows that predict a task too well.

    Args:
        rows: batches with every label and any other columns; a column that some lack is skipped.
        catalog: the log's catalogue; its labels, leak columns and row ids are not scored.
    """
    if not rows:
        return
    known = {c for c in rows[0].schema.names if all(c in part.schema.names for part in rows)}
    skipped = {t.label for t in catalog.tasks} | {*catalog.log.leak_columns, catalog.log.row_id}
    labels = {
        t.title: np.concatenate([label_numbers(part, t) for part in rows]) for t in catalog.tasks
    }
    for column in sorted(known - skipped):
        try:
            values = [_plain(part.column(column)) for part in rows]
        except pa.ArrowInvalid:
            continue  # bytes that are no text, which no feature can read
        for task in catalog.tasks:
            counted, positive = _judged_rows(task, catalog, labels)
            if min(positive.sum(), (~positive).sum()) < MIN_OF_CLASS:
                continue
            score = _score(values, counted, positive)
            if score >= SUSPECT_AUC:
                yield Suspect(column=column, task=task.title, auc=score, rows=len(positive))


def _plain(values: pa.Array) -> pa.Array:
    """Return a column's values as ids; floats stay numbers, since they may have fractions."""
    return normal.plain(values, "number" if pa.types.is_floating(values.type) else normal.ID)


def is_judged(kind: pa.DataType) -> bool:
    """Return whether a column of this type can be scored: one number, time or word in each row."""
    is_ = pa.types
    plain = normal.plain_type(kind, normal.ID)
    if is_.is_dictionary(plain):
        plain = plain.value_type
    checks = (
        is_.is_integer,
        is_.is_boolean,
        is_.is_floating,
        is_.is_decimal,
        is_.is_timestamp,
        is_.is_string,
        is_.is_large_string,
    )
    return any(check(plain) for check in checks)


def _judged_rows(
    task: TaskSpec, catalog: Catalog, labels: Mapping[str, Floats]
) -> tuple[Mask, Mask]:
    """Return masks of the rows that count for a task, and of the positive ones."""
    label = labels[task.title]
    counted = (label == 0) | (label == 1)
    click = next((t.title for t in catalog.tasks if t.kind == "click"), None)
    if task.kind == "conversion" and click is not None:
        counted &= labels[click] == 1
    return counted, label[counted] == 1


def _score(values: Sequence[pa.Array], counted: Mask, positive: Mask) -> float:
    """Return the best AUC that the values of one column reach alone."""
    missing = np.concatenate([~_valid(part) for part in values])[counted]
    scores = [_two_sided(missing.astype(np.float64), positive)] if missing.any() else []
    if all(_is_number(part.type) for part in values):
        numbers = np.concatenate([_numbers(part) for part in values])[counted]
        fills = (-np.inf, np.inf) if np.isnan(numbers).any() else (0.0,)
        scores += [_two_sided(np.nan_to_num(numbers, nan=f), positive) for f in fills]
    if all(_is_word(part.type) for part in values):
        keys = np.concatenate([hashing.keys_of(part) for part in values])[counted]
        scores.append(_auc_of_words(np.where(missing, np.uint64(0), keys), positive))
    return max(scores, default=0.5)


def _valid(values: pa.Array) -> Mask:
    valid: Mask = values.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _is_number(kind: pa.DataType) -> bool:
    is_ = pa.types
    checks = (is_.is_integer, is_.is_boolean, is_.is_floating, is_.is_decimal, is_.is_timestamp)
    return any(check(kind) for check in checks)


def _is_word(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_ = pa.types
    checks = (is_.is_integer, is_.is_boolean, is_.is_string, is_.is_large_string)
    return any(check(kind) for check in checks)


def _numbers(values: pa.Array) -> Floats:
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    numbers: Floats = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers


def _auc_of_words(keys: hashing.Keys, positive: Mask) -> float:
    """Return the AUC of each word's mean label, which is taken from the other half of the rows."""
    words, codes = np.unique(keys, return_inverse=True)
    if len(words) * _ROWS_PER_WORD > len(keys):
        return 0.5
    half = np.arange(len(keys)) % 2 == 0
    rate = float(positive.mean())
    means = np.empty(len(keys))
    for own in (half, ~half):
        counts = np.bincount(codes[~own], minlength=len(words))
        sums = np.bincount(codes[~own], weights=positive[~own], minlength=len(words))
        means[own] = ((sums + rate) / (counts + 1.0))[codes[own]]
    return auc_of_values(means, positive)


def _two_sided(values: Floats, positive: Mask) -> float:
    score = auc_of_values(values, positive)
    return max(score, 1.0 - score)


def auc_of_values(values: Floats, positive: Mask) -> float:
    """Return the probability that a positive's value is above a negative's; ties count half."""
    # Mann-Whitney: equal values share the mean of their ranks.
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    midranks = np.cumsum(counts) - (counts - 1) / 2.0
    count = int(positive.sum())
    above = midranks[codes[positive]].sum() - count * (count + 1) / 2.0
    return float(above / (count * (len(positive) - count)))
