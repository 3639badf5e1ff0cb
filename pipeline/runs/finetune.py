"""Tune every domain's kernel on a frozen base: rows, workers, the gate, bundles.

A night that `iak nightly` plans, decides and promotes is in nightly.py. It calls this once or more.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch

from iak.pipeline.base import precision, published_base
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.data import kinds
from iak.pipeline.data.content import DIGESTS, KeptContents
from iak.pipeline.data.domains import nearest_of
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import OK, SOME_FAILED, SOME_HELD, BadRequest, WrongBase
from iak.pipeline.events import Report, silent
from iak.pipeline.fresh.past import Past, past_of
from iak.pipeline.launcher import Launch, Launcher
from iak.pipeline.process import Worker
from iak.pipeline.publish.bundle_index import BUNDLES
from iak.pipeline.publish.bundle_set import live_kernels
from iak.pipeline.publish.judge_chains import NightChains
from iak.pipeline.publish.publish_bundles import Provenance, publish_bundles, tuning_result
from iak.pipeline.registry.bases import open_base
from iak.pipeline.runs import skipped
from iak.pipeline.runs.inputs import inputs_of
from iak.pipeline.runs.load import resolve_placement
from iak.pipeline.runs.log import describe_log, list_log
from iak.pipeline.runs.outputs import bundles_output
from iak.pipeline.runs.pinned import pinned_bundles
from iak.pipeline.runs.preflight import (
    BundlesFolder,
    base_inputs,
    bundles_folder,
    bundles_inputs,
    check_frozen_fits,
    check_workers,
    open_frozen_base,
    plan_inputs,
)
from iak.pipeline.runs.record import OpenRecord, run_record, versions
from iak.pipeline.runs.stored_run import ACTIVATIONS, local_cache, local_run
from iak.pipeline.tuning.checkpoint import remove_checkpoint
from iak.pipeline.tuning.context import Stage
from iak.pipeline.tuning.finetune import finetune
from iak.pipeline.tuning.work import SPLITS, ActivationCacheConfig, FinetuneWork, Live
from iak.schemas.job import DomainStageSpec, FinetuneSpec, GateSpec, StageSpec
from iak.schemas.log import Catalog
from iak.schemas.log_snapshot import DataWindow
from iak.schemas.manifest import BundleSettings
from iak.schemas.plan import ResolvedPlacement
from iak.schemas.predictions import metric_tasks
from iak.schemas.results import NightResult
from iak.schemas.tuning import TuningResult, TuningRunResult


@dataclass(frozen=True, slots=True, kw_only=True)
class NightWork:
    """What every worker of a night gets: what is tuned, and how its kernels are judged."""

    tuning: FinetuneWork
    provenance: Provenance
    """Fields that all bundles of the night share."""
    gate: GateSpec
    chains: NightChains | None = None
    """The chains before this night, whose evidence then decides; None judges this night alone."""


def tune_night(
    spec: FinetuneSpec,
    catalog: Catalog,
    launcher: Launcher,
    report: Report = silent,
    *,
    chains: NightChains | None = None,
) -> NightResult:
    """Tune the kernels of a night and write their bundles in the run folder.

    A run that was interrupted is resumed from its last checkpoint.

    Args:
        spec: settings of `iak finetune`.
        catalog: the log's catalogue.
        launcher: starts the workers.
        report: gets the events of the run.
        chains: the chains before this night, whose evidence then decides what is published; None
            judges this night alone.

    Raises:
        AlreadyFinished: the folder holds this very run, finished.
        PipelineError: the request cannot be met; no bundle was published.
    """
    with (
        local_run(spec) as local,
        run_record(
            "finetune", spec, local.run_dir, may_differ=skipped.MAY_DIFFER, report=report
        ) as record,
    ):
        tuning = _tune(local, catalog, launcher, record, chains)
    return NightResult(run_dir=spec.run_dir, record=record.record, tuning=tuning)


def _tune(
    spec: FinetuneSpec,
    catalog: Catalog,
    launcher: Launcher,
    record: OpenRecord,
    chains: NightChains | None,
) -> TuningRunResult:
    """Open base and log, tune on workers, and put the result into the record."""
    report = record.report
    check_workers(spec, report, is_elsewhere=launcher.is_elsewhere)
    opened = open_frozen_base(spec.base, catalog, spec.tables, report)
    check_frozen_fits(spec, opened, spec.tables, is_elsewhere=launcher.is_elsewhere)
    placement = night_placement(spec, opened)
    of_live = _base_of_live(spec, opened)
    pinned = pinned_bundles(spec.live, of_live, record, setting="live") if spec.live else None
    serving = bundles_folder(pinned, of_live, setting="live") if pinned else None
    live = _live(spec, of_live, serving, catalog)
    with record.phase("snapshot"):
        digests_in = local_cache(spec.cache) or opened.folder.parent
        digests_in.mkdir(parents=True, exist_ok=True)  # as a machine's copy of a shared cache
        view = list_log(spec, catalog, report, wanted=SPLITS, digests_in=digests_in)
        others = base_inputs(opened) | bundles_inputs(serving, name="live bundles")
        others |= plan_inputs(placement.plan)
        past = past_of(view, KeptContents(digests_in / DIGESTS))
        others |= {"statistics": past.fingerprint} if past else {}
        record.settle_inputs(inputs_of(catalog, describe_log(view, past), others))
        skipped.report_skipped(view, spec, report)
        kinds.refuse_other_kinds(view.snapshot, catalog, opened.encoding.kinds)
    work = NightWork(
        tuning=finetune_work(spec, view, opened, live=live, placement=placement, past=past),
        provenance=_provenance(spec, opened, record),
        gate=spec.gate,
        chains=chains,
    )
    with record.phase("tune"):
        launch = Launch.of(spec, tune_on_worker, work, TuningResult, title="finetune")
        tuning = launcher.run(launch, report)
    record.result = tuning
    remove_checkpoint(spec.run_dir)
    published = {kernel.domain for kernel in tuning.kernels if kernel.published}
    untuned = skipped.report_untuned(view, nearest_of(published), report)
    result = TuningRunResult(
        **dict(tuning),
        base_fingerprint=opened.manifest.fingerprint,
        live=tuple(sorted(live.kernels) if live else ()),
        untuned_domains=tuple(untuned),
    )
    record.result = result
    record.exit_code = _exit_code(tuning)
    record.outputs = {BUNDLES: bundles_output(spec.run_dir / BUNDLES)}
    return result


def _exit_code(tuning: TuningResult) -> int:
    """Return the exit code of a run: 0, 4 some held, 5 some failed."""
    if tuning.failed:
        return SOME_FAILED
    return OK if all(kernel.published for kernel in tuning.kernels) else SOME_HELD


def finetune_work(
    spec: FinetuneSpec,
    view: LogView,
    opened: PublishedBase,
    *,
    live: Live | None,
    placement: ResolvedPlacement,
    past: Past | None = None,
) -> FinetuneWork:
    """Return what the workers of a night tune.

    Args:
        spec: settings of the run.
        view: the run's view of the log.
        opened: the base that is frozen.
        live: kernels that serve now, from which new ones start; None starts from the base.
        placement: placement of every table, by the rule or by a plan.
        past: rows that fresh statistics count; None where the catalogue declares none.
    """
    return FinetuneWork(
        view=view,
        base=opened,
        kernel=spec.kernel,
        pooled=_stage(spec, spec.pooled),
        domain=_stage(spec, spec.domain),
        run_dir=spec.run_dir.resolve(),
        tables=spec.tables,
        cache=_cache_config(spec, opened),
        live=live,
        checkpoint_every_s=spec.checkpoint_every_s,
        domains=spec.domains,
        deadline=spec.deadline,
        placement=placement,
        past=past,
    )


def _provenance(spec: FinetuneSpec, opened: PublishedBase, record: OpenRecord) -> Provenance:
    """Return the provenance that all bundles of the run share."""
    snapshot = record.snapshot
    return Provenance(
        base_fingerprint=opened.manifest.fingerprint,
        schema_hash=opened.manifest.schema_hash,
        data_window=DataWindow(**snapshot.splits, snapshot=snapshot.fingerprint),
        spec=BundleSettings(
            kernel=spec.kernel, seed=spec.seed, pooled=spec.pooled, domain=spec.domain
        ),
        versions=versions(),
        created_at=datetime.now(UTC),
    )


def night_placement(spec: FinetuneSpec, opened: PublishedBase) -> ResolvedPlacement:
    """Return the placement of the run's tables; a plan that the settings name is checked.

    Raises:
        BadRequest: the plan is not for this job, its tables or its workers.
    """
    placement = resolve_placement(spec.placement, job="finetune")
    if placement.plan is None:
        return placement
    if spec.tables.mapped:
        raise BadRequest(
            "tables.mapped keeps all tables on every machine; leave out tables.mapped or "
            "placement.plan"
        )
    from iak.pipeline.sharding.placement_rule import planned  # TorchRec takes seconds to import

    planned(
        placement.plan,
        published_base.frozen_shapes(opened),
        world=spec.workers,
        device=torch.device("cpu"),
        precisions=precision.precisions_of(opened.manifest, spec.tables),
    )
    return placement


def tune_on_worker(worker: Worker, work: NightWork, report: Report) -> TuningResult | None:
    """Tune with one worker's rows. Worker 0 then judges all kernels and writes the bundles."""
    tuning = replace(work.tuning, compares_chains=work.chains is not None)
    done = finetune(tuning, worker=worker, report=report)
    if worker.rank:
        return None
    root = tuning.run_dir / BUNDLES
    catalog = tuning.view.catalog
    tasks = metric_tasks(catalog.tasks, negatives_kept=catalog.log.negatives_kept)
    kernels = publish_bundles(
        done,
        root,
        provenance=work.provenance,
        tasks=tasks,
        gate=work.gate,
        chains=work.chains,
        report=report,
    )
    worker.files.send(root)
    return tuning_result(done, kernels)


def _stage(spec: FinetuneSpec, stage: StageSpec) -> Stage:
    return Stage(
        spec=stage,
        step_rows=spec.step_rows,
        beta=spec.kernel.beta,
        seed=spec.seed,
        borrows=isinstance(stage, DomainStageSpec) and stage.borrow,
    )


def _cache_config(spec: FinetuneSpec, opened: PublishedBase) -> ActivationCacheConfig:
    """Return the settings of the activation cache: beside the base, unless the spec names one.

    Where the log's columns are the base, the log is the cache already. Activations then stay in
    memory, and in fp32: bf16 would round the logits that kernels correct.
    """
    folder = local_cache(spec.cache) or opened.folder.parent / ACTIVATIONS
    is_given = opened.catalog.columns_base is not None
    return ActivationCacheConfig(
        kind="memory" if is_given and spec.activations == "cache" else spec.activations,
        precision="fp32" if is_given else spec.cache.precision,
        folder=folder.absolute(),
        budget_bytes=int(spec.cache.budget_gib * 2**30),
        memory_bytes=int(spec.cache.memory_gib * 2**30),
        uri=spec.cache.uri,
    )


def _base_of_live(spec: FinetuneSpec, opened: PublishedBase) -> PublishedBase:
    """Return the base that the live kernels run on: the run's, or its parent.

    Raises:
        WrongBase: `live_base` is not the base that `base` continues.
    """
    if spec.live_base is None:
        return opened
    parent = open_base(spec.live_base)
    if opened.manifest.parent != parent.manifest.fingerprint:
        raise WrongBase(
            f"live_base={spec.live_base} is base {parent.manifest.fingerprint}, but {spec.base} "
            f"continues {opened.manifest.parent or 'no base'}. Kernels move from a parent to its "
            "child alone; give the parent, or start without live="
        )
    return parent


def _live(
    spec: FinetuneSpec, opened: PublishedBase, serving: BundlesFolder | None, catalog: Catalog
) -> Live | None:
    """Return the kernels that serve now; None where the settings name none."""
    if serving is None:
        return None
    return live_kernels(
        serving.path,
        base_fingerprint=opened.manifest.fingerprint,
        schema_hash=opened.manifest.schema_hash,
        reads=spec.kernel.reads,
        catalog=catalog,
    )
