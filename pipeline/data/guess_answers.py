"""Tell which columns hold two answers, and which of the two is a label of 1.

0, 1                      numbers or booleans, a label as they are
"0", "1"                  the same as text
Y N, yes no, T F, ...     words
-1, 1                     numbers with a sign
1, 2                      where a name says that the column is a label; the larger one is yes
-1, 0, 1                  the same; -1 stands for no answer
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.log_sample import Floats, kind_of, numbers

_YES_NO = (("y", "n"), ("yes", "no"), ("t", "f"), ("true", "false"))
"""Words for yes and no, in lower case."""
_DIGITS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
"""Texts of a label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A column of two answers, as labels."""

    values: Floats
    """1, 0, or NaN where there is no answer."""
    at_least: float | None = None
    """Bound from which on the column's number is a 1."""
    positive: tuple[str | int, ...] = ()
    """The column's values that are a 1."""
    has_value: bool = False
    """Whether any value is a 1, and a null a 0."""
    missing: tuple[str | int, ...] = ()
    """The column's values that stand for no answer."""
    why: str = ""
    """Why it is read so; empty where it is read as it is."""


def answers_of(column: pa.ChunkedArray, *, is_label: bool) -> Answers | None:
    """Return a column's answers; None where it has others than two.

    Args:
        column: any column.
        is_label: whether its name says that it is a label. Then one answer is enough.
    """
    kind = kind_of(column.type)
    if kind == "text":
        return _of_words(column, is_label=is_label)
    if kind not in ("bool", "whole", "float"):
        return None
    values = numbers(column)
    distinct = tuple(np.unique(values[~np.isnan(values)]).tolist())
    if len(distinct) == 2 or (len(distinct) == 1 and is_label):
        if set(distinct) <= {0.0, 1.0}:
            return Answers(values=values)
        if distinct == (-1.0, 1.0):
            return _of_one(values, 1, "its values are 1 and -1")
        if distinct == (1.0, 2.0) and is_label:
            return _of_one(values, 2, "its values are 1 and 2, and the larger one is often yes")
    if distinct == (-1.0, 0.0, 1.0) and is_label:
        known = np.where(values == -1, np.nan, values)
        return Answers(values=known, missing=(-1,), why="beside 0 and 1 it stands for no answer")
    return None


def _of_one(values: Floats, yes: int, why: str) -> Answers:
    labels = np.where(np.isnan(values), np.nan, values == yes)
    return Answers(values=labels, positive=(yes,), why=why)


def _of_words(column: pa.ChunkedArray, *, is_label: bool) -> Answers | None:
    coded = column.combine_chunks().cast(pa.string()).dictionary_encode()
    words = sorted(word for word in coded.dictionary.to_pylist() if word)
    least = 1 if is_label else 2
    if least <= len(words) and set(words) <= _DIGITS.keys():
        why = "its numbers are written as text"
        return Answers(values=_looked_up(coded, _DIGITS), at_least=1.0, why=why)
    for high, low in (("1", "-1"), ("2", "1")):
        if set(words) == {high, low} and (is_label or low == "-1"):
            labels = _looked_up(coded, {high: 1.0, low: 0.0})
            return Answers(values=labels, positive=(high,), why=f"its values are {high} and {low}")
    answers = {word.lower() for word in words}
    yes = next((yes for yes, no in _YES_NO if answers <= {yes, no}), None)
    positive = tuple(word for word in words if word.lower() == yes)
    if not positive or len(answers) < least:
        return None
    labels = _looked_up(coded, {word: float(word in positive) for word in words})
    return Answers(values=labels, positive=positive, why=f"its words are {' and '.join(words)}")


def _looked_up(coded: pa.DictionaryArray, labels: Mapping[str, float]) -> Floats:
    """Return the label of each row's word; NaN where it has none."""
    of_words = np.array([*(labels.get(w, np.nan) for w in coded.dictionary.to_pylist()), np.nan])
    codes = pc.fill_null(coded.indices, len(coded.dictionary)).to_numpy(zero_copy_only=False)
    found: Floats = of_words[codes]
    return found
