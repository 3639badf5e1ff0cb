"""`iak evaluate`: base and kernels on the same later rows, with paired intervals."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import _skipped
from jobs._progress import console
from jobs._ray import Report, on_ray
from jobs._record import OpenRecord, replace_text, run_record
from jobs._spec import load_catalog
from jobs._tables import number, show_facts, show_table
from jobs.pretrain import describe, usual_unseen
from pipeline.data import kinds, logs, unseen
from pipeline.data.domains import Serving, nearest_of
from pipeline.data.view import LogView, open_log
from pipeline.errors import BadLog, UnderTrained
from pipeline.process import Worker
from pipeline.publish.choice import read_shelf
from pipeline.publish.predict import BASE, IAK, PREDICTIONS, PUBLISHED, PredictWork, predict
from pipeline.stats.auc import auc
from pipeline.stats.metrics import MetricRow, evaluate_methods, expected_log_loss, reachable_share
from pipeline.training import base
from pipeline.training.base import PublishedBase
from schemas.job import EvaluateSpec
from schemas.log import Catalog

Floats = npt.NDArray[np.float64]
ORACLES = ("oracle", "oracle_global")


def main(spec: EvaluateSpec) -> int:
    """Evaluate base and kernels on the same later rows, with paired intervals."""
    catalog = load_catalog(spec.catalog)
    with run_record("evaluate", spec, spec.run_dir, may_move=_skipped.MAY_MOVE) as record:
        rows = evaluate(spec, catalog, record)
        gap = record.result.get("base_gap")
        if gap is not None and spec.max_base_gap is not None and gap > spec.max_base_gap:
            raise UnderTrained(
                f"base_gap {gap:.4f} is above max_base_gap={spec.max_base_gap}: on held-out rows "
                "of its own days the base ranks worse than the global taste it should know. "
                "Pre-train it longer (epochs, batch_rows, optim.*); kernels that catch up on that "
                "prove nothing"
            )
    show(record, rows, catalog)
    return 0


def evaluate(spec: EvaluateSpec, catalog: Catalog, record: OpenRecord) -> list[MetricRow]:
    """Predict on workers, then rank, compare and write metrics.json and metrics.parquet."""
    opened = base.open_base(spec.base)
    base.check_same_schema(opened, catalog)
    truth = catalog.log.truth
    gap_split = _gap_split(catalog) if truth else None
    wanted = tuple(dict.fromkeys(s for s in (spec.split, gap_split) if s))
    with record.phase("snapshot"):
        today = _skipped.today_of(spec, catalog)
        view = open_log(catalog, spec.data_root, wanted=wanted, as_of=spec.as_of, today=today)
        record.snapshot = describe(view)
        _skipped.report_skipped(view, spec)
        kinds.refuse_other_kinds(view.snapshot, catalog, opened.encoding.kinds)
        beside = _truth(view, spec.data_root, truth) if truth else None
    untuned = _skipped.report_untuned(view, _serving(spec, opened), judged=[spec.split])
    shutil.rmtree(spec.run_dir / PREDICTIONS, ignore_errors=True)
    work = PredictWork(
        view=view,
        truth=beside,
        base=opened,
        bundles=spec.bundles.resolve() if spec.bundles else None,
        run_dir=spec.run_dir.resolve(),
        splits=wanted,
        batch_rows=spec.batch_rows,
        tables=spec.tables,
        sharding=dict(spec.sharding),
        row_wise_from_rows=spec.row_wise_from_rows,
    )
    with record.phase("predict"):
        record.result = on_ray(
            predict_on_worker,
            work,
            title="evaluate",
            run_dir=spec.run_dir,
            workers=spec.workers,
            device=spec.device,
            max_failures=spec.max_failures,
        )
    with record.phase("metrics"):
        table = _read(spec.run_dir, spec.split)
        rows = metrics_of(table, catalog)
        write_metrics(rows, spec.run_dir)
    record.result |= {"base_fingerprint": opened.manifest.fingerprint, "split": spec.split}
    record.result |= {"rows": len(table), "untuned_domains": untuned}
    record.result |= {"unseen_usual": usual_unseen(opened.manifest)}
    if beside is not None:
        record.result |= planted_facts(table, _read(spec.run_dir, str(gap_split)), catalog)
    return rows


def _serving(spec: EvaluateSpec, opened: PublishedBase) -> Serving:
    """Which published kernel serves a domain, as workers will choose it."""
    if spec.bundles is None:
        return nearest_of(set())
    shelf = read_shelf(
        spec.bundles,
        base_fingerprint=opened.manifest.fingerprint,
        schema_hash=opened.manifest.schema_hash,
    )
    published = zip(shelf.names, shelf.is_published, strict=True)
    return nearest_of({name for name, is_published in published if is_published})


def predict_on_worker(worker: Worker, work: PredictWork, report: Report) -> dict[str, Any]:
    """One worker's whole part."""
    return predict(work, worker=worker, report=report)


def _gap_split(catalog: Catalog) -> str | None:
    """Held-out rows of the base's own days."""
    return next((s for s in ("pretrain_test", "pretrain_valid") if s in catalog.splits), None)


def _truth(view: LogView, data_root: str, folder: str) -> logs.Snapshot:
    """The side files with true probabilities, one beside every file of the log."""
    beside = logs.take_snapshot(
        f"{data_root.rstrip('/')}/{folder}", partition_keys=view.catalog.log.partition_keys
    )
    rows = {f.path: f.group_rows for f in beside.files}
    for file in view.snapshot.files:
        if rows.get(file.path) != file.group_rows:
            raise BadLog(
                f"the truth beside {file.path} has row groups {rows.get(file.path)}, the log's "
                f"file {file.group_rows}; they were not written together. Run `iak synth` again"
            )
    return beside


def _read(run_dir: Path, split: str) -> pa.Table:
    """All workers' predictions of a split."""
    parts = sorted((run_dir / PREDICTIONS).glob(f"{split}-*.parquet"))
    return pa.concat_tables([pq.read_table(p) for p in parts])


def metrics_of(table: pa.Table, catalog: Catalog) -> list[MetricRow]:
    """Every method on every task, by domain and together."""
    known = table.filter(table.column("domain").is_valid())
    names, index = np.unique(
        known.column("domain").to_numpy(zero_copy_only=False), return_inverse=True
    )
    labels, masks, kept = _labels(known, catalog)
    return evaluate_methods(
        labels,
        probabilities_of(known, catalog),
        domain_index=index,
        domain_names=[str(n) for n in names],
        users=known.column("user").to_numpy() if catalog.log.user else None,
        masks=masks,
        kept=kept,
    )


def _labels(
    table: pa.Table, catalog: Catalog
) -> tuple[dict[str, Floats], dict[str, npt.NDArray[np.bool_]], dict[str, float]]:
    """By metric task: labels, which rows count, and the kept share of negatives."""
    labels: dict[str, Floats] = {}
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    kept: dict[str, float] = {}
    clicked = np.zeros(len(table), np.bool_)
    for task in catalog.tasks:
        column = table.column(f"y.{task.title}")
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        values = column.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.float64)
        clicked = (values == 1) & valid if task.kind == "click" else clicked
        entire = task.entire_space_title
        labels[task.title], kept[task.title] = values, catalog.log.negatives_kept
        masks[task.title] = valid
        if entire:
            labels[entire], masks[entire], kept[entire] = values, valid, kept[task.title]
            masks[task.title], kept[task.title] = valid & clicked, 1.0
    return labels, masks, kept


def probabilities_of(table: pa.Table, catalog: Catalog) -> dict[str, dict[str, Floats]]:
    """Method -> metric task -> probabilities; the oracles where the log is planted."""
    methods = [
        m
        for m in (BASE, IAK, PUBLISHED)
        if f"own.{m}.{catalog.tasks[0].title}" in table.schema.names
    ]
    found: dict[str, dict[str, Floats]] = {}
    for method in methods:
        found[method] = {}
        for task in catalog.tasks:
            found[method][task.title] = table.column(f"own.{method}.{task.title}").to_numpy()
            if task.entire_space_title:
                column = table.column(f"all.{method}.{task.title}")
                found[method][task.entire_space_title] = column.to_numpy()
    if "t.p_click" in table.schema.names:
        for oracle, suffix in zip(ORACLES, ("", "_global"), strict=True):
            click, order = (table.column(f"t.p_{e}{suffix}").to_numpy() for e in ("click", "order"))
            found[oracle] = {"ctr": click, "cvr": order, "ctcvr": click * order}
    return found


def write_metrics(rows: Sequence[MetricRow], run_dir: Path) -> None:
    """metrics.json and metrics.parquet, the same rows."""
    documents = [asdict(row) for row in rows]
    replace_text(run_dir / "metrics.json", json.dumps(documents, indent=1))
    flat = [d | {"reasons": json.dumps(d["reasons"])} for d in documents]
    pq.write_table(pa.Table.from_pylist(flat), run_dir / "metrics.parquet")


def planted_facts(table: pa.Table, held_out: pa.Table, catalog: Catalog) -> dict[str, Any]:
    """What only a planted log can tell: the share of the reachable gain, the base's own gap."""
    p = probabilities_of(table, catalog)
    true_p = p["oracle"]["ctr"]
    facts: dict[str, Any] = {
        "expected_log_loss": {m: expected_log_loss(true_p, p[m]["ctr"]) for m in p},
    }
    for method in (IAK, PUBLISHED):
        if method in p:
            name = "reachable_share" if method == IAK else "reachable_share_published"
            facts[name] = reachable_share(true_p, p[BASE]["ctr"], p[method]["ctr"])
    labels, masks, _ = _labels(held_out, catalog)
    mask, own = masks["ctr"], probabilities_of(held_out, catalog)
    base_auc = auc(labels["ctr"][mask], own[BASE]["ctr"][mask])
    global_auc = auc(labels["ctr"][mask], own["oracle_global"]["ctr"][mask])
    if base_auc is not None and global_auc is not None:
        facts["base_gap"] = global_auc - base_auc
        facts["base_auc_on_its_own_days"] = base_auc
    return facts


def show(record: OpenRecord, rows: Sequence[MetricRow], catalog: Catalog) -> None:
    """A line a domain: base against kernels on the first task, and the other tasks together."""
    task = catalog.tasks[0].title
    by = {(r.method, r.task, r.domain): r for r in rows}
    shown = IAK if (IAK, task, "all") in by else BASE
    oracle = ("oracle", task, "all") in by
    columns = ["domain", "rows", "base AUC", *(["tuned AUC"] if shown == IAK else [])]
    columns += [*(["oracle AUC"] if oracle else []), "delta [95 %]", "base NE", "calibration"]
    lines = []
    for row in (r for r in rows if r.method == shown and r.task == task):
        base_row = by[BASE, task, row.domain]
        line = [row.domain, f"{row.rows:,}", number(base_row.auc)]
        line += [number(row.auc)] if shown == IAK else []
        line += [number(by["oracle", task, row.domain].auc)] if oracle else []
        lines.append([*line, delta_of(row), number(base_row.ne), number(row.calibration, 3)])
    show_table(f"{task} on {record.result['split']}", columns, lines)
    others = [r for r in rows if r.domain == "pooled" and r.method in (BASE, IAK, PUBLISHED)]
    show_table(
        "all tasks, all rows ranked together",
        ("method", "task", "rows", "AUC", "GAUC", "log-loss", "NE", "delta [95 %]"),
        [
            (
                r.method,
                r.task,
                f"{r.rows:,}",
                number(r.auc),
                number(r.gauc),
                number(r.logloss),
                number(r.ne),
                delta_of(r),
            )
            for r in others
        ],
    )
    planted = {
        k: number(record.result[k], 4)
        for k in ("reachable_share", "reachable_share_published", "base_gap")
        if k in record.result
    }
    show_facts(
        f"metrics at {record.run_dir / 'metrics.json'}",
        planted
        | {
            "unseen ids": "; ".join(
                f"{split}: {unseen.describe(shares, record.result['unseen_usual'])}"
                for split, shares in record.result["unseen"].items()
            ),
            "quarantined": record.result["contract"] or "nothing",
            "labels not ripe": _skipped.not_ripe(
                record.result["contract"],
                sum(s["rows"] for s in record.snapshot["splits"].values()),
            ),
            "seconds": record.timings_s,
        },
    )
    console.print()


def delta_of(row: MetricRow) -> str:
    """The AUC's paired difference to the base, with its interval."""
    if row.delta_auc is None or row.delta_auc_low is None or row.delta_auc_high is None:
        return "-"
    return f"{row.delta_auc:+.4f} [{row.delta_auc_low:+.4f}, {row.delta_auc_high:+.4f}]"
