"""Measure Ray's share of the time of a tuning loop.

The loop is the same worker function under Ray Train and under plain gloo. Start-up is left out on
both sides; what remains is what Ray's daemons and its reports take from workers that share the
machine with them.
"""

import statistics
import tempfile
from pathlib import Path

from iak.jobs.console_report import console_report
from iak.jobs.ray_launcher import RayLauncher
from iak.pipeline.bench.setup import BenchSetup, prepare
from iak.pipeline.events import BenchAdvanced, Report
from iak.pipeline.launcher import Launch
from iak.pipeline.process import Worker, run_on_workers
from iak.pipeline.progress import worker_report
from iak.schemas.record import Target
from infra.benchmarks.finetune.lines import RayLine
from infra.benchmarks.finetune.loop import LoopResult, loop_on_worker, run_loop
from infra.benchmarks.specs import BenchFinetuneSpec

MAX_RAY_SHARE = 0.025
_ROUNDS = 3
_SMOKE_PASSES = 3
_SMALLER = {"rows": 280_000, "table_rows": 400_000, "domains": (100,)}
"""Smaller sizes of what only the starts depend on, since the comparison leaves starts out."""


def ray_share(spec: BenchFinetuneSpec, report: Report) -> tuple[list[RayLine], Target]:
    """Return lines of the table and the target, from interleaved rounds with and without Ray."""
    small = spec if spec.smoke else spec.model_copy(update=_SMALLER)
    with tempfile.TemporaryDirectory(prefix="iak-bench-ray-") as folder:
        setup = prepare(small, Path(folder) / "progress.jsonl", report)
        passes = _SMOKE_PASSES if spec.smoke else _without_ray(setup, 0).passes
        rounds = []
        for number in range(1 if spec.smoke else _ROUNDS):
            report(BenchAdvanced("ray", {"round": number + 1, "passes": passes}))
            rounds.append(_round(setup, passes, Path(folder) / f"ray-{number}", number))
    gloo_s, ray_s = ([round_[side] for round_ in rounds] for side in ("plain", "ray"))
    share = statistics.median(r / p for r, p in zip(ray_s, gloo_s, strict=True)) - 1
    lines = [
        RayLine(what=what, passes=passes, seconds=tuple(round(s, 3) for s in seconds))
        for what, seconds in (("plain torch.distributed", gloo_s), ("Ray Train", ray_s))
    ]
    return lines, Target(
        name="Ray's share of the loop beyond start-up",
        wanted=f"at most {MAX_RAY_SHARE:.1%}",
        measured=round(share, 4),
        is_met=share <= MAX_RAY_SHARE,
        note="" if share <= MAX_RAY_SHARE else _note(gloo_s, ray_s),
    )


def _round(setup: BenchSetup, passes: int, run_dir: Path, number: int) -> dict[str, float]:
    """Return the seconds with and without Ray, in another order each round."""
    runs = {
        "plain": lambda: _without_ray(setup, passes).seconds,
        "ray": lambda: _ray(setup, passes, run_dir).seconds,
    }
    order = sorted(runs, reverse=bool(number % 2))
    return {side: runs[side]() for side in order}


def _without_ray(setup: BenchSetup, passes: int) -> LoopResult:
    return run_on_workers(passes_on_worker, setup.spec.workers, setup, passes)[0]


def passes_on_worker(worker: Worker, setup: BenchSetup, passes: int) -> LoopResult:
    """Run the loop without Ray."""
    return run_loop(worker, setup, passes, worker_report(setup.progress, worker.rank))


def _ray(setup: BenchSetup, passes: int, run_dir: Path) -> LoopResult:
    run_dir.mkdir()
    launch = Launch(
        function=loop_on_worker,
        work=(setup, passes),
        result=LoopResult,
        title="loop",
        run_dir=run_dir,
        workers=setup.spec.workers,
        device="cpu",
        max_failures=0,
    )
    with console_report() as report:
        return RayLauncher().run(launch, report)


def _note(gloo_s: list[float], ray_s: list[float]) -> str:
    spread = max(gloo_s) / min(gloo_s) - 1
    return (
        f"rounds of the plain loop differ by {spread:.1%} among themselves; Ray took "
        f"{[round(s, 2) for s in ray_s]} s, plain {[round(s, 2) for s in gloo_s]} s. Its daemons "
        "share the workers' cores: a core of their own, or fewer reports, would take them out"
    )
