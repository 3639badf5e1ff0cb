"""`iak evaluate`: base and kernels on the same later rows, with paired intervals."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from iak.jobs import _skipped
from iak.jobs._inputs import inputs_of
from iak.jobs._outputs import file_output
from iak.jobs._preflight import (
    base_inputs,
    bundles_folder,
    bundles_inputs,
    check_frozen_fits,
    check_workers,
    open_frozen_base,
)
from iak.jobs._progress import console
from iak.jobs._ray import Report, on_ray
from iak.jobs._record import OpenRecord, run_record
from iak.jobs._registry import pinned_bundles
from iak.jobs._spec import load_catalog
from iak.jobs._tables import largest, number, show_facts, show_table
from iak.jobs.pretrain import describe, usual_unseen
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.data import kinds, logs, stores, unseen
from iak.pipeline.data.content import DIGESTS, KeptContents
from iak.pipeline.data.domains import Serving, nearest_of
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.view import LogView, open_log
from iak.pipeline.errors import BadLog, UnderTrained
from iak.pipeline.files import put_file, putting_file
from iak.pipeline.process import Worker
from iak.pipeline.publish.bundle_set import read_bundle_set
from iak.pipeline.publish.predict import BASE, IAK, PREDICTIONS, PUBLISHED, PredictWork, predict
from iak.pipeline.publish.predictions import probabilities_of, read_predictions, task_columns
from iak.pipeline.stats.auc import auc
from iak.pipeline.stats.losses import expected_log_loss, reachable_share
from iak.pipeline.stats.metrics import ALL, MetricRow, evaluate_methods
from iak.pipeline.stats.metrics import POOLED as TOGETHER
from iak.schemas.domain import POOLED
from iak.schemas.job import EvaluateSpec
from iak.schemas.log import Catalog
from iak.schemas.plan import PlacementSpec
from iak.schemas.predictions import MetricTask, metric_tasks
from iak.schemas.record import Output

Floats = npt.NDArray[np.float64]
METRICS, METRICS_TABLE = "metrics.json", "metrics.parquet"
ORACLES = ("oracle", "oracle_global")
MOST_DOMAINS = 40
"""Domains shown, those with most rows; metrics.json has all."""


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
    check_workers(spec)
    opened = open_frozen_base(spec.base, catalog, spec.tables)
    check_frozen_fits(spec, opened, spec.tables)
    place = (
        pinned_bundles(spec.bundles, opened, record, setting="bundles") if spec.bundles else None
    )
    found = bundles_folder(place, opened, setting="bundles") if place else None
    bundles = found.path if found else None
    truth = catalog.log.truth
    gap_split = _gap_split(catalog) if truth else None
    wanted = tuple(dict.fromkeys(s for s in (spec.split, gap_split) if s))
    with record.phase("snapshot"):
        view = _log(spec, catalog, opened, wanted=wanted)
        beside = _truth(view, spec.data_root, truth) if truth else None
        others = base_inputs(opened) | bundles_inputs(found, name="bundles")
        others |= {"truth": beside.fingerprint} if beside else {}
        record.settle_inputs(inputs_of(catalog, describe(view), others))
        _skipped.report_skipped(view, spec)
        kinds.refuse_other_kinds(view.snapshot, catalog, opened.encoding.kinds)
    untuned = _skipped.report_untuned(view, _serving(bundles, opened), judged=[spec.split])
    shutil.rmtree(spec.run_dir / PREDICTIONS, ignore_errors=True)
    work = PredictWork(
        view=view,
        truth=beside,
        base=opened,
        bundles=bundles,
        run_dir=spec.run_dir.resolve(),
        splits=wanted,
        batch_rows=spec.batch_rows,
        tables=spec.tables,
        placement=PlacementSpec(sharding=spec.sharding, row_wise_from_rows=spec.row_wise_from_rows),
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
        table = read_predictions(spec.run_dir, spec.split).table
        rows = metrics_of(table, catalog)
        write_metrics(rows, spec.run_dir)
    record.result |= {"base_fingerprint": opened.manifest.fingerprint, "split": spec.split}
    record.result |= {"rows": len(table), "untuned_domains": untuned}
    record.result |= {"served": served_by(table), "intervals": intervals_of(rows)}
    record.result |= {"unseen_usual": usual_unseen(opened.manifest)}
    if beside is not None:
        held_out = read_predictions(spec.run_dir, str(gap_split)).table
        record.result |= planted_facts(table, held_out, catalog)
    record.outputs = outputs_of(spec.run_dir)
    return rows


def _log(
    spec: EvaluateSpec, catalog: Catalog, opened: PublishedBase, *, wanted: Sequence[str]
) -> LogView:
    """The log as this run reads it; digests of its files are kept beside the base."""
    return open_log(
        catalog,
        spec.data_root,
        wanted=wanted,
        as_of=spec.as_of,
        today=_skipped.today_of(spec, catalog),
        kept=KeptContents(opened.folder.parent / DIGESTS),
    )


def outputs_of(run_dir: Path) -> dict[str, Output]:
    """Return what an evaluation leaves: its metrics, and every worker's predictions."""
    paths = [run_dir / METRICS, run_dir / METRICS_TABLE, *(run_dir / PREDICTIONS).glob("*.parquet")]
    return {str(path.relative_to(run_dir)): file_output(path) for path in sorted(paths)}


def _serving(bundles: Path | None, opened: PublishedBase) -> Serving:
    """Which published kernel serves a domain, as workers will choose it."""
    if bundles is None:
        return nearest_of(set())
    bundle_set = read_bundle_set(
        bundles,
        base_fingerprint=opened.manifest.fingerprint,
        schema_hash=opened.manifest.schema_hash,
    )
    decided = zip(bundle_set.names, bundle_set.verdicts, strict=True)
    return nearest_of({name for name, verdict in decided if verdict.publish})


def predict_on_worker(worker: Worker, work: PredictWork, report: Report) -> dict[str, Any]:
    """One worker's whole part."""
    return predict(work, worker=worker, report=report)


def _gap_split(catalog: Catalog) -> str | None:
    """Held-out rows of the base's own days."""
    return next((s for s in ("pretrain_test", "pretrain_valid") if s in catalog.splits), None)


def _truth(view: LogView, data_root: str, folder: str) -> Snapshot:
    """The side files with true probabilities, one beside every file of the log."""
    beside = logs.take_snapshot(
        stores.below(data_root, folder), partition_keys=view.catalog.log.partition_keys
    )
    rows = {f.path: f.group_rows for f in beside.files}
    for file in view.snapshot.files:
        if rows.get(file.path) != file.group_rows:
            raise BadLog(
                f"the truth beside {file.path} has row groups {rows.get(file.path)}, the log's "
                f"file {file.group_rows}; they were not written together. Run `iak synth` again"
            )
    return beside


def metrics_of(table: pa.Table, catalog: Catalog) -> list[MetricRow]:
    """Every method on every task, by domain and together."""
    known = table.filter(table.column("domain").is_valid())
    names, index = np.unique(
        known.column("domain").to_numpy(zero_copy_only=False), return_inverse=True
    )
    columns = task_columns(known, tasks_of(catalog))
    return evaluate_methods(
        columns.labels,
        probabilities(known, catalog),
        domain_index=index,
        domain_names=[str(n) for n in names],
        users=known.column("user").to_numpy() if catalog.log.user else None,
        masks=columns.masks,
        kept=columns.kept,
    )


def tasks_of(catalog: Catalog) -> tuple[MetricTask, ...]:
    """What metrics judge."""
    return metric_tasks(catalog.tasks, negatives_kept=catalog.log.negatives_kept)


def probabilities(table: pa.Table, catalog: Catalog) -> dict[str, dict[str, Floats]]:
    """Method -> metric task -> probabilities; the oracles where the log is planted."""
    first = catalog.tasks[0].title
    methods = [m for m in (BASE, IAK, PUBLISHED) if f"own.{m}.{first}" in table.schema.names]
    found = probabilities_of(table, tasks_of(catalog), methods)
    if "t.p_click" in table.schema.names:
        for oracle, suffix in zip(ORACLES, ("", "_global"), strict=True):
            click, order = (table.column(f"t.p_{e}{suffix}").to_numpy() for e in ("click", "order"))
            found[oracle] = {"ctr": click, "cvr": order, "ctcvr": click * order}
    return found


def served_by(table: pa.Table) -> dict[str, str]:
    """Domain -> the published kernels that serve its rows, `base` where there is none."""
    if "served" not in table.schema.names:
        return {}
    pairs = table.group_by(["domain", "served"]).aggregate([]).to_pylist()
    found: dict[str, list[str]] = {}
    for pair in pairs:
        if pair["domain"] is not None:
            found.setdefault(pair["domain"], []).append(str(pair["served"]))
    return {domain: ", ".join(sorted(names)) for domain, names in sorted(found.items())}


def intervals_of(rows: Sequence[MetricRow]) -> dict[str, Any]:
    """What intervals take as independent; by task, how much wider that makes a standard error.

    The ratio is that of the tuned kernels' AUC difference over all domains; where no user is
    declared, rows are the clusters and there is none.
    """
    method = IAK if any(row.method == IAK for row in rows) else BASE
    summed = [row for row in rows if row.method == method and row.domain == ALL]
    return {
        "cluster": summed[0].cluster if summed else "row",
        "clusters": {row.task: row.clusters for row in summed},
        "se_over_delong": {row.task: row.se_ratio for row in summed},
    }


def write_metrics(rows: Sequence[MetricRow], run_dir: Path) -> None:
    """metrics.json and metrics.parquet, the same rows."""
    documents = [asdict(row) for row in rows]
    put_file(run_dir / METRICS, json.dumps(documents, indent=1))
    flat = [d | {"reasons": json.dumps(d["reasons"])} for d in documents]
    with putting_file(run_dir / METRICS_TABLE) as part:
        pq.write_table(pa.Table.from_pylist(flat), part, write_page_checksum=True)


def planted_facts(table: pa.Table, held_out: pa.Table, catalog: Catalog) -> dict[str, Any]:
    """What only a planted log can tell: the share of the reachable gain, the base's own gap."""
    p = probabilities(table, catalog)
    true_p = p["oracle"]["ctr"]
    facts: dict[str, Any] = {
        "expected_log_loss": {m: expected_log_loss(true_p, p[m]["ctr"]) for m in p},
    }
    for method in (IAK, PUBLISHED):
        if method in p:
            name = "reachable_share" if method == IAK else "reachable_share_published"
            facts[name] = reachable_share(true_p, p[BASE]["ctr"], p[method]["ctr"])
    columns, own = task_columns(held_out, tasks_of(catalog)), probabilities(held_out, catalog)
    mask = columns.masks["ctr"]
    labels = columns.labels["ctr"][mask]
    base_auc = auc(labels, own[BASE]["ctr"][mask])
    global_auc = auc(labels, own["oracle_global"]["ctr"][mask])
    if base_auc is not None and global_auc is not None:
        facts["base_gap"] = global_auc - base_auc
        facts["base_auc_on_its_own_days"] = base_auc
    return facts


def show(record: OpenRecord, rows: Sequence[MetricRow], catalog: Catalog) -> None:
    """Print a block a task, then what holds for all of them."""
    for task in tasks_of(catalog):
        show_task(record.result, rows, task.name)
    planted = {
        k: number(record.result[k], 4)
        for k in ("reachable_share", "reachable_share_published", "base_gap")
        if k in record.result
    }
    gate = record.result.get("gate", {}).get(POOLED)
    pooled = {} if gate is None else {"pooled kernel": "published" if gate["publish"] else "held"}
    show_facts(
        f"metrics at {record.run_dir / 'metrics.json'}",
        planted
        | pooled
        | {
            "predictions": f"{record.run_dir / PREDICTIONS}",
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


def show_task(result: Mapping[str, Any], rows: Sequence[MetricRow], task: str) -> None:
    """Print one task: a line a domain, the base beside the kernels before and after the gate."""
    by = {(r.method, r.domain): r for r in rows if r.task == task}
    has_kernels, has_oracle = ((m, ALL) in by for m in (IAK, ORACLES[0]))
    domains = {domain: row.rows for (method, domain), row in by.items() if method == BASE}
    shown = largest(domains, MOST_DOMAINS, always=(ALL, TOGETHER))
    columns = ["domain", "rows", "positives", "base AUC"]
    columns += ["tuned AUC", "published AUC"] if has_kernels else []
    columns += ["oracle AUC"] if has_oracle else []
    columns += ["delta [95 %]"] if has_kernels else []
    columns += ["log-loss", "calibration", *(["gate", "served by"] if has_kernels else [])]
    lines = []
    for domain in shown:
        base_row = by[BASE, domain]
        methods = [by[m, domain] for m in (BASE, IAK, PUBLISHED) if (m, domain) in by]
        line = [domain, f"{base_row.rows:,}", f"{base_row.positives:,}"]
        line += [number(row.auc) for row in methods]
        line += [number(by[ORACLES[0], domain].auc)] if has_oracle else []
        line += [delta_of(by[IAK, domain])] if has_kernels else []
        line += [_arrow([row.logloss for row in methods[:2]], 4)]
        line += [_arrow([row.calibration for row in methods[:2]], 3)]
        line += [gate_word(result, domain, task), served_word(result, domain)] * has_kernels
        lines.append(line)
    more = len(domains) - len(shown)
    show_table(
        f"{task} on {result['split']}",
        columns,
        lines,
        caption=caption_of(by, has_kernels=has_kernels, more=more),
        text=("gate",),
    )


def _arrow(values: Sequence[float | None], digits: int) -> str:
    """The base's value, and the kernels' after an arrow."""
    return " -> ".join(number(value, digits) for value in values)


def caption_of(by: Mapping[tuple[str, str], MetricRow], *, has_kernels: bool, more: int) -> str:
    """Say what the summaries are, what the columns compare, and what the intervals count on."""
    told = [
        "all: mean over the domains, each weighted by its rows, so that only rows of one domain "
        "are ranked against each other.",
        "pooled: all rows ranked together, so that differences between domains count too.",
    ]
    if more:
        told.append(f"{more:,} smaller domains are in metrics.json.")
    if has_kernels:
        told.append(
            "tuned: every kernel, held or not; a domain without one takes its parent's or the "
            "pooled one. published: after the gate, with the kernel that serves the domain. delta: "
            "tuned minus base AUC. log-loss, calibration: base -> tuned."
        )
        summed = by[IAK, ALL]
        if summed.cluster == "user":
            wider = (
                ""
                if summed.se_ratio is None
                else (
                    f"; the standard error of `all` is {summed.se_ratio:.2f} times that of "
                    "independent rows"
                )
            )
            told.append(f"Intervals count the rows of one user as dependent{wider}.")
        else:
            told.append("Intervals take rows as independent: the log declares no user.")
    return " ".join(told)


def gate_word(result: Mapping[str, Any], domain: str, task: str) -> str:
    """What the gate decided of a domain's own kernel, and this task's part in it."""
    if domain in (ALL, TOGETHER):
        return "-"
    gate = result.get("gate", {}).get(domain)
    if gate is None:
        return "no kernel"
    decided = "published" if gate["publish"] else "held"
    if task in gate["holding"]:
        return "held by this task"
    if gate["holding"]:
        return f"held by {', '.join(gate['holding'])}"
    if task in gate["not_judged"]:
        return f"{decided}; {task} not judged: {gate['not_judged'][task]}"
    return decided if gate["publish"] else "held: gain within noise"


def served_word(result: Mapping[str, Any], domain: str) -> str:
    """Which published kernel serves a domain: its own, a parent's, the pooled one, or the base."""
    name = result.get("served", {}).get(domain)
    if domain in (ALL, TOGETHER) or name is None:
        return "-"
    return "own" if name == domain else name if name in (POOLED, BASE) else f"parent: {name}"


def delta_of(row: MetricRow) -> str:
    """The AUC's paired difference to the base, with its interval."""
    if row.delta_auc is None or row.delta_auc_low is None or row.delta_auc_high is None:
        return "-"
    return f"{row.delta_auc:+.4f} [{row.delta_auc_low:+.4f}, {row.delta_auc_high:+.4f}]"
