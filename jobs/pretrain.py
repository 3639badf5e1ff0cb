"""`iak pretrain`: a log becomes a published base."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from iak.jobs import _record, _skipped
from iak.jobs._inputs import inputs_of
from iak.jobs._outputs import base_output
from iak.jobs._preflight import (
    check_training_fits,
    check_workers,
    declared_rows,
    parent_inputs,
    plan_inputs,
)
from iak.jobs._progress import console, tell
from iak.jobs._ray import Report, on_ray
from iak.jobs._record import AlreadyFinished, OpenRecord, read_record, run_record
from iak.jobs._spec import load_catalog, load_plan
from iak.jobs._tables import number, show_facts, show_table
from iak.pipeline.base import defaults, optimizer_state, published_base
from iak.pipeline.base.defaults import Recipe
from iak.pipeline.base.pretrain import WEIGHTS, PretrainWork
from iak.pipeline.base.pretrain import pretrain as pretrain_base
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.base.validation import TaskQuality
from iak.pipeline.data import contract, hashing, kinds, logs, ripeness, unseen, vocabulary
from iak.pipeline.data.content import DIGESTS, KeptContents
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.data.view import LogView, open_log
from iak.pipeline.errors import BadRequest
from iak.pipeline.process import Worker
from iak.pipeline.sharding.placement_rule import planned
from iak.schemas.job import PretrainSpec
from iak.schemas.log import Catalog
from iak.schemas.manifest import BaseManifest
from iak.schemas.plan import PlacementSpec, PlanDocument

VALIDATION = "pretrain_valid"
UNSEEN_SHARE = "unseen_share"
"""Metric of a base: share of its validation rows' ids of a table that training never saw."""
MAY_MOVE = ("workers", "sharding", "row_wise_from_rows", "plan", *_skipped.MAY_MOVE)
"""Settings under which a checkpoint is read whatever they were when it was written."""


def main(spec: PretrainSpec) -> int:
    """Pre-train a base on the catalogue's `pretrain` split and publish it."""
    catalog = load_catalog(spec.catalog)
    try:
        with run_record("pretrain", spec, spec.run_dir, may_move=MAY_MOVE) as record:
            manifest = pretrain(spec, catalog, record)
    except AlreadyFinished as finished:
        before = read_record(spec.run_dir)
        told = before.result.get("not_published") if before else None
        raise AlreadyFinished(f"{finished}. {told}" if told else str(finished)) from finished
    show(record, manifest)
    return record.exit_code


def show(record: OpenRecord, manifest: BaseManifest | None) -> None:
    """What came of it: the base, each task on validation rows, and what to set next time."""
    result = record.result
    tasks = [TaskQuality(**found) for found in result["best_tasks"]]
    has_reasons = any(quality.reason for quality in tasks)
    columns = ("task", "rows", "positives", "log-loss", "AUC", "predicted/observed")
    show_table(
        "on validation rows, " + ("the parent" if manifest is None else "the published base"),
        (*columns, "why none") if has_reasons else columns,
        [
            (
                quality.task,
                f"{quality.rows:,}",
                f"{quality.positives:,}",
                number(quality.log_loss, 5),
                number(quality.auc),
                number(quality.calibration, 3),
                *([quality.reason] if has_reasons else []),
            )
            for quality in tasks
        ],
        ends_in_number=not has_reasons,
    )
    title = "no base published"
    if manifest is not None:
        title = f"base {manifest.fingerprint[:12]} published at {record.run_dir / 'base'}"
    show_facts(
        title,
        {
            "rows trained on": f"{result['rows']:,} in all epochs",
            "labelled rows of an epoch": result["labelled_rows"],
            "unseen ids": "; ".join(
                f"{split}: {unseen.describe(shares)}" for split, shares in result["unseen"].items()
            ),
            "settings that followed from the rows": _settings(result["settings"]),
            "best validation loss": f"{result['best_valid_loss']:.5f} "
            f"(step {result['best_step']} of {result['steps']})",
            **({"tables in low precision": _precisions(manifest)} if manifest else {}),
            "not loaded as it was": "; ".join(result["loaded"]) or "nothing",
            "quarantined": result["contract"] or "nothing",
            "labels not ripe": _skipped.not_ripe(
                result["contract"], record.snapshot["splits"]["pretrain"]["rows"]
            ),
            "seconds": record.timings_s,
        },
    )
    for line in (result.get("not_published"), *result["advice"]):
        if line:
            console.print(line, markup=False)


def _settings(settings: Mapping[str, Any]) -> str:
    """The settings that were left open, as they were used."""
    used = {name: settings["used"][name] for name in settings["followed"]}
    return "  ".join(f"{name}={value:g}" for name, value in used.items()) or "none"


def _precisions(manifest: BaseManifest) -> str:
    """What each precision's AUC is above or below that of fp32, by task."""
    full = {entry.task: entry.auc for entry in manifest.precisions if entry.precision == "fp32"}
    costs: dict[str, list[str]] = {}
    for entry in manifest.precisions:
        before = full.get(entry.task)
        if entry.precision != "fp32" and entry.auc is not None and before is not None:
            costs.setdefault(entry.precision, []).append(f"{entry.task} {entry.auc - before:+.5f}")
    return "; ".join(f"{name}: {', '.join(told)}" for name, told in costs.items()) or "no AUC"


def pretrain(spec: PretrainSpec, catalog: Catalog, record: OpenRecord) -> BaseManifest | None:
    """Fit the encoding, train on workers, publish.

    Returns:
        The base's manifest; None where no state was better than the base that was continued.
    """
    _check_weights(spec, catalog)
    valid = VALIDATION if VALIDATION in catalog.splits else "valid"
    plan = load_plan(spec.plan, job="pretrain", sharding=spec.sharding)
    check_workers(spec)
    parent = published_base.open_base(spec.from_) if spec.from_ else None
    if parent is not None:
        published_base.check_continues(parent, catalog)
    model = parent.model if parent else spec.model
    check_training_fits(spec, catalog, model, rows=declared_rows(catalog))
    with record.phase("snapshot"):
        view = _log(spec, catalog, wanted=["pretrain", valid])
        others = parent_inputs(parent) | plan_inputs(plan)
        record.settle_inputs(inputs_of(catalog, describe(view), others))
        _skipped.report_skipped(view, spec)
    with record.phase("encoding"):
        seen: Counter[str] = Counter()
        labels = LabelCounts(catalog)
        encoding = _encoding(spec.run_dir, view, parent, seen, labels, allow=spec.allow)
        labels.refuse_untrainable("pretrain")
        check_training_fits(spec, catalog, model, rows=encoding.table_rows(catalog))
        unseen_shares = unseen.count_unseen(view.selections[valid], catalog, encoding).shares()
    recipe = recipe_of(spec, view, parent)
    settings = {"used": recipe.described(), "followed": list(recipe.followed)}
    console.print(f"  settings that follow from the rows: {_settings(settings)}", markup=False)
    with record.phase("train"):
        result = on_ray(
            pretrain_on_worker,
            _work(spec, view, encoding, parent, labels, plan),
            title="pretrain",
            run_dir=spec.run_dir,
            workers=spec.workers,
            device=spec.device,
            max_failures=spec.max_failures,
        )
    record.result = result | {
        "contract": dict(seen),
        "settings": settings,
        "advice": advice(result, recipe),
        "labels": labels.counts(),
        "labelled_rows": labels.describe(),
        "unseen": {valid: unseen_shares},
    }
    if result["is_parent_best"]:
        assert parent is not None, "only a continued base has a parent"
        record.result["not_published"] = _not_better(result, parent)
        record.exit_code = HELD
        _remove_scratch(spec.run_dir)
        return None
    with record.phase("publish"):
        manifest = _publish(spec, view, encoding, parent, result | {"unseen": unseen_shares})
    record.result["fingerprint"] = manifest.fingerprint
    record.outputs = {"base": base_output(spec.run_dir / "base")}
    return manifest


def _log(spec: PretrainSpec, catalog: Catalog, *, wanted: Sequence[str]) -> LogView:
    """The log as this run reads it; digests of its files are kept in the run folder."""
    return open_log(
        catalog,
        spec.data_root,
        wanted=wanted,
        as_of=spec.as_of,
        today=_skipped.today_of(spec, catalog),
        kept=KeptContents(spec.run_dir / DIGESTS),
    )


def recipe_of(spec: PretrainSpec, view: LogView, parent: PublishedBase | None) -> Recipe:
    """The settings of this run, those that were left open filled in."""
    return defaults.recipe(
        spec,
        rows=view.selections["pretrain"].rows,
        continues=parent is not None,
        has_state=parent is not None and optimizer_state.has_state(parent),
    )


def _check_weights(spec: PretrainSpec, catalog: Catalog) -> None:
    """Refuse a weight for a task that is not there."""
    titles = [task.title for task in catalog.tasks]
    if unknown := sorted(set(spec.task_weights) - set(titles)):
        raise BadRequest(f"task_weights names unknown tasks {unknown}; there are {titles}")


def _not_better(result: Mapping[str, Any], parent: PublishedBase) -> str:
    """Why nothing was published."""
    return (
        f"No base was published: on validation rows the best of {result['steps']} steps has loss "
        f"{result['best_child_loss']:.5f}, the untouched parent {result['parent_valid_loss']:.5f}. "
        f"Go on with {parent.folder}, or continue it on newer rows or at other from_rates="
    )


def advice(result: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """What to set next time, a line each: a run that stopped too early, a task off its rate."""
    lines = []
    if result["improving_at_the_end"]:
        lines.append(
            f"Still improving at the last validation (step {result['best_step']}): raise epochs= "
            f"(now {recipe.epochs})"
        )
    for found in result["best_tasks"]:
        ratio, positives = found["calibration"], found["positives"]
        if ratio is None or abs(ratio - 1) <= max(MISCALIBRATED, 2 / positives**0.5):
            continue
        if result["improving_at_the_end"] or result["steps"] < FEW_STEPS:
            mend = f"take more steps: batch_rows={max(recipe.batch_rows // 2, 1)}, or more epochs="
        else:
            mend = (
                f"lower optim.table_lr= (now {recipe.optim.table_lr:g}), or weigh the task more by "
                "task_weights.TASK="
            )
        lines.append(
            f"{found['task']} is miscalibrated on validation rows: predicted/observed = "
            f"{ratio:.2f} on {positives:,} positives; {mend}"
        )
    return lines


def usual_unseen(manifest: BaseManifest) -> dict[str, float]:
    """Return, by table, the share of unseen ids on the base's validation rows; older bases: {}."""
    return {m["table"]: m["value"] for m in manifest.metrics if m.get("name") == UNSEEN_SHARE}


def pretrain_on_worker(worker: Worker, work: PretrainWork, report: Report) -> dict[str, Any]:
    """One worker's whole part."""
    return pretrain_base(work, worker=worker, report=report)


def describe(view: LogView) -> dict[str, Any]:
    """The view as the run record keeps it: files with fingerprints, and rows by split."""
    splits = {
        name: {
            "rows": s.rows,
            "first": str(s.split.first) if s.split.first else None,
            "last": str(s.split.last) if s.split.last else None,
            "row_groups": len(s.groups),
        }
        for name, s in view.selections.items()
    }
    return (
        logs.describe(view.snapshot)
        | {"splits": splits, "as_of": str(view.as_of or "")}
        | _skipped.document(view)
    )


HELD = 4
"""Exit code of a run whose child was not better than its parent."""
MISCALIBRATED = 0.1
"""Distance of predicted over observed from 1 that is told, where it is beyond two standard
deviations of the positives as well."""
FEW_STEPS = 300
"""Steps below which a task off its rate has most likely not come down to it yet."""


def _encoding(
    run_dir: Path,
    view: LogView,
    parent: PublishedBase | None,
    seen: Counter[str],
    labels: LabelCounts,
    *,
    allow: tuple[str, ...] = (),
) -> Encoding:
    """An encoding fitted on the pre-training rows; counts the contract.

    What a parent's encoding knows is kept: only new features are fitted, and vocabularies that are
    allowed to grow. What of the parent's weights will not be loaded as it is, is refused here.
    """
    if parent is not None:
        kinds.refuse_other_kinds(view.snapshot, view.catalog, parent.encoding.kinds)
    encoding = vocabulary.fit(
        _inspected(view, seen, labels),
        view.catalog,
        kept=parent.encoding if parent else None,
        grown=[name for name in view.catalog.table_specs if f"table:{name}:grown" in allow],
    )
    if parent is not None:
        published_base.check_loads(parent, view.catalog, encoding, allow)
    vocabulary.save(encoding, run_dir / published_base.ENCODING)
    return encoding


def _inspected(
    view: LogView, seen: Counter[str], labels: LabelCounts
) -> Iterator[tuple[pa.RecordBatch, hashing.Keys]]:
    read = 0
    for rows, identity in view.raw_rows("pretrain"):
        read += len(rows)
        tell(f"{read:,} of {view.selections['pretrain'].rows:,} rows")
        found = contract.inspect(rows, view.catalog)
        seen.update(found.counts)
        young = ripeness.unripe(rows, view.catalog, view.as_of)
        seen.update(ripeness.unripe_counts(young, view.catalog, view.as_of))
        labels.add(rows, found.quarantined, found.without(young))
        yield rows, identity


def _work(
    spec: PretrainSpec,
    view: LogView,
    encoding: Encoding,
    parent: PublishedBase | None,
    labels: LabelCounts,
    plan: PlanDocument | None,
) -> PretrainWork:
    """What workers are handed; a plan for other tables or workers is refused before they start."""
    if plan is not None:
        width = (parent.model if parent else spec.model).width
        shapes = published_base.table_shapes(view.catalog, encoding, width=width)
        planned(plan, shapes, world=spec.workers, device=torch.device("cpu"))
    recipe = recipe_of(spec, view, parent)
    return PretrainWork(
        view=view,
        encoding=encoding,
        rates=None if parent else labels.rates,
        model=parent.model if parent else spec.model,
        optim=recipe.optim,
        run_dir=spec.run_dir.resolve(),
        from_base=parent.folder.resolve() if parent else None,
        allow=spec.allow,
        seed=spec.seed,
        batch_rows=recipe.batch_rows,
        epochs=recipe.epochs,
        patience=recipe.patience,
        validations_per_epoch=recipe.validations_per_epoch,
        shuffle_rows=spec.shuffle_rows,
        bf16=spec.bf16,
        placement=PlacementSpec(
            sharding=spec.sharding, row_wise_from_rows=spec.row_wise_from_rows, plan=plan
        ),
        checkpoint_every_steps=spec.checkpoint_every_steps,
        task_weights=dict(spec.task_weights),
        early_stop=spec.early_stop,
    )


def _publish(
    spec: PretrainSpec,
    view: LogView,
    encoding: Encoding,
    parent: PublishedBase | None,
    result: Mapping[str, Any],
) -> BaseManifest:
    """Seal the best weights as the run's base, and move it into place at once."""
    best = spec.run_dir / ".sealed"
    shutil.rmtree(best, ignore_errors=True)
    shutil.copytree(spec.run_dir / ".best", best, copy_function=_linked)
    weights = json.loads((best / WEIGHTS).read_text())
    (best / WEIGHTS).unlink()
    shutil.copytree(
        spec.run_dir / published_base.ENCODING,
        best / published_base.ENCODING,
        copy_function=_linked,
    )
    model = parent.model if parent else spec.model
    manifest = published_base.seal(
        best,
        {
            **published_base.contents(view.catalog, encoding, model, weights),
            "optimizer": weights["optimizer"],
            "parent": parent.manifest.fingerprint if parent else None,
            "spec": spec.model_dump(mode="json", by_alias=True)
            | {"model": model.model_dump(mode="json")},
            "snapshot": {k: v for k, v in describe(view).items() if k != "files"},
            "versions": _record.versions(),
            "metrics": [
                {"name": "valid_loss", "value": result["best_valid_loss"]},
                *result["best_tasks"],
                *(
                    {"name": UNSEEN_SHARE, "table": table, "value": share}
                    for table, share in result.get("unseen", {}).items()
                ),
            ],
            "precisions": result.get("precisions", []),
            "created_at": datetime.now(UTC),
        },
    )
    published_base.move_into_place(best, spec.run_dir / "base")
    _remove_scratch(spec.run_dir)
    console.print(f"published {spec.run_dir / 'base'}", markup=False, style="dim")
    return manifest


def _remove_scratch(run_dir: Path) -> None:
    """Remove what a run needs until it is over."""
    for scratch in ("checkpoints", ".best", published_base.ENCODING):
        shutil.rmtree(run_dir / scratch, ignore_errors=True)


def _linked(source: str, target: str) -> str:
    """The same file under another name, copied where the file system has no links.

    Until the base is in place the run keeps what it needs to publish again.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
