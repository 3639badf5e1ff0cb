"""Find ids of which the rows that a log tests on have other values than those it trains on.

Where users are such ids, the log was cut by users. Rates of a user then help on the training rows
alone, and a slice of rows that has the same users as another one would judge by them. So slices are
cut by users too, and the base is validated on users it has not seen. It still reads the user: what
is peculiar to one is learned apart from what serves others.
"""

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.log_sample import LogSample

_SAMPLED = 0.2
"""Least share of the log in the sample: with less, two parts may share no value by chance."""
_ROWS = 100
"""Fewest test rows that have a value."""
_REPEATS = 2.0
"""Fewest test rows of a mean value; an id of one row alone never repeats anywhere."""
_SEEN = 0.01
"""Largest share of test rows whose value the training rows have too."""


def ids_apart(
    sample: LogSample, column: str, parts: Mapping[str, tuple[str, ...]], names: Iterable[str]
) -> frozenset[str]:
    """Return the columns whose values in the test rows are new ones.

    Args:
        sample: sampled rows.
        column: says of which part a row is.
        parts: train, valid or test -> values of `column`.
        names: columns to look at.
    """
    rows = sample.rows
    if len(rows) < _SAMPLED * sample.snapshot.rows:
        return frozenset()
    train, test = (
        rows.filter(pc.is_in(rows.column(column), pa.array(parts[part])))
        for part in ("train", "test")
    )
    return frozenset(name for name in names if _is_apart(train.column(name), test.column(name)))


def _is_apart(train: pa.ChunkedArray, test: pa.ChunkedArray) -> bool:
    known = test.drop_null()
    if len(known) < max(_ROWS, _REPEATS * pc.count_distinct(known).as_py()):
        return False
    seen = pc.is_in(known, pc.unique(train))
    return bool(pc.sum(seen).as_py() <= _SEEN * len(known))
