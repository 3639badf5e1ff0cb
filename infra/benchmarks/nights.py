"""Run weeks of nights on a planted log whose tastes drift, and compare what serves the next day.

Every night reads the last days, and its kernels are evaluated on the day after, which was not used:

- the first night's kernels, left as they were;
- the chain, whose kernels start from those that serve;
- from scratch: the same night without any night before it, so that no kernel has a start;
- the chain through the gate: the kernels that a platform would serve, with the shipped settings;
- the oracle: the probabilities that the log was drawn from.

The first three compare kernels and not gates. So their gate publishes every gain, however small.

Each difference to the base is on the same rows, with a 95 % interval in which rows of one user are
dependent.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import iak
from iak.pipeline.base import published_base
from iak.pipeline.events import BenchAdvanced, Report
from iak.pipeline.launcher import Launcher, ProcessLauncher
from iak.pipeline.planted.files import generate
from iak.pipeline.planted.population import build_knobs
from iak.pipeline.registry.live import live_pointers, registry_head
from iak.pipeline.runs.nightly import NightRequest, run_night
from iak.pipeline.stats.metrics import ALL, MetricRow
from iak.pipeline.storage.store import open_store
from iak.schemas.night import NightRecord
from iak.schemas.nightly import NightlySpec
from iak.schemas.predictions import BASE, PUBLISHED
from iak.schemas.record import BenchmarkLine, BenchmarkResult, Target
from iak.schemas.synth import SynthSpec
from infra.benchmarks.specs import BenchNightsSpec

FIRST, CHAIN, SCRATCH = "first night's kernels", "chain", "from scratch"
GATED, ORACLE = "chain through the gate", "oracle"
METHODS = (FIRST, CHAIN, SCRATCH, GATED, ORACLE)
OPEN_GATE = {
    "z": 0,
    "auc_margin": 1,
    "logloss_margin": 9,
    "calibration_margin": 9,
    "chain": {"alpha": 0.99, "at_once": 1, "at_once_margin": 0, "canary_hours": 0},
}
"""Settings of a gate that publishes every kernel with a gain, however small."""
BASE_SPLITS = """\
[splits.pretrain]
days = [0, {last}]
slice = [0.0, 0.94]

[splits.pretrain_valid]
days = [0, {last}]
slice = [0.94, 0.97]

[splits.pretrain_test]
days = [0, {last}]
slice = [0.97, 1.0]

"""
TEST_SPLITS = """\
[splits.test]
days = [-1, -1]

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Log, base and catalogues of all nights."""

    spec: BenchNightsSpec
    folder: Path
    catalog: Path
    """Catalogue with the splits of the base's training. A night makes its own splits."""
    test_catalog: Path
    """Catalogue whose only split is the day after a night."""
    launcher: Launcher
    start: date
    """The log's first day."""

    def night_of(self, number: int) -> date:
        """Return the date of a night, counted from 0."""
        days = self.spec.base_days + self.spec.window_days - 1 + number
        return self.start + timedelta(days=days)


class NightLine(BenchmarkLine):
    """What a method brings to one task on the day after a night."""

    table: Literal["nights"] = "nights"
    night: int
    """Counted from 1."""
    method: str
    task: str
    rows: int
    auc: float | None
    delta_auc: float
    """AUC over the base's, on the same rows."""
    low: float
    high: float
    log_loss: float | None
    calibration: float | None


class TunedNightLine(NightLine):
    """The same of a method that tuned in this night, with what the night took."""

    seconds: float
    rows_tuned: int
    rows_from_cache: int
    promoted: float
    """Domains with this outcome, as are the next three."""
    held: float
    failed: float
    waiting: float


def measure(spec: BenchNightsSpec, report: Report) -> BenchmarkResult:
    """Return a line for each night, method and task, the targets, and notes."""
    with tempfile.TemporaryDirectory(prefix="iak-nights-") as folder:
        setup = _set_up(spec, Path(folder), report)
        lines: list[NightLine] = []
        for number in range(spec.nights):
            lines += _one_night(setup, number)
            report(BenchAdvanced("night", {"number": number + 1, **_shown(lines, number)}))
    return BenchmarkResult(
        rows=[line.as_row() for line in lines],
        targets=_targets(lines),
        notes=_notes(spec, lines),
    )


def _set_up(spec: BenchNightsSpec, folder: Path, report: Report) -> Setup:
    """Write the log, and train the base on its older days."""
    days = spec.base_days + spec.window_days + spec.nights
    knobs = SynthSpec(
        rows=spec.rows,
        days=days,
        base_share=spec.base_days / days,
        regions=spec.regions,
        users=spec.users,
        items=spec.items,
        shops=max(1, spec.items * 3 // 20),
        seed=spec.seed + 7,
    )
    generate(build_knobs(knobs), folder / "log", lambda _: None)
    catalog = _catalog(folder / "planted.toml", BASE_SPLITS.format(last=spec.base_days - 1))
    test_catalog = _catalog(folder / "test.toml", TEST_SPLITS)
    setup = Setup(
        spec=spec,
        folder=folder,
        catalog=catalog,
        test_catalog=test_catalog,
        launcher=ProcessLauncher(),
        start=knobs.start_date,
    )
    report(BenchAdvanced("base", {"rows": spec.rows, "days": days}))
    iak.pretrain(
        catalog,
        folder / "log",
        run_dir=folder / "base",
        launcher=setup.launcher,
        workers=spec.workers,
        device="cpu",
        today=setup.start + timedelta(days=days),
    )
    return setup


def _catalog(path: Path, splits: str) -> Path:
    """Write the planted log's catalogue with other splits, and return its path."""
    shipped = (resources.files("iak.schemas") / "catalog" / "planted.toml").read_text()
    before, _, after = shipped.partition("[splits.pretrain]")
    _, presets, rest = after.partition("[presets.pretrain]")
    path.write_text(before + splits + presets + rest)
    return path


def _one_night(setup: Setup, number: int) -> list[NightLine]:
    """Run the chain's night and one from scratch; return the lines of all methods."""
    chained = _run(setup, number, "chain", gate=OPEN_GATE)
    if number == 0 and chained.counts["promoted"]:
        shutil.copytree(setup.folder / "chain/registry", setup.folder / "first/registry")
    scratch = _run(setup, number, f"scratch-{number}", gate=OPEN_GATE)
    gated = _run(setup, number, "gated", gate={})
    lines = _evaluated(setup, number, FIRST, "first")
    lines += _evaluated(setup, number, CHAIN, "chain", tuned=chained, with_oracle=True)
    lines += _evaluated(setup, number, SCRATCH, f"scratch-{number}", tuned=scratch)
    lines += _evaluated(setup, number, GATED, "gated", tuned=gated)
    shutil.rmtree(setup.folder / f"scratch-{number}")
    return lines


def _run(setup: Setup, number: int, name: str, *, gate: Mapping[str, Any]) -> NightRecord:
    """Run a night, with the registry and the nights of this name, through this gate."""
    spec, folder = setup.spec, setup.folder
    nights = NightlySpec.model_validate(
        {
            "name": "planted",
            "catalog": setup.catalog,
            "data_root": str(folder / "log"),
            "base": folder / "base",
            "registry": str(folder / name / "registry"),
            "nights": folder / name / "nights",
            "workers": {"workers": spec.workers, "device": "cpu"},
            "window": {"days": spec.window_days},
            "ready": {"quiet_for": "PT0S"},
            "scratch_every": 0,
            "finetune": {"gate": gate},
        }
    )
    return run_night(nights, setup.launcher, NightRequest(night=setup.night_of(number)))


def _evaluated(
    setup: Setup,
    number: int,
    method: str,
    name: str,
    *,
    tuned: NightRecord | None = None,
    with_oracle: bool = False,
) -> list[NightLine]:
    """Evaluate what serves on the day after a night; return a line for each task.

    Args:
        setup: log, base and catalogues.
        number: number of the night, counted from 0.
        method: method whose kernels serve.
        name: folder of its registry.
        tuned: record of the night in which the method tuned; None where it tuned nothing.
        with_oracle: whether to add the probabilities that the log was drawn from.
    """
    folder, day = setup.folder, setup.night_of(number) + timedelta(days=1)
    run_dir = folder / "evaluations" / f"{method}-{number}".replace(" ", "-")
    bundles: dict[str, Any] = {}
    if live_pointers(registry_head(open_store(str(folder / name / "registry"))), _base(setup)):
        bundles = {"bundles": f"registry:{folder / name / 'registry'}@champion"}
    evaluation = iak.evaluate(
        setup.test_catalog,
        folder / "log",
        base=folder / "base",
        run_dir=run_dir,
        launcher=setup.launcher,
        workers=setup.spec.workers,
        device="cpu",
        as_of=day,
        today=day,
        **bundles,
    )
    shutil.rmtree(run_dir)
    shown = {(PUBLISHED if bundles else BASE): method}
    shown |= {"oracle": ORACLE} if with_oracle else {}
    rows = [row for row in evaluation.rows if row.domain == ALL and row.method in shown]
    if {row.method for row in rows} != set(shown):
        raise ValueError(f"the evaluation has rows of {[row.method for row in rows]}, not {shown}")
    return [_line(row, shown[row.method], number, tuned) for row in rows]


def _base(setup: Setup) -> str:
    return published_base.open_base(setup.folder / "base").manifest.fingerprint


def _line(row: MetricRow, method: str, number: int, tuned: NightRecord | None) -> NightLine:
    """Return the line of one task, with what the night took where the method tuned in it."""
    line = NightLine(
        night=number + 1,
        method=method,
        task=row.task,
        rows=row.rows,
        auc=row.auc,
        delta_auc=row.delta_auc or 0.0,
        low=row.delta_auc_low or 0.0,
        high=row.delta_auc_high or 0.0,
        log_loss=row.logloss,
        calibration=row.calibration,
    )
    if tuned is None:
        return line
    took = {
        "seconds": round(sum(tuned.timings_s.values()), 1),
        "rows_tuned": tuned.rows_tuned,
        "rows_from_cache": tuned.rows_from_cache,
    }
    return TunedNightLine.model_validate({**dict(line), **took, **tuned.counts})


def mean_delta(lines: Sequence[NightLine], method: str, task: str) -> float:
    """Return a method's difference to the base, as a mean over the nights after the first one."""
    own = [
        line.delta_auc
        for line in lines
        if (line.method, line.task) == (method, task) and line.night > 1
    ]
    return sum(own) / len(own) if own else 0.0


def _targets(lines: Sequence[NightLine]) -> list[Target]:
    """Return the targets: the chain beats its first night, and is no worse than from scratch."""
    task = lines[0].task
    first, chain, scratch = (mean_delta(lines, m, task) for m in (FIRST, CHAIN, SCRATCH))
    return [
        Target(
            name=f"chain - first night's kernels, AUC of {task}",
            wanted="> 0",
            measured=round(chain - first, 5),
            is_met=chain > first,
        ),
        Target(
            name=f"chain - from scratch, AUC of {task}",
            wanted=">= -0.002",
            measured=round(chain - scratch, 5),
            is_met=chain >= scratch - 0.002,
        ),
    ]


def _notes(spec: BenchNightsSpec, lines: Sequence[NightLine]) -> list[str]:
    days = spec.base_days + spec.window_days + spec.nights
    notes = [
        f"{spec.rows:,} planted rows over {days} days; the base learns from the first "
        f"{spec.base_days}, a night reads {spec.window_days}, and is judged on the day after it. "
        "AUC is a mean over regions, weighted by rows."
    ]
    for task in dict.fromkeys(line.task for line in lines):
        means = ", ".join(f"{m} {mean_delta(lines, m, task):+.4f}" for m in METHODS)
        notes.append(f"{task}, AUC over the base's, mean of nights 2 to {spec.nights}: {means}.")
    return notes


def _shown(lines: Sequence[NightLine], number: int) -> dict[str, float]:
    """Return the differences of a night's first task, for the progress."""
    task = lines[0].task
    return {
        line.method: round(line.delta_auc, 4)
        for line in lines
        if line.night == number + 1 and line.task == task
    }
