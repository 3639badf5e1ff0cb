"""Read columns of lists: the last values of each, without padding, and signs of padding."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import hashing
from iak.pipeline.data.ids import decoded, known
from iak.schemas.feature import ListSpec

PADDED_SHARE = 0.2
"""Share of lists that must end, or begin, with the same value twice before they look padded."""


def last_values(column: pa.Array, feature: ListSpec) -> tuple[pa.Array, npt.NDArray[np.int32]]:
    """Return the last values of each list, flattened, and the offsets of the lists.

    A null list becomes one null value, and so reads the null row. An empty list stays empty, and
    its mean is zeros. Padding is dropped first: a list of nothing else becomes an empty one.
    """
    last = feature.last
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if feature.padding is not None:
        column = _without_padding(column, feature.padding)
    bounds = column.offsets.to_numpy()
    if not column.null_count and np.diff(bounds).max(initial=0) <= last:
        # Usual: nothing is cut, so the values are taken without a copy.
        values = column.values.slice(bounds[0], bounds[-1] - bounds[0])
        return values, (bounds - bounds[0]).astype(np.int32)
    ends, starts = bounds[1:].astype(np.int64), bounds[:-1].astype(np.int64)
    starts = np.maximum(starts, ends - last)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.where(valid, ends - starts, 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # Position of each kept value: its list's start, plus its index within the list.
    positions = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    if column.null_count:
        from_null = np.repeat(~valid, lengths)
        return column.values.take(pa.array(positions, mask=from_null)), offsets.astype(np.int32)
    is_whole = len(positions) == len(column.values)
    values = column.values if is_whole else column.values.take(pa.array(positions))
    return values, offsets.astype(np.int32)


def is_padding(values: pa.Array, padding: int | str) -> npt.NDArray[np.bool_]:
    """Return True for each value that is the padding of short lists; False for null."""
    coded = hashing.coded(values)
    words = [str(word) == str(padding) for word in coded.dictionary.to_pylist()]
    return np.array([*words, False])[hashing.dictionary_indices(coded)]


def _without_padding(column: pa.Array, padding: int | str) -> pa.Array:
    """Return the lists without their padding; null lists stay null."""
    bounds = column.offsets.to_numpy()
    values = column.values.slice(bounds[0], bounds[-1] - bounds[0])
    is_item = ~is_padding(values, padding)
    if is_item.all():
        return column
    kept = np.concatenate([[0], np.cumsum(is_item)])[bounds - bounds[0]]
    mask = pa.array(~known(column)) if column.null_count else None
    return pa.ListArray.from_arrays(
        pa.array(kept.astype(np.int32)), values.filter(pa.array(is_item)), mask=mask
    )


@dataclass(slots=True)
class ListEnds:
    """Counts of the values that lists of one length end and begin with, batch by batch."""

    lists: int = 0
    length: int | None = None
    """Length of every list so far; -1 where they differ."""
    ends: Counter[object] = field(default_factory=Counter)
    starts: Counter[object] = field(default_factory=Counter)

    def add(self, column: pa.Array) -> None:
        """Count more lists."""
        column = column.drop_null()
        sizes = np.diff(column.offsets.to_numpy())
        if not len(sizes) or self.length == -1:
            return
        self.lists += len(sizes)
        if sizes.min() != sizes.max() or self.length not in (None, int(sizes[0])):
            self.length = -1
            return
        self.length = length = int(sizes[0])
        if length < 3:
            return  # its first two values are its last two as well
        first = column.offsets.to_numpy()[:-1]
        for counter, position in ((self.ends, length - 2), (self.starts, 0)):
            pairs = [column.values.take(pa.array(first + position + shift)) for shift in (0, 1)]
            pairs = [decoded(pair) for pair in pairs]
            twice = pairs[0].filter(pc.fill_null(pc.equal(*pairs), False))
            counter.update({v["values"]: v["counts"] for v in pc.value_counts(twice).to_pylist()})

    def padding(self) -> tuple[object, int] | None:
        """Return the value that seems to fill lists up, and the number of lists that it fills.

        Return None where no value does.
        """
        most = [counter.most_common(1)[0] for counter in (self.ends, self.starts) if counter]
        best = max(most, key=lambda pair: pair[1], default=None)
        if self.length in (None, -1) or best is None or best[1] < PADDED_SHARE * self.lists:
            return None
        return best
