"""Read one worker's rows of a tuning run, and give them what kernels read.

That is activations of the base, from the cache or computed, and fresh statistics.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch import distributed as dist

from iak.pipeline.activations.buffer import ActivationBuffer, StandardizedBase
from iak.pipeline.activations.cache import ActivationCache
from iak.pipeline.activations.cache_keys import activations_scope, standard_key
from iak.pipeline.activations.represent import DTYPES
from iak.pipeline.activations.rows import (
    RowSource,
    SplitRows,
    TuningRows,
    activations_of,
    days_of,
    joined,
    read_side_by_side,
    recomputed,
    seconds_of_rows,
    tuning_rows,
)
from iak.pipeline.activations.standardizer import Standardizer, fit_standardizer
from iak.pipeline.activations.statistics import (
    RowStatistics,
    WithStatistics,
    count_past,
    fit_statistics_standard,
)
from iak.pipeline.collectives import gathered, total, total_counts
from iak.pipeline.data.reader import Reader
from iak.pipeline.events import Report, RowsRead
from iak.pipeline.iak import noise
from iak.pipeline.process import Worker
from iak.pipeline.progress import RowCounter
from iak.pipeline.tuning.work import SPLITS, FinetuneWork
from iak.schemas.tuning import CacheUse

_SAMPLE_ROWS = 16_384
"""Tuning rows over which the encoder's inputs are standardised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSource:
    """Computes what kernels read of a row."""

    base: StandardizedBase
    """Computes its activations."""
    standard_from: str
    """Where the standardisation comes from: `live kernels`, `the cache`, or `this run's rows`."""
    statistics: RowStatistics | None
    """Looks up its fresh statistics; None where kernels read none."""

    @property
    def statistics_width(self) -> int:
        """Return the statistics that an encoder reads beside activations; 0 without any."""
        return len(self.statistics.standard.mean_S) if self.statistics else 0

    def with_statistics(self, rows: TuningRows, known: SplitRows) -> TuningRows:
        """Return rows of a split with their statistics, where kernels read any.

        Args:
            rows: the rows, with their activations.
            known: the same rows, with the keys of their statistics.
        """
        if self.statistics is None:
            return rows
        return replace(rows, activations=self.statistics.beside(rows.activations, known.known))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRows:
    """This worker's rows of a run, split by split, before they have activations."""

    work: FinetuneWork
    worker: Worker
    cache: ActivationCache | None
    """The cache of activations; None where nothing is stored on disk."""
    sources: Mapping[str, RowSource]
    """Split -> the reader of its rows."""
    known: Mapping[str, SplitRows]
    """Split -> its rows without activations."""
    contract: Counter[str]
    """Quarantined rows of this worker, by reason. It grows as features are read."""

    @classmethod
    def read(cls, work: FinetuneWork, worker: Worker, report: Report) -> "RunRows":
        """Read the rows of every split, and report how many are read so far."""
        cache, contract = _open_cache(work), Counter[str]()
        sources = {split: _source(work, split, cache, worker, contract) for split in SPLITS}
        planned = sum(source.rows for source in sources.values())
        counter = RowCounter(report, "rows read", rank=worker.rank, of=planned)
        rows = read_side_by_side(list(sources.values()), counter.add)
        return cls(
            work=work,
            worker=worker,
            cache=cache,
            sources=sources,
            known=dict(zip(sources, rows, strict=True)),
            contract=contract,
        )

    def inputs(self, model: nn.Module) -> InputSource:
        """Return what computes the inputs of kernels; a collective call.

        Args:
            model: the frozen base.
        """
        work = self.work
        standard, origin = self._standard(model)
        base = StandardizedBase(
            model=model,
            catalog=work.view.catalog,
            standard=standard.to(self.worker.device),
            device=self.worker.device,
            dtype=DTYPES[work.kernel.precision],
            products=DTYPES[work.tables.products],
        )
        return InputSource(base=base, standard_from=origin, statistics=self._statistics())

    def with_inputs(
        self, inputs: InputSource, names: Sequence[Sequence[str]]
    ) -> dict[str, TuningRows]:
        """Return every split's rows with labels, slots and what kernels read.

        Where the activations of all splits do not fit in memory, they go to files.

        Args:
            inputs: computes what kernels read.
            names: kernels of each level, in slot order.
        """
        row_bytes = inputs.base.width * DTYPES[self.work.cache.precision].itemsize
        is_large = sum(map(len, self.known.values())) * row_bytes > self.work.cache.memory_bytes
        rows = {
            split: self._with_activations(split, inputs.base, names, is_large=is_large)
            for split in SPLITS
        }
        return {split: inputs.with_statistics(rows[split], self.known[split]) for split in SPLITS}

    def exact_gate_rows(self, inputs: InputSource, names: Sequence[Sequence[str]]) -> TuningRows:
        """Return the rows of the gate slice as serving reads them, with their days and times.

        Evidence over nights is of kernels as they serve. So these rows do not come from the cache,
        which rounds activations to bf16. They go through the base again, as in `iak evaluate`.

        Args:
            inputs: computes what kernels read.
            names: kernels of each level, in slot order.
        """
        known, source, config = self.known["gate"], self.sources["gate"], self.work.cache
        is_large = len(known) * inputs.base.width * 4 > config.memory_bytes
        activations = activations_of(
            known,
            replace(source, cache=None),
            replace(inputs.base, dtype=torch.float32),
            scope="",  # nothing of it is stored
            dtype=torch.float32,
            spill=config.folder / "spill" if is_large else None,
            worker=self.worker,
        )
        rows = tuning_rows(known.known, activations, self.work.view.catalog, names)
        return replace(
            inputs.with_statistics(rows, known),
            day_n=days_of(known, source.reader),
            second_n=seconds_of_rows(known, source.reader),
        )

    def report(self, rows: Mapping[str, TuningRows], report: Report) -> None:
        """Report the rows of all workers, and then those that go through the base.

        A collective call. Rows go through the base when a step first uses them, mostly in the first
        epoch.
        """
        counts = {split: len(rows[split]) for split in SPLITS}
        if self.cache is not None:
            counts["from_cache"] = self.cache.usage.rows_read
        report(RowsRead(total_counts(counts, self.worker)))
        buffers = [buffer for split in SPLITS if (buffer := _buffer_of(rows[split]))]
        missing = sum(buffer.missing_rows for buffer in buffers)
        counter = RowCounter(report, "rows through the base", rank=self.worker.rank, of=missing)
        for buffer in buffers:
            buffer.watch(counter.add)

    def close(self, rows: Mapping[str, TuningRows]) -> CacheUse:
        """Finish writing the cache, keep it to its budget, and return its use in this run.

        A collective call. Rows that no step used are computed now, for the nights that follow.
        """
        if self.cache is None:
            return CacheUse()
        for split in SPLITS:
            buffer = _buffer_of(rows[split])
            assert buffer is not None, "with a cache, activations lie in buffers"
            buffer.complete()
        self.cache.close()
        if self.worker.is_first_here:
            self.cache.keep_to_budget(self.work.cache.budget_bytes)
        numbers: Counter[str] = Counter()
        parts = gathered(self.cache.usage, self.worker)
        for part in parts:
            numbers.update({k: v for k, v in asdict(part).items() if isinstance(v, int)})
        stopped = next((part.stopped for part in parts if part.stopped), "")
        return CacheUse(folder=str(self.work.cache.folder), **numbers, stopped=stopped)

    def _standard(self, model: nn.Module) -> tuple[Standardizer, str]:
        """Return the standardisation, and where it comes from; a collective call.

        A kernel needs the standardisation with which it was tuned, so the live kernels' comes
        first. The cache's comes next, since activations are stored under it.
        """
        work = self.work
        if work.live is not None:
            return work.live.standard, "live kernels"
        reads_x = work.kernel.reads == "hx"
        key = standard_key(work.base.cache_key, work.tables, work.kernel)
        stored = self._stored_standard(key)
        if stored is not None:
            return Standardizer.from_tensors(stored, reads_x=reads_x), "the cache"
        standard = fit_standardizer(
            model,
            self._sample(),
            work.view.catalog,
            reads_x=reads_x,
            narrow=work.kernel.narrow,
            worker=self.worker,
        )
        if self.cache and self.worker.rank == 0:
            self.cache.write_standard(key, standard.tensors())
        return standard, "this run's rows"

    def _stored_standard(self, key: str) -> dict[str, Tensor] | None:
        """Return what worker 0 reads from the cache, so that all workers have the same."""
        cache = self.cache if self.worker.rank == 0 else None
        tensors = [cache.read_standard(key) if cache is not None else None]
        if self.worker.world > 1:
            dist.broadcast_object_list(tensors, src=0)
        return tensors[0]

    def _sample(self) -> pa.Table:
        """Return the features of a random part of this worker's tuning rows.

        A row is drawn by its key, so that the sample does not depend on the number of workers.
        """
        rows, source = self.known["tune"], self.sources["tune"]
        count = total(torch.tensor(len(rows)), self.worker)
        keys = torch.from_numpy(rows.known.column("row").to_numpy().copy())
        chosen_n = noise.uniform(keys, 1).squeeze(1) < _SAMPLE_ROWS / count.clamp(min=1)
        parts = [
            source.features_of(piece).filter(
                pa.array(chosen_n[piece.first : piece.first + piece.piece.rows].numpy())
            )
            for piece in rows.pieces
        ]
        return joined(parts, source.reader.catalog)

    def _statistics(self) -> RowStatistics | None:
        """Count the past, and standardise its statistics as live kernels do; a collective call."""
        work = self.work
        if work.past is None:
            return None
        catalog = work.view.catalog.counting("kernel")
        state = count_past(work.past, catalog, self.cache, self.worker)
        standard = work.live.statistics if work.live else None
        if standard is None:
            rows = self.known["tune"].known
            standard = fit_statistics_standard(rows, state, catalog, self.worker)
        return RowStatistics(state=state, catalog=catalog, standard=standard)

    def _with_activations(
        self,
        split: str,
        base: StandardizedBase,
        names: Sequence[Sequence[str]],
        *,
        is_large: bool,
    ) -> TuningRows:
        """Return a split's rows with their labels, slots and activations.

        Args:
            split: name of the split.
            base: computes activations.
            names: kernels of each level, in slot order.
            is_large: whether activations do not fit in memory and go to a file.
        """
        work, config, dtype = self.work, self.work.cache, DTYPES[self.work.cache.precision]
        known, source, catalog = self.known[split], self.sources[split], work.view.catalog
        if config.kind == "recompute":
            return tuning_rows(known.known, recomputed(known, source, base, dtype), catalog, names)
        scope = activations_scope(
            work.base.cache_key, work.tables, work.kernel, base.standard, config.precision
        )
        activations = activations_of(
            known,
            source,
            base,
            scope=scope,
            dtype=dtype,
            spill=config.folder / "spill" if is_large else None,
            worker=self.worker,
        )
        return tuning_rows(known.known, activations, catalog, names)


def _open_cache(work: FinetuneWork) -> ActivationCache | None:
    """Return the activation cache; None where nothing is stored on disk."""
    if work.cache.kind != "cache":
        return None
    # A run that is resumed on another machine has another folder there, but the same name.
    run = work.run_dir.name if work.cache.uri else str(work.run_dir)
    return ActivationCache(work.cache.folder, run=run, uri=work.cache.uri)


def _source(
    work: FinetuneWork,
    split: str,
    cache: ActivationCache | None,
    worker: Worker,
    contract: Counter[str],
) -> RowSource:
    """Return the source of this worker's rows of a split."""
    reader = Reader(
        selection=work.view.selections[split],
        catalog=work.view.catalog,
        encoding=work.base.encoding,
        rank=worker.rank,
        world=worker.world,
        as_of=work.view.as_of,
    )
    return RowSource(
        reader=reader, cache=cache, contract=contract, schema_hash=work.base.manifest.schema_hash
    )


def _buffer_of(rows: TuningRows) -> ActivationBuffer | None:
    """Return the buffer of the rows' activations; None where they are computed at each use."""
    activations = rows.activations
    whole = activations.whole if isinstance(activations, WithStatistics) else activations
    return whole if isinstance(whole, ActivationBuffer) else None
