"""Count the rows of a log's files for fresh statistics, one piece at a time.

The counts of a file depend on the file and the catalogue alone. So they are stored under the file's
content, and a night counts only files that are new.

Shapes: B rows, C counted numbers, R rates, n entries.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import contract, parquet
from iak.pipeline.data.fresh_keys import PERIOD, as_keys, fresh_columns, key_column, list_column
from iak.pipeline.data.hashing import Keys, combine
from iak.pipeline.data.parquet import RawRows
from iak.pipeline.data.pieces import Piece
from iak.pipeline.data.splits import Selection
from iak.pipeline.data.table_sum import Counts, Entries, Periods, RunningSum, merge
from iak.pipeline.data.task_labels import label_numbers
from iak.schemas.fresh import CoOccurrenceSpec, CountsSpec, rate_names
from iak.schemas.log import Catalog
from iak.schemas.task import TaskSpec

Tables = Mapping[str, Entries]
"""Name of a table -> its entries."""
Labels = npt.NDArray[np.float64]
"""0 or 1; NaN where the label does not count."""
_UPPER = np.uint64(0xFFFFFFFF00000000)


def pair_table(spec: CoOccurrenceSpec) -> str:
    """Return the name of the table that counts an item with an item of its history."""
    return f"pair.{'+'.join(spec.pair)}.{spec.task or ''}.{spec.last}.{spec.neighbours}"


def list_table(spec: CoOccurrenceSpec) -> str:
    """Return the name of the table that counts the items of histories."""
    return f"list.{'+'.join(spec.pair)}.{spec.task or ''}.{spec.last}"


def table_widths(catalog: Catalog) -> dict[str, int]:
    """Return the name of every table with C, the numbers that it counts of a key.

    A table of a key has two of each rate: rows whose label is known, and positive ones.
    """
    rates = 2 * len(rate_names(catalog.tasks))
    widths = {key_column(key): rates for key in catalog.fresh_keys}
    for spec in catalog.fresh:
        if isinstance(spec, CoOccurrenceSpec):
            widths |= {list_table(spec): 1, pair_table(spec): 1}
    return widths


def key_bounds(catalog: Catalog) -> dict[str, int]:
    """Return the name of each table of keys with the most keys that a state has of it.

    A table that several specifications read has the keys of the largest bound.
    """
    bounds: dict[str, int] = {}
    for spec in catalog.fresh:
        if isinstance(spec, CountsSpec):
            for columns in (key for chain in spec.chains(catalog.domain.keys) for key in chain):
                name = key_column(columns)
                bounds[name] = max(bounds.get(name, 0), spec.most_keys)
    return bounds


def count_file(selection: Selection, file: int, catalog: Catalog) -> Tables:
    """Count the selected rows of a file.

    Args:
        selection: the rows that count.
        file: index of the file in the selection's snapshot.
        catalog: the log's catalogue.
    """
    sums = {name: RunningSum() for name in table_widths(catalog)}
    for _, group, rows in (g for g in selection.groups if g[0] == file):
        piece = Piece(file=file, group=group, start=0, stop=rows)
        raw = parquet.read_piece(selection, piece, catalog)
        for name, entries in count_rows(raw, catalog).items():
            sums[name].add(entries)
    tables = {name: entries.total() for name, entries in sums.items()}
    for spec in catalog.fresh:
        if isinstance(spec, CoOccurrenceSpec):
            name = pair_table(spec)
            tables[name] = most_frequent_pairs(tables[name], spec.neighbours)
    return tables


def pair_keys(item_B: Keys, other_B: Keys) -> Keys:
    """Return the key of each pair: of an item and another item of its history.

    The upper half of the key is the item's. So the pairs of an item are neighbours once keys are
    sorted, and a pair's item can be read from its key.
    """
    return (item_B & _UPPER) | (combine(item_B, other_B) >> np.uint64(32))


def rates(labels: Mapping[str, Labels], tasks: Sequence[TaskSpec]) -> dict[str, Labels]:
    """Return the labels that each rate counts, by the name of its metric.

    A conversion has two: over clicked rows (`cvr`), and over all rows (`ctcvr`).

    Args:
        labels: task -> label of each row, NaN where it does not count.
        tasks: the catalogue's tasks.
    """
    click = next((labels[t.title] for t in tasks if t.kind == "click"), None)
    by_rate: dict[str, Labels] = {}
    for task in tasks:
        own = labels[task.title]
        if task.kind != "conversion" or click is None:
            by_rate[task.title] = own
            continue
        by_rate[task.title] = np.where(click == 1, own, np.nan)
        by_rate[task.entire_space_title or task.title] = np.where(np.isnan(click), np.nan, own)
    return by_rate


def count_rows(raw: RawRows, catalog: Catalog) -> dict[str, Entries]:
    """Return the counts of raw rows in every table; a key occurs once in each period."""
    columns = fresh_columns(raw.rows, raw.identity, catalog)
    periods_B = columns[PERIOD].to_numpy()
    by_rate = rates(_labels(raw, catalog), catalog.tasks)
    stacked_BR = np.stack(list(by_rate.values()), axis=1)
    # Two numbers of each rate, side by side: rows with a known label, and positive rows.
    counts_BC = np.empty((len(periods_B), 2 * len(by_rate)), np.int64)
    counts_BC[:, 0::2] = ~np.isnan(stacked_BR)
    counts_BC[:, 1::2] = stacked_BR == 1
    # The key of no column is the same in every row, and counts all of them.
    columns |= {key_column(()): pa.array(np.zeros(len(periods_B), np.int64))}
    tables = {
        name: _entries(as_keys(columns[name]), periods_B, counts_BC)
        for name in map(key_column, catalog.fresh_keys)
    }
    for spec in catalog.fresh:
        if isinstance(spec, CoOccurrenceSpec):
            is_positive_B = by_rate[spec.task or catalog.tasks[0].title] == 1
            tables |= _count_pairs(spec, columns, periods_B, is_positive_B)
    return tables


def _labels(raw: RawRows, catalog: Catalog) -> dict[str, Labels]:
    """Return each task's labels as training reads them: without those that break the contract."""
    inspection = contract.inspect(raw.rows, catalog)
    labels: dict[str, Labels] = {}
    for task in catalog.tasks:
        values = label_numbers(raw.rows, task).copy()
        for mask in (inspection.quarantined, inspection.masked.get(task.title)):
            if mask is not None:
                values[mask] = np.nan
        labels[task.title] = values
    return labels


def _count_pairs(
    spec: CoOccurrenceSpec,
    columns: Mapping[str, pa.Array],
    periods_B: Periods,
    is_positive_B: npt.NDArray[np.bool_],
) -> dict[str, Entries]:
    """Count the items of positive rows' histories, alone and with the row's item."""
    history = columns[list_column(spec)]
    lengths_B = np.diff(history.offsets.to_numpy())
    # One entry for each item of a history, of which those of positive rows are counted.
    is_counted = np.repeat(is_positive_B, lengths_B)
    others = as_keys(history.values)[is_counted]
    items = np.repeat(as_keys(columns[key_column(spec.pair[:1])]), lengths_B)[is_counted]
    periods = np.repeat(periods_B, lengths_B)[is_counted]
    ones = np.ones((len(others), 1), np.int64)
    return {
        list_table(spec): _entries(others, periods, ones),
        pair_table(spec): _entries(pair_keys(items, others), periods, ones),
    }


def _entries(keys_B: Keys, periods_B: Periods, counts_BC: Counts) -> Entries:
    return merge([Entries(keys_B, periods_B, counts_BC)])


def most_frequent_pairs(pairs: Entries, most: int) -> Entries:
    """Return the pairs of each item that were counted most often in each period.

    The choice is made in each period alone. A row never reads its own period, so its label has no
    influence on which pairs it can read.

    Args:
        pairs: merged entries of a table of pairs.
        most: most pairs of an item in a period. Of pairs with equal counts, smaller keys stay.
    """
    items_n = pairs.keys_n & _UPPER
    # By item, then period, then falling count, then key.
    order = np.lexsort((pairs.keys_n, -pairs.counts_nC[:, 0], pairs.periods_n, items_n))
    items_n, periods_n = items_n[order], pairs.periods_n[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (items_n[1:] != items_n[:-1]) | (periods_n[1:] != periods_n[:-1])
    starts = np.flatnonzero(is_new)
    rank_n = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    # Sorted back, so that entries stay in the order of `merge`.
    chosen = np.sort(order[rank_n < most])
    return Entries(pairs.keys_n[chosen], pairs.periods_n[chosen], pairs.counts_nC[chosen])
