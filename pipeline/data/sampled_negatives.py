"""Find keys of fresh statistics that give a label away, because negatives were drawn at random.

Some logs have no impressions: a negative is an item drawn from those that the user never had. A
user with such an item then has negatives alone, and a user with an item that was used has positives
alone. Earlier rows of the same pair reveal the label, which they could not where real impressions
were logged.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import hashing
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.fresh_keys import fresh_columns, key_column
from iak.pipeline.data.notice import notice
from iak.pipeline.data.task_labels import label_numbers
from iak.schemas.fresh import Keys
from iak.schemas.log import Catalog

_MIN_MIXED_KEYS = 30
"""Keys that should have both labels, by chance, before their absence is a sign."""
_MIXED_SHARE = 0.01
"""Share of those that may have both labels all the same."""


class SampledNegatives:
    """Labels of each counted key over sampled rows."""

    def __init__(self, catalog: Catalog) -> None:
        """Start with no rows.

        Args:
            catalog: the log's catalogue.
        """
        self.catalog = catalog
        # A key of one column is shared by many rows of every kind, and need not be looked at.
        self.keys = [key for key in catalog.fresh_keys if len(key) > 1]
        self._parts: dict[Keys, list[npt.NDArray[np.uint64]]] = {key: [] for key in self.keys}
        self._labels: list[npt.NDArray[np.float64]] = []

    def add(self, rows: pa.RecordBatch, identity: hashing.Keys) -> None:
        """Take in raw rows."""
        if not self.keys:
            return
        columns = fresh_columns(rows, identity, self.catalog)
        for key in self.keys:
            self._parts[key].append(columns[key_column(key)].to_numpy().view(np.uint64))
        self._labels.append(label_numbers(rows, self.catalog.tasks[0]))

    def findings(self) -> Iterator[Finding]:
        """Yield a warning for each key that has one label alone, wherever it has several rows."""
        if not self._labels:
            return
        labels = np.concatenate(self._labels)
        for key in self.keys:
            expected, mixed, rows = _mixed(np.concatenate(self._parts[key]), labels)
            if expected >= _MIN_MIXED_KEYS and mixed <= _MIXED_SHARE * expected:
                name = "+".join(key)
                yield notice(
                    f"a value of {name} has one label alone ({mixed:,} have both, {expected:,.0f} "
                    "are to be expected), as if negatives were drawn from what a user never had",
                    column=name,
                    count=rows,
                    remedy="Then a count of it gives the label away. Take it out of [[fresh]], or "
                    "log what users were shown",
                )


def _mixed(keys: npt.NDArray[np.uint64], labels: npt.NDArray[np.float64]) -> tuple[float, int, int]:
    """Count the keys with both labels.

    Returns:
        How many would have both if labels were independent of the key, how many have, and the rows
        of all keys with several rows.
    """
    is_known = np.isfinite(labels)
    keys, is_positive = keys[is_known], labels[is_known] == 1
    if not len(keys):
        return 0.0, 0, 0
    _, index, rows = np.unique(keys, return_inverse=True, return_counts=True)
    positives = np.bincount(index, weights=is_positive)
    share = is_positive.mean()
    # Probability that a key of so many rows has both labels.
    chance = 1 - share**rows - (1 - share) ** rows
    is_mixed = (positives > 0) & (positives < rows)
    return float(chance.sum()), int(is_mixed.sum()), int(rows[rows > 1].sum())
