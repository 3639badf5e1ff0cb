"""Read the label of each task from its column of a log.

    1, 0, null                 a label as it is
    4.5, "4.5"                 with at_least = 4, a label of 1; words are null
    buy, cart, view            with positive = ["buy", "cart"]: 1, 1 and 0; an empty text is null
    1790812800, null           with has_value: 1 and 0; an empty text and NaN are 0 too
    -1                         with missing = [-1], the same as null in any of these ways

Rows keep their column as the log has it, so several tasks may read one column.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.normal import ANY, EVENT, GRADE, LABEL, ColumnKind
from iak.pipeline.data.written import decoded_text, is_text
from iak.schemas.task import TaskSpec

_NUMBER = r"^-?\d+(?:\.\d+)?$"
"""A number in text."""
_EXACT = 2.0**53
"""Size below which a float has the digits of every whole number."""


def label_kind(task: TaskSpec) -> ColumnKind:
    """Return the kind of column that a task reads its label from."""
    if task.positive:
        return EVENT
    if task.has_value:
        return ANY
    return LABEL if task.at_least is None else GRADE


def label_of(rows: pa.RecordBatch, task: TaskSpec) -> pa.Array:
    """Return the label of each row, as booleans or numbers.

    A column that is read as it is may have numbers other than 0 and 1, which break the contract.

    Args:
        rows: rows in plain types with the task's column.
        task: the task.
    """
    return read_label(rows.column(task.label), task)


def label_numbers(rows: pa.RecordBatch, task: TaskSpec) -> npt.NDArray[np.float64]:
    """Return the label of each row as a number, NaN where there is none. It may be read-only."""
    labels: npt.NDArray[np.float64] = (
        label_of(rows, task).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    )
    return labels


def read_label(values: pa.Array, task: TaskSpec) -> pa.Array:
    """Return a column's values as labels of a task; see `label_of`."""
    if task.missing:
        values = _without(values, task.missing)
    if task.positive:
        return _is_one_of(values, task.positive)
    if task.has_value:
        return _has_value(values)
    return values if task.at_least is None else _reaches(values, task.at_least)


def event_texts(values: pa.Array) -> pa.Array:
    """Return events as text: whole numbers as their digits, booleans as `true` and `false`.

    NaN and an empty text are null.
    """
    if is_text(values.type):
        texts = decoded_text(values)
        return pc.if_else(pc.equal(texts, ""), None, texts)
    if not pa.types.is_floating(values.type):
        return values.cast(pa.string())
    # pandas writes whole numbers as floats where some are null; Arrow writes 1e15 and -0 of them.
    is_whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), _EXACT))
    digits = pc.if_else(is_whole, values, None).cast(pa.int64()).cast(pa.string())
    known = pc.if_else(pc.is_nan(values), None, values)
    return pc.coalesce(digits, known.cast(pa.string()))


def _is_one_of(values: pa.Array, positive: tuple[str, ...]) -> pa.Array:
    """Return whether each value is one of these; null where there is none."""
    if pa.types.is_dictionary(values.type):
        return _is_one_of(values.dictionary, positive).take(values.indices)
    texts = event_texts(values)
    # is_in finds a null to be absent.
    found = pc.is_in(texts, value_set=pa.array(positive, pa.string()))
    return pc.if_else(texts.is_valid(), found, None)


def _without(values: pa.Array, missing: tuple[str, ...]) -> pa.Array:
    """Return the values with those that stand for none as nulls."""
    if pa.types.is_nested(values.type):
        return values  # no text is equal to a struct or a list
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    is_missing = pc.is_in(event_texts(values), value_set=pa.array(missing, pa.string()))
    return pc.if_else(is_missing, pa.scalar(None, values.type), values)


def _has_value(values: pa.Array) -> pa.Array:
    """Return whether there is a value; NaN and an empty text are none."""
    if is_text(values.type):
        return pc.fill_null(pc.not_equal(decoded_text(values), ""), False)
    return pc.invert(values.is_null(nan_is_null=pa.types.is_floating(values.type)))


def _reaches(values: pa.Array, bound: float) -> pa.Array:
    """Return whether each number is at least the bound; null where there is none."""
    if is_text(values.type):
        texts = decoded_text(values)
        is_number = pc.match_substring_regex(texts, _NUMBER)
        values = pc.if_else(is_number, texts, None)
    numbers = values.cast(pa.float64(), safe=False)
    return pc.greater_equal(pc.if_else(pc.is_nan(numbers), None, numbers), bound)
