"""The offer: every tuned kernel is judged on its own rows and written with its verdict."""

from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from pipeline.errors import BadRequest
from pipeline.iak.bank import Bank, stack
from pipeline.publish.bundle import read_bundle
from pipeline.publish.choice import live_kernels, read_shelf
from pipeline.publish.offer import Papers, offer
from pipeline.training.finetune import Finetuned, Judged, Level
from pipeline.training.tune import Tuned
from schemas.domain import Domain
from tests.unit.iak.small import SHAPE, moved_kernel, standard

BASE, SCHEMA = "b" * 64, "c" * 64
PAPERS = Papers(
    base_fingerprint=BASE, schema_hash=SCHEMA, data_window={"rows": 7},
    spec={"kernel": {"reads": "hx"}}, versions={}, created_at=datetime(2026, 11, 20, tzinfo=UTC),
)  # fmt: skip
ROWS = 600


def judged(better, rows=ROWS, seed=0):
    """Gate rows whose candidate is `better` by so much in logit; negative is worse."""
    draw = np.random.default_rng(seed)
    logit = draw.normal(size=(rows, 2))
    labels = (draw.random((rows, 2)) < 1 / (1 + np.exp(-2 * logit))).astype(np.float32)
    before, after = (1 / (1 + np.exp(-size * logit)) for size in (1.0, 1.0 + better))
    nudged = 1 / (1 + np.exp(-(1.0 + better) * logit - 0.01 * draw.normal(size=logit.shape)))
    loss = [-(labels * np.log(p) + (1 - labels) * np.log1p(-p)).sum(1) for p in (before, after)]
    return Judged(
        base_loss=loss[0], candidate_loss=loss[1], labels_nT=labels,
        mask_nT=np.ones((rows, 2), np.bool_), base_p_nT=before.astype(np.float32),
        candidate_p_nT=nudged.astype(np.float32),
    )  # fmt: skip


A = Domain((("region", "a"),))
SLASH = Domain((("region", "b/c"),))
CROSS = Domain((("region", "b/c"), ("daypart", "x")))


def level(keys, gate_rows):
    domains = {domain.name: domain for domain in gate_rows}
    gate_rows = {domain.name: rows for domain, rows in gate_rows.items()}
    kernels = {name: moved_kernel(seed) for seed, name in enumerate(gate_rows)}
    bank: Bank = stack(SHAPE, kernels)
    count = len(kernels)
    tuned = Tuned(
        bank=bank, start_loss=[0.5] * count, best_loss=[0.4] * count, best_epoch=[3] * count,
        epochs=4, stopped_at_cap=[],
    )  # fmt: skip
    found = {name: rows for name, rows in gate_rows.items() if rows is not None}
    rows = dict.fromkeys(kernels, 1234)
    return Level(keys=keys, tuned=tuned, rows=rows, judged=found, domains=domains)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def offers(root):
    done = Finetuned(
        levels=(
            level((), {Domain(): judged(0.8)}),
            level(("region",), {A: judged(-0.8), SLASH: None}),
            level(("region", "daypart"), {CROSS: judged(0.8, rows=50)}),
        ),
        below_floor={}, standard=standard(), tasks=("ctr", "cvr"), contract={},
        digest="d", digest_before="d", cache={},
        plan=(), parameters_per_kernel=1,
    )  # fmt: skip
    return {o.domain: o for o in offer(done, root, papers=PAPERS, z=1.64, min_rows=200)}


@pytest.mark.parametrize(
    ("domain", "published", "reason"),
    [
        ("pooled", True, "beyond 1.64 standard errors"),
        ("region=a", False, "not beyond 1.64 standard errors"),
        (SLASH.name, False, "gate slice has 0 rows, fewer than 200"),
        (CROSS.name, False, "gate slice has 50 rows, fewer than 200"),
    ],
)
def test_the_verdict_is_given_with_its_reason_and_written(offers, domain, published, reason):
    found = offers[domain]
    assert (found.verdict.publish, found.rows) == (published, 1234)
    assert reason in found.verdict.reason
    assert found.valid_gain == pytest.approx(0.1)
    manifest = read_bundle(found.path, base_fingerprint=BASE, schema_hash=SCHEMA).manifest
    assert manifest.verdict["publish"] == published
    assert manifest.verdict["reason"] == found.verdict.reason
    assert manifest.data_window == {"rows": 7, "tuning_rows": 1234}


def test_a_name_with_a_slash_in_a_value_keeps_its_keys(offers):
    manifest = read_bundle(
        offers[CROSS.name].path, base_fingerprint=BASE, schema_hash=SCHEMA
    ).manifest
    assert manifest.domain == {"region": "b/c", "daypart": "x"}


def test_metrics_say_how_many_rows_and_how_much_better(offers):
    manifest = read_bundle(
        offers["pooled"].path, base_fingerprint=BASE, schema_hash=SCHEMA
    ).manifest
    assert [(m["task"], m["rows"]) for m in manifest.metrics] == [("ctr", ROWS), ("cvr", ROWS)]
    assert all(
        m["delta_auc_low"] <= m["delta_auc"] <= m["delta_auc_high"] for m in manifest.metrics
    )


def test_the_shelf_reads_back_the_kernels_by_the_names_they_were_tuned_under(offers, root):
    shelf = read_shelf(root, base_fingerprint=BASE, schema_hash=SCHEMA)
    assert set(shelf.names) == set(offers)
    published = dict(zip(shelf.names, shelf.is_published, strict=True))
    assert published == {name: o.verdict.publish for name, o in offers.items()}
    slot = shelf.names.index(SLASH.name)
    for name, weight in moved_kernel(1).items():
        expected = torch.zeros_like(weight) if name.startswith("probe") else weight
        assert torch.equal(shelf.weights[name][slot], expected)


def test_the_next_night_starts_from_what_was_published_with_its_statistics(root, offers):
    live = live_kernels(root, base_fingerprint=BASE, schema_hash=SCHEMA, reads="hx")
    assert set(live.kernels) == {n for n, o in offers.items() if o.verdict.publish} == {"pooled"}
    for name, weight in moved_kernel(0).items():
        expected = torch.zeros_like(weight) if name.startswith("probe") else weight
        assert torch.equal(live.kernels["pooled"][name], expected)
    assert torch.equal(live.standard.mean_A, standard().mean_A)
    assert torch.equal(live.standard.scale_A, standard().scale_A)


def test_kernels_that_read_something_else_are_refused(root, offers):  # noqa: ARG001
    with pytest.raises(BadRequest, match=r"kernel\.reads=h"):
        live_kernels(root, base_fingerprint=BASE, schema_hash=SCHEMA, reads="h")
