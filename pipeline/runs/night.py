"""A night: tune every domain's kernel on a frozen base, gate it, and write the bundles."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from iak.pipeline.activations.cache import digest_of
from iak.pipeline.base import precision, published_base
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.data import kinds
from iak.pipeline.data.domains import nearest_of
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import Report, silent
from iak.pipeline.launcher import Launcher
from iak.pipeline.process import Worker
from iak.pipeline.publish.bundle_index import BUNDLES
from iak.pipeline.publish.bundle_set import live_kernels
from iak.pipeline.publish.publish_bundles import Provenance, offer
from iak.pipeline.runs import skipped
from iak.pipeline.runs.inputs import inputs_of
from iak.pipeline.runs.load import load_plan
from iak.pipeline.runs.log import describe_log, list_log
from iak.pipeline.runs.outputs import bundles_output
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
from iak.pipeline.sharding.placement_rule import planned
from iak.pipeline.tuning.checkpoint import remove_checkpoint
from iak.pipeline.tuning.finetune import SPLITS, ActivationCacheConfig, FinetuneWork, Live, finetune
from iak.pipeline.tuning.tune import Stage
from iak.schemas.job import FinetuneSpec, GateSpec, StageSpec
from iak.schemas.log import Catalog
from iak.schemas.plan import PlanDocument
from iak.schemas.predictions import metric_tasks
from iak.schemas.results import KernelResult, NightResult

SOME_HELD = 4
"""Exit code of a night of which some kernels are held."""
ACTIVATIONS = "activations"
"""Folder of the activation cache, beside the base."""


def tune_night(
    spec: FinetuneSpec, catalog: Catalog, launcher: Launcher, report: Report = silent
) -> NightResult:
    """Tune the kernels of a night and write their bundles in the run folder.

    A run that was interrupted is resumed from its last checkpoint.

    Args:
        spec: what is asked.
        catalog: the log's catalogue.
        launcher: starts the workers.
        report: gets the events of the run.

    Raises:
        AlreadyFinished: the folder holds this very run, finished.
        PipelineError: the request cannot be met; no bundle was published.
    """
    with run_record(
        "finetune", spec, spec.run_dir, may_move=skipped.MAY_MOVE, report=report
    ) as record:
        _tune(spec, catalog, launcher, record)
    kernels = tuple(KernelResult.model_validate(kernel) for kernel in record.result["kernels"])
    return NightResult(run_dir=spec.run_dir, record=record.record, kernels=kernels)


def _tune(spec: FinetuneSpec, catalog: Catalog, launcher: Launcher, record: OpenRecord) -> None:
    """Open base and log, tune on workers, and put into the record what they measured."""
    report = record.report
    check_workers(spec, report, is_elsewhere=launcher.is_elsewhere)
    opened = open_frozen_base(spec.base, catalog, spec.tables)
    check_frozen_fits(spec, opened, spec.tables, is_elsewhere=launcher.is_elsewhere)
    plan = night_plan(spec, opened)
    serving = bundles_folder(spec.live, opened, setting="live") if spec.live else None
    live = _live(spec, opened, serving)
    with record.phase("snapshot"):
        digests_in = spec.cache.folder or opened.folder.parent
        view = list_log(spec, catalog, report, wanted=SPLITS, digests_in=digests_in)
        others = base_inputs(opened) | bundles_inputs(serving, name="live bundles")
        record.settle_inputs(inputs_of(catalog, describe_log(view), others | plan_inputs(plan)))
        skipped.report_skipped(view, spec, report)
        kinds.refuse_other_kinds(view.snapshot, catalog, opened.encoding.kinds)
    work = night_work(spec, view, opened, live=live, plan=plan)
    with record.phase("tune"):
        record.result = launcher.run(
            tune_on_worker,
            (work, _provenance(spec, opened, record), spec.gate),
            report,
            title="finetune",
            run_dir=spec.run_dir,
            workers=spec.workers,
            device=spec.device,
            max_failures=spec.max_failures,
        )
    remove_checkpoint(spec.run_dir)
    record.result["base_fingerprint"] = opened.manifest.fingerprint
    record.result["live"] = sorted(live.kernels) if live else []
    published = {k["domain"] for k in record.result["kernels"] if k["published"]}
    untuned = skipped.report_untuned(view, nearest_of(published), report)
    record.result["untuned_domains"] = untuned
    has_held = len(published) < len(record.result["kernels"])
    record.exit_code = SOME_HELD if has_held else 0
    record.outputs = {BUNDLES: bundles_output(spec.run_dir / BUNDLES)}


def night_work(
    spec: FinetuneSpec,
    view: LogView,
    opened: PublishedBase,
    *,
    live: Live | None,
    plan: PlanDocument | None,
) -> FinetuneWork:
    """Return the workers' part of a night.

    Args:
        spec: the run.
        view: the log as the run reads it.
        opened: the base that is frozen.
        live: the kernels that serve now, which new ones start from; None starts from the base.
        plan: where every table lies; None lets the placement rule decide.
    """
    return FinetuneWork(
        view=view,
        base=opened,
        kernel=spec.kernel,
        pooled=_stage(spec, spec.pooled),
        domain=_stage(spec, spec.domain),
        run_dir=spec.run_dir.resolve(),
        tables=spec.tables,
        keeping=_cache_config(spec, opened),
        live=live,
        checkpoint_every_s=spec.checkpoint_every_s,
        sharding=dict(spec.sharding),
        row_wise_from_rows=spec.row_wise_from_rows,
        plan=plan,
    )


def _provenance(spec: FinetuneSpec, opened: PublishedBase, record: OpenRecord) -> Provenance:
    """Return what every bundle of the run says besides its own kernel."""
    snapshot = record.snapshot
    return Provenance(
        base_fingerprint=opened.manifest.fingerprint,
        schema_hash=opened.manifest.schema_hash,
        data_window=snapshot["splits"] | {"snapshot": snapshot["fingerprint"]},
        spec={"kernel": spec.kernel.model_dump(mode="json"), "seed": spec.seed}
        | {level: getattr(spec, level).model_dump(mode="json") for level in ("pooled", "domain")},
        versions=versions(),
        created_at=datetime.now(UTC),
    )


def night_plan(spec: FinetuneSpec, opened: PublishedBase) -> PlanDocument | None:
    """Return the plan that the run follows; None where it names none.

    Raises:
        BadRequest: the plan is not for this job, its tables or its workers.
    """
    plan = load_plan(spec.plan, job="finetune", sharding=spec.sharding)
    if plan is None:
        return None
    if spec.tables.mapped:
        raise BadRequest(
            "tables.mapped holds every table whole on every machine; leave it out, or plan="
        )
    planned(
        plan,
        published_base.table_shapes(opened.catalog, opened.encoding, width=opened.model.width),
        world=spec.workers,
        device=torch.device("cpu"),
        precisions=precision.precisions_of(opened.manifest, spec.tables),
    )
    return plan


def tune_on_worker(
    worker: Worker, work: tuple[FinetuneWork, Provenance, GateSpec], report: Report
) -> dict[str, Any]:
    """Do one worker's part; worker 0 also decides on the kernels and writes the bundles."""
    setting, provenance, gate = work
    done = finetune(setting, worker=worker, report=report)
    if worker.rank:
        return {}
    root: Path = setting.run_dir / BUNDLES
    catalog = setting.view.catalog
    tasks = metric_tasks(catalog.tasks, negatives_kept=catalog.log.negatives_kept)
    offers = offer(done, root, papers=provenance, tasks=tasks, gate=gate)
    return {
        "kernels": [
            {
                "domain": o.domain,
                "tuning_rows": o.rows,
                "published": o.verdict.publish,
                "reason": o.verdict.reason,
                "gate": o.verdict.model_dump(mode="json"),
                "best_epoch": o.best_epoch,
                "valid_gain": o.valid_gain,
                "bundle": o.path.name,
            }
            for o in offers
        ],
        "below_floor": dict(done.below_floor),
        "stopped_at_cap": [n for level in done.levels for n in level.tuned.stopped_at_cap],
        "epochs": [level.tuned.epochs for level in done.levels],
        "contract": dict(done.contract),
        "labels": dict(done.labels),
        "cache": dict(done.cache),
        "standardisation": {
            "from": done.standard_from,
            "digest": digest_of(*done.standard.tensors().values()),
        },
        "digest": done.digest,
        "digest_before": done.digest_before,
        "tables_and_trunk_unchanged": done.digest == done.digest_before,
        "parameters_per_kernel": done.parameters_per_kernel,
        "plan": list(done.plan),
    }


def _stage(spec: FinetuneSpec, stage: StageSpec) -> Stage:
    fields = stage.model_dump() | {"beta": spec.kernel.beta}
    return Stage(**fields, seed=spec.seed, step_rows=spec.step_rows)


def _cache_config(spec: FinetuneSpec, opened: PublishedBase) -> ActivationCacheConfig:
    """Return where activations are kept: beside the base, unless the spec names a folder."""
    folder = spec.cache.folder or opened.folder.parent / ACTIVATIONS
    return ActivationCacheConfig(
        kind=spec.activations,
        precision=spec.cache.precision,
        folder=folder.absolute(),
        budget_bytes=int(spec.cache.budget_gib * 2**30),
        memory_bytes=int(spec.cache.memory_gib * 2**30),
    )


def _live(spec: FinetuneSpec, opened: PublishedBase, serving: BundlesFolder | None) -> Live | None:
    """Return the kernels that serve now; None where the spec names no folder of them."""
    if serving is None:
        return None
    return live_kernels(
        serving.path,
        base_fingerprint=opened.manifest.fingerprint,
        schema_hash=opened.manifest.schema_hash,
        reads=spec.kernel.reads,
    )
