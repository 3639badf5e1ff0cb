"""`iak bench sharding`: measure each layout of a table, beside TorchRec's own estimate.

sizes      which tables: given sizes, or a catalogue's
layouts    one table in one layout: trained or frozen, by rows, columns or whole; a step on it
worker     a worker's part: all layouts of a table in turns, the same under any launcher
constants  what the machine gives, and the cluster file that `iak plan` reads
findings   lines, beside the planner's estimates
baseline   what became worse since an earlier record
"""

import tempfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

from iak.pipeline.bench.sharding import baseline, constants, findings
from iak.pipeline.bench.sharding.sizes import sizes_of
from iak.pipeline.bench.sharding.worker import Work, on_worker
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import BenchAdvanced, Report
from iak.pipeline.files import put_file
from iak.pipeline.launcher import Launch, Launcher, ProcessLauncher, TorchrunLauncher
from iak.schemas.bench import BenchShardingSpec
from iak.schemas.cluster import ClusterSpec
from iak.schemas.log import Catalog
from iak.schemas.record import BenchmarkResult
from iak.schemas.sharding_result import ShardingResult

RECORD, CLUSTER = "sharding.json", "sharding.cluster.toml"


def measure(
    spec: BenchShardingSpec,
    report: Report,
    *,
    catalog: Catalog | None = None,
    ray: Launcher | None = None,
) -> BenchmarkResult:
    """Return the table's lines, what became worse, notes, and the machine's rates.

    `sharding.cluster.toml` is written beside the record.

    Args:
        spec: settings.
        report: called with each event of progress.
        catalog: catalogue that `spec.catalog` names.
        ray: starts workers by Ray; needed for `spec.as_ray`.

    Raises:
        BadRequest: the baseline or a table cannot be used, or no launcher offers the device.
        DoesNotFit: fewer GPUs than workers that ask for one.
        PipelineError: workers could not be started.
    """
    before = baseline.read(spec.check_baseline) if spec.check_baseline else None
    work = Work(spec=spec, sizes=sizes_of(spec, catalog))
    results, whole_s = {}, {}
    for name, launcher in launchers(spec, ray).items():
        report(BenchAdvanced("launcher", {"name": name, "workers": spec.workers}))
        started = time.perf_counter()
        results[name] = _launched(launcher, work, report)
        whole_s[name] = time.perf_counter() - started
    lines = findings.lines_of(work, results)
    targets = []
    if before is not None and spec.check_baseline is not None:
        targets = baseline.compared(
            lines, before, threshold=spec.threshold, source=spec.check_baseline
        )
    first = next(iter(results.values()))
    _write_cluster(spec, first)
    launcher_lines = findings.launchers_of(results, whole_s)
    return BenchmarkResult(
        rows=[line.as_row() for line in (*lines, *launcher_lines)],
        targets=targets,
        notes=findings.notes_of(work, lines),
        limits=first.rates.as_limits(),
    )


def launchers(spec: BenchShardingSpec, ray: Launcher | None) -> Mapping[str, Launcher]:
    """Return the launchers that the settings ask for, by name.

    Args:
        spec: settings.
        ray: starts workers by Ray; needed for `spec.as_ray`.

    Raises:
        BadRequest: GPUs are asked for, and no launcher that offers them.
    """
    asked: dict[str, Launcher] = {}
    if spec.as_ray:
        assert ray is not None, "as_ray needs Ray, which jobs/ passes in"
        asked["ray"] = ray
    if spec.as_torchrun:
        asked["torchrun"] = TorchrunLauncher()
    if not asked and spec.device == "cuda":
        raise BadRequest("device=cuda needs a launcher: add as_torchrun=true or as_ray=true")
    return asked or {"spawned": ProcessLauncher()}


def _launched(launcher: Launcher, work: Work, report: Report) -> ShardingResult:
    """Return what the workers measured."""
    out = work.spec.out  # the run folder lies in it, since a cluster's machines share it
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".sharding-") as run_dir:
        launch = Launch(
            function=on_worker,
            work=work,
            result=ShardingResult,
            title="sharding",
            run_dir=Path(run_dir),
            workers=work.spec.workers,
            device=work.spec.device,
            max_failures=0,
        )
        return launcher.run(launch, report)


def _write_cluster(spec: BenchShardingSpec, result: ShardingResult) -> None:
    """Write the machine as a cluster file, after reading its text back."""
    cluster = constants.cluster_of(spec, result.rates, result.hosts, spec.out / RECORD)
    text = constants.toml_of(cluster)
    assert ClusterSpec.model_validate(tomllib.loads(text)) == cluster
    put_file(spec.out / CLUSTER, text)
