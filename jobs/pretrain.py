"""`iak pretrain`: a log becomes a published base."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from jobs import _record, _skipped
from jobs._progress import console
from jobs._ray import Report, on_ray
from jobs._record import OpenRecord, run_record
from jobs._spec import load_catalog, load_plan
from jobs._tables import show_facts
from pipeline.data import contract, hashing, kinds, logs, reader, unseen, vocabulary
from pipeline.data.features import Encoding
from pipeline.data.labels import LabelCounts
from pipeline.data.view import LogView, open_log
from pipeline.process import Worker
from pipeline.sharding.plan import planned
from pipeline.training import base
from pipeline.training.base import PublishedBase
from pipeline.training.pretrain import PretrainWork
from pipeline.training.pretrain import pretrain as pretrain_base
from schemas.job import PretrainSpec
from schemas.log import Catalog
from schemas.manifest import BaseManifest
from schemas.plan import PlanDocument

VALIDATION = "pretrain_valid"
UNSEEN_SHARE = "unseen_share"
"""Metric of a base: share of its validation rows' ids of a table that training never saw."""
MAY_MOVE = ("workers", "sharding", "row_wise_from_rows", "plan", *_skipped.MAY_MOVE)
"""Settings under which a checkpoint is read whatever they were when it was written."""


def main(spec: PretrainSpec) -> int:
    """Pre-train a base on the catalogue's `pretrain` split and publish it."""
    catalog = load_catalog(spec.catalog)
    with run_record("pretrain", spec, spec.run_dir, may_move=MAY_MOVE) as record:
        manifest = pretrain(spec, catalog, record)
    show_facts(
        f"base {manifest.fingerprint[:12]} published at {spec.run_dir / 'base'}",
        {
            "rows trained on": f"{record.result['rows']:,} in all epochs; labelled rows of an "
            f"epoch: {record.result['labels_told']}",
            "unseen ids": "; ".join(
                f"{split}: {unseen.describe(shares)}"
                for split, shares in record.result["unseen"].items()
            ),
            "best validation loss": f"{record.result['best_valid_loss']:.5f} "
            f"(step {record.result['best_step']} of {record.result['steps']})",
            "tables in low precision": _precisions(manifest),
            "not loaded as it was": "; ".join(record.result["loaded"]) or "nothing",
            "quarantined": record.result["contract"] or "nothing",
            "labels not ripe": _skipped.not_ripe(
                record.result["contract"], record.snapshot["splits"]["pretrain"]["rows"]
            ),
            "seconds": record.timings_s,
        },
    )
    return 0


def _precisions(manifest: BaseManifest) -> str:
    """What each precision's AUC is above or below that of fp32, by task."""
    full = {entry.task: entry.auc for entry in manifest.precisions if entry.precision == "fp32"}
    costs: dict[str, list[str]] = {}
    for entry in manifest.precisions:
        before = full.get(entry.task)
        if entry.precision != "fp32" and entry.auc is not None and before is not None:
            costs.setdefault(entry.precision, []).append(f"{entry.task} {entry.auc - before:+.5f}")
    return "; ".join(f"{name}: {', '.join(told)}" for name, told in costs.items()) or "no AUC"


def pretrain(spec: PretrainSpec, catalog: Catalog, record: OpenRecord) -> BaseManifest:
    """Fit the encoding, train on workers, publish."""
    valid = VALIDATION if VALIDATION in catalog.splits else "valid"
    plan = load_plan(spec.plan, job="pretrain", sharding=spec.sharding)
    with record.phase("snapshot"):
        today = _skipped.today_of(spec, catalog)
        view = open_log(
            catalog, spec.data_root, wanted=["pretrain", valid], as_of=spec.as_of, today=today
        )
        record.snapshot = describe(view)
        _skipped.report_skipped(view, spec)
    parent = base.open_base(spec.from_) if spec.from_ else None
    with record.phase("encoding"):
        seen: Counter[str] = Counter()
        labels = LabelCounts(catalog)
        encoding = _encoding(spec.run_dir, view, parent, seen, labels, allow=spec.allow)
        labels.refuse_untrainable("pretrain")
        unseen_shares = reader.unseen_ids(view.selections[valid], catalog, encoding).shares()
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
    with record.phase("publish"):
        manifest = _publish(spec, view, encoding, parent, result | {"unseen": unseen_shares})
    record.result = result | {"contract": dict(seen), "fingerprint": manifest.fingerprint}
    record.result |= {"labels": labels.counts(), "labels_told": labels.describe()}
    record.result |= {"unseen": {valid: unseen_shares}}
    return manifest


def usual_unseen(manifest: BaseManifest) -> dict[str, float]:
    """Return, by table, the share of unseen ids on the base's validation rows; older bases: {}."""
    return {m["table"]: m["value"] for m in manifest.metrics if m["name"] == UNSEEN_SHARE}


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
        base.check_continues(parent, view.catalog)
        kinds.refuse_other_kinds(view.snapshot, view.catalog, parent.encoding.kinds)
    encoding = vocabulary.fit(
        _inspected(view, seen, labels),
        view.catalog,
        kept=parent.encoding if parent else None,
        grown=[name for name in view.catalog.table_specs if f"table:{name}:grown" in allow],
    )
    if parent is not None:
        base.check_loads(parent, view.catalog, encoding, allow)
    vocabulary.save(encoding, run_dir / base.ENCODING)
    return encoding


def _inspected(
    view: LogView, seen: Counter[str], labels: LabelCounts
) -> Iterator[tuple[pa.RecordBatch, hashing.Keys]]:
    for rows, identity in view.raw_rows("pretrain"):
        found = contract.inspect(rows, view.catalog)
        seen.update(found.counts)
        young = reader.unripe(rows, view.catalog, view.as_of)
        seen.update(reader.unripe_counts(young, view.catalog, view.as_of))
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
        shapes = base.table_shapes(view.catalog, encoding, width=width)
        planned(plan, shapes, world=spec.workers, device=torch.device("cpu"))
    return PretrainWork(
        view=view,
        encoding=encoding,
        rates=None if parent else labels.rates,
        model=parent.model if parent else spec.model,
        optim=spec.optim,
        run_dir=spec.run_dir.resolve(),
        from_base=parent.folder.resolve() if parent else None,
        allow=spec.allow,
        seed=spec.seed,
        batch_rows=spec.batch_rows,
        epochs=spec.epochs,
        patience=spec.patience,
        validations_per_epoch=spec.validations_per_epoch,
        shuffle_rows=spec.shuffle_rows,
        bf16=spec.bf16,
        sharding=dict(spec.sharding),
        row_wise_from_rows=spec.row_wise_from_rows,
        plan=plan,
        checkpoint_every_steps=spec.checkpoint_every_steps,
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
    weights = json.loads((best / "weights.json").read_text())
    (best / "weights.json").unlink()
    shutil.copytree(spec.run_dir / base.ENCODING, best / base.ENCODING)
    model = parent.model if parent else spec.model
    manifest = base.seal(
        best,
        {
            **base.contents(view.catalog, encoding, model, weights),
            "parent": parent.manifest.fingerprint if parent else None,
            "spec": spec.model_dump(mode="json", by_alias=True)
            | {"model": model.model_dump(mode="json")},
            "snapshot": {k: v for k, v in describe(view).items() if k != "files"},
            "versions": _record.versions(),
            "metrics": [
                {"name": "valid_loss", "value": result["best_valid_loss"]},
                *(
                    {"name": UNSEEN_SHARE, "table": table, "value": share}
                    for table, share in result.get("unseen", {}).items()
                ),
            ],
            "precisions": result.get("precisions", []),
            "created_at": datetime.now(UTC),
        },
    )
    base.move_into_place(best, spec.run_dir / "base")
    for scratch in ("checkpoints", ".best", base.ENCODING):
        shutil.rmtree(spec.run_dir / scratch, ignore_errors=True)
    console.print(f"[dim]published {spec.run_dir / 'base'}[/dim]")
    return manifest


def _linked(source: str, target: str) -> str:
    """The same file under another name, copied where the file system has no links.

    Until the base is in place the run keeps what it needs to publish again.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
