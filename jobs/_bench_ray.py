"""`iak bench sharding` on workers that Ray Train starts."""

import tempfile
from pathlib import Path
from typing import Any

from iak.jobs._ray import on_ray
from iak.pipeline.bench.progress import Report
from iak.pipeline.bench.sharding.worker import Work, on_worker


def sharding_on_ray(work: Work, report: Report) -> dict[str, Any]:
    """Return what the workers of `iak bench sharding` measured as workers of Ray Train.

    The run folder lies in `out`, which on a cluster of several machines is a shared folder.
    """
    report({"event": "ray", "workers": work.spec.workers})
    with tempfile.TemporaryDirectory(dir=work.spec.out, prefix=".ray-") as run_dir:
        return on_ray(
            on_worker,
            work,
            title="sharding",
            run_dir=Path(run_dir),
            workers=work.spec.workers,
            device=work.spec.device,
            max_failures=0,
        )
