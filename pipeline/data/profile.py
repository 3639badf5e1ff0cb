"""A catalogue and a log -> its profile: rows and positives, gate power, new ids, drift.

Rows and labels are counted exactly from the few columns that say them, up to a bound; new ids and
drift are judged on sampled rows. Labels are counted as training sees them: quarantined, unripe and
null ones are no labels.

Sources: the population stability index and its bounds .1 and .25 are those of Siddiqi 2006, Credit
Risk Scorecards. Its noise under no change, (1/n + 1/m) chi-squared with bins - 1 degrees of
freedom, is from Yurdakul and Naranjo 2020, Statistical properties of the population stability
index.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import chi2

from iak.pipeline.data import contract, features, hashing, parquet, ripeness, splits
from iak.pipeline.data.log_sample import evenly
from iak.pipeline.data.pieces import Piece
from iak.pipeline.data.splits import Selection
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import PipelineError
from iak.schemas.feature import FeatureSpec, NumericSpec, table_of
from iak.schemas.log import Catalog

LEAST_POSITIVES = 30
LEAST_NEGATIVES = 30
MOVED, CHANGED = 0.1, 0.25
"""Stability indices from which a feature has moved, and has changed."""
_BINS = 10
_TOP_VALUES = 20
_MOST_GROUPS = 32
_HALF = 0.5
REST = "(other domains)"
NO_DOMAIN = "(no domain)"
UNKNOWN_DAY = "(no date)"
Word = Literal["stable", "moved", "changed"]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Rows of one task, and how many are positive."""

    task: str
    rows: int
    """Rows with a label that training would use."""
    positives: int

    @property
    def negatives(self) -> int:
        """Labelled rows that are 0."""
        return self.rows - self.positives

    @property
    def rate(self) -> float | None:
        """Share of positives; None without a label."""
        return self.positives / self.rows if self.rows else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitProfile:
    """Rows of a split, all or one part of it."""

    split: str
    part: str
    """The domain or the day; `all` for the whole split."""
    rows: int
    labels: tuple[Labels, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewIds:
    """How many of the ids that a split reads, the pre-training rows do not hold."""

    table: str
    split: str
    ids: int
    """Occurrences looked at."""
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far a feature's values lie from those of an earlier window."""

    feature: str
    before: str
    after: str
    index: float
    """Population stability index, 0 where both windows are alike."""
    noise: float
    """Index that 95 of 100 samples of this size stay below where nothing moved."""
    word: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a log holds, as far as its catalogue reads it."""

    splits: tuple[SplitProfile, ...]
    domains: tuple[SplitProfile, ...]
    """By split, the domains with most rows first, the rest summed as `(other domains)`."""
    days: tuple[SplitProfile, ...]
    """By split and day, where days are known."""
    domain_counts: Mapping[str, int]
    """Split -> domains that it holds."""
    undecided: Mapping[str, Mapping[str, int]]
    """Task -> `domains` with gate rows, and how many of them are `too few` to be judged."""
    new_ids: tuple[NewIds, ...]
    drift: tuple[Drift, ...]
    counted: Mapping[str, float]
    """Split -> share of its rows whose labels were counted."""
    sampled: Mapping[str, int]
    """Split -> rows that new ids and drift were judged on."""
    pretrain_ids_share: float
    """Share of the pre-training rows whose ids were read; below 1, new ids are an upper bound."""


def profile_log(
    view: LogView,
    *,
    sample_rows: int,
    count_rows: int,
    top_domains: int,
    say: Say = lambda _: None,
) -> Profile:
    """Profile the splits that a view selects.

    Args:
        view: the log, opened with every split that has rows.
        sample_rows: rows to look at for new ids and drift, over all splits.
        count_rows: rows of a split up to which labels are counted exactly.
        top_domains: domains that are listed.
        say: told what is being read.
    """
    narrow = _narrow(view.catalog)
    counts = {}
    for name, selection in view.selections.items():
        say(f"labels of {name}, {selection.rows:,} rows")
        counts[name] = _count(selection, narrow, view.as_of, count_rows)
    sampler = _Sampler(view, sample_rows // max(len(view.selections), 1))
    say("new ids and drift")
    new_ids, ids_share = _new_ids(view, sampler, count_rows, say)
    return Profile(
        splits=tuple(c.profile("all", c.all) for c in counts.values()),
        domains=tuple(_top(counts, top_domains)),
        days=tuple(
            c.profile(day, cell) for c in counts.values() for day, cell in sorted(c.days.items())
        ),
        domain_counts={name: len(c.domains) for name, c in counts.items()},
        undecided=_undecided(counts, view.catalog),
        new_ids=tuple(new_ids),
        drift=tuple(_drifts(view.catalog, sampler)),
        counted={name: c.share for name, c in counts.items()},
        sampled={name: sampler.rows_of(name) for name in view.selections},
        pretrain_ids_share=ids_share,
    )


def power(labels: Labels) -> str:
    """Say in words what the rows of a task can decide."""
    few = []
    if labels.positives < LEAST_POSITIVES:
        few.append(f"about {labels.positives:,} positives")
    if labels.negatives < LEAST_NEGATIVES:
        few.append(f"about {labels.negatives:,} negatives")
    if not labels.rows:
        return "no label: nothing can be decided here"
    if few:
        return f"{' and '.join(few)}: nothing can be decided here"
    # Hanley and McNeil's error of an AUC near one half, which the scarcer class governs.
    error = float(np.sqrt((1 / labels.positives + 1 / labels.negatives) / 12))
    return f"AUC known to about ±{1.96 * error:.3f}"


# ---------------------------------------------------------------- rows and labels


class _Cell:
    """Rows, and by task labelled and positive rows."""

    def __init__(self, tasks: int) -> None:
        self.rows = 0.0
        self.labelled = np.zeros(tasks)
        self.positives = np.zeros(tasks)


class _Counts:
    """What one split holds: in all, by domain, by day."""

    def __init__(self, split: str, catalog: Catalog) -> None:
        self.split, self.catalog = split, catalog
        self.share = 1.0
        self.all = self._cell()
        self.domains: dict[str, _Cell] = defaultdict(self._cell)
        self.days: dict[str, _Cell] = defaultdict(self._cell)

    def _cell(self) -> _Cell:
        return _Cell(len(self.catalog.tasks))

    def add(self, rows: pa.RecordBatch, labels_TB: npt.NDArray[np.float64]) -> None:
        """Count a batch; labels are NaN where training has none."""
        catalog = self.catalog
        names = features.domain_names(rows, catalog.domain.keys)
        self._into(self.domains, names, labels_TB)
        days = _days(rows, catalog)
        if days is not None:
            self._into(self.days, days, labels_TB)
        self._add(self.all, len(rows), *_sums(labels_TB, np.zeros(len(rows), np.int64), 1))

    def _into(
        self, cells: dict[str, _Cell], names: pa.Array, labels_TB: npt.NDArray[np.float64]
    ) -> None:
        coded = names.dictionary_encode()
        words = [*coded.dictionary.to_pylist(), NO_DOMAIN]
        place = hashing.dictionary_indices(coded)
        rows = np.bincount(place, minlength=len(words))
        labelled, positives = _sums(labels_TB, place, len(words))
        for at in np.flatnonzero(rows):
            word = words[at]
            self._add(cells[word], rows[at], labelled[:, at], positives[:, at])

    @staticmethod
    def _add(cell: _Cell, rows: Any, labelled: Any, positives: Any) -> None:  # noqa: ANN401
        cell.rows += float(rows)
        cell.labelled += np.reshape(labelled, -1)
        cell.positives += np.reshape(positives, -1)

    def profile(self, part: str, *cells: _Cell) -> SplitProfile:
        """Return cells as one profile, scaled up where only some rows were counted."""
        rows = sum(cell.rows for cell in cells)
        labelled = sum((cell.labelled for cell in cells), np.zeros(len(self.catalog.tasks)))
        positives = sum((cell.positives for cell in cells), np.zeros(len(self.catalog.tasks)))
        return SplitProfile(
            split=self.split,
            part=part,
            rows=round(rows / self.share),
            labels=tuple(
                Labels(
                    task=task.title,
                    rows=round(labelled[at] / self.share),
                    positives=round(positives[at] / self.share),
                )
                for at, task in enumerate(self.catalog.tasks)
            ),
        )


def _sums(
    labels_TB: npt.NDArray[np.float64], place: npt.NDArray[np.int64], size: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return labelled rows and positives, by task and place."""
    known = ~np.isnan(labels_TB)
    labelled = [np.bincount(place[k], minlength=size) for k in known]
    positives = [
        np.bincount(place[k], weights=y[k], minlength=size)
        for k, y in zip(known, labels_TB, strict=True)
    ]
    return np.array(labelled, np.float64), np.array(positives, np.float64)


def _narrow(catalog: Catalog) -> Catalog:
    """Return the catalogue without its features: the columns that counting needs."""
    return catalog.model_copy(
        update={"features": (), "log": catalog.log.model_copy(update={"user": None})}
    )


def _count(selection: Selection, narrow: Catalog, as_of: date | None, count_rows: int) -> _Counts:
    """Count a split's labels by domain and day, from evenly spread row groups if it is too long."""
    counts = _Counts(selection.split.name, narrow)
    counted = 0
    for piece in _spread(selection, count_rows):
        try:
            rows = parquet.read_piece(selection, piece, narrow).rows
        except PipelineError:
            continue  # the findings name it
        counts.add(rows, _labels(rows, narrow, as_of))
        counted += len(rows)
    counts.share = counted / selection.rows if counted else 1.0
    return counts


def _spread(selection: Selection, most_rows: int) -> Iterator[Piece]:
    """Return whole row groups, all of them or evenly spread ones of about so many rows."""
    groups = selection.groups
    wanted = max(int(len(groups) * min(most_rows / max(selection.rows, 1), 1.0)), 1)
    for at in evenly(len(groups), wanted) if groups else ():
        file, group, rows = groups[at]
        yield Piece(file=file, group=group, start=0, stop=rows)


def _labels(rows: pa.RecordBatch, catalog: Catalog, as_of: date | None) -> npt.NDArray[np.float64]:
    """Return labels by task, NaN where training masks them; a conversion counts over all rows."""
    quarantined = contract.inspect(rows, catalog).quarantined
    unripe = ripeness.unripe(rows, catalog, as_of)
    found = np.empty((len(catalog.tasks), len(rows)))
    for at, task in enumerate(catalog.tasks):
        column = rows.column(task.label).cast(pa.float64(), safe=False)
        found[at] = column.to_numpy(zero_copy_only=False)
        found[at][~np.isin(found[at], (0.0, 1.0))] = np.nan
        if quarantined is not None:
            found[at][quarantined] = np.nan
        if task.title in unripe:
            found[at][unripe[task.title]] = np.nan
    return found


def _days(rows: pa.RecordBatch, catalog: Catalog) -> pa.Array | None:
    """Return each row's day as text, None where the columns at hand do not tell."""
    log = catalog.log
    if log.date_key:
        coded = rows.column(log.date_key).dictionary_encode()
        words = [splits.parse_date(word) for word in coded.dictionary.to_pylist()]
        texts = pa.array([str(day) if day else UNKNOWN_DAY for day in words])
        return texts.take(coded.indices).fill_null(UNKNOWN_DAY)
    if not log.event_time or log.event_time not in rows.schema.names:
        return None
    seconds = _event_seconds(rows, catalog)
    in_calendar = np.abs(seconds) < 2**36
    whole = pa.array(np.where(in_calendar, seconds, 0).astype(np.int64), pa.timestamp("s", "UTC"))
    local = pc.local_timestamp(whole.cast(pa.timestamp("s", log.time_zone)))
    texts = local.cast(pa.date32()).cast(pa.string())
    return pc.if_else(pa.array(in_calendar), texts, UNKNOWN_DAY)


def _event_seconds(rows: pa.RecordBatch, catalog: Catalog) -> npt.NDArray[np.float64]:
    return splits.seconds_of(rows.column(catalog.log.event_time))


def _top(counts: Mapping[str, _Counts], most: int) -> Iterator[SplitProfile]:
    """Profile the domains with most rows over all splits, and the rest together, by split."""
    total: Counter[str] = Counter()
    for count in counts.values():
        for name, cell in count.domains.items():
            total[name] += round(cell.rows / count.share)
    listed = [name for name, _ in total.most_common(most)]
    for count in counts.values():
        for name in listed:
            yield count.profile(
                name, count.domains[name] if name in count.domains else count._cell()
            )
        rest = [cell for name, cell in count.domains.items() if name not in listed]
        if rest:
            yield count.profile(REST, *rest)


def _undecided(counts: Mapping[str, _Counts], catalog: Catalog) -> dict[str, dict[str, int]]:
    """Count by task the domains with gate rows, and those of them that cannot be judged."""
    gate = counts.get("gate")
    if gate is None:
        return {}
    found: dict[str, dict[str, int]] = {}
    for at, task in enumerate(catalog.tasks):
        known = [gate.profile(name, cell).labels[at] for name, cell in gate.domains.items()]
        few = [
            labels
            for labels in known
            if labels.positives < LEAST_POSITIVES or labels.negatives < LEAST_NEGATIVES
        ]
        found[task.title] = {"domains": len(known), "too few": len(few)}
    return found


# ---------------------------------------------------------------- new ids and drift


class _Sampler:
    """Sampled rows of every split, a few row groups each, read once."""

    def __init__(self, view: LogView, rows: int) -> None:
        self.view, self.wanted = view, rows
        self.held: dict[str, list[pa.RecordBatch]] = {}

    def batches(self, split: str) -> list[pa.RecordBatch]:
        """Return sampled rows of a split."""
        if split not in self.held:
            self.held[split] = list(self._read(self.view.selections[split]))
        return self.held[split]

    def rows_of(self, split: str) -> int:
        """Return rows that were sampled of a split."""
        return sum(len(batch) for batch in self.batches(split))

    def _read(self, selection: Selection) -> Iterator[pa.RecordBatch]:
        groups = [selection.groups[at] for at in evenly(len(selection.groups), _MOST_GROUPS)]
        total = sum(rows for _, _, rows in groups)
        for file, group, rows in groups:
            stop = min(rows, max(self.wanted * rows // max(total, 1), 1))
            piece = Piece(file=file, group=group, start=0, stop=stop)
            try:
                yield parquet.read_piece(selection, piece, self.view.catalog).rows
            except PipelineError:
                continue  # the findings name it


def _new_ids(
    view: LogView, sampler: _Sampler, count_rows: int, say: Say
) -> tuple[list[NewIds], float]:
    """Return the share of id occurrences that pre-training lacks, by table and later split."""
    selection = view.selections.get("pretrain")
    tables = list(view.catalog.table_specs)
    later = [name for name in view.selections if name not in ("pretrain", "pretrain_valid")]
    if selection is None or not tables or not later:
        return [], 1.0
    seen, share = _seen_ids(view, selection, count_rows, say)
    found: list[NewIds] = []
    for split in later:
        ids: Counter[str] = Counter()
        fresh: Counter[str] = Counter()
        for rows in sampler.batches(split):
            for table, keys, counts in _keys(view.catalog, rows):
                ids[table] += int(counts.sum())
                fresh[table] += int(counts[~np.isin(keys, seen[table])].sum())
        found += [
            NewIds(table=table, split=split, ids=ids[table], share=fresh[table] / ids[table])
            for table in tables
            if ids[table]
        ]
    return sorted(found, key=lambda one: tables.index(one.table)), share


def _seen_ids(
    view: LogView, selection: Selection, count_rows: int, say: Say
) -> tuple[dict[str, hashing.Keys], float]:
    """Return the keys of all pre-training ids by table, and the share of rows that was read.

    A batch's keys wait until as many as are known have gathered, so that merging stays linear.
    """
    seen = {name: np.zeros(0, np.uint64) for name in view.catalog.table_specs}
    waiting: dict[str, list[hashing.Keys]] = {name: [] for name in seen}
    read = 0

    def merge(table: str) -> None:
        seen[table] = np.unique(np.concatenate([seen[table], *waiting[table]]))
        waiting[table].clear()

    for piece in _spread(selection, count_rows):
        try:
            rows = parquet.read_piece(selection, piece, view.catalog).rows
        except PipelineError:
            continue  # the findings name it
        read += len(rows)
        say(f"ids of pretrain, {read:,} of {selection.rows:,} rows")
        for table, keys, _ in _keys(view.catalog, rows):
            waiting[table].append(keys)
            if sum(map(len, waiting[table])) > max(len(seen[table]), 1_000_000):
                merge(table)
    for table in seen:
        merge(table)
    return seen, read / max(selection.rows, 1)


def _keys(
    catalog: Catalog, rows: pa.RecordBatch
) -> Iterator[tuple[str, hashing.Keys, npt.NDArray[np.int64]]]:
    """Return table, keys and counts of every feature that reads ids."""
    for feature in catalog.features:
        table = table_of(feature)
        if table and not isinstance(feature, NumericSpec):
            keys, counts = features.counted_keys(feature, rows)
            yield table, keys, counts


def _drifts(catalog: Catalog, sampler: _Sampler) -> Iterator[Drift]:
    """Return every feature, from pretrain to tune and from tune to test, most moved first."""
    held = sampler.view.selections
    pairs = [
        (before, after)
        for before, after in (("pretrain", "tune"), ("tune", "test"))
        if before in held and after in held
    ]
    found = [
        _drift(feature, before, after, sampler.batches(before), sampler.batches(after))
        for feature in catalog.features
        for before, after in pairs
    ]
    yield from sorted(found, key=lambda drift: -drift.index)


def _drift(
    feature: FeatureSpec,
    before: str,
    after: str,
    old: Sequence[pa.RecordBatch],
    new: Sequence[pa.RecordBatch],
) -> Drift:
    bins = _number_bins if isinstance(feature, NumericSpec) else _id_bins
    a, b = bins(feature, old, new)
    index = stability_index(a, b)
    used = int(((a + b) > 0).sum())
    # Ids of one list are not independent: rows are counted, not occurrences.
    rows = [max(sum(map(len, held)), 1) for held in (old, new)]
    noise = float(chi2.ppf(0.95, max(used - 1, 1)) * (1 / rows[0] + 1 / rows[1]))
    word: Word = "stable"
    if index > noise and index >= MOVED:
        word = "changed" if index >= CHANGED else "moved"
    return Drift(
        feature=feature.name, before=before, after=after, index=index, noise=noise, word=word
    )


def stability_index(old: npt.NDArray[np.float64], new: npt.NDArray[np.float64]) -> float:
    """Return the population stability index of two histograms over the same bins.

    Half a row is added to every bin that either has, so that an empty one is not infinitely far.
    """
    used = (old + new) > 0
    if used.sum() <= 1 or not (old.sum() and new.sum()):
        return 0.0
    a, b = (held[used] + _HALF for held in (old, new))
    p, q = a / a.sum(), b / b.sum()
    return float(((q - p) * np.log(q / p)).sum())


def _number_bins(
    feature: FeatureSpec, old: Sequence[pa.RecordBatch], new: Sequence[pa.RecordBatch]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return rows in tenths of the older window, the last bin for nulls."""
    if not isinstance(feature, NumericSpec):
        raise TypeError(f"feature {feature.name} is no number")
    before, after = (
        np.concatenate([features.raw_number(feature, rows) for rows in held] or [np.zeros(0)])
        for held in (old, new)
    )
    known = before[np.isfinite(before)]
    inner = np.linspace(0, 1, _BINS + 1)[1:-1]
    cuts = np.unique(np.quantile(known, inner)) if len(known) else np.zeros(0)

    def counted(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        finite = np.isfinite(values)
        place = np.where(finite, np.searchsorted(cuts, values, side="left"), len(cuts) + 1)
        return np.bincount(place, minlength=len(cuts) + 2).astype(np.float64)

    return counted(before), counted(after)


def _id_bins(
    feature: FeatureSpec, old: Sequence[pa.RecordBatch], new: Sequence[pa.RecordBatch]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return occurrences of the commonest ids of both windows, the rest as one bin, then nulls."""
    before, after = (_tally(feature, held) for held in (old, new))
    together = before[0] + after[0]
    top = [key for key, _ in together.most_common(_TOP_VALUES)]

    def counted(held: tuple[Counter[int], int]) -> npt.NDArray[np.float64]:
        counts, nulls = held
        listed = [float(counts[key]) for key in top]
        return np.array([*listed, float(counts.total()) - sum(listed), float(nulls)])

    return counted(before), counted(after)


def _tally(feature: FeatureSpec, held: Sequence[pa.RecordBatch]) -> tuple[Counter[int], int]:
    """Return occurrences by key, and rows without a value."""
    counts: Counter[int] = Counter()
    nulls = 0
    for rows in held:
        keys, seen = features.counted_keys(feature, rows)
        counts.update(dict(zip(keys.tolist(), seen.tolist(), strict=True)))
        nulls += rows.column(feature.columns[0]).null_count if feature.kind != "cross" else 0
    return counts, nulls
