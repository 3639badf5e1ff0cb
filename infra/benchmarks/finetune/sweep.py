"""Compare K domains in one bank with K fine-tunes one after the other, in one process.

A separate fine-tune is the practice today: a kernel on the frozen base, its rows through the base
in every epoch, and torch's own Adam, in the fastest of a few batch sizes. Everything is loaded and
encoded before the clock starts. The bank has the same rows and start. It looks every row up once
and stores what `iak finetune` stores: h, and x narrowed to its first components. A separate
fine-tune reads x whole, since projecting x in every epoch would cost more than it saves. There is
no pooled kernel: each kernel starts fresh and may take the pooled one's epochs. A separate
fine-tune takes the epochs of the same domain in the bank, although its larger batches may need
more.

Separate fine-tunes of many domains are measured on some of them, from the largest to the smallest;
the time of the others follows from their rows and steps (least squares, no less than zero).

Shapes: B rows, C code units; the letters of pipeline.iak.kernel.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from iak.pipeline.activations.buffer import Activations, StandardizedBase
from iak.pipeline.activations.rows import TuningRows, tuning_rows
from iak.pipeline.base import published_base
from iak.pipeline.bench import iak_variants
from iak.pipeline.bench.iak_variants import InputVariant, Known, Slices
from iak.pipeline.bench.setup import BenchSetup
from iak.pipeline.bench.torchrec_variants import kernel_shape
from iak.pipeline.data.batch import to_batch
from iak.pipeline.data.view import LogView
from iak.pipeline.events import BenchAdvanced
from iak.pipeline.iak import kernel
from iak.pipeline.iak.bank import Bank
from iak.pipeline.iak.kernel import PROBE
from iak.pipeline.model.loss import task_losses
from iak.pipeline.process import Worker
from iak.pipeline.progress import worker_report
from iak.pipeline.sharding.shard import unwrap
from iak.pipeline.tuning.cohorts import tune_level
from iak.pipeline.tuning.context import TuningContext
from iak.pipeline.tuning.tune import CohortTuner
from iak.schemas.domain import POOLED
from infra.benchmarks.specs import BenchFinetuneSpec

_SPLITS = ("tune", "valid")
_REPEATS = 3
"""Most repeats, since an epoch of every number of domains is long."""
_MEASURED_ROWS = 16_384
"""Most rows of a domain that are timed; a larger domain takes more of the same."""
_VALID_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class AtK:
    """One number of domains."""

    domains: int
    rows: int
    bank_epoch_s: float
    bank_alone_epoch_s: float
    """Seconds of an epoch of a bank of one kernel on the same rows, with as many rows per step."""
    separate_epoch_s: float
    bank_whole_s: float
    """Seconds until the last domain is finished, with the base's pass and every validation."""
    separate_whole_s: float
    batch_rows: int
    """Batch size in which the separate fine-tunes were fastest."""
    steps: int
    """Steps of the bank's epoch."""
    epochs: int
    """Epochs of the domain that took most."""
    domain_epochs: float
    """Epochs of a domain, averaged over rows."""
    measured_domains: int


def sweep_on_worker(worker: Worker, setup: BenchSetup, spec: BenchFinetuneSpec) -> tuple[AtK, ...]:
    """Measure every K, in one process, on the same rows."""
    report = worker_report(setup.progress, worker.rank)
    model = iak_variants.open_frozen(setup, worker, "fp32")
    base_output: BaseOutput | None = None
    results = []
    for domains in spec.domains:
        report(BenchAdvanced("sweep", {"domains": domains}))
        view = setup.view(*_SPLITS, domains=domains)
        opened = published_base.open_base(setup.base)
        known = iak_variants.read_split(opened, view, "tune", worker)
        valid = iak_variants.read_split(opened, view, "valid", worker, known.domains)
        base_output = base_output or _look(
            model, known, valid, view, worker, narrow=spec.kernel.narrow
        )
        results.append(_at(setup, spec, worker, base_output, known, valid))
    return tuple(results)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseOutput:
    """The base's output for the rows, the same for any domains."""

    through: StandardizedBase
    whole: StandardizedBase
    """The base with all of x."""
    train: Activations
    valid: Activations
    seconds: float
    """Seconds of fitting the standardisation and of looking all rows up."""


def _look(
    model: nn.Module, known: Known, valid: Known, view: LogView, worker: Worker, *, narrow: int
) -> BaseOutput:
    """Pass every row through the base once, and store what a night's kernels read."""
    inputs = InputVariant(reads="hx", keeps="bf16", narrow=narrow)
    whole = iak_variants.through_base(model, known, view, replace(inputs, narrow=0), worker)
    kept, started = [], time.perf_counter()
    through = iak_variants.through_base(model, known, view, inputs, worker)
    for split in (known, valid):
        rows = iak_variants.tuning_rows(through, split, inputs, worker)
        for positions in torch.arange(len(rows)).split(_VALID_ROWS):
            rows.activations.of(positions)
        kept.append(rows.activations)
    seconds = time.perf_counter() - started
    return BaseOutput(through=through, whole=whole, train=kept[0], valid=kept[1], seconds=seconds)


def _at(
    setup: BenchSetup,
    spec: BenchFinetuneSpec,
    worker: Worker,
    base_output: BaseOutput,
    known: Known,
    valid: Known,
) -> AtK:
    """Measure one number of domains."""
    through = base_output.through
    names = [(POOLED,), known.domains]
    train = tuning_rows(known.rows.known, base_output.train, known.catalog, names)
    slices = iak_variants.slices_of(setup, through, train, known.domains, worker)
    alone = _alone(setup, slices)
    separate = _Separate(spec, base_output.whole, known, valid)
    best = min(spec.separate_batches, key=lambda rows: separate.epoch_s(rows, ()))
    for warm_up in (slices, alone):
        warm_up.epoch()
    times: dict[str, list[float]] = {"bank": [], "alone": [], "separate": []}
    for _ in range(min(spec.repeats, _REPEATS)):
        times["bank"].append(_seconds(slices.epoch))
        times["alone"].append(_seconds(alone.epoch))
        times["separate"].append(separate.epoch_s(best, ()))
    middle = {name: statistics.median(seconds) for name, seconds in times.items()}
    rows, steps = slices.rows, slices.taken
    del slices, alone
    judged = tuning_rows(valid.rows.known, base_output.valid, valid.catalog, names)
    epochs_K, levels_s = _whole(setup, through, known, (train, judged), worker)
    return AtK(
        domains=len(known.domains),
        rows=rows,
        steps=steps,
        bank_epoch_s=middle["bank"],
        bank_alone_epoch_s=middle["alone"],
        separate_epoch_s=middle["separate"],
        bank_whole_s=base_output.seconds + levels_s,
        separate_whole_s=separate.epoch_s(best, epochs_K) + separate.valid_s(epochs_K),
        batch_rows=best,
        epochs=max(epochs_K),
        domain_epochs=_mean_epochs(known, epochs_K),
        measured_domains=len(separate.sample),
    )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _whole(
    setup: BenchSetup,
    through: StandardizedBase,
    known: Known,
    rows: tuple[TuningRows, TuningRows],
    worker: Worker,
) -> tuple[list[int], float]:
    """Tune the whole bank from fresh kernels; return each domain's epochs, and the seconds."""
    spec, started = setup.spec, time.perf_counter()
    context = TuningContext(
        heads=unwrap(through.model).heads,
        tasks=published_base.task_shapes(known.catalog),
        train=rows[0],
        valid=rows[1],
        worker=worker,
    )
    tuned = tune_level(
        iak_variants.fresh_bank(through, spec.kernel, known.domains, seed=spec.seed),
        level=1,
        stage=iak_variants.stage_of(
            setup, spec.domain, compression_epochs=0, max_epochs=spec.pooled.max_epochs
        ),
        context=context,
        report=lambda _: None,
    )
    at_most = min(spec.pooled.max_epochs, tuned.epochs)
    epochs_K = [min(best + spec.domain.patience, at_most) for best in tuned.best_epoch]
    return epochs_K, time.perf_counter() - started


def _alone(setup: BenchSetup, slices: Slices) -> Slices:
    """Return slices of one kernel on the rows of `slices`, with as many rows per step."""
    train = slices.context.train
    one = replace(train, slots_nL=torch.zeros_like(train.slots_nL))
    rows = setup.spec.batch_rows
    first = Bank(
        shape=slices.bank.shape,
        names=slices.bank.names[:1],
        flat_KN=slices.bank.flat_KN[:1].clone(),
    )
    stage = iak_variants.stage_of(
        setup, setup.spec.domain, compression_epochs=0, min_batch=rows, max_batch=rows
    )
    alone = replace(slices.context, train=one, valid=one)
    return Slices(CohortTuner(first, level=1, stage=stage, context=alone))


def _mean_epochs(known: Known, epochs_K: Sequence[int]) -> float:
    rows = [known.counts[name] for name in known.domains]
    return sum(r * e for r, e in zip(rows, epochs_K, strict=True)) / max(sum(rows), 1)


class _Separate:
    """Separate fine-tunes, one domain after the other."""

    def __init__(
        self, spec: BenchFinetuneSpec, through: StandardizedBase, known: Known, valid: Known
    ) -> None:
        self.spec, self.through = spec, through
        self.counts = [known.counts[name] for name in known.domains]
        self.sample = sorted(
            {int(p) for p in np.linspace(0, len(known.domains) - 1, spec.separate_sample)}
        )
        names = [known.domains[position] for position in self.sample]
        self.rows = _by_domain(known, names)
        self.valid_share = len(valid.rows) / max(sum(self.counts), 1)
        inner = unwrap(through.model)
        self.heads, self.tasks = inner.heads, published_base.task_shapes(through.catalog)
        self.shape = kernel_shape(inner.heads, spec.kernel, x_units=inner.attach_points["x"])

    def epoch_s(self, batch_rows: int, epochs_K: Sequence[int]) -> float:
        """Return the seconds of these epochs of every domain; of one epoch each without any."""
        timed, steps, rows = [], [], []
        for table in self.rows:
            timed.append(_seconds(partial(self._epoch, table, batch_rows)))
            steps.append(-(-len(table) // batch_rows))
            rows.append(len(table))
        per_step, per_row = fitted_costs(timed, steps, rows)
        return sum(
            epochs * (per_step * -(-count // batch_rows) + per_row * count)
            for count, epochs in zip(self.counts, epochs_K or [1] * len(self.counts), strict=True)
        )

    def valid_s(self, epochs_K: Sequence[int]) -> float:
        """Return the seconds of a validation after each epoch and before the first."""
        table = self.rows[0].slice(0, _VALID_ROWS)
        weights = kernel.fresh(self.shape, seed=0)
        seconds = statistics.median(_seconds(lambda: self._judge(table, weights)) for _ in range(3))
        per_row = seconds / len(table)
        judged = sum(c * (e + 1) for c, e in zip(self.counts, epochs_K, strict=True))
        return per_row * self.valid_share * judged

    def _epoch(self, table: pa.Table, batch_rows: int) -> None:
        """Tune a fresh kernel for an epoch, every batch through the base."""
        weights = kernel.fresh(self.shape, seed=0)
        tuned = [w.requires_grad_() for n, w in weights.items() if n not in PROBE]
        adam = torch.optim.Adam(tuned, lr=self.spec.domain.lr)
        order = torch.randperm(len(table))
        for positions_B in order.split(batch_rows):
            loss = self._loss(table.take(pa.array(positions_B.numpy())), weights, is_training=True)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()

    @torch.no_grad()
    def _judge(self, table: pa.Table, weights: Mapping[str, Tensor]) -> Tensor:
        return self._loss(table, weights, is_training=False)

    def _loss(self, table: pa.Table, weights: Mapping[str, Tensor], *, is_training: bool) -> Tensor:
        batch = to_batch(table, self.through.catalog)
        with torch.no_grad():
            h_BH, x_BX = unwrap(self.through.model).represent(batch.ids, batch.numeric_BN)
            a_BA = self.through.standard.of(h_BH, x_BX)
        noise_BC = torch.randn(len(table), self.shape.code) if is_training else None
        output = kernel.run(weights, self.heads, h_BH, a_BA, noise_BC)
        losses_BT = task_losses(output.logits_BT, batch.labels_BT, batch.mask_BT, self.tasks)
        task = (losses_BT.sum(0) / batch.mask_BT.sum(0).clamp(min=1)).sum()
        return task + self.spec.kernel.beta * output.rate_B.mean()


def _by_domain(known: Known, names: Sequence[str]) -> list[pa.Table]:
    """Return the encoded rows of each of these domains, _MEASURED_ROWS at most."""
    whole = iak_variants.only(known, names)
    table = pa.Table.from_batches(
        [p.features for p in whole.rows.pieces if p.features is not None]
    ).unify_dictionaries()
    domain = table.column("l.1").cast(pa.string())
    return [
        table.filter(pc.equal(domain, name)).slice(0, _MEASURED_ROWS).combine_chunks()
        for name in names
    ]


def fitted_costs(
    seconds: Sequence[float], steps: Sequence[int], rows: Sequence[int]
) -> tuple[float, float]:
    """Return the seconds per step and per row that fit the measured ones best."""
    weights = 1 / np.asarray(seconds)  # every domain's own time counts alike, not the largest's
    known = np.stack([steps, rows], axis=1) * weights[:, None]
    (per_step, per_row), _ = nnls(known, np.ones(len(seconds)))
    return float(per_step), float(per_row)
