"""Compare the trunks of the base, and its readers of histories: alone, and after kernels are tuned.

Every model is trained with the same settings, those of the log's catalogue, and stopped by
validation rows. Kernels are then tuned on it with the catalogue's settings. Base and kernels are
measured once, on test rows that lie in another folder.

    runner.py     computes one cell: a model on one log, with one seed
    findings.py   the table and its target
    cells/        finished cells, which are never computed again

Logs, cells and metrics are those of `quality`.
"""

from iak.pipeline.events import BenchAdvanced, Report
from iak.pipeline.process import process_group
from iak.schemas.record import BenchmarkResult
from infra.benchmarks.quality.cells import CellFolder, own_folders
from infra.benchmarks.quality.league import Budget, OutOfBudget
from infra.benchmarks.quality.logs import open_separated
from infra.benchmarks.specs import BenchTrunksSpec
from infra.benchmarks.trunks.findings import notes, target_of, trunk_lines
from infra.benchmarks.trunks.runner import TrunkRunner, models_of


def measure(spec: BenchTrunksSpec, report: Report) -> BenchmarkResult:
    """Run the cells that are missing; return the lines of all, the target, and notes."""
    with own_folders(spec) as own:
        return _measure(own, report)


def _measure(spec: BenchTrunksSpec, report: Report) -> BenchmarkResult:
    budget, models = Budget.of(spec.budget_minutes), models_of(spec)
    logs = [open_separated(name, spec) for name in spec.logs]
    runners = [TrunkRunner(log=log, folder=CellFolder(spec.cells), first=models[0]) for log in logs]
    cells = [(r, model, seed) for seed in spec.seeds for r in runners for model in models]
    # TorchRec needs a process group also for one process, and it cannot be made twice.
    with process_group(0, 1, backend="gloo", threads=1):
        try:
            for number, (runner, model, seed) in enumerate(cells, start=1):
                if runner.finished(model, seed) is None:
                    budget.check()
                runner.run(model, seed)
                shown = {"log": runner.log.window.name, "model": model.name, "seed": seed}
                report(BenchAdvanced("cell", {**shown, "number": number, "of": len(cells)}))
        except OutOfBudget:
            pass  # what is finished is reported
    lines = [line for runner in runners for line in trunk_lines(runner, models, spec.seeds)]
    return BenchmarkResult(
        rows=[line.as_row() for line in lines],
        targets=[target_of(lines)],
        notes=notes(spec, runners, lines),
    )
