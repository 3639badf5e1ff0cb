"""Guess labels from numbers: grades, how much was watched, and clicks that a row counts."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa

from iak.pipeline.data.guess_labels import (
    CLICK,
    NOT_A_LABEL,
    PROPERTY_AUC,
    LabelGuess,
    is_feedback,
    may_be_id,
    separates,
    words_of,
)
from iak.pipeline.data.log_sample import Floats, amounts

_GRADES = words_of("rating ratings score stars star grade overall")
"""Words of a column in which users grade what they saw."""
_RATIOS = words_of("ratio rate percent pct progress")
"""Words of an amount that is comparable between short and long things. Of several columns, the
first with such a word is the label."""
_COUNTS = words_of("cnt count num number total n")
"""Words of a column that counts."""
_SHOWN = words_of("impression impressions imp imps impr exposure exposures show shows view views")
"""Words of a column that counts how often something was shown."""
_FEWEST_ZEROS = 0.5
"""Least share of rows without a click, of a column that counts them."""
_OFTEN = 2.0
"""How many times as many rows 0 has as the lowest grade, where 0 stands for none."""
_MAX_GRADES = 21
"""Most distinct values of a column of grades."""


def guess_grade(rows: pa.Table, *, skipped: Collection[str] = ()) -> LabelGuess | None:
    """Return a column of grades as a label, positive from a bound on; None where there is none.

    The bound is the lowest one that at most half of the grades reach, or the highest grade. A
    grade that an id has, as a hotel its stars, is none that a user gave.

    Args:
        rows: sampled rows.
        skipped: columns that are known to be something else.
    """
    ids = [name for name in rows.schema.names if may_be_id(rows, name)]
    for name in rows.schema.names:
        words = words_of(name)
        given = amounts(rows.column(name)) if words & _GRADES and name not in skipped else None
        if given is None:
            continue
        none = _no_grade(given)
        given = np.where(given == none, np.nan, given)
        values = given[~np.isnan(given)]
        grades = np.unique(values)
        if words & NOT_A_LABEL or not 2 <= len(grades) <= _MAX_GRADES:
            continue
        reached = [float((values >= grade).mean()) for grade in grades]
        bound = next((g for g, r in zip(grades, reached, strict=True) if r <= 0.5), grades[-1])
        is_high = np.where(np.isnan(given), np.nan, given >= bound)
        others = [own for own in ids if own != name]
        if any(separates(rows.column(own), is_high, PROPERTY_AUC) for own in others):
            continue  # a property of an id, such as the stars of a hotel
        positives = int((values >= bound).sum())
        why = f"its name, and its {len(grades)} grades from {grades[0]:g} to {grades[-1]:g}"
        reading = "the lowest bound that at most half reach"
        if none is not None:
            reading += f"; {none:g} seems to stand for no grade, so such rows have no label"
        return LabelGuess(
            column=name, kind="binary", positives=positives, rows=len(values), why=why,
            at_least=float(bound), reading=reading, is_unsure=none is not None,
            missing=() if none is None else (int(none),),
        )  # fmt: skip
    return None


def _no_grade(given: Floats) -> int | None:
    """Return the number that stands for no grade: -1, or a 0 that is far commoner than the next.

    None where every number is a grade.
    """
    grades, counts = np.unique(given[~np.isnan(given)], return_counts=True)
    if len(grades) < 3 or grades[0] not in (-1, 0) or grades[1] <= 0:
        return None
    return int(grades[0]) if grades[0] < 0 or counts[0] > _OFTEN * counts[1:].mean() else None


def guess_counts(rows: pa.Table, *, skipped: Collection[str] = ()) -> LabelGuess | None:
    """Return a column that counts the clicks of a row as a label; None where there is none.

    Args:
        rows: sampled rows.
        skipped: columns that are known to be something else.
    """
    for name in rows.schema.names:
        words = words_of(name)
        if name in skipped or not words & CLICK or words & (NOT_A_LABEL - _COUNTS):
            continue
        given = amounts(rows.column(name)) if words - CLICK <= _COUNTS else None
        values = given[~np.isnan(given)] if given is not None else np.zeros(0)
        if not len(values) or values.min() != 0 or (values != np.floor(values)).any():
            continue
        if (values == 0).mean() < _FEWEST_ZEROS or values.max() == 0:
            continue
        shown = shown_counts(rows, skipped={*skipped, name})
        several = (
            f"; a row stands for {shown[0]} of them: repeat it, to learn rates" if shown else ""
        )
        return LabelGuess(
            column=name, kind="click", positives=int((values > 0).sum()), rows=len(values),
            why="its name, and its whole numbers from 0 on", at_least=1.0, is_unsure=True,
            reading=f"it counts clicks, and one is enough{several}",
        )  # fmt: skip
    return None


def shown_counts(rows: pa.Table, *, skipped: Collection[str] = ()) -> list[str]:
    """Return the columns that count how often what a row stands for was shown."""
    return [
        name
        for name in rows.schema.names
        if name not in skipped and words_of(name) & _SHOWN and words_of(name) <= _SHOWN | _COUNTS
    ]


def guess_feedback(rows: pa.Table, *, skipped: Collection[str] = ()) -> LabelGuess | None:
    """Return a column of how much a user watched, read or heard as a label; None without one.

    The bound is one that about half of the rows reach. A ratio is preferred to seconds.

    Args:
        rows: sampled rows.
        skipped: columns that are known to be something else.
    """
    named = [name for name in rows.schema.names if name not in skipped and is_feedback(name)]
    for name in sorted(named, key=lambda name: not words_of(name) & _RATIOS):
        values = amounts(rows.column(name))
        values = values[~np.isnan(values)] if values is not None else np.zeros(0)
        if not len(values) or values.min() == values.max():
            continue
        bound = _middle(values)
        positives = int((values >= bound).sum())
        return LabelGuess(
            column=name, kind="binary", positives=positives, rows=len(values),
            why=f"its name, and its numbers from {values.min():g} to {values.max():g}",
            at_least=bound, is_unsure=True,
            reading="about half of the rows reach it; what counts as enough is "
            "yours to say",
        )  # fmt: skip
    return None


def _middle(values: Floats) -> float:
    """Return a number of two digits near the median that some values reach and some do not."""
    low, middle = float(values.min()), float(np.median(values))
    if middle <= low:
        middle = float(values[values > low].min())
    rounded = float(f"{middle:.2g}")
    return rounded if low < rounded <= values.max() else middle
