"""The table of metrics: against sklearn, brute force, and its own laws."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from iak.pipeline.stats.auc import auc, gauc, paired_auc
from iak.pipeline.stats.losses import calibration, label_nats, log_loss
from iak.pipeline.stats.metrics import MetricRow, evaluate_methods
from tests.unit.stats.planted_rows import metric_row, planted

FIELDS = [
    *("method", "domain", "task", "rows", "positives"),
    *("auc", "gauc", "logloss", "ne", "calibration"),
    *("delta_auc", "delta_auc_low", "delta_auc_high", "reasons"),
    *("delta_logloss", "delta_logloss_low", "delta_logloss_high"),
    *("delta_calibration", "delta_calibration_low", "delta_calibration_high"),
    *("cluster", "clusters", "se_ratio"),
]


ENDS = ("", "_low", "_high")


def table_of(**changes):
    labels, _, p_base, p_tuned, domain, users = planted()
    arguments = {
        "labels": {"ctr": labels},
        "probabilities": {"base": {"ctr": p_base}, "kernel": {"ctr": p_tuned}},
        "domain_index": domain,
        "domain_names": [f"region={i}" for i in range(5)],
        "users": users,
    } | changes
    return {(r.method, r.domain, r.task): r for r in evaluate_methods(**arguments)}


def test_every_method_task_and_domain_has_its_row_in_order():
    labels, _, p_base, p_tuned, domain, _ = planted()
    rows = evaluate_methods(
        {"ctr": labels, "cvr": labels},
        {m: {"ctr": p, "cvr": p} for m, p in (("base", p_base), ("kernel", p_tuned))},
        domain_index=domain,
        domain_names=["a", "b", "c", "d", "e"],
    )
    expected = [
        (method, task, name)
        for method in ("base", "kernel")
        for task in ("ctr", "cvr")
        for name in ("a", "b", "c", "d", "e", "all", "pooled")
    ]
    assert [(r.method, r.task, r.domain) for r in rows] == expected
    assert list(asdict(rows[0])) == FIELDS == list(MetricRow.__slots__)


def test_each_row_equals_the_metrics_of_its_own_rows():
    labels, _, p_base, p_tuned, domain, users = planted()
    table, alike = table_of(), table_of(users=None)
    for name, mine in [(f"region={i}", domain == i) for i in range(5)] + [("pooled", domain >= 0)]:
        row = table["kernel", name, "ctr"]
        paired = paired_auc(labels[mine], p_tuned[mine], p_base[mine])
        loss = log_loss(labels[mine], p_tuned[mine])
        expected = {
            "rows": mine.sum(),
            "positives": labels[mine].sum(),
            "auc": roc_auc_score(labels[mine], p_tuned[mine]),
            "gauc": gauc(labels[mine], p_tuned[mine], users[mine])[0],
            "logloss": loss,
            "ne": loss / (loss + label_nats(labels[mine], p_tuned[mine])),
            "calibration": calibration(labels[mine], p_tuned[mine]),
            "delta_auc": paired.delta,
        }
        independent = alike["kernel", name, "ctr"]
        delong = (paired.delta, paired.low, paired.high)
        assert delong == tuple(getattr(independent, f"delta_auc{end}") for end in ENDS)
        assert (independent.cluster, independent.clusters) == ("row", mine.sum())
        assert (row.cluster, row.clusters) == ("user", np.unique(users[mine]).size)
        result = {key: getattr(row, key) for key in expected}
        assert result == pytest.approx(expected, rel=1e-9), name
        assert row.reasons == {}
        alone = metric_row(
            labels=labels[mine],
            p=p_tuned[mine],
            p_base=p_base[mine],
            users=users[mine],
        )
        assert {k: getattr(alone, k) for k in expected} == pytest.approx(result, rel=1e-9)


def test_all_is_the_row_weighted_mean_and_its_interval_is_narrower_than_its_parts():
    table = table_of(users=None)
    parts = [table["kernel", f"region={i}", "ctr"] for i in range(5)]
    weights = np.array([part.rows for part in parts]) / sum(part.rows for part in parts)
    row = table["kernel", "all", "ctr"]
    for metric in ("auc", "logloss", "ne", "calibration", "delta_auc"):
        expected = weights @ [getattr(part, metric) for part in parts]
        assert getattr(row, metric) == pytest.approx(expected), metric
    errors = [(part.delta_auc_high - part.delta_auc_low) / 2 for part in parts]
    half = math.sqrt(np.sum((weights * errors) ** 2))
    assert row.delta_auc_high - row.delta_auc == pytest.approx(half)
    assert row.delta_auc - row.delta_auc_low == pytest.approx(half)
    assert row.delta_auc_low > 0


def test_the_base_differs_from_itself_by_nothing():
    for (method, _, _), row in table_of().items():
        if method == "base":
            assert (row.delta_auc, row.delta_auc_low, row.delta_auc_high) == (0, 0, 0)


def test_all_leaves_out_domains_without_the_metric():
    labels, *_, domain, _ = planted()
    labels = np.where(domain == 2, 0, labels)
    table = table_of(labels={"ctr": labels})
    lost = table["kernel", "region=2", "ctr"]
    assert (lost.auc, lost.ne, lost.gauc, lost.delta_auc, lost.calibration) == (None,) * 5
    assert lost.logloss is not None
    assert lost.reasons["auc"] == f"no positive row among {lost.rows:,}"
    kept = [table["kernel", f"region={i}", "ctr"] for i in (0, 1, 3, 4)]
    mean = sum(r.auc * r.rows for r in kept) / sum(r.rows for r in kept)
    row = table["kernel", "all", "ctr"]
    assert row.auc == pytest.approx(mean)
    assert row.rows == labels.size


@pytest.mark.parametrize(
    ("labels", "users", "p", "missing"),
    [
        pytest.param([], [], [], {"auc": "no row", "logloss": "no row"}, id="no rows"),
        pytest.param([1], [1], [0.5], {"auc": "no negative row among 1"}, id="positives only"),
        pytest.param([0, 0], [1, 1], [0.5, 0.1], {"gauc": "no positive row among 2"}, id="no 1"),
        pytest.param([0, 1], None, [0.5, 0.1], {"gauc": "the rows carry no user"}, id="no user"),
        pytest.param(
            [0, 1], [1, 2], [0.5, 0.1], {"gauc": "no user has rows of both classes"}, id="users"
        ),
        pytest.param(
            [0, 0, 1],
            [1, 1, 1],
            [0.1, 0.2, 0.3],
            {"delta_auc_low": "all 3 rows are one user's"},
            id="one user",
        ),
        pytest.param(
            [0, 0, 1],
            [1, 2, 3],
            [0.1, 0.2, 0.3],
            {"delta_auc_low": "fewer than two rows of a class: 1 of 3 are positive"},
            id="one positive",
        ),
        pytest.param(
            [0, 0, 1, 1],
            [1, 2, 3, 3],
            [0.1, 0.2, 0.3, 0.4],
            {"delta_auc_low": "all rows of a class are one user's"},
            id="one user's positives",
        ),
        pytest.param(
            [0, 1],
            [1, 1],
            [0.1, math.nan],
            {"logloss": "1 of 2 probabilities are not finite"},
            id="diverged",
        ),
    ],
)
def test_a_metric_that_cannot_be_computed_is_none_and_says_why(labels, users, p, missing):
    row = metric_row(
        labels=np.array(labels, dtype=np.int64),
        p=np.array(p, dtype=np.float64),
        p_base=np.full(len(labels), 0.5),
        users=None if users is None else np.array(users, dtype=np.int64),
    )
    for metric, reason in missing.items():
        assert getattr(row, metric) is None
        assert row.reasons[metric] == reason
    none = {field for field in FIELDS if getattr(row, field) is None}
    assert none - {"se_ratio"} == set(row.reasons)


def test_one_diverged_domain_leaves_the_others_alone():
    labels, _, p_base, p_tuned, domain, _ = planted()
    p_tuned = np.where(domain == 3, math.inf, p_tuned)
    table = table_of(probabilities={"base": {"ctr": p_base}, "kernel": {"ctr": p_tuned}})
    assert table["kernel", "region=3", "ctr"].auc is None
    assert "not finite" in table["kernel", "region=3", "ctr"].reasons["auc"]
    assert table["kernel", "pooled", "ctr"].auc is None
    assert table["kernel", "all", "ctr"].auc is not None
    mine = domain == 1
    assert table["kernel", "region=1", "ctr"].auc == pytest.approx(auc(labels[mine], p_tuned[mine]))


def test_a_diverged_base_costs_the_delta_only():
    _, _, p_base, p_tuned, domain, _ = planted()
    p_base = np.where(domain == 3, math.nan, p_base)
    table = table_of(probabilities={"base": {"ctr": p_base}, "kernel": {"ctr": p_tuned}})
    row = table["kernel", "region=3", "ctr"]
    assert row.auc is not None
    deltas = ("delta_auc", "delta_logloss", "delta_calibration")
    assert set(row.reasons) == {f"{delta}{end}" for delta in deltas for end in ENDS}
    assert "of the base's" in row.reasons["delta_auc"]


def test_all_says_when_no_domain_has_both_classes():
    table = table_of(
        labels={"ctr": np.array([0, 0, 1, 1])},
        probabilities={"base": {"ctr": np.array([0.1, 0.2, 0.3, 0.4])}},
        domain_index=np.array([0, 0, 1, 1]),
        domain_names=["a", "b"],
        users=np.array([1, 2, 3, 4]),
    )
    assert table["base", "all", "ctr"].reasons["auc"] == "no domain has rows of both classes"
    delta = table["base", "all", "ctr"].reasons["delta_auc"]
    assert delta == "no domain has two rows of each class"
    assert table["base", "pooled", "ctr"].auc == 1.0


def test_a_mask_counts_only_its_rows():
    labels, _, p_base, p_tuned, _, _ = planted()
    clicked = np.random.default_rng(4).random(labels.size) < 0.3
    table = table_of(masks={"ctr": clicked})
    row = table["kernel", "pooled", "ctr"]
    assert row.rows == clicked.sum()
    assert row.auc == pytest.approx(roc_auc_score(labels[clicked], p_tuned[clicked]))
    assert p_base.size > row.rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "live"}, "no probabilities of the base 'live'"),
        ({"domain_names": ["a"]}, r"must be in \[0, 1\), seen 0 to 4"),
        ({"domain_names": ["all", "b", "c", "d", "e"]}, "taken by the summary rows"),
        ({"users": np.zeros(3)}, "users: shape"),
        ({"labels": {"cvr": np.zeros(4000)}}, "has no probabilities for"),
        (
            {"probabilities": {"base": {"ctr": np.full(4000, 3.0)}}},
            "pass the sigmoid of the logits",
        ),
    ],
    ids=["no base", "unknown domain", "name taken", "shape", "task", "logits"],
)
def test_parts_that_do_not_belong_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        table_of(**changes)
