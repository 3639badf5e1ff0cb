"""Turn the keys of encoded rows into fresh statistics: smoothed log-odds, log counts and lifts.

    p(key)  = (positives + w p(parent)) / (rows + w)      w: the prior, in rows
    lift    = ln (n_ij + k) / (n_i n_j / N + k)           k: the prior, in pairs

Here n_ij counts how often item j is in the history of a positive row of item i, n_j how often it is
in the history of any positive row, n_i positive rows of i, and N all positive rows.

A row of day D reads labels that were ripe before D began. Of a task that ripens in m days these are
the labels of days up to D - 1 - m. A row that is later than the state reads what the state's next
day would read. A row of a log without days reads the counts of all folds but its own.

Shapes: B rows, S statistics, C counted numbers, m items of all histories together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data.fresh_keys import PERIOD, as_keys, key_column, list_column
from iak.pipeline.data.hashing import Keys
from iak.pipeline.data.table_sum import Counts
from iak.pipeline.fresh.counts import list_table, pair_keys, pair_table
from iak.pipeline.fresh.state import State
from iak.schemas.fresh import CoOccurrenceSpec, CountsSpec, Window, rate_names, rates_of
from iak.schemas.fresh import Keys as Columns
from iak.schemas.log import Catalog
from iak.schemas.task import TaskSpec

Floats = npt.NDArray[np.float64]
_DAY = timedelta(days=1)


def statistics_of(rows: pa.Table, state: State, catalog: Catalog) -> npt.NDArray[np.float32]:
    """Return the statistics of encoded rows, (B, S), in the order of `catalog.fresh_names`.

    Args:
        rows: encoded rows, with the columns of `fresh_keys.py`.
        state: counts to look the rows up in.
        catalog: the log's catalogue.
    """
    lookup = _Lookup(rows, state, catalog)
    columns: list[Floats] = []
    for spec in catalog.fresh:
        if isinstance(spec, CoOccurrenceSpec):
            columns += _lifts(spec, lookup)
        else:
            columns += _rates(spec, lookup)
    return np.stack(columns, axis=1).astype(np.float32)


@dataclass(slots=True)
class _Lookup:
    """Look the counts of some encoded rows up in a state."""

    rows: pa.Table
    state: State
    catalog: Catalog
    _counts: dict[tuple[str, int], Counts] = field(default_factory=dict)
    """Counts of a table up to a lag, which several rates and windows share."""

    def keys(self, columns: Columns) -> Keys:
        """Return the key of each row."""
        if not columns:
            return np.zeros(len(self.rows), np.uint64)
        return as_keys(self.rows.column(key_column(columns)))

    def periods(self) -> npt.NDArray[np.int64]:
        """Return the period of each row, at most the day after the state's last one."""
        periods_B: npt.NDArray[np.int64] = self.rows.column(PERIOD).to_numpy().astype(np.int64)
        if self.state.last is not None:
            np.minimum(periods_B, self.state.last + 1, out=periods_B)
        return periods_B

    def labels(self, columns: Columns, window: Window, rate: str) -> tuple[Floats, Floats]:
        """Count the known and the positive labels of each row's key in a window; both are (B,).

        Args:
            columns: columns of the key; none for all rows.
            window: days before the row that count, or all of them.
            rate: name of the rate, whose labels count.
        """
        index = 2 * rate_names(self.catalog.tasks).index(rate)
        lag = lag_of(rate, self.catalog.tasks)
        table = key_column(columns)
        counts_BC = self._until(table, columns, lag)
        if window != "all":
            # Counts are running sums over days, so a window is a difference of two.
            counts_BC = counts_BC - self._until(table, columns, lag + window.days)
        return counts_BC[:, index].astype(np.float64), counts_BC[:, index + 1].astype(np.float64)

    def _until(self, table: str, columns: Columns, lag: int) -> Counts:
        """Return the counts of each row's key until `lag` days before its day.

        They are looked up once, and then shared by several rates and windows.
        """
        # Without days a lag changes nothing.
        name = (table, lag if self.state.last is not None else 0)
        if name not in self._counts:
            keys_B, periods_B = self.keys(columns), self.periods()
            self._counts[name] = readable_counts(self.state, table, keys_B, periods_B, lag)
        return self._counts[name]


def lag_of(rate: str, tasks: Sequence[TaskSpec]) -> int:
    """Return the days after which all labels that a rate counts are ripe, at least 1."""
    own = next(t for t in tasks if rate in (t.title, t.entire_space_title))
    # A conversion counts the click's labels too.
    needed = [own, *(t for t in tasks if own.kind == "conversion" and t.kind == "click")]
    return 1 + max(-(-(t.matures_after or timedelta()) // _DAY) for t in needed)


def rate_of(spec: CoOccurrenceSpec, tasks: Sequence[TaskSpec]) -> str:
    """Return the name of the rate whose positive rows count pairs."""
    return spec.task or tasks[0].title


def readable_counts(
    state: State, table: str, keys_B: Keys, periods_B: npt.NDArray[np.int64], lag: int
) -> Counts:
    """Return the counts that a row may read of a table, (B, C).

    Args:
        state: the counts.
        table: name of the table.
        keys_B: key of each row.
        periods_B: day of each row, or its fold.
        lag: days between a row and the newest day that it reads; at least 1.
    """
    timeline = state.timelines[table]
    if state.last is not None:
        return timeline.through(keys_B, periods_B - lag)
    # Periods are folds: all of them but the row's own.
    last_B = np.full(len(keys_B), timeline.first + timeline.periods, np.int64)
    own_BC = timeline.through(keys_B, periods_B) - timeline.through(keys_B, periods_B - 1)
    return timeline.through(keys_B, last_B) - own_BC


def _rates(spec: CountsSpec, lookup: _Lookup) -> Iterator[Floats]:
    """Yield smoothed log-odds and the log of one plus the labels, by key, window and rate."""
    for chain in spec.chains(lookup.catalog.domain.keys):
        for window in spec.windows:
            for rate in rates_of(spec, lookup.catalog.tasks):
                # The chain starts from the rate of all earlier rows, so that an empty window has
                # a prior too. One positive and one negative row more keep it inside (0, 1).
                known_B, positive_B = lookup.labels((), "all", rate)
                share_B = (positive_B + 1) / (known_B + 2)
                for columns in chain:
                    known_B, positive_B = lookup.labels(columns, window, rate)
                    share_B = (positive_B + spec.prior * share_B) / (known_B + spec.prior)
                yield np.log(share_B / (1 - share_B))
                yield np.log1p(known_B)


def _lifts(spec: CoOccurrenceSpec, lookup: _Lookup) -> Iterator[Floats]:
    """Yield sum, maximum and mean of the lift over each row's history, and the share of hits.

    A hit is an item of the history that was counted at least once with the row's item.
    """
    tasks = lookup.catalog.tasks
    rate = rate_of(spec, tasks)
    state, lag, periods_B = lookup.state, lag_of(rate, tasks), lookup.periods()
    history = lookup.rows.column(list_column(spec))
    history = history.combine_chunks() if isinstance(history, pa.ChunkedArray) else history
    bounds = history.offsets.to_numpy()
    lengths_B = np.diff(bounds)
    row_m = np.repeat(np.arange(len(lengths_B)), lengths_B)
    # A slice of a table has all values of its parent, and offsets into them.
    others_m = as_keys(history.values.slice(bounds[0], bounds[-1] - bounds[0]))
    items_m, periods_m = lookup.keys(spec.pair[:1])[row_m], periods_B[row_m]
    pair_keys_m = pair_keys(items_m, others_m)
    pairs_m = readable_counts(state, pair_table(spec), pair_keys_m, periods_m, lag)[:, 0]
    other_m = readable_counts(state, list_table(spec), others_m, periods_m, lag)[:, 0]
    _, item_B = lookup.labels(spec.pair[:1], "all", rate)
    _, all_B = lookup.labels((), "all", rate)
    expected_m = item_B[row_m] * other_m / np.maximum(all_B, 1)[row_m]
    lift_m = np.log((pairs_m + spec.prior) / (expected_m + spec.prior))
    rows = len(lengths_B)
    sum_B = _sums(row_m, lift_m, rows)
    most_B = np.full(rows, -np.inf)
    np.maximum.at(most_B, row_m, lift_m)
    hits_B = _sums(row_m, pairs_m > 0, rows)
    divisor_B = np.maximum(lengths_B, 1)
    yield sum_B
    yield np.where(np.isfinite(most_B), most_B, 0.0)  # a row without a history has no lift
    yield sum_B / divisor_B
    yield hits_B / divisor_B


def _sums(
    row_m: npt.NDArray[np.int64], values_m: Floats | npt.NDArray[np.bool_], rows: int
) -> Floats:
    """Return the sum of each row's values, added in their order."""
    return np.bincount(row_m, weights=values_m, minlength=rows).astype(np.float64, copy=False)
