"""Prepare the log and the base of the benchmarks: the wide log, and a base of its older days.

Both are kept in the benchmark's cache, in folders named by the hash of what made them. A folder is
whole or missing.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from iak.pipeline.base import published_base
from iak.pipeline.base.pretrain_work import BEST, PretrainWork, pretrain_on_worker
from iak.pipeline.base.publish import BaseProvenance, publish_trained
from iak.pipeline.bench.wide_log import WideKnobs, ensure_wide_log, wide_catalog
from iak.pipeline.data import vocabulary
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.view import LogView, open_log
from iak.pipeline.events import BenchAdvanced, Report
from iak.pipeline.launcher import Launch, ProcessLauncher
from iak.schemas.bench import BenchSetupSpec
from iak.schemas.log_snapshot import LogSnapshot
from iak.schemas.plan import ResolvedPlacement
from iak.schemas.training import TrainingResult

NEVER = 10**9
"""Steps or validations that no run of a benchmark reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSetup:
    """Log, base and settings of a benchmark, the same for every worker."""

    spec: BenchSetupSpec
    knobs: WideKnobs
    data_root: str
    base: Path
    """Folder of the published base."""
    progress: Path

    def view(self, *splits: str, domains: int | None = None, nights_ago: int = 0) -> LogView:
        """Open the log with a number of domains, for the night `nights_ago` nights before."""
        catalog = wide_catalog(
            self.knobs, domains=domains or self.spec.domains[-1], nights_ago=nights_ago
        )
        return open_log(catalog, self.data_root, wanted=splits)


def prepare(spec: BenchSetupSpec, progress: Path, report: Report) -> BenchSetup:
    """Return the log and the base; make them unless an earlier run left them.

    Args:
        spec: sizes, and the folder that keeps what is made.
        progress: file to which the workers of the benchmark write their events.
        report: gets the events of making them.
    """
    knobs = WideKnobs(
        rows=spec.rows,
        days=spec.days,
        table_rows=spec.table_rows,
        domains=spec.domains,
        seed=spec.seed,
    )
    report(BenchAdvanced("log", {"rows": spec.rows, "key": knobs.key}))
    root = ensure_wide_log(knobs, spec.cache)
    setup = BenchSetup(
        spec=spec,
        knobs=knobs,
        data_root=str(root.absolute()),
        base=base_folder(spec, knobs).absolute(),
        progress=progress.absolute(),
    )
    if not (setup.base / published_base.MANIFEST).is_file():
        report(BenchAdvanced("base", {"table_rows": spec.table_rows}))
        _train_base(setup, report)
    return setup


def base_folder(spec: BenchSetupSpec, knobs: WideKnobs) -> Path:
    """Return the folder of the base, named by everything that decides its weights."""
    made_of = spec.model_dump(mode="json", include={"model", "optim", "workers", "batch_rows"})
    key = hashlib.sha256(json.dumps([knobs.key, made_of], sort_keys=True).encode()).hexdigest()
    return spec.cache / f"base-{key[:16]}" / "base"


def no_encoding(view: LogView) -> Encoding:
    """Return the encoding of identity tables and standard normal numbers; it needs no rows."""
    return vocabulary.fit([], view.catalog)


def pretrain_work(
    setup: BenchSetup,
    view: LogView,
    run_dir: Path,
    *,
    from_base: Path | None,
    epochs: int = 1,
    validations: int = 1,
) -> PretrainWork:
    """Return the work that `iak pretrain` would pass to its workers, without checkpoints."""
    spec = setup.spec
    return PretrainWork(
        view=view,
        encoding=no_encoding(view),
        rates=None if from_base else _rates(setup),
        model=spec.model,
        optim=spec.optim,
        run_dir=run_dir,
        from_base=from_base,
        seed=spec.seed,
        batch_rows=spec.batch_rows,
        epochs=epochs,
        patience=NEVER,
        validations_per_epoch=validations,
        shuffle_rows=4 * spec.batch_rows,
        bf16=False,
        placement=ResolvedPlacement(),
        checkpoint_every_steps=NEVER,
    )


def _rates(setup: BenchSetup) -> tuple[float, float]:
    """Return the rates of clicks in rows, and of orders in clicked rows."""
    first = next(Path(setup.data_root).rglob("*.parquet"))
    labels = pq.read_table(first, columns=["click", "order"])
    clicks, orders = (pc.sum(labels.column(n)).as_py() for n in ("click", "order"))
    return clicks / len(labels), orders / clicks


def _train_base(setup: BenchSetup, report: Report) -> None:
    """Train a base on the older days for one epoch, and publish it."""
    run_dir = setup.base.parent
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    view = setup.view("pretrain", "pretrain_valid")
    work = pretrain_work(setup, view, run_dir, from_base=None)
    vocabulary.save(work.encoding, run_dir / published_base.ENCODING)
    launch = Launch(
        function=pretrain_on_worker,
        work=work,
        result=TrainingResult,
        title="base",
        run_dir=run_dir,
        workers=setup.spec.workers,
        device="cpu",
        max_failures=0,
    )
    trained = ProcessLauncher().run(launch, report)
    snapshot = LogSnapshot(fingerprint=view.snapshot.fingerprint)
    provenance = BaseProvenance(spec=None, snapshot=snapshot, versions={})
    publish_trained(work, trained, provenance)
    for scratch in (BEST, published_base.ENCODING):  # the base has their files
        shutil.rmtree(run_dir / scratch)


def renamed(view: LogView, **splits: str) -> LogView:
    """Rename splits: `pretrain="tune"` trains the base on the tuning rows."""
    selections = {name: view.selections[split] for name, split in splits.items()}
    return replace(view, selections=selections)
