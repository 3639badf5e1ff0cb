"""`iak bench sharding`: what each way of cutting and holding a table costs, and should cost.

sizes      which tables: given sizes, or a catalogue's
ways       one table in one way: trained or frozen, by rows, columns or whole; a step on it
worker     a worker's part: all ways of a table in turns; the same under any launcher
launch     spawned, torchrun, Ray
constants  what the machine gives, and the cluster file that `iak plan` reads
findings   lines, beside the planner's estimates
baseline   what became worse since an earlier record
"""

import time
import tomllib
from typing import Any

from iak.pipeline.bench.progress import Report
from iak.pipeline.bench.sharding import baseline, constants, findings
from iak.pipeline.bench.sharding.launch import Launch, launchers
from iak.pipeline.bench.sharding.sizes import sizes_of
from iak.pipeline.bench.sharding.worker import Work
from iak.pipeline.files import put_file
from iak.schemas.bench import BenchShardingSpec
from iak.schemas.cluster import ClusterSpec
from iak.schemas.log import Catalog
from iak.schemas.record import Target

RECORD, CLUSTER, PROGRESS = "sharding.json", "sharding.cluster.toml", "sharding.progress.jsonl"


def measure(
    spec: BenchShardingSpec,
    report: Report,
    *,
    catalog: Catalog | None = None,
    on_ray: Launch | None = None,
) -> tuple[list[dict[str, Any]], list[Target], list[str], dict[str, float]]:
    """Return the table's lines, what became worse, notes, and the machine's constants.

    `sharding.cluster.toml` is written beside the record.

    Args:
        spec: settings.
        report: called with each event of progress.
        catalog: what `spec.catalog` names.
        on_ray: runs the work under Ray; needed for `spec.as_ray`.

    Raises:
        BadRequest: the baseline or a table cannot be used.
        PipelineError: workers could not be started.
    """
    before = baseline.read(spec.check_baseline) if spec.check_baseline else None
    progress = (spec.out / PROGRESS).resolve()
    work = Work(spec=spec, sizes=sizes_of(spec, catalog), progress=str(progress))
    results, whole_s = {}, {}
    for name, launch in launchers(spec, on_ray).items():
        report({"event": "launcher", "name": name, "workers": spec.workers})
        started = time.perf_counter()
        results[name] = launch(work, report)
        whole_s[name] = time.perf_counter() - started
    lines = findings.lines_of(work, results)
    targets = []
    if before is not None and spec.check_baseline is not None:
        targets = baseline.compared(
            lines, before, threshold=spec.threshold, source=spec.check_baseline
        )
    first = next(iter(results.values()))
    _write_cluster(spec, first)
    rows = [*lines, *findings.launchers_of(results, whole_s)]
    return rows, targets, findings.notes_of(work, lines), first["constants"]


def _write_cluster(spec: BenchShardingSpec, result: dict[str, Any]) -> None:
    """Write the machine as a cluster file, after reading its text back."""
    cluster = constants.cluster_of(spec, result["constants"], result["hosts"], spec.out / RECORD)
    text = constants.toml_of(cluster)
    assert ClusterSpec.model_validate(tomllib.loads(text)) == cluster
    put_file(spec.out / CLUSTER, text)
