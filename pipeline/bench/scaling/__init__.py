"""`iak bench scaling`: measure strong and weak scaling, and simulate larger clusters.

workloads  the work that is scaled: pre-training, tuning through the base, tuning from activations
turns      1, 2, ... workers live at once and measure slice by slice in turns
timeline   the parts of a step's time
measured   the workers' results, merged
links      the simulation of more workers, and its formulas
findings   lines, the model's error, notes
"""

import os

from iak.pipeline.bench.scaling import findings, measured
from iak.pipeline.bench.scaling.links import link_of
from iak.pipeline.bench.setup import prepare
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import BenchAdvanced, Report
from iak.pipeline.progress import following
from iak.schemas.bench import BenchScalingSpec, BenchSetupSpec
from iak.schemas.record import BenchmarkResult

_DOMAINS = 1000
"""Domains of the log. Tuning passes over some of them with one kernel for all."""


def measure(spec: BenchScalingSpec, report: Report) -> BenchmarkResult:
    """Return the table's lines, the target, notes, and the loopback's latency and bandwidth.

    Raises:
        BadRequest: more workers than cores would be measured, or the log is too short.
    """
    cores = len(os.sched_getaffinity(0))
    if spec.workers[-1] > cores and not spec.smoke:
        raise BadRequest(
            f"{spec.workers[-1]} workers cannot be measured on {cores} cores, which they would "
            "share. Leave them to `counted` and `simulated`, or take a larger machine"
        )
    progress = spec.out / "scaling.progress.jsonl"
    with following(progress, report):
        setup = prepare(setup_spec(spec), progress, report)
        by_count = measured.measure_in_turns(spec, setup)
        counted = {}
        for workers in spec.counted:
            report(BenchAdvanced("counting bytes", {"workers": workers}))
            counted[workers] = measured.count_on_workers(spec, setup, workers)
    progress.unlink(missing_ok=True)
    result = findings.Findings(
        spec=spec,
        measured=measured.together(by_count),
        counted=counted,
        link=link_of(measured.slowest(by_count[spec.workers[-1]])),
    )
    lines = findings.lines_of(result)
    return BenchmarkResult(
        rows=[line.as_row() for line in lines],
        targets=findings.targets_of(result, lines),
        notes=findings.notes_of(result, cores),
        limits=findings.limits_of(result.link),
    )


def setup_spec(spec: BenchScalingSpec) -> BenchSetupSpec:
    """Return settings that make the log and the base at the sizes of this benchmark."""
    return BenchSetupSpec(
        smoke=spec.smoke,
        out=spec.out,
        seed=spec.seed,
        cache=spec.cache,
        rows=spec.rows,
        days=spec.days,
        table_rows=spec.table_rows,
        domains=(_DOMAINS,),
        workers=spec.workers[-1],
        batch_rows=spec.batch_rows,
        slice_steps=spec.slice_steps,
        model=spec.model,
        kernel=spec.kernel,
    )
