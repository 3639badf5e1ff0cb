"""`iak demo`: make a planted log, pre-train a base, tune and gate kernels, evaluate."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from iak.jobs import synth
from iak.jobs.console_report import console_report
from iak.jobs.evaluate import delta_of
from iak.jobs.launchers import launcher_of
from iak.jobs.progress import console
from iak.jobs.tables import number, show_facts, show_table
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import Report
from iak.pipeline.launcher import Launcher
from iak.pipeline.runs.documents import read_toml
from iak.pipeline.runs.evaluate import evaluate
from iak.pipeline.runs.explain import explain
from iak.pipeline.runs.finetune import tune_night
from iak.pipeline.runs.load import load_catalog, spec_with_presets
from iak.pipeline.runs.metrics import METRICS
from iak.pipeline.runs.pretrain import pretrain_base
from iak.pipeline.runs.record import AlreadyFinished, read_record
from iak.pipeline.stats.metrics import MetricRow
from iak.schemas.base import Settings
from iak.schemas.job import DemoSpec, EvaluateSpec, FinetuneSpec, PretrainSpec, WorkerJobSpec
from iak.schemas.log import Catalog
from iak.schemas.prediction import EvaluationResult
from iak.schemas.predictions import BASE, IAK
from iak.schemas.synth import SynthJobSpec
from iak.schemas.tuning import KernelResult, TuningRunResult

S = TypeVar("S", bound=WorkerJobSpec)

CATALOG = Path("planted")


def main(spec: DemoSpec) -> int:
    """Run every step on a planted log, from the log to the evaluation, and show the results."""
    start = time.monotonic()
    if spec.fresh:
        shutil.rmtree(spec.run_dir, ignore_errors=True)
    log = spec.run_dir / "log"
    console.rule("1 of 4  a planted log")
    synth.main(_synth_spec(spec, log))
    common = {"catalog": CATALOG, "data_root": str(log), "workers": spec.workers}
    runs = {verb: spec.run_dir / verb for verb in ("pretrain", "finetune", "evaluate")}
    console.rule("2 of 4  pre-train the base on the older days")
    asked = common | {"run_dir": runs["pretrain"]}
    _step("pretrain", PretrainSpec, asked, pretrain_base)
    console.rule("3 of 4  freeze it, and tune every domain's kernel on the recent week")
    asked = common | {"run_dir": runs["finetune"], "base": runs["pretrain"]}
    _step("finetune", FinetuneSpec, asked, tune_night)
    console.rule("4 of 4  evaluate on the days after")
    asked = common | {"run_dir": runs["evaluate"], "base": runs["pretrain"]}
    asked |= {"bundles": runs["finetune"] / "bundles"}
    _step("evaluate", EvaluateSpec, asked, evaluate)
    return _show(spec, runs, time.monotonic() - start)


def _synth_spec(spec: DemoSpec, out: Path) -> SynthJobSpec:
    """Return the settings of the planted log: the demo's own, or those of a file."""
    shipped = Path(str(resources.files("iak.jobs") / "configs" / "demo" / "synth.toml"))
    file = spec.synth or shipped
    knobs = read_toml(file, setting="synth")
    try:
        return SynthJobSpec.model_validate(knobs | {"out": out})
    except ValidationError as error:
        raise BadRequest(f"synth {file}: {explain(error, SynthJobSpec)}") from error


def _step(
    verb: str,
    kind: type[S],
    asked: Settings,
    use_case: Callable[[S, Catalog, Launcher, Report], object],
) -> None:
    """Run one verb as its own command would, with presets. A finished step is not run again."""
    catalog = load_catalog(CATALOG)
    spec = spec_with_presets(kind, verb, catalog, asked)
    try:
        with console_report() as report:
            use_case(spec, catalog, launcher_of(spec), report)
    except AlreadyFinished:
        console.print(f"  {verb}: finished before, kept ({asked['run_dir']}); --fresh starts over")


def _show(spec: DemoSpec, runs: Mapping[str, Path], seconds: float) -> int:
    """Show the table of domains, the share of the reachable gain, and where the bundles lie."""
    tuned, judged = (read_record(runs[verb]) for verb in ("finetune", "evaluate"))
    assert tuned is not None, "the demo has just tuned"
    assert judged is not None, "the demo has just evaluated"
    rows = _stored(runs["evaluate"])
    by = {(r.method, r.domain): r for r in rows if r.task == "ctr"}
    tuning = tuned.result_as(TuningRunResult)
    kernels = {kernel.domain: kernel for kernel in tuning.kernels}
    lines = []
    for domain in (d for m, d in by if m == IAK):
        decision = _decision(kernels[domain]) if domain in kernels else "-"
        lines.append(
            (
                domain,
                f"{by[IAK, domain].rows:,}",
                number(by[BASE, domain].auc),
                number(by[IAK, domain].auc),
                number(by["oracle", domain].auc),
                delta_of(by[IAK, domain]),
                decision,
            )
        )
    console.rule()
    show_table(
        "click (CTR) on the last days, which nothing was trained or chosen on",
        ("domain", "rows", "base AUC", "tuned AUC", "oracle AUC", "delta [95 %]", "gate"),
        lines,
    )
    result = judged.result_as(EvaluationResult)
    share, gap = result.reachable_share, result.base_gap
    assert share is not None, "the demo's log is planted"
    assert gap is not None, "the demo's log is planted"
    show_facts(
        f"share of the reachable gain: {share:.3f}",
        {
            "after the gate": number(result.reachable_share_published, 3),
            "base_gap": f"{gap:+.4f} AUC (a fair base stays below 0.01)",
            "tables and trunk": f"unchanged, digest {tuning.digest[:16]}",
            "published": f"{runs['finetune'] / 'bundles'}",
            "records": f"{spec.run_dir}/*/record.json",
            "metrics": f"{runs['evaluate'] / 'metrics.json'}",
            "seconds": f"{seconds:.0f}",
        },
    )
    return 0 if gap <= 0.01 else 1


def _decision(kernel: KernelResult) -> str:
    gate = kernel.gate
    if not kernel.published:
        return f"held: {kernel.reason}"
    return f"published: {gate.gain:+.4f} nats/row, at least {gate.gain_low:+.4f}"


def _stored(run_dir: Path) -> list[MetricRow]:
    """Return the metrics of a finished evaluation."""
    documents = json.loads((run_dir / METRICS).read_text())
    return [MetricRow(**d) for d in documents]
