"""Predict the last days of the log from Parquet to Parquet, by the base and by all kernels."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from iak.pipeline.base import published_base
from iak.pipeline.base.precision import ANYTHING
from iak.pipeline.bench.setup import BenchSetup
from iak.pipeline.bench.wide_log import wide_catalog
from iak.pipeline.data.view import open_log
from iak.pipeline.events import WorkDone
from iak.pipeline.process import Worker
from iak.pipeline.serving.parts import ScoreWork, score_parts
from iak.schemas.job import EvaluatedTablesSpec
from iak.schemas.log import SCORED, SplitSpec
from iak.schemas.plan import ResolvedPlacement
from infra.benchmarks.serve.kernels import Kernels

BASE, KERNELS = "base", "kernels"
DAYS = 4
"""Days of the log that are predicted: of one day the few batches vary by what else runs."""
_ONE_FILE = 10**9
"""More rows than the log has: all go into one file."""


def speeds_on_worker(
    worker: Worker, setup: BenchSetup, kernels: Kernels, *, repeats: int, batch_rows: int
) -> Mapping[str, list[float]]:
    """Return rows per second of each repeat, the base alone and with all kernels in turns."""
    speeds: dict[str, list[float]] = {BASE: [], KERNELS: []}
    for _ in range(repeats):
        for name, bundles in ((BASE, None), (KERNELS, kernels.all)):
            speeds[name].append(_speed(worker, setup, bundles, batch_rows))
    return speeds


def _speed(worker: Worker, setup: BenchSetup, bundles: Path | None, batch_rows: int) -> float:
    """Return rows per second from the first batch to the last: loading is left out.

    The rows of the first batch pass before the clock starts.
    """
    catalog = wide_catalog(setup.knobs, domains=setup.spec.domains[-1])
    catalog = catalog.to_score(SplitSpec(days=(-DAYS, -1)))
    seen: list[tuple[float, int]] = []

    def report(event: object) -> None:
        if isinstance(event, WorkDone):
            seen.append((time.perf_counter(), event.step))

    with TemporaryDirectory(dir=setup.base.parent) as folder:
        work = ScoreWork(
            view=open_log(catalog, setup.data_root, wanted=(SCORED,)),
            base=published_base.open_base(setup.base),
            bundles=bundles,
            folder=Path(folder),
            batch_rows=batch_rows,
            part_rows=_ONE_FILE,
            tables=EvaluatedTablesSpec(precision="int8", tolerance=ANYTHING),
            placement=ResolvedPlacement(),
        )
        score_parts(work, worker=worker, report=report)
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir()
    (started, before), (ended, after) = seen[0], seen[-1]
    return (after - before) / (ended - started)
