"""Compare kernels with other ways to use the same recent rows.

On every log a base is trained on old rows. Each method then learns from recent rows. Its settings
and its early stop are chosen on validation rows. It is measured once, on test rows that lie in
another folder.

    logs.py         a log's rows in two folders, separated by the catalogue's splits
    setup.py        all that a method may read: the window and a base
    methods.py      IAK, its ablations, IAK with statistics (settings of the library's nights)
    past.py         statistics of earlier days, by the rows' times
    training.py     continued, full by domain, joint (the library's pre-training)
    dense.py        LoRA, towers, all dense parameters, a plain bottleneck (over frozen activations)
    trainer.py      how those four are fitted: for all rows, then for each domain
    calibration.py  Platt's slope and bias
    generator.py    what a planted log's generator knows: its truth, and a frozen base's ceiling
    registry.py     all of them by name
    space.py        what is searched
    judge.py        metrics of predictions
    cells.py        finished results, one for each fit, which are never computed again
    runner.py       computes one cell
    league.py       computes the cells that are missing
    findings.py     tables and targets
"""

from iak.pipeline.events import Report
from iak.pipeline.process import process_group
from iak.schemas.record import BenchmarkResult
from infra.benchmarks.quality.cells import CellFolder, own_folders
from infra.benchmarks.quality.findings import league_lines, notes, pair_lines, targets
from infra.benchmarks.quality.league import Budget, League, OutOfBudget
from infra.benchmarks.quality.logs import open_separated
from infra.benchmarks.quality.runner import Runner
from infra.benchmarks.specs import BenchQualitySpec


def measure(spec: BenchQualitySpec, report: Report) -> BenchmarkResult:
    """Run the cells that are missing; return the lines of all, the targets, and notes."""
    with own_folders(spec) as own:
        return _measure(own, report)


def _measure(spec: BenchQualitySpec, report: Report) -> BenchmarkResult:
    budget = Budget.of(spec.budget_minutes)
    leagues = []
    # TorchRec needs a process group also for one process, and it cannot be made twice.
    with process_group(0, 1, backend="gloo", threads=1):
        for name in spec.logs:
            log = open_separated(name, spec)
            league = League(
                spec=spec,
                log=log,
                runner=Runner(log, report),
                folder=CellFolder(spec.cells),
                budget=budget,
                report=report,
            )
            leagues.append(league)
            try:
                league.play()
            except OutOfBudget:
                continue  # cells of a later log may be finished, which are reported all the same
    finished = [line for league in leagues for line in league_lines(league)]
    pairs = [line for league in leagues for line in pair_lines(league)]
    return BenchmarkResult(
        rows=[line.as_row() for line in (*finished, *pairs)],
        targets=targets(finished, pairs),
        notes=notes(leagues, finished),
    )
