"""Define the variants of this project: frozen tables, a trunk without autograd, a bank of kernels.

Slices are epochs of `CohortTuner` over some of the domains, driven step by step. So the tuning that
is measured is the tuning that `iak finetune` runs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from iak.pipeline.activations import rows as tuning
from iak.pipeline.activations.buffer import ActivationBuffer, StandardizedBase
from iak.pipeline.activations.represent import DTYPES
from iak.pipeline.activations.rows import ReadPiece, RowSource, SplitRows, TuningRows
from iak.pipeline.activations.standardizer import fit_standardizer
from iak.pipeline.base import precision as precisions
from iak.pipeline.base import published_base
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.bench.setup import BenchSetup
from iak.pipeline.bench.torchrec_variants import kernel_shape
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import Diverged
from iak.pipeline.iak.bank import Bank, stack
from iak.pipeline.iak.kernel import fresh
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.process import Worker
from iak.pipeline.sharding.frozen_tables import FrozenTables
from iak.pipeline.sharding.shard import unwrap
from iak.pipeline.tuning.context import Stage, TuningContext
from iak.pipeline.tuning.levels import find_domains
from iak.pipeline.tuning.tune import CohortTuner
from iak.schemas.domain import POOLED
from iak.schemas.job import FrozenTablesSpec, KernelSpec, Precision, StageSpec
from iak.schemas.log import Catalog
from iak.schemas.plan import ResolvedPlacement

_SAMPLE_ROWS = 4096
_LEVEL = 1
"""Level of the domains, below the pooled kernel."""
Reads = Literal["h", "hx"]


def open_frozen(setup: BenchSetup, worker: Worker, precision: Precision) -> Recommender:
    """Open the published base, frozen, its tables in `precision`, whatever its error."""
    model = FrozenBase.load(
        published_base.open_base(setup.base),
        FrozenTablesSpec(precision=precision, tolerance=precisions.ANYTHING),
        ResolvedPlacement(),
        worker,
    ).model
    assert isinstance(model, Recommender), "a benchmark trains its own base"
    return model


def stage_of(setup: BenchSetup, stage: StageSpec, **changes: int) -> Stage:
    """Return a stage as `iak finetune` makes it, with steps of the bench's rows.

    Args:
        setup: log, base and settings of the benchmark.
        stage: stage of one level.
        changes: settings of the stage that the benchmark changes.
    """
    spec = setup.spec
    return Stage(
        spec=stage.model_copy(update=changes),
        beta=spec.kernel.beta,
        step_rows=spec.batch_rows,
        seed=spec.seed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """This worker's rows of a split, and their domains, largest first."""

    source: RowSource
    rows: SplitRows
    domains: tuple[str, ...]
    counts: Mapping[str, int]
    """Rows of each domain over all workers."""

    @property
    def catalog(self) -> Catalog:
        """Return the log's catalogue, with these domains."""
        return self.source.reader.catalog


def read_split(
    opened: PublishedBase, view: LogView, split: str, worker: Worker, tuned: Sequence[str] = ()
) -> Known:
    """Read a split's rows without a cache, and find its domains unless they are given."""
    reader = Reader(
        selection=view.selections[split],
        catalog=view.catalog,
        encoding=opened.encoding,
        rank=worker.rank,
        world=worker.world,
        as_of=view.as_of,
    )
    source = RowSource(reader=reader, cache=None, contract=Counter())
    rows = source.read()
    if tuned:
        return Known(source=source, rows=rows, domains=tuple(tuned), counts={})
    names = find_domains(rows.known, view.catalog.domain, worker)
    return Known(source=source, rows=rows, domains=names.tuned[-1], counts=names.rows[-1])


def some_of(known: Known, wanted_rows: int) -> tuple[str, ...]:
    """Return every n-th domain by size, small and large ones, with about `wanted_rows` together."""
    step = max(1, round(sum(known.counts.values()) / wanted_rows))
    return known.domains[step // 2 :: step]


def only(known: Known, domains: Sequence[str]) -> Known:
    """Return the rows of these domains, as if the log had no others."""
    column = known.rows.known.column(f"l.{_LEVEL}").cast(pa.string())
    wanted = pc.is_in(column, value_set=pa.array(domains)).combine_chunks()
    pieces, first = [], 0
    for read in known.rows.pieces:
        mask = wanted.slice(read.first, read.piece.rows)
        features = known.source.features_of(read).filter(mask)
        here = replace(read.piece, start=0, stop=len(features))
        pieces.append(ReadPiece(piece=here, first=first, features=features))
        first += len(features)
    return Known(
        source=known.source,
        rows=SplitRows(known=known.rows.known.filter(wanted), pieces=tuple(pieces)),
        domains=tuple(domains),
        counts={name: known.counts[name] for name in domains},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InputVariant:
    """Inputs of the kernels, and how they are stored and computed."""

    reads: Reads
    keeps: Literal["recompute", "bf16", "fp32"]
    narrow: int = 0
    """Components that x is narrowed to; 0 leaves it."""
    product: Literal["fp32", "bf16"] = "fp32"
    """Type of the encoder's first product."""
    trunk: Literal["fp32", "bf16"] = "fp32"
    """Type of the trunk's products."""

    @property
    def inputs(self) -> str:
        """Return a key: kernels with the same key can share a bank."""
        return f"{self.reads}{self.narrow or ''}"


def through_base(
    model: nn.Module, known: Known, view: LogView, inputs: InputVariant, worker: Worker
) -> StandardizedBase:
    """Return the frozen base with a standardizer fitted on some rows."""
    some: list[pa.RecordBatch] = [
        known.source.features_of(piece).slice(0, _SAMPLE_ROWS) for piece in known.rows.pieces[:1]
    ]
    standard = fit_standardizer(
        model,
        tuning.joined(some, view.catalog),
        view.catalog,
        reads_x=inputs.reads == "hx",
        narrow=inputs.narrow,
        worker=worker,
    )
    return StandardizedBase(
        model=model,
        catalog=view.catalog,
        standard=standard,
        device=worker.device,
        dtype=DTYPES[inputs.product],
        products=DTYPES[inputs.trunk],
    )


def tuning_rows(
    base_: StandardizedBase, known: Known, inputs: InputVariant, worker: Worker
) -> TuningRows:
    """Return the rows as kernels read them, computed at each use or kept after the first."""
    names = [(POOLED,), known.domains]
    if inputs.keeps == "recompute":
        activations = tuning.recomputed(known.rows, known.source, base_, torch.float32)
        return tuning.tuning_rows(known.rows.known, activations, base_.catalog, names)
    # Reading releases a piece's features, so read a copy: another variant needs them too.
    pieces = tuple(replace(piece) for piece in known.rows.pieces)
    kept = tuning.activations_of(
        replace(known.rows, pieces=pieces),
        known.source,
        base_,
        scope="",
        dtype=DTYPES[inputs.keeps],
        spill=None,
        worker=worker,
    )
    return tuning.tuning_rows(known.rows.known, kept, base_.catalog, names)


def with_inputs(rows: TuningRows, base_: StandardizedBase) -> TuningRows:
    """Return the same rows and their kept activations, as kernels on this base read them."""
    activations = rows.activations
    if not isinstance(activations, ActivationBuffer):
        return rows
    return replace(rows, activations=activations.read_through(base_))


def frozen_bytes(model: nn.Module) -> int:
    """Return the bytes of this worker's frozen tables, as they are stored."""
    tables = unwrap(model).tables
    assert isinstance(tables, FrozenTables)
    return tables.num_bytes


def fresh_bank(
    base_: StandardizedBase, spec: KernelSpec, names: Sequence[str], *, seed: int
) -> Bank:
    """Return a bank of new kernels on this base."""
    inner = unwrap(base_.model)
    shape = kernel_shape(inner.heads, spec, x_units=base_.width - base_.units)
    return stack(shape, {name: fresh(shape, seed=seed) for name in names})


class Slices:
    """Kernels that are tuned an epoch at a time, without validation."""

    def __init__(self, tuner: CohortTuner) -> None:
        """Drive this tuner's matching phase; every kernel that has rows moves.

        Args:
            tuner: tuner of a stage without compression.
        """
        self.tuner = tuner
        self.passes = self.taken = 0

    def on(self, context: TuningContext) -> "Slices":
        """Return slices of the same kernels, in the same memory, on other rows."""
        return Slices(self.tuner.on(context))

    @property
    def bank(self) -> Bank:
        """Return the kernels."""
        return self.tuner.bank

    @property
    def context(self) -> TuningContext:
        """Return rows, towers, tasks and worker."""
        return self.tuner.context

    @property
    def rows(self) -> int:
        """Return the rows of an epoch over all workers."""
        return int(self.tuner.rows_K.sum())

    def epoch(self) -> int:
        """Take one pass over the rows, and return the steps it took."""
        return self.some_steps(None)

    def some_steps(self, most: int | None) -> int:
        """Take the first `most` steps of a pass, all when None, and return the steps it took."""
        self.passes += 1
        steps = list(islice(self.tuner.epoch(self.passes), most))
        self.tuner.mean_loss(steps, self.passes)
        for sentence in self.tuner.progress.failed.values():
            raise Diverged(sentence)  # the time of other kernels alone would be no benchmark
        self.taken = len(steps)
        return self.taken

    def held_bytes(self) -> dict[str, int]:
        """Return bytes by kind: kernels (current, first and best), moments, activations."""
        activations = self.context.train.activations
        stored = activations.a_nA if isinstance(activations, ActivationBuffer) else None
        flat_KN, first_KN = self.bank.flat_KN, self.tuner.adam.first_KN
        return {
            "kernels": 3 * flat_KN.numel() * flat_KN.element_size(),
            "optimiser": 2 * first_KN.numel() * first_KN.element_size(),
            "cache": 0 if stored is None else stored.numel() * stored.element_size(),
        }


def slices_of(
    setup: BenchSetup,
    base_: StandardizedBase,
    rows: TuningRows,
    domains: Sequence[str],
    worker: Worker,
    *,
    twin: Slices | None = None,
    pooled: bool = False,
) -> Slices:
    """Return slices of fresh kernels for the domains, or of a twin's kernels, on these rows.

    Args:
        setup: log, base and settings of the benchmark.
        base_: base and standardisation of the kernels.
        rows: tuning rows.
        domains: names of the domains, in slot order.
        worker: this process.
        twin: slices of the same kernels, which both then tune in the same memory.
        pooled: True: one kernel for all domains, in steps of the benchmark's rows.
    """
    kernel = setup.spec.kernel.model_copy(update={"reads": "hx" if base_.standard.reads_x else "h"})
    context = TuningContext(
        heads=unwrap(base_.model).heads,
        tasks=published_base.task_shapes(base_.catalog),
        train=rows,
        valid=rows,
        worker=worker,
    )
    if twin is not None:
        return twin.on(context)
    names = (POOLED,) if pooled else domains
    bank = fresh_bank(base_, kernel, names, seed=setup.spec.seed)
    rows_a_step = setup.spec.batch_rows
    size = {"min_batch": rows_a_step, "max_batch": rows_a_step} if pooled else {}
    stage = stage_of(
        setup, setup.spec.pooled if pooled else setup.spec.domain, compression_epochs=0, **size
    )
    level = 0 if pooled else _LEVEL
    return Slices(CohortTuner(bank, level=level, stage=stage, context=context))
