"""Profile a log as its catalogue reads it: rows and labels by split, domain and day; ids; drift.

Rows and labels are counted exactly, up to a bound, from the few columns that they depend on. New
ids and drift are judged on sampled rows (`drift.py`). Labels are counted as training uses them:
quarantined, unripe and null ones are not labels.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import contract, hashing, parquet, ripeness, splits
from iak.pipeline.data.domain_columns import domain_names
from iak.pipeline.data.drift import (
    Drift,
    NewIds,
    Sampler,
    Say,
    find_drifts,
    find_new_ids,
    spread_groups,
)
from iak.pipeline.data.splits import Selection
from iak.pipeline.data.task_labels import label_numbers
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import PipelineError
from iak.schemas.log import Catalog

MIN_POSITIVES = 30
"""Positives below which nothing can be decided."""
MIN_NEGATIVES = 30
"""Negatives below which nothing can be decided."""
REST = "(other domains)"
NO_DOMAIN = "(no domain)"
UNKNOWN_DAY = "(no date)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Rows of one task, and how many are positive."""

    task: str
    rows: int
    """Rows with a label that training would use."""
    positives: int

    @property
    def negatives(self) -> int:
        """Return the labelled rows that are 0."""
        return self.rows - self.positives

    @property
    def rate(self) -> float | None:
        """Return the share of positives; None without a label."""
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
class Profile:
    """Counts, new ids and drift of a log, as its catalogue reads it."""

    splits: tuple[SplitProfile, ...]
    domains: tuple[SplitProfile, ...]
    """For each split the domains with most rows, largest first; the rest as `(other domains)`."""
    days: tuple[SplitProfile, ...]
    """For each split its days, where days are known."""
    domain_counts: Mapping[str, int]
    """Split -> number of its domains."""
    undecided: Mapping[str, Mapping[str, int]]
    """Task -> the number of `domains` with gate rows, and of those with `too few` rows to judge."""
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
        sample_rows: rows to read for new ids and drift, over all splits.
        count_rows: most rows of a split whose labels are counted exactly; of a longer split about
            as many are counted and scaled up.
        top_domains: number of domains that are listed.
        say: takes messages about what is being read.
    """
    narrow = _narrow(view.catalog)
    counts = {}
    for name, selection in view.selections.items():
        say(f"labels of {name}, {selection.rows:,} rows")
        counts[name] = _count(selection, narrow, view.as_of, count_rows)
    sampler = Sampler(view, sample_rows // max(len(view.selections), 1))
    say("new ids and drift")
    new_ids, ids_share = find_new_ids(view, sampler, count_rows, say)
    return Profile(
        splits=tuple(c.profile("all", c.all) for c in counts.values()),
        domains=tuple(_top(counts, top_domains)),
        days=tuple(
            c.profile(day, cell) for c in counts.values() for day, cell in sorted(c.days.items())
        ),
        domain_counts={name: len(c.domains) for name, c in counts.items()},
        undecided=_undecided(counts, view.catalog),
        new_ids=tuple(new_ids),
        drift=tuple(find_drifts(view.catalog, sampler)),
        counted={name: c.share for name, c in counts.items()},
        sampled={name: sampler.rows_of(name) for name in view.selections},
        pretrain_ids_share=ids_share,
    )


def power(labels: Labels) -> str:
    """Return in words how precisely the rows of a task can measure an AUC."""
    few = []
    if labels.positives < MIN_POSITIVES:
        few.append(f"about {labels.positives:,} positives")
    if labels.negatives < MIN_NEGATIVES:
        few.append(f"about {labels.negatives:,} negatives")
    if not labels.rows:
        return "no label: nothing can be decided here"
    if few:
        return f"{' and '.join(few)}: nothing can be decided here"
    # Hanley and McNeil's error of an AUC near one half, which the scarcer class governs.
    error = float(np.sqrt((1 / labels.positives + 1 / labels.negatives) / 12))
    return f"AUC known to about ±{1.96 * error:.3f}"


class _Cell:
    """Counts of rows, and for each task of labelled and of positive rows."""

    def __init__(self, tasks: int) -> None:
        """Start at zero.

        Args:
            tasks: number of tasks.
        """
        self.rows = 0.0
        self.labelled = np.zeros(tasks)
        self.positives = np.zeros(tasks)


class _Counts:
    """Counts of one split: in all, by domain, by day."""

    def __init__(self, split: str, catalog: Catalog) -> None:
        """Start at zero."""
        self.split, self.catalog = split, catalog
        self.share = 1.0
        self.all = self._cell()
        self.domains: dict[str, _Cell] = defaultdict(self._cell)
        self.days: dict[str, _Cell] = defaultdict(self._cell)

    def _cell(self) -> _Cell:
        return _Cell(len(self.catalog.tasks))

    def add(self, rows: pa.RecordBatch, labels_TB: npt.NDArray[np.float64]) -> None:
        """Count a batch.

        Args:
            rows: raw rows.
            labels_TB: label of each task and row, NaN where training has none.
        """
        catalog = self.catalog
        names = domain_names(rows, catalog.domain.keys)
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
        codes = hashing.dictionary_indices(coded)  # a null has the code after the last word
        rows = np.bincount(codes, minlength=len(words))
        labelled, positives = _sums(labels_TB, codes, len(words))
        for code in np.flatnonzero(rows):
            word = words[code]
            self._add(cells[word], rows[code], labelled[:, code], positives[:, code])

    @staticmethod
    def _add(cell: _Cell, rows: Any, labelled: Any, positives: Any) -> None:  # noqa: ANN401
        cell.rows += float(rows)
        cell.labelled += np.reshape(labelled, -1)
        cell.positives += np.reshape(positives, -1)

    def profile(self, part: str, *cells: _Cell) -> SplitProfile:
        """Return cells as one profile, scaled up where only some rows were counted.

        Args:
            part: name of the domain or day; `all` for the whole split.
            cells: counts, which are summed.
        """
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
                    rows=round(labelled[index] / self.share),
                    positives=round(positives[index] / self.share),
                )
                for index, task in enumerate(self.catalog.tasks)
            ),
        )


def _sums(
    labels_TB: npt.NDArray[np.float64], codes: npt.NDArray[np.int64], size: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the labelled rows and the positives of each task, by code of the row."""
    known = ~np.isnan(labels_TB)
    labelled = [np.bincount(codes[k], minlength=size) for k in known]
    positives = [
        np.bincount(codes[k], weights=y[k], minlength=size)
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
    for piece in spread_groups(selection, count_rows):
        try:
            rows = parquet.read_piece(selection, piece, narrow).rows
        except PipelineError:
            continue  # the findings name it
        counts.add(rows, _labels(rows, narrow, as_of))
        counted += len(rows)
    counts.share = counted / selection.rows if counted else 1.0
    return counts


def _labels(rows: pa.RecordBatch, catalog: Catalog, as_of: date | None) -> npt.NDArray[np.float64]:
    """Return the labels of each task, NaN where training masks them. Rows without a click count."""
    quarantined = contract.inspect(rows, catalog).quarantined
    unripe = ripeness.unripe(rows, catalog, as_of)
    labels_TB = np.empty((len(catalog.tasks), len(rows)))
    for index, task in enumerate(catalog.tasks):
        labels_TB[index] = label_numbers(rows, task)
        labels_TB[index][~np.isin(labels_TB[index], (0.0, 1.0))] = np.nan
        if quarantined is not None:
            labels_TB[index][quarantined] = np.nan
        if task.title in unripe:
            labels_TB[index][unripe[task.title]] = np.nan
    return labels_TB


def _days(rows: pa.RecordBatch, catalog: Catalog) -> pa.Array | None:
    """Return each row's day as text; None where these columns do not show it."""
    log = catalog.log
    if log.date_key:
        coded = rows.column(log.date_key).dictionary_encode()
        words = [splits.day_of(word, log) for word in coded.dictionary.to_pylist()]
        texts = pa.array([str(day) if day else UNKNOWN_DAY for day in words])
        return texts.take(coded.indices).fill_null(UNKNOWN_DAY)
    if not log.event_time or log.event_time not in rows.schema.names:
        return None
    times = rows.column(log.event_time)
    seconds = splits.seconds_of(times, unit=log.event_time_unit, time_zone=log.time_zone)
    in_calendar = np.abs(seconds) < 2**36  # up to about the year 4147
    whole = pa.array(np.where(in_calendar, seconds, 0).astype(np.int64), pa.timestamp("s", "UTC"))
    local = pc.local_timestamp(whole.cast(pa.timestamp("s", log.time_zone)))
    texts = local.cast(pa.date32()).cast(pa.string())
    return pc.if_else(pa.array(in_calendar), texts, UNKNOWN_DAY)


def _top(counts: Mapping[str, _Counts], most: int) -> Iterator[SplitProfile]:
    """Yield, for each split, the domains with most rows over all splits, and the rest together."""
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
    """Count, for each task, the domains with gate rows and those of them that cannot be judged."""
    gate = counts.get("gate")
    if gate is None:
        return {}
    counted: dict[str, dict[str, int]] = {}
    for index, task in enumerate(catalog.tasks):
        known = [gate.profile(name, cell).labels[index] for name, cell in gate.domains.items()]
        few = [
            labels
            for labels in known
            if labels.positives < MIN_POSITIVES or labels.negatives < MIN_NEGATIVES
        ]
        counted[task.title] = {"domains": len(known), "too few": len(few)}
    return counted
