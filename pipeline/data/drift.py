"""Measure how a log changes over its splits: ids that are new, and features whose values drift.

Both are judged on sampled rows.

Sources: the population stability index and its bounds .1 and .25 are those of Siddiqi 2006, Credit
Risk Scorecards. Its noise under no change, (1/n + 1/m) chi-squared with bins - 1 degrees of
freedom, is from Yurdakul and Naranjo 2020, Statistical properties of the population stability
index.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import gammaincinv

from iak.pipeline.data import features, hashing, parquet
from iak.pipeline.data.log_sample import evenly
from iak.pipeline.data.pieces import Piece
from iak.pipeline.data.splits import Selection
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import PipelineError
from iak.schemas.feature import FeatureSpec, NumericSpec, table_of
from iak.schemas.log import Catalog

MOVED, CHANGED = 0.1, 0.25
"""Stability indices from which on a feature has moved, and has changed."""
_BINS = 10
"""Bins of a number, equally full in the older window."""
_TOP_VALUES = 20
"""Ids that have a bin of their own."""
_MAX_ROW_GROUPS = 32
"""Row groups of a split that are sampled at most."""
_HALF = 0.5
"""Rows that are added to each bin."""
Word = Literal["stable", "moved", "changed"]
Say = Callable[[str], None]
"""A function that takes a progress message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewIds:
    """Ids of a split that do not occur in the pre-training rows."""

    table: str
    split: str
    ids: int
    """Sampled occurrences of ids."""
    share: float
    """Share of them whose id is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The movement of a feature's values since an earlier window."""

    feature: str
    before: str
    after: str
    index: float
    """Population stability index, 0 where both windows are alike."""
    noise: float
    """Index that 95 of 100 samples of this size stay below if nothing moved."""
    word: Word
    """The index as a word."""


class Sampler:
    """Sampled rows of each split, a few row groups each, read once."""

    def __init__(self, view: LogView, rows: int) -> None:
        """Read nothing yet.

        Args:
            view: the log.
            rows: approximate number of rows to read of each split.
        """
        self.view, self.wanted = view, rows
        self.by_split: dict[str, list[pa.RecordBatch]] = {}

    def batches(self, split: str) -> list[pa.RecordBatch]:
        """Return the sampled rows of a split."""
        if split not in self.by_split:
            selection = self.view.selections[split]
            self.by_split[split] = sampled_rows(selection, self.view.catalog, self.wanted)
        return self.by_split[split]

    def rows_of(self, split: str) -> int:
        """Return the number of rows that were sampled of a split."""
        return sum(len(batch) for batch in self.batches(split))


def sampled_rows(selection: Selection, catalog: Catalog, rows: int) -> list[pa.RecordBatch]:
    """Return rows of evenly spread row groups; a group that cannot be read is left out.

    Args:
        selection: the rows to sample from.
        catalog: the log's catalogue.
        rows: about how many rows to read.
    """
    indices = evenly(len(selection.groups), _MAX_ROW_GROUPS)
    groups = [selection.groups[index] for index in indices]
    total = sum(count for _, _, count in groups)
    sample: list[pa.RecordBatch] = []
    for file, group, count in groups:
        stop = min(count, max(rows * count // max(total, 1), 1))
        piece = Piece(file=file, group=group, start=0, stop=stop)
        with suppress(PipelineError):  # findings of other checks name it
            sample.append(parquet.read_piece(selection, piece, catalog).rows)
    return sample


def find_new_ids(
    view: LogView, sampler: Sampler, count_rows: int, say: Say
) -> tuple[list[NewIds], float]:
    """Return the share of new ids by table and later split.

    Args:
        view: the log.
        sampler: sampled rows of the later splits.
        count_rows: most pre-training rows whose ids are read.
        say: takes progress messages.

    Returns:
        The shares, and the share of the pre-training rows whose ids were read.
    """
    selection = view.selections.get("pretrain")
    tables = list(view.catalog.table_specs)
    later = [name for name in view.selections if name not in ("pretrain", "pretrain_valid")]
    if selection is None or not tables or not later:
        return [], 1.0
    known, share = _known_ids(view, selection, count_rows, say)
    results: list[NewIds] = []
    for split in later:
        ids: Counter[str] = Counter()
        fresh: Counter[str] = Counter()
        for rows in sampler.batches(split):
            for table, keys, counts in _keys(view.catalog, rows):
                ids[table] += int(counts.sum())
                fresh[table] += int(counts[~np.isin(keys, known[table])].sum())
        results += [
            NewIds(table=table, split=split, ids=ids[table], share=fresh[table] / ids[table])
            for table in tables
            if ids[table]
        ]
    return sorted(results, key=lambda one: tables.index(one.table)), share


def _known_ids(
    view: LogView, selection: Selection, count_rows: int, say: Say
) -> tuple[dict[str, hashing.Keys], float]:
    """Return the keys of all pre-training ids by table, and the share of the rows that was read."""
    known = {name: np.zeros(0, np.uint64) for name in view.catalog.table_specs}
    waiting: dict[str, list[hashing.Keys]] = {name: [] for name in known}
    read = 0

    def merge(table: str) -> None:
        known[table] = np.unique(np.concatenate([known[table], *waiting[table]]))
        waiting[table].clear()

    for piece in spread_groups(selection, count_rows):
        try:
            rows = parquet.read_piece(selection, piece, view.catalog).rows
        except PipelineError:
            continue  # the findings name it
        read += len(rows)
        say(f"ids of pretrain, {read:,} of {selection.rows:,} rows")
        for table, keys, _ in _keys(view.catalog, rows):
            waiting[table].append(keys)
            # Merge when as many keys wait as are known: merging then takes linear time in all.
            if sum(map(len, waiting[table])) > max(len(known[table]), 1_000_000):
                merge(table)
    for table in known:
        merge(table)
    return known, read / max(selection.rows, 1)


def _keys(
    catalog: Catalog, rows: pa.RecordBatch
) -> Iterator[tuple[str, hashing.Keys, npt.NDArray[np.int64]]]:
    """Yield table, keys and counts of each feature that reads ids."""
    for feature in catalog.features:
        table = table_of(feature)
        if table and not isinstance(feature, NumericSpec):
            keys, counts = features.counted_keys(feature, rows)
            yield table, keys, counts


def spread_groups(selection: Selection, max_rows: int) -> Iterator[Piece]:
    """Yield whole row groups: all of them, or evenly spread ones.

    Args:
        selection: the rows to read.
        max_rows: approximate upper bound on the rows to read.
    """
    groups = selection.groups
    wanted = max(int(len(groups) * min(max_rows / max(selection.rows, 1), 1.0)), 1)
    for index in evenly(len(groups), wanted) if groups else ():
        file, group, rows = groups[index]
        yield Piece(file=file, group=group, start=0, stop=rows)


def find_drifts(catalog: Catalog, sampler: Sampler) -> Iterator[Drift]:
    """Yield each feature's drift from pretrain to tune and from tune to test, largest first."""
    selections = sampler.view.selections
    pairs = [
        (before, after)
        for before, after in (("pretrain", "tune"), ("tune", "test"))
        if before in selections and after in selections
    ]
    results = [
        drift_of(feature, before, after, sampler.batches(before), sampler.batches(after))
        for feature in catalog.features
        for before, after in pairs
    ]
    yield from sorted(results, key=lambda drift: -drift.index)


def drift_of(
    feature: FeatureSpec,
    before: str,
    after: str,
    old: Sequence[pa.RecordBatch],
    new: Sequence[pa.RecordBatch],
) -> Drift:
    """Return how far a feature's values have moved between two samples of rows.

    Args:
        feature: the feature.
        before: name of the older window.
        after: name of the newer one.
        old: rows of the older window.
        new: rows of the newer one.
    """
    bins = _number_bins if isinstance(feature, NumericSpec) else _id_bins
    a, b = bins(feature, old, new)
    index = stability_index(a, b)
    used = int(((a + b) > 0).sum())
    # Ids of one list are not independent, so the sample sizes are rows and not occurrences.
    rows = [max(sum(map(len, batches)), 1) for batches in (old, new)]
    # The 95th percentile of chi2. scipy.stats has it too, and takes as long to import as torch.
    percentile = 2 * gammaincinv(max(used - 1, 1) / 2, 0.95)
    noise = float(percentile * (1 / rows[0] + 1 / rows[1]))
    return Drift(
        feature=feature.name,
        before=before,
        after=after,
        index=index,
        noise=noise,
        word=word_of(index, noise),
    )


def word_of(index: float, noise: float) -> Word:
    """Return an index as a word; one within its noise is stable."""
    if index <= noise or index < MOVED:
        return "stable"
    return "changed" if index >= CHANGED else "moved"


def stability_index(old: npt.NDArray[np.float64], new: npt.NDArray[np.float64]) -> float:
    """Return the population stability index of two histograms over the same bins.

    Half a row is added to each bin that is not empty in both: the logarithm of 0 is infinite.
    """
    used = (old + new) > 0
    if used.sum() <= 1 or not (old.sum() and new.sum()):
        return 0.0
    a, b = (counts[used] + _HALF for counts in (old, new))
    p, q = a / a.sum(), b / b.sum()
    return float(((q - p) * np.log(q / p)).sum())


def _number_bins(
    feature: FeatureSpec, old: Sequence[pa.RecordBatch], new: Sequence[pa.RecordBatch]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the rows in tenths of the older window; the last bin is for nulls."""
    if not isinstance(feature, NumericSpec):
        raise TypeError(f"feature {feature.name} is not a number")
    before, after = (
        np.concatenate([features.raw_number(feature, rows) for rows in batches] or [np.zeros(0)])
        for batches in (old, new)
    )
    known = before[np.isfinite(before)]
    inner = np.linspace(0, 1, _BINS + 1)[1:-1]
    cuts = np.unique(np.quantile(known, inner)) if len(known) else np.zeros(0)

    def counted(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        finite = np.isfinite(values)
        bins = np.where(finite, np.searchsorted(cuts, values, side="left"), len(cuts) + 1)
        return np.bincount(bins, minlength=len(cuts) + 2).astype(np.float64)

    return counted(before), counted(after)


def _id_bins(
    feature: FeatureSpec, old: Sequence[pa.RecordBatch], new: Sequence[pa.RecordBatch]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the occurrences of the commonest ids of both windows, of the others, and of nulls."""
    before, after = (_tally(feature, batches) for batches in (old, new))
    together = before[0] + after[0]
    top = [key for key, _ in together.most_common(_TOP_VALUES)]

    def counted(tally: tuple[Counter[int], int]) -> npt.NDArray[np.float64]:
        counts, nulls = tally
        listed = [float(counts[key]) for key in top]
        return np.array([*listed, float(counts.total()) - sum(listed), float(nulls)])

    return counted(before), counted(after)


def _tally(feature: FeatureSpec, batches: Sequence[pa.RecordBatch]) -> tuple[Counter[int], int]:
    """Return the occurrences of each key, and the rows without a value."""
    counts: Counter[int] = Counter()
    nulls = 0
    for rows in batches:
        keys, occurrences = features.counted_keys(feature, rows)
        counts.update(dict(zip(keys.tolist(), occurrences.tolist(), strict=True)))
        nulls += rows.column(feature.columns[0]).null_count if feature.kind != "cross" else 0
    return counts, nulls
