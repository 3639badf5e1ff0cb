"""Make the workspace in which faults are injected: a tiny log, bases, nights, and killed runs.

    catalog.toml  log/        what is given
    R1/                       a published base, the activation cache and the mapped tables beside it
    B2/                       another base of the same log
    N1/                       a finished night, its bundles and its record
    N5/                       another finished night, on R1
    M1/                       another one, on B2
    N2/                       a night that was killed between two checkpoints
    P2/                       a pre-training that was killed after two checkpoints
    nights/  registry/        a platform's first night, finished, and its promotions

It is made once; every fault is injected into a copy.
"""

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import resources
from multiprocessing.context import ForkServerContext
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iak.pipeline.errors import PipelineError
from iak.pipeline.events import BenchAdvanced, Report
from iak.pipeline.files import put_file
from iak.pipeline.planted.files import generate
from iak.pipeline.planted.population import build_knobs
from iak.schemas.synth import SynthSpec
from infra.benchmarks.faults.child import SAID, Attempt, Request, run
from infra.benchmarks.faults.outcome import Answer

LOG_ROWS = 2_000
CACHE = "R1/activations"
_SPLITS = {
    "pretrain": "days = [0, -4]\nslice = [0.0, 0.9]",
    "pretrain_valid": "days = [0, -4]\nslice = [0.9, 1.0]",
    "tune": "days = [-3, -2]\nslice = [0.0, 0.6]",
    "valid": "days = [-3, -2]\nslice = [0.6, 0.8]",
    "gate": "days = [-3, -2]\nslice = [0.8, 1.0]",
    "test": "days = [-1, -1]",
}
_JOB = {
    "catalog": "catalog.toml",
    "data_root": "log",
    "workers": 1,
    "device": "cpu",
    "placement": {"row_wise_from_rows": 100},
}
_STAGE = {"lr": 1e-3, "min_batch": 32, "max_batch": 64, "max_epochs": 2}
_NIGHT: dict[str, Any] = {
    **_JOB,
    "base": "R1",
    "kernel": {"hidden": 8, "code": 3, "adapter_rank": 2, "narrow": 8},
    "pooled": {**_STAGE, "compression_epochs": 1, "shrink": 0},
    "domain": {**_STAGE, "compression_epochs": 0, "shrink": 0.01},
    "gate": {
        "z": 0, "min_positives": 1, "min_negatives": 1, "auc_margin": 1, "logloss_margin": 9,
        "calibration_margin": 9,
    },
    "checkpoint_every_s": 0,
    "tables": {"precision": "fp32"},
    "cache": {"precision": "fp32"},
}  # fmt: skip
_PRETRAINING = {
    **_JOB,
    "model": {
        "width": 4, "mlp": [8], "cross_layers": 1, "experts": 2, "expert_width": 6,
        "tower_width": 4, "dropout": 0.1,
    },
    "batch_rows": 128,
    "epochs": 1,
    "patience": 9,
    "shuffle_rows": 256,
    "checkpoint_every_steps": 3,
    "seed": 3,
}  # fmt: skip
_MAPPED = {"tables": {"precision": "fp32", "mapped": True}}
_EVALUATION = {**_JOB, "base": "R1", "tables": {"precision": "fp32"}, "run_dir": "E1"}
_NIGHTLY: dict[str, Any] = {
    "name": "planted",
    "catalog": "catalog.toml",
    "data_root": "log",
    "base": "R1",
    "registry": "registry",
    "nights": "nights",
    "workers": {"workers": 1, "device": "cpu"},
    "window": {"days": 2, "valid": 0.2, "gate": 0.2},
    "ready": {"needs_marker": True},
    "choice": {"drift": 9.0},
    "scratch_every": 0,
    "finetune": {
        **{name: _NIGHT[name] for name in ("kernel", "pooled", "domain", "checkpoint_every_s")},
        "gate": {
            **_NIGHT["gate"],
            "chain": {"alpha": 0.99, "at_once": 1.0, "at_once_margin": 0, "canary_hours": 0},
        },
        "tables": {"precision": "fp32"},
        "cache": {"precision": "fp32"},
    },
}  # fmt: skip
"""What the platform's `nightly.toml` says: a gate that lets every gain through."""
FIRST_NIGHT, SECOND_NIGHT = "2026-10-06", "2026-10-07"


def _no_cache(workspace: Path) -> None:
    """Remove the cached activations, so that a night is like the first one on a base."""
    shutil.rmtree(workspace / CACHE)


REQUESTS: Mapping[str, Request] = {
    "night": Request(verb="finetune", settings={**_NIGHT, "run_dir": "N3"}),
    "cold night": Request(verb="finetune", settings={**_NIGHT, "run_dir": "N3"}, before=_no_cache),
    "finished night": Request(verb="finetune", settings={**_NIGHT, "run_dir": "N1"}),
    "resumed night": Request(verb="finetune", settings={**_NIGHT, "run_dir": "N2"}),
    "next night": Request(verb="finetune", settings={**_NIGHT, "run_dir": "N3", "live": "N1"}),
    "mapped night": Request(verb="finetune", settings={**_NIGHT, **_MAPPED, "run_dir": "N3"}),
    "pre-training": Request(verb="pretrain", settings={**_PRETRAINING, "run_dir": "P3"}),
    "resumed pre-training": Request(
        verb="pretrain", settings={**_PRETRAINING, "run_dir": "P2", "seed": 5}
    ),
    "continued pre-training": Request(
        verb="pretrain",
        settings={**_PRETRAINING, "run_dir": "P3", "from": "R1", "from_rates": 1.0},
    ),
    "evaluation": Request(verb="evaluate", settings={**_EVALUATION, "bundles": "N1"}),
    "platform's night": Request(verb="nightly", settings={**_NIGHTLY, "night": SECOND_NIGHT}),
    "record": Request(verb="show", settings={"path": "N1", "json": "shown.json"}),
}
"""Name -> a request to a workspace."""
RUN_DIRS = {name: str(request.settings.get("run_dir", "")) for name, request in REQUESTS.items()}
PUBLISHED = (
    "R1/base", "B2/base", "N1/bundles", "N5/bundles", "M1/bundles", "N1/record.json",
    "registry/commits", "registry/bundles", f"nights/{FIRST_NIGHT}-*",
)  # fmt: skip
"""Patterns of paths that were published before any attempt, and that no attempt may change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSetup:
    """A ready workspace, and the answers of undamaged attempts in it."""

    server: ForkServerContext
    attempt: Attempt
    ready: Path
    scratch: Path
    """Folder of the copies."""
    undamaged: Mapping[str, Answer]
    """Answer of an undamaged attempt, by request."""

    def copy(self, name: str) -> Path:
        """Return a copy of the ready workspace under a name of its own."""
        workspace = self.scratch / name
        shutil.copytree(self.ready, workspace, symlinks=True)
        return workspace

    def ask(self, workspace: Path, request: Request) -> Answer:
        """Make an attempt in a copy."""
        return run(self.server, self.attempt, workspace, request)


def prepare(
    server: ForkServerContext,
    attempt: Attempt,
    scratch: Path,
    *,
    repeats: int,
    threads: int,
    report: Report,
) -> BenchSetup:
    """Make the ready workspace, and record the answers of undamaged attempts.

    Args:
        server: server whose processes are forked.
        attempt: runs a verb.
        scratch: an empty folder.
        repeats: undamaged runs of each request, at least two; seconds are medians.
        threads: attempts at the same time.
        report: called with each event of progress.

    Raises:
        PipelineError: an undamaged attempt fails, or two of them come to different results.
    """
    ready = scratch / "ready"
    ready.mkdir()
    report(BenchAdvanced("log, bases, nights"))
    _write_given(ready)
    setup = BenchSetup(server=server, attempt=attempt, ready=ready, scratch=scratch, undamaged={})
    night, pretraining = REQUESTS["night"], REQUESTS["pre-training"]
    steps = (
        _moved(pretraining, run_dir="R1"),
        _moved(pretraining, run_dir="B2", seed=4),
        _moved(night, run_dir="N1"),
        _moved(night, run_dir="M1", base="B2"),
        _moved(night, run_dir="N5", kernel={**_NIGHT["kernel"], "beta": 0.01}),
        _moved(night, run_dir="N0", **_MAPPED),
        _moved(REQUESTS["platform's night"], night=FIRST_NIGHT),
    )
    for step in steps:
        _must_end(setup.ask(ready, step), ready)
    shutil.rmtree(ready / "N0")
    _half(setup, "resumed night", ("tune.safetensors", 8))
    _half(setup, "resumed pre-training", ("validated", 2))
    (ready / SAID).unlink()
    report(BenchAdvanced("undamaged attempts"))
    return replace(setup, undamaged=_undamaged(setup, repeats, threads))


def _undamaged(setup: BenchSetup, repeats: int, threads: int) -> dict[str, Answer]:
    """Return the answer to every request without a fault, the same each time."""
    names = [name for name in REQUESTS for _ in range(repeats)]

    def one(number: int) -> Answer:
        workspace = setup.copy(f"undamaged-{number}")
        answer = setup.ask(workspace, REQUESTS[names[number]])
        _must_end(answer, workspace)
        shutil.rmtree(workspace)
        return answer

    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(one, range(len(names))))
    answers_by_request: dict[str, Answer] = {}
    for name in REQUESTS:
        own = [a for a, asked in zip(answers, names, strict=True) if asked == name]
        if any(answer.ended != own[0].ended for answer in own):
            raise PipelineError(
                f"two undamaged attempts at '{name}' come to different results, so that nothing "
                "can be said of damaged ones. Run again; if it comes again, report it"
            )
        answers_by_request[name] = replace(own[0], seconds=median(answer.seconds for answer in own))
    return answers_by_request


def _must_end(answer: Answer, workspace: Path) -> None:
    if answer.ending != "ended":
        said = (workspace / SAID).read_text(errors="replace")[-2000:]
        raise PipelineError(f"an undamaged attempt {answer.ending}: {answer.message}\n{said}")


def _half(setup: BenchSetup, name: str, kill: tuple[str, int]) -> None:
    """Kill a run in the ready workspace, so that it can be resumed."""
    answer = setup.ask(setup.ready, replace(REQUESTS[name], kill=kill))
    if not answer.signal:
        raise PipelineError(f"'{name}' was to be killed at {kill}, and was not: {answer}")


def write_log_file(table: pa.Table, path: Path) -> None:
    """Write a file of the log, always with the same settings, so that sizes are comparable."""
    pq.write_table(
        table,
        path,
        compression="zstd",
        write_statistics=["event_id", "event_time"],
        store_schema=False,
        write_page_checksum=True,
    )


def _moved(request: Request, **settings: object) -> Request:
    """Return a request with other settings."""
    return replace(request, settings={**request.settings, **settings})


def _write_given(ready: Path) -> None:
    """Write the log and its catalogue."""
    knobs = SynthSpec(
        rows=LOG_ROWS, days=8, regions=("a", "b", "c"), skew=3.0, users=300, items=200, shops=60,
        drift=2.0,
    )  # fmt: skip
    generate(build_knobs(knobs), ready / "log", lambda _: None)
    for path in (ready / "log/events").rglob("*.parquet"):
        write_log_file(pq.read_table(path, partitioning=None), path)
        (path.parent / "_SUCCESS").touch()
    shipped = resources.files("iak.schemas") / "catalog" / "planted.toml"
    catalog = (
        shipped.read_text().partition("[splits.")[0].replace("min_rows = 500", "min_rows = 20")
    )
    splits = [f"[splits.{name}]\n{split}\n" for name, split in _SPLITS.items()]
    put_file(ready / "catalog.toml", catalog + "\n".join(splits))
