"""Give a split's rows their fresh statistics beside their activations.

Stored activations serve many nights, and statistics change every day. So statistics are no part of
a row's stored activations. The cache stores only the counts of a file, under the file's content.

Shapes: n rows of this worker, B of them, A units of a row's activations, S statistics.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from iak.pipeline.activations.buffer import Activations
from iak.pipeline.activations.cache import ActivationCache, key_of
from iak.pipeline.activations.standardizer import KernelInputs
from iak.pipeline.collectives import gathered, total
from iak.pipeline.data.splits import Selection
from iak.pipeline.data.table_sum import Entries
from iak.pipeline.fresh.counts import Tables, count_file, table_widths
from iak.pipeline.fresh.inputs import statistics_of
from iak.pipeline.fresh.past import Past
from iak.pipeline.fresh.state import State, definition_of, sums_of
from iak.pipeline.process import Worker
from iak.schemas.log import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsStandard:
    """Mean and scale of the statistics an encoder reads; fitted once, frozen, in every bundle."""

    mean_S: Tensor
    scale_S: Tensor
    """Standard deviation over the tuning rows; 1 where it is nearly 0."""
    definition: str
    """Digest of the definition of the statistics."""

    def of(self, s_BS: Tensor) -> Tensor:
        """Return standardised statistics."""
        return (s_BS - self.mean_S) / self.scale_S

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a bundle stores of it, on the CPU."""
        return {"fresh_mean": self.mean_S.cpu(), "fresh_scale": self.scale_S.cpu()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStatistics:
    """Looks up and standardises the statistics of a run's rows."""

    state: State
    catalog: Catalog
    standard: StatisticsStandard

    def beside(self, activations: Activations, rows: pa.Table) -> "WithStatistics":
        """Return activations with the statistics of the same rows.

        Args:
            activations: of this worker's rows of a split.
            rows: the same rows, encoded, with their keys.
        """
        s_nS = torch.from_numpy(statistics_of(rows, self.state, self.catalog))
        return WithStatistics(whole=activations, s_nS=self.standard.of(s_nS))


@dataclass(frozen=True, slots=True, kw_only=True)
class WithStatistics:
    """Activations of which the encoder reads [a ; s]."""

    whole: Activations
    s_nS: Tensor
    """Standardised statistics of all rows, on the CPU."""

    def of(self, index_B: Tensor) -> KernelInputs:
        """Return what kernels read of these rows; a collective call."""
        h_BH, a_BA = self.whole.of(index_B)
        return KernelInputs(h_BH=h_BH, a_BA=torch.cat([a_BA, self.s_nS[index_B].to(a_BA)], dim=1))


def count_past(
    past: Past, catalog: Catalog, cache: ActivationCache | None, worker: Worker
) -> State:
    """Count the rows of the past, each file by one worker; a collective call.

    Args:
        past: the rows to count.
        catalog: the log's catalogue.
        cache: the cache, which has the counts of files from earlier runs; None without one.
        worker: this process.
    """
    files = [
        (selection, file)
        for selection in past.selections
        for file in sorted({index for index, _, _ in selection.groups})
    ]
    sums = sums_of(catalog)
    # One file after the other: memory grows with the keys and days of a file, and not with the log.
    for selection, file in files[worker.rank :: worker.world]:
        for name, entries in _count_file(selection, file, catalog, cache).items():
            sums[name].add(entries)
    return State.of(sums, catalog, past.last, partial(gathered, worker=worker))


def _count_file(
    selection: Selection, file: int, catalog: Catalog, cache: ActivationCache | None
) -> Tables:
    """Return the counts of a file: from the cache where it has them, else counted now."""
    if cache is None:
        return count_file(selection, file, catalog)
    key = _key(selection, file, catalog)
    stored = cache.read_rows(key)
    if stored is not None:
        return _from_arrow(stored[0], catalog)
    tables = count_file(selection, file, catalog)
    cache.write_rows(key, _as_arrow(tables), {})
    return tables


def _key(selection: Selection, file: int, catalog: Catalog) -> str:
    """Return a key of everything that the counts of a file depend on."""
    log_file = selection.snapshot.files[file]
    split: dict[str, Any] = {**asdict(selection.split), "name": None}
    if catalog.log.date_key in dict(log_file.partition):
        # The file has one date, so the window takes all its rows or none. Without the window's days
        # in the key, a window that moves finds the counts again.
        split |= {"first": None, "last": None}
    return key_of(
        what="counts",
        definition=definition_of(catalog),
        catalog=catalog.model_dump(mode="json", exclude={"splits", "presets"}),
        file=[log_file.path, log_file.fingerprint],
        split=split,
    )


def _as_arrow(tables: Tables) -> pa.Table:
    """Return counts as one Arrow table with a row for each entry, in the order of the tables."""
    entries = list(tables.values())
    # Tables have different numbers of counts for a key, so the counts of an entry are a list.
    widths = np.repeat([e.counts_nC.shape[1] for e in entries], [len(e) for e in entries])
    ends = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    counts = np.concatenate([e.counts_nC.reshape(-1) for e in entries])
    index = np.repeat(np.arange(len(entries)), [len(e) for e in entries])
    return pa.table(
        {
            "table": pa.array(index.astype(np.int32)),
            "key": pa.array(np.concatenate([e.keys_n for e in entries]).view(np.int64)),
            "period": pa.array(np.concatenate([e.periods_n for e in entries])),
            "counts": pa.LargeListArray.from_arrays(pa.array(ends), pa.array(counts)),
        }
    )


def _from_arrow(stored: pa.Table, catalog: Catalog) -> Tables:
    """Return the counts that `_as_arrow` wrote."""
    columns = stored.combine_chunks()
    # Entries lie table after table, in the order of `table_widths`, so a table is one slice.
    sizes = np.bincount(columns.column("table").to_numpy(), minlength=len(table_widths(catalog)))
    tables: dict[str, Entries] = {}
    first = 0
    for (name, width), size in zip(table_widths(catalog).items(), sizes.tolist(), strict=True):
        part = columns.slice(first, size)
        tables[name] = Entries(
            part.column("key").to_numpy().view(np.uint64),
            part.column("period").to_numpy(),
            pc.list_flatten(part.column("counts")).to_numpy().reshape(size, width),
        )
        first += size
    return tables


def fit_statistics_standard(
    rows: pa.Table, state: State, catalog: Catalog, worker: Worker
) -> StatisticsStandard:
    """Fit mean and deviation of the statistics over all workers' rows; a collective call.

    Args:
        rows: this worker's tuning rows, encoded, with their keys.
        state: counts to look them up in.
        catalog: the log's catalogue.
        worker: this process.
    """
    s_nS = torch.from_numpy(statistics_of(rows, state, catalog)).double()
    count = total(torch.tensor(float(len(s_nS)), dtype=torch.float64), worker).clamp(min=1)
    mean_S = total(s_nS.sum(0), worker) / count
    # In two passes, as for [h ; x]: in one pass the variance of a nearly constant number would be
    # only a rounding error.
    deviation_S = (total((s_nS - mean_S).square().sum(0), worker) / count).sqrt()
    return StatisticsStandard(
        mean_S=mean_S.float(),
        scale_S=torch.where(deviation_S > 1e-6, deviation_S, torch.ones_like(deviation_S)).float(),
        definition=state.definition,
    )
