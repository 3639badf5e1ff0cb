"""Metrics of predictions: every method on every task and domain, and what a planted log tells."""

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.runs.metrics import (
    intervals_of,
    metrics_of,
    reachable_facts,
    served_by,
    with_base_gap,
    write_metrics,
)
from iak.schemas.log import Catalog
from iak.schemas.prediction import PlantedFacts

CATALOG = Catalog.model_validate(
    {
        "log": {"name": "small", "partition_keys": ["region"], "user": "u"},
        "domain": {"keys": ["region"]},
        "features": [{"kind": "categorical", "name": "item"}],
        "tasks": [{"label": "click", "kind": "click"}, {"label": "order", "kind": "conversion"}],
        "splits": {"test": {}},
    }
)


def predictions(rows=4000, seed=0, base=None, iak=None):
    """Predictions of a planted log whose base and kernels say what is asked."""
    rng = np.random.default_rng(seed)
    p, v = rng.uniform(0.05, 0.6, rows), rng.uniform(0.1, 0.5, rows)
    click = (rng.random(rows) < p).astype(np.float32)
    order = click * (rng.random(rows) < v)
    dull = np.full(rows, p.mean())
    said = {"base": dull if base is None else base, "iak": p if iak is None else iak}
    columns = {
        "domain": pa.array(np.where(rng.random(rows) < 0.3, "region=a", "region=b")),
        "user": rng.integers(0, 50, rows),
        "y.ctr": click,
        "y.cvr": pa.array(order.astype(np.float32), mask=rng.random(rows) < 0.2),
        "t.p_click": p,
        "t.p_order": v,
        "t.p_click_global": dull,
        "t.p_order_global": np.full(rows, 0.3),
    }
    for method in ("base", "iak", "iak_published"):
        q = said["iak" if method == "iak_published" else method]
        columns |= {f"own.{method}.ctr": q, f"own.{method}.cvr": v, f"all.{method}.cvr": q * v}
    return pa.table(columns)


def by(rows):
    return {(r.method, r.task, r.domain): r for r in rows}


def test_every_method_stands_on_every_task_and_domain():
    rows = metrics_of(predictions(), CATALOG)
    methods = ("base", "iak", "iak_published", "oracle", "oracle_global")
    expected = {
        (m, t, d)
        for m in methods
        for t in ("ctr", "cvr", "ctcvr")
        for d in ("region=a", "region=b", "all", "pooled")
    }
    assert set(by(rows)) == expected


def test_cvr_counts_clicked_rows_and_ctcvr_all_rows_with_a_label():
    table = predictions()
    found = by(metrics_of(table, CATALOG))
    labelled = table.column("y.cvr").is_valid().to_numpy()
    clicked = table.column("y.ctr").to_numpy() == 1
    assert found["base", "ctr", "pooled"].rows == len(table)
    assert found["base", "cvr", "pooled"].rows == (labelled & clicked).sum()
    assert found["base", "ctcvr", "pooled"].rows == labelled.sum()


def test_rows_without_a_domain_are_left_out():
    table = predictions()
    index = table.schema.get_field_index("domain")
    nulled = table.column("domain").to_pylist()
    nulled[:100] = [None] * 100
    found = by(metrics_of(table.set_column(index, "domain", pa.array(nulled)), CATALOG))
    assert found["base", "ctr", "pooled"].rows == len(table) - 100


@pytest.mark.parametrize(("says", "share"), [("oracle", 1.0), ("base", 0.0)])
def test_the_share_of_the_reachable_gain_runs_from_base_to_oracle(says, share):
    table = predictions()
    p = table.column("t.p_click").to_numpy()
    dull = np.full(len(p), p.mean())
    told = predictions(base=dull, iak=p if says == "oracle" else dull)
    facts = with_base_gap(reachable_facts(told, CATALOG), told, CATALOG)
    assert facts.reachable_share == pytest.approx(share, abs=1e-9)


def test_the_base_gap_is_what_the_global_oracle_ranks_better():
    table = predictions()
    p = table.column("t.p_click").to_numpy()
    index = table.schema.get_field_index("t.p_click_global")
    knowing = predictions(base=p).set_column(index, "t.p_click_global", pa.array(p))
    assert with_base_gap(PlantedFacts(), knowing, CATALOG).base_gap == pytest.approx(0.0)
    dull = predictions().set_column(index, "t.p_click_global", pa.array(p))
    assert with_base_gap(PlantedFacts(), dull, CATALOG).base_gap > 0.1


def test_metrics_are_written_twice_and_say_the_same(tmp_path):
    import json

    import pyarrow.parquet as pq

    rows = metrics_of(predictions(rows=200), CATALOG)
    write_metrics(rows, tmp_path)
    documents = json.loads((tmp_path / "metrics.json").read_text())
    table = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    assert [d["auc"] for d in documents] == [d["auc"] for d in table]
    assert list(documents[0]) == [
        "method", "domain", "task", "rows", "positives", "auc", "gauc", "logloss", "ne",
        "calibration", "delta_auc", "delta_auc_low", "delta_auc_high", "reasons",
        "delta_logloss", "delta_logloss_low", "delta_logloss_high",
        "delta_calibration", "delta_calibration_low", "delta_calibration_high",
        "cluster", "clusters", "se_ratio",
    ]  # fmt: skip


def test_which_kernel_serves_a_domain_is_read_from_the_predictions():
    table = predictions(rows=60)
    names = pa.array(["region=a" if i % 2 else "pooled" for i in range(60)]).dictionary_encode()
    found = served_by(table.append_column("served", names))
    assert found == {"region=a": "pooled, region=a", "region=b": "pooled, region=a"}
    assert served_by(table) == {}


def test_the_record_says_what_intervals_take_as_independent():
    found = intervals_of(metrics_of(predictions(), CATALOG))
    assert found.cluster == "user"
    assert found.clusters["ctr"] == 50
    assert set(found.se_over_delong) == {"ctr", "cvr", "ctcvr"}
    ratio = found.se_over_delong
    assert 0.5 < ratio["ctr"] < 2
    assert ratio["cvr"] is None  # kernel and base say the same of it
    without = Catalog.model_validate(
        CATALOG.model_dump() | {"log": {"name": "small", "partition_keys": ["region"]}}
    )
    found = intervals_of(metrics_of(predictions(), without))
    assert (found.cluster, found.se_over_delong["ctr"]) == ("row", None)
