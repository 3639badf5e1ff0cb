"""Measure what kernels cost where rows are predicted: from Parquet to Parquet, and over HTTP.

kernels   kernels of every domain, written as a night would publish them
offline   Parquet to Parquet: the base alone, and with all kernels, in turns
servers   `iak serve` as processes of their own, and a client that asks them
online    requests by domains and by rows, in turns; a promotion under load
peft_batch  the same rows through PEFT's adapters, where PEFT is installed
findings  lines, targets, notes
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from iak.pipeline.bench.setup import prepare
from iak.pipeline.events import BenchAdvanced, Report
from iak.pipeline.process import run_on_workers
from iak.pipeline.progress import following
from iak.schemas.record import BenchmarkResult
from infra.benchmarks.serve import findings, kernels, offline, online, peft_batch
from infra.benchmarks.specs import BenchServeSpec


def measure(spec: BenchServeSpec, report: Report) -> BenchmarkResult:
    """Return the table's lines, the targets and notes."""
    spec.cache.mkdir(parents=True, exist_ok=True)
    progress = spec.out / "serve.progress.jsonl"
    with (
        following(progress, report),
        # On the disk of the log: a thousand kernels take gigabytes.
        TemporaryDirectory(prefix="serve-", dir=spec.cache) as scratch,
    ):
        setup = prepare(spec, progress, report)
        report(BenchAdvanced("kernels", {"domains": spec.domains[-1]}))
        (written,) = run_on_workers(kernels.kernels_on_worker, 1, setup, Path(scratch))
        report(BenchAdvanced("Parquet to Parquet", {"repeats": spec.repeats}))
        (speeds,) = run_on_workers(
            offline.speeds_on_worker,
            1,
            setup,
            written,
            repeats=spec.repeats,
            batch_rows=spec.predicted_rows,
        )
        asked = online.measure(setup, spec, written, report)
        report(BenchAdvanced("batches of adapters", {"adapters": spec.adapters[-1]}))
        (mixed,) = run_on_workers(
            peft_batch.mixed_batches_on_worker,
            1,
            setup,
            written,
            spec.request_rows,
            spec.adapters,
            spec.adapter_turns,
        )
    progress.unlink(missing_ok=True)
    return findings.result(spec, speeds, asked, mixed)
