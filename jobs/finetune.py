"""`iak finetune`: a log and a frozen base become one judged bundle a domain."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

import torch

from iak.jobs import _record, _skipped
from iak.jobs._inputs import inputs_of
from iak.jobs._outputs import bundles_output
from iak.jobs._preflight import (
    BundlesFolder,
    base_inputs,
    bundles_folder,
    bundles_inputs,
    check_frozen_fits,
    check_workers,
    open_frozen_base,
    plan_inputs,
)
from iak.jobs._progress import console
from iak.jobs._ray import Report, on_ray
from iak.jobs._record import OpenRecord, run_record
from iak.jobs._registry import pinned_bundles
from iak.jobs._spec import load_catalog, load_plan
from iak.jobs._tables import number, show_facts, show_table
from iak.jobs.pretrain import describe
from iak.pipeline.base import precision, published_base
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.data import kinds
from iak.pipeline.data.content import DIGESTS, KeptContents
from iak.pipeline.data.domains import nearest_of
from iak.pipeline.data.view import LogView, open_log
from iak.pipeline.errors import BadRequest
from iak.pipeline.process import Worker
from iak.pipeline.publish.bundle_index import BUNDLES
from iak.pipeline.publish.bundle_set import live_kernels
from iak.pipeline.publish.publish_bundles import Provenance, publish_bundles, tuning_result
from iak.pipeline.sharding.placement_rule import planned
from iak.pipeline.tuning.checkpoint import remove_checkpoint
from iak.pipeline.tuning.finetune import SPLITS, ActivationCacheConfig, FinetuneWork, Live, finetune
from iak.pipeline.tuning.tune import Stage
from iak.schemas.job import FinetuneSpec, GateSpec, StageSpec
from iak.schemas.log import Catalog
from iak.schemas.plan import PlacementSpec, PlanDocument
from iak.schemas.predictions import metric_tasks

SOME_HELD = 4
ACTIVATIONS = "activations"


def main(spec: FinetuneSpec) -> int:
    """Tune every domain's kernel on a frozen base and write the bundles."""
    catalog = load_catalog(spec.catalog)
    with run_record("finetune", spec, spec.run_dir, may_move=_skipped.MAY_MOVE) as record:
        tune_domains(spec, catalog, record)
    show(record)
    return record.exit_code


def tune_domains(spec: FinetuneSpec, catalog: Catalog, record: OpenRecord) -> None:
    """Open base and log, tune on workers, keep what they found in the record."""
    check_workers(spec)
    opened = open_frozen_base(spec.base, catalog, spec.tables)
    check_frozen_fits(spec, opened, spec.tables)
    plan = _plan(spec, opened)
    place = pinned_bundles(spec.live, opened, record, setting="live") if spec.live else None
    serving = bundles_folder(place, opened, setting="live") if place else None
    live = _live(spec, opened, serving)
    with record.phase("snapshot"):
        today = _skipped.today_of(spec, catalog)
        view = open_log(
            catalog,
            spec.data_root,
            wanted=SPLITS,
            as_of=spec.as_of,
            today=today,
            kept=KeptContents((spec.cache.folder or opened.folder.parent) / DIGESTS),
        )
        others = base_inputs(opened) | bundles_inputs(serving, name="live bundles")
        record.settle_inputs(inputs_of(catalog, describe(view), others | plan_inputs(plan)))
        _skipped.report_skipped(view, spec)
        kinds.refuse_other_kinds(view.snapshot, catalog, opened.encoding.kinds)
    work = _work(spec, view, opened, live, plan)
    with record.phase("tune"):
        record.result = on_ray(
            finetune_on_worker,
            (work, _provenance(spec, opened, record), spec.gate),
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
    record.result["untuned_domains"] = _skipped.report_untuned(view, nearest_of(published))
    held = [k for k in record.result["kernels"] if not k["published"]]
    record.exit_code = SOME_HELD if held else 0
    record.outputs = {BUNDLES: bundles_output(spec.run_dir / BUNDLES)}


def _work(
    spec: FinetuneSpec,
    view: LogView,
    opened: PublishedBase,
    live: Live | None,
    plan: PlanDocument | None,
) -> FinetuneWork:
    """What workers are handed."""
    return FinetuneWork(
        view=view,
        base=opened,
        kernel=spec.kernel,
        pooled=_stage(spec, spec.pooled),
        domain=_stage(spec, spec.domain),
        run_dir=spec.run_dir.resolve(),
        tables=spec.tables,
        cache=_cache(spec, opened),
        live=live,
        checkpoint_every_s=spec.checkpoint_every_s,
        placement=PlacementSpec(
            sharding=spec.sharding, row_wise_from_rows=spec.row_wise_from_rows, plan=plan
        ),
    )


def _provenance(spec: FinetuneSpec, opened: PublishedBase, record: OpenRecord) -> Provenance:
    """What every bundle of the run says besides its own kernel."""
    snapshot = record.snapshot
    return Provenance(
        base_fingerprint=opened.manifest.fingerprint,
        schema_hash=opened.manifest.schema_hash,
        data_window=snapshot["splits"] | {"snapshot": snapshot["fingerprint"]},
        spec={"kernel": spec.kernel.model_dump(mode="json"), "seed": spec.seed}
        | {level: getattr(spec, level).model_dump(mode="json") for level in ("pooled", "domain")},
        versions=_record.versions(),
        created_at=datetime.now(UTC),
    )


def _plan(spec: FinetuneSpec, opened: PublishedBase) -> PlanDocument | None:
    """The plan that is to be followed; one that is not for this job is refused before it starts.

    Raises:
        BadRequest: naming what differs.
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


def finetune_on_worker(
    worker: Worker, work: tuple[FinetuneWork, Provenance, GateSpec], report: Report
) -> dict[str, Any]:
    """One worker's whole part; worker 0 also judges and writes the bundles."""
    tuning, provenance, gate = work
    done = finetune(tuning, worker=worker, report=report)
    if worker.rank:
        return {}
    root = tuning.run_dir / BUNDLES
    catalog = tuning.view.catalog
    tasks = metric_tasks(catalog.tasks, negatives_kept=catalog.log.negatives_kept)
    kernels = publish_bundles(done, root, provenance=provenance, tasks=tasks, gate=gate)
    return tuning_result(done, kernels).as_json()


def _stage(spec: FinetuneSpec, stage: StageSpec) -> Stage:
    return Stage(spec=stage, step_rows=spec.step_rows, beta=spec.kernel.beta, seed=spec.seed)


def _cache(spec: FinetuneSpec, opened: PublishedBase) -> ActivationCacheConfig:
    """Say how activations are stored: beside the base, unless the spec names a folder."""
    folder = spec.cache.folder or opened.folder.parent / ACTIVATIONS
    return ActivationCacheConfig(
        kind=spec.activations,
        precision=spec.cache.precision,
        folder=folder.absolute(),
        budget_bytes=int(spec.cache.budget_gib * 2**30),
        memory_bytes=int(spec.cache.memory_gib * 2**30),
    )


def _live(spec: FinetuneSpec, opened: PublishedBase, serving: BundlesFolder | None) -> Live | None:
    """The kernels that serve now, where the spec names their folder."""
    if serving is None:
        return None
    return live_kernels(
        serving.path,
        base_fingerprint=opened.manifest.fingerprint,
        schema_hash=opened.manifest.schema_hash,
        reads=spec.kernel.reads,
    )


def labelled_rows(counts: Mapping[str, int]) -> str:
    """Return the rows each task learns from, of counts as `LabelCounts` writes them."""
    known = {n.removeprefix("known "): c for n, c in counts.items() if n.startswith("known ")}
    return ", ".join(
        f"{task} {count:,} ({counts[f'positive {task}']:,} positive)"
        for task, count in known.items()
    )


def _told(cache: dict[str, Any]) -> str:
    """What the cache was used for."""
    if not cache:
        return "not kept on disk"
    told = f"{cache['rows_read']:,} rows from the cache, {cache['rows_computed']:,} added to it"
    stopped = f"; writing stopped: {cache['stopped']}" if cache["stopped"] else ""
    return f"{told}, at {cache['folder']}{stopped}"


def at_cap(result: dict[str, Any]) -> str:
    """Say which kernels had their best epoch last, and what lets them go on."""
    stopped, kernels = result["stopped_at_cap"], len(result["kernels"])
    if not stopped:
        return f"none of {kernels}"
    names = ", ".join(stopped[:5]) + (", ..." if len(stopped) > 5 else "")
    give = "pooled.max_epochs, domain.max_epochs give more"
    if result.get("live"):  # levels.py: a level that starts from live kernels has its own cap
        give += "; pooled.live_epochs, domain.live_epochs where kernels start from live= ones"
    return f"{len(stopped)} of {kernels} ({names}); {give}"


def task_cells(gate: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    """What the gate rows say of each task: the AUC's difference, harm, or why it is not judged."""
    by = {task["task"]: task for task in gate["tasks"]}
    return [_task_cell(by[name]) if name in by else "-" for name in tasks]


def _task_cell(task: Mapping[str, Any]) -> str:
    if not task["judged"]:
        return f"not judged: {task['reason']}"
    auc = task["auc"]
    told = f"{auc['delta']:+.4f} [{auc['low']:+.4f}, {auc['high']:+.4f}]"
    return f"HOLDS {told}" if task["holds"] else told


def _intervals(kernels: Sequence[Mapping[str, Any]]) -> str:
    """Say what the intervals take as independent, and what that makes of them."""
    judged = [t for k in kernels for t in k["gate"]["tasks"] if t["judged"]]
    if not judged:
        return "No task of any kernel has gate rows enough to be judged."
    if judged[0]["cluster"] == "row":
        return "Differences to the base; rows are taken as independent: the log declares no user."
    by: dict[str, list[float]] = {}
    for task in judged:
        by.setdefault(task["task"], []).extend([task["se_ratio"]] * (task["se_ratio"] is not None))
    ratios = ", ".join(f"{name} {median(values):.2f}" for name, values in by.items() if values)
    return (
        "Differences to the base; rows of one user count as dependent. Standard errors over those "
        f"of independent rows, median over kernels: {ratios or 'none known'}."
    )


def show(record: OpenRecord) -> None:
    """The kernels, and where they lie."""
    result = record.result
    tasks = list(dict.fromkeys(t["task"] for k in result["kernels"] for t in k["gate"]["tasks"]))
    show_table(
        "kernels",
        (
            "domain",
            "tuning rows",
            "best epoch",
            "gate gain",
            *(f"{task} AUC [95 %]" for task in tasks),
            "verdict",
        ),
        [
            (
                k["domain"],
                f"{k['tuning_rows']:,}",
                str(k["best_epoch"]),
                number(k["gate"]["gain"], 5, sign=True),
                *task_cells(k["gate"], tasks),
                ("published: " if k["published"] else "held: ") + k["reason"],
            )
            for k in result["kernels"]
        ],
        caption=_intervals(result["kernels"]),
    )
    show_facts(
        f"bundles at {record.run_dir / BUNDLES}",
        {
            "tables and trunk": f"unchanged, digest {result['digest'][:16]}",
            "parameters a kernel": f"{result['parameters_per_kernel']:,}",
            "below their floor": result["below_floor"] or "none",
            "best at the last epoch": at_cap(result),
            "labelled tuning rows": labelled_rows(result["labels"]),
            "quarantined": result["contract"] or "nothing",
            "labels not ripe": _skipped.not_ripe(
                result["contract"], sum(s["rows"] for s in record.snapshot["splits"].values())
            ),
            "activations": _told(result["cache"]),
            "seconds": record.timings_s,
        },
    )
    if record.exit_code == SOME_HELD:
        console.print("[dim]some kernels are held (exit code 4)[/dim]")
