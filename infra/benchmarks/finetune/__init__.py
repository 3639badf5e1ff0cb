"""Measure what a night costs on a frozen base, against what it costs today.

nights    a first and a steady night, whole
steps     a step of each of them, interleaved; (a) and (b) to their best step
sweep     (f) K separate fine-tunes against a bank of K
roofline  the lower bound on the step time; `rates` the machine's ceilings
ray_share what Ray takes of a tuning loop
findings  lines, targets, notes; `lines` has their types
"""

from iak.pipeline.base import published_base
from iak.pipeline.bench.setup import prepare
from iak.pipeline.events import Report
from iak.pipeline.process import run_on_workers
from iak.pipeline.progress import following
from iak.schemas.record import BenchmarkResult
from infra.benchmarks.finetune import findings, nights, rates, ray_share, steps, sweep
from infra.benchmarks.specs import BenchFinetuneSpec


def measure(spec: BenchFinetuneSpec, report: Report) -> BenchmarkResult:
    """Return the table's lines, the targets, notes, and the machine's ceilings."""
    progress = spec.out / "finetune.progress.jsonl"
    with following(progress, report):
        setup = prepare(spec, progress, report)
        ceilings = run_on_workers(rates.rates_on_worker, spec.workers)[0]
        measured = run_on_workers(steps.steps_on_worker, spec.workers, setup)[0]
        first, steady = run_on_workers(nights.nights_on_worker, spec.workers, setup, nights.EQUAL)[
            0
        ]
        others = {
            variation.name: run_on_workers(nights.nights_on_worker, spec.workers, setup, variation)[
                0
            ]
            for variation in nights.OTHERS
        }
        by_domains = run_on_workers(sweep.sweep_on_worker, 1, setup, spec)[0]
    progress.unlink(missing_ok=True)
    ray_lines, ray_target = ray_share.ray_share(spec, report)
    result = findings.Findings(
        spec=spec,
        rates=ceilings,
        steps=measured,
        first=first,
        steady=steady,
        others=others,
        sweep=by_domains,
        window_rows=setup.view("tune").selections["tune"].rows,
        auc_costs=findings.auc_costs(published_base.open_base(setup.base).manifest.precisions),
    )
    return BenchmarkResult(
        rows=[line.as_row() for line in (*findings.lines_of(result), *ray_lines)],
        targets=[*findings.targets_of(result), ray_target],
        notes=findings.notes_of(result),
        limits=dict(findings.limits_of(ceilings)),
    )
