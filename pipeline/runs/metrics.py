"""Compute the metrics of predictions: every method on every task, by domain and together."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from iak.pipeline.files import put_file, putting_file
from iak.pipeline.publish.predictions import probabilities_of, task_columns
from iak.pipeline.stats.auc import auc
from iak.pipeline.stats.losses import expected_log_loss, reachable_share
from iak.pipeline.stats.metrics import ALL, MetricRow, evaluate_methods
from iak.schemas.log import Catalog
from iak.schemas.prediction import Intervals, PlantedFacts
from iak.schemas.predictions import BASE, IAK, PUBLISHED, MetricTask, metric_tasks

Floats = npt.NDArray[np.float64]
METRICS, METRICS_TABLE = "metrics.json", "metrics.parquet"
ORACLES = ("oracle", "oracle_global")
"""Methods of a planted log: the true probabilities, and those of a taste that all domains share."""


def metrics_of(table: pa.Table, catalog: Catalog) -> list[MetricRow]:
    """Return metrics of every method on every task, by domain and together.

    Args:
        table: predictions; rows without a domain are left out.
        catalog: the log's catalogue.
    """
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
    """Return the tasks that have metrics."""
    return metric_tasks(catalog.tasks, negatives_kept=catalog.log.negatives_kept)


def probabilities(table: pa.Table, catalog: Catalog) -> dict[str, dict[str, Floats]]:
    """Return method -> metric task -> probabilities; with the oracles where the log is planted."""
    first = catalog.tasks[0].title
    methods = [m for m in (BASE, IAK, PUBLISHED) if f"own.{m}.{first}" in table.schema.names]
    result = probabilities_of(table, tasks_of(catalog), methods)
    if "t.p_click" in table.schema.names:
        for oracle, suffix in zip(ORACLES, ("", "_global"), strict=True):
            click, order = (table.column(f"t.p_{e}{suffix}").to_numpy() for e in ("click", "order"))
            result[oracle] = {"ctr": click, "cvr": order, "ctcvr": click * order}
    return result


def served_by(table: pa.Table) -> dict[str, str]:
    """Return domain -> the published kernels that serve its rows, `base` where there is none."""
    if "served" not in table.schema.names:
        return {}
    pairs = table.group_by(["domain", "served"]).aggregate([]).to_pylist()
    kernels: dict[str, list[str]] = {}
    for pair in pairs:
        if pair["domain"] is not None:
            kernels.setdefault(pair["domain"], []).append(str(pair["served"]))
    return {domain: ", ".join(sorted(names)) for domain, names in sorted(kernels.items())}


def intervals_of(rows: Sequence[MetricRow]) -> Intervals:
    """Return the unit that intervals take as independent, and its effect on a standard error.

    The ratio is that of the tuned kernels' AUC difference over all domains. Where no user is
    declared, rows are the clusters, and there is no ratio.
    """
    method = IAK if any(row.method == IAK for row in rows) else BASE
    summed = [row for row in rows if row.method == method and row.domain == ALL]
    return Intervals(
        cluster=summed[0].cluster if summed else "row",
        clusters={row.task: row.clusters for row in summed},
        se_over_delong={row.task: row.se_ratio for row in summed},
    )


def write_metrics(rows: Sequence[MetricRow], run_dir: Path) -> None:
    """Write the same rows as metrics.json and as metrics.parquet."""
    documents = [asdict(row) for row in rows]
    put_file(run_dir / METRICS, json.dumps(documents, indent=1))
    flat = [d | {"reasons": json.dumps(d["reasons"])} for d in documents]
    with putting_file(run_dir / METRICS_TABLE) as part:
        pq.write_table(pa.Table.from_pylist(flat), part, write_page_checksum=True)


def reachable_facts(table: pa.Table, catalog: Catalog) -> PlantedFacts:
    """Return how much of the gain that a planted log allows each method reaches.

    Args:
        table: predictions on the evaluated split.
        catalog: the log's catalogue.
    """
    p = probabilities(table, catalog)
    true_p = p["oracle"]["ctr"]
    share = {
        method: reachable_share(true_p, p[BASE]["ctr"], p[method]["ctr"])
        for method in (IAK, PUBLISHED)
        if method in p
    }
    return PlantedFacts(
        expected_log_loss={m: expected_log_loss(true_p, p[m]["ctr"]) for m in p},
        reachable_share=share.get(IAK),
        reachable_share_published=share.get(PUBLISHED),
    )


def with_base_gap(facts: PlantedFacts, held_out: pa.Table, catalog: Catalog) -> PlantedFacts:
    """Add by how much a planted log's base ranks worse than the global taste it should know.

    Args:
        facts: what else the planted log tells.
        held_out: predictions on held-out rows of the base's own days.
        catalog: the log's catalogue.
    """
    columns, own = task_columns(held_out, tasks_of(catalog)), probabilities(held_out, catalog)
    mask = columns.masks["ctr"]
    labels = columns.labels["ctr"][mask]
    base_auc = auc(labels, own[BASE]["ctr"][mask])
    global_auc = auc(labels, own["oracle_global"]["ctr"][mask])
    if base_auc is None or global_auc is None:
        return facts
    gap = {"base_gap": global_auc - base_auc, "base_auc_on_its_own_days": base_auc}
    return facts.model_copy(update=gap)
