"""A finished `iak evaluate` of planted probabilities: its record, metrics and predictions."""

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iak.pipeline.runs.metrics import write_metrics
from iak.pipeline.stats.metrics import evaluate_methods
from iak.schemas.manifest import sha256_of
from iak.schemas.predictions import DOCUMENT, PREDICTIONS, PredictionsDocument, metric_tasks
from iak.schemas.record import RunRecord
from iak.schemas.task import TaskSpec
from tests.nights import digest, name_of

TASKS = metric_tasks((TaskSpec(label="click", kind="click"),), negatives_kept=1.0)
METHODS = ("base", "iak", "iak_published")
_NOISE = {"base": 0.9, "iak": 0.45, "iak_published": 0.5}


def write_evaluation(run_dir, *, domains=16, rows=40_000, names=name_of, methods=METHODS):
    """Write the run folder of an evaluation whose kernels know more than its base."""
    draw = np.random.default_rng(0)
    logit = draw.normal(-1.5, 1.0, rows)
    click = (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    # A few large domains and many small ones.
    index = np.minimum(draw.geometric(0.22, rows) - 1, domains - 1)
    labels = [f"city={names(k)}" for k in range(domains)]
    columns = {
        "row": np.arange(rows),
        "user": np.arange(rows) // 6,
        "domain": pa.array([labels[k] for k in index]),
        "y.ctr": click,
    }
    for method in methods:
        p = 1 / (1 + np.exp(-logit - draw.normal(0, _NOISE[method], rows)))
        columns |= {f"own.{method}.ctr": p, f"all.{method}.ctr": p}
    _write_predictions(run_dir, pa.table(columns), methods)
    metrics = evaluate_methods(
        {"ctr": click},
        {method: {"ctr": columns[f"own.{method}.ctr"]} for method in methods},
        domain_index=index,
        domain_names=labels,
        users=columns["user"],
    )
    write_metrics(metrics, run_dir)
    _write_record(run_dir, labels, rows)
    return run_dir


def _write_predictions(run_dir, table, methods):
    document = PredictionsDocument(
        split="test", has_users=True, tasks=TASKS, methods=methods, base_fingerprint="f" * 64
    )
    (run_dir / PREDICTIONS).mkdir(parents=True)
    metadata = {DOCUMENT: document.model_dump_json()}
    path = run_dir / PREDICTIONS / "test-0.parquet"
    pq.write_table(table.replace_schema_metadata(metadata), path, write_page_checksum=True)


def _write_record(run_dir, labels, rows):
    gate = {
        name: {"publish": k != 2, "holding": [], "not_judged": {}} for k, name in enumerate(labels)
    }
    record = RunRecord(
        verb="evaluate",
        status="finished",
        exit_code=0,
        spec={"base": "/models/base", "bundles": "/runs/R2/bundles", "split": "test"},
        spec_digest=digest("spec"),
        inputs={"log": digest("log"), "base": digest("base")},
        started_at=datetime(2026, 10, 29, 5, tzinfo=UTC),
        ended_at=datetime(2026, 10, 29, 5, 4, tzinfo=UTC),
        commit="3f2a9c1",
        versions={"torch": "2.13.0"},
        timings_s={"snapshot": 1.2, "predict": 188.0, "metrics": 4.4},
        result={
            "contract": {},
            "digest": digest("tables"),
            "split": "test",
            "rows": rows,
            "gate": gate,
            "served": {name: name for name in labels} | {labels[2]: "pooled"},
            "unseen": {"test": {"item": 0.034}},
        },
    )
    document = record.model_dump(mode="json", exclude={"record_sha256"})
    sealed = document | {"record_sha256": sha256_of(document)}
    (run_dir / "record.json").write_text(json.dumps(sealed))
