"""Publishing: every tuned kernel is judged on its own rows and written with its verdict."""

import copy
import dataclasses
import json
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from iak.pipeline import files
from iak.pipeline.errors import BadRequest
from iak.pipeline.iak.bank import Bank, stack
from iak.pipeline.publish.bundle import read_bundle
from iak.pipeline.publish.bundle_set import live_kernels, read_bundle_set
from iak.pipeline.publish.publish_bundles import Provenance, publish_bundles, tuning_result
from iak.pipeline.stats.auc import auc
from iak.pipeline.tuning.gate_rows import PairedRows
from iak.pipeline.tuning.tuned_kernels import Tuned
from iak.pipeline.tuning.work import Finetuned, Level
from iak.schemas.domain import Domain
from iak.schemas.job import GateSpec, KernelSpec
from iak.schemas.log_snapshot import DataWindow
from iak.schemas.manifest import BundleSettings
from iak.schemas.predictions import metric_tasks
from iak.schemas.table_placement import TablePlacement
from iak.schemas.task import TaskSpec
from iak.schemas.tuning import CacheUse
from tests.unit.iak.small import SHAPE, moved_kernel, standard

BASE, SCHEMA = "b" * 64, "c" * 64
PROVENANCE = Provenance(
    base_fingerprint=BASE, schema_hash=SCHEMA, data_window=DataWindow(snapshot="log"),
    spec=BundleSettings(kernel=KernelSpec()), versions={},
    created_at=datetime(2026, 11, 20, tzinfo=UTC),
)  # fmt: skip
ROWS = 600


TASKS = metric_tasks(
    (
        TaskSpec(label="click", kind="click"),
        TaskSpec(label="order", kind="conversion"),
    ),
    negatives_kept=1.0,
)


def paired(better, rows=ROWS, seed=0, *, order=None):
    """Gate rows whose candidate is `better` by so much in logit; negative is worse.

    `order` is the same of the conversion given its click, where it differs.
    """
    draw = np.random.default_rng(seed)
    logit = draw.normal(size=(rows, 2))
    chance = 1 / (1 + np.exp(-2 * logit))
    labels = (draw.random((rows, 2)) < chance).astype(np.float32)
    labels[:, 1] *= labels[:, 0]
    sizes = (1.0 + better, 1.0 + (better if order is None else order))
    noise = 0.01 * draw.normal(size=logit.shape)
    own = [1 / (1 + np.exp(-size * logit - noise)) for size in (np.ones(2), np.array(sizes))]
    entire = [np.stack([p[:, 0], p[:, 0] * p[:, 1]], axis=1) for p in own]
    loss = [-(labels * np.log(p) + (1 - labels) * np.log1p(-p)) for p in entire]
    columns = {
        f"{who}_{what}_nT": values.astype(np.float32)
        for what, pair in (("own", own), ("entire", entire), ("loss", loss))
        for who, values in zip(("base", "candidate"), pair, strict=True)
    }
    mask = np.ones((rows, 2), np.bool_)
    return PairedRows(labels_nT=labels, mask_nT=mask, user_n=np.arange(rows) // 2, **columns)


ITEMS = TablePlacement(
    table="item", type="table_wise", precision="int8", ranks=(0,), rows=7, width=4,
    bytes_per_rank=(84,),
)  # fmt: skip
A = Domain((("region", "a"),))
SLASH = Domain((("region", "b/c"),))
CROSS = Domain((("region", "b/c"), ("daypart", "x")))
OTHER = Domain((("region", "b/c"), ("daypart", "y")))


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
    present = {name: rows for name, rows in gate_rows.items() if rows is not None}
    rows = dict.fromkeys(kernels, 1234)
    return Level(keys=keys, tuned=tuned, rows=rows, gate_rows=present, domains=domains)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def done():
    return Finetuned(
        levels=(
            level((), {Domain(): paired(0.8)}),
            level(("region",), {A: paired(-0.8), SLASH: None}),
            level(
                ("region", "daypart"),
                {CROSS: paired(0.8, rows=50), OTHER: paired(0.8, rows=3000, order=-2.0)},
            ),
        ),
        below_floor={"region=z": 3}, standard=standard(), tasks=("ctr", "cvr"),
        contract={"null label": 2}, labels={"known ctr": 9, "positive ctr": 4},
        digest="d", digest_before="d", cache=CacheUse(folder="/c", rows_read=5, stopped=""),
        standard_from="the cache", plan=(ITEMS,), parameters_per_kernel=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def published(done, root):
    return publish_bundles(done, root, provenance=PROVENANCE, tasks=TASKS, gate=GateSpec())


def test_judging_reports_how_many_kernels_are_done(done, tmp_path, monkeypatch):
    monkeypatch.setattr("iak.pipeline.publish.publish_bundles.REPORT_EVERY", 2)
    heard = []
    kernels = publish_bundles(
        done, tmp_path / "bundles", provenance=PROVENANCE, tasks=TASKS, gate=GateSpec(),
        report=heard.append,
    )  # fmt: skip
    number = len(kernels)
    assert [(e["step"], e["of"]) for e in heard] == [(n, number) for n in range(2, number + 1, 2)]


@pytest.fixture(scope="module")
def kernels(published):
    return {kernel.domain: kernel for kernel in published}


@pytest.mark.parametrize(
    ("domain", "serves", "reason"),
    [
        ("pooled", True, " of 300 users: beyond 1.65 standard errors"),
        ("region=a", False, "ctr holds it: "),
        (SLASH.name, False, "no gate row has a label"),
        (CROSS.name, False, "no task is judged: ctr has "),
        (OTHER.name, False, "cvr holds it: AUC "),
    ],
)
def test_the_verdict_is_given_with_its_reason_and_written(kernels, root, domain, serves, reason):
    kernel = kernels[domain]
    assert (kernel.published, kernel.gate.publish, kernel.tuning_rows) == (serves, serves, 1234)
    assert kernel.reason == kernel.gate.reason
    assert reason in kernel.reason
    assert kernel.valid_gain == pytest.approx(0.1)
    manifest = read_bundle(root / kernel.bundle, base_fingerprint=BASE, schema_hash=SCHEMA).manifest
    assert manifest.verdict == kernel.gate
    assert manifest.data_window == DataWindow(snapshot="log", tuning_rows=1234)


def test_a_name_with_a_slash_in_a_value_keeps_its_keys(kernels, root):
    folder = root / kernels[CROSS.name].bundle
    manifest = read_bundle(folder, base_fingerprint=BASE, schema_hash=SCHEMA).manifest
    assert manifest.domain == {"region": "b/c", "daypart": "x"}


def test_the_verdict_tells_every_task_as_evaluation_counts_it(kernels):
    rows = paired(0.8)
    tasks = kernels["pooled"].gate.tasks
    clicked = int(rows.labels_nT[:, 0].sum())
    bought = int(rows.labels_nT[:, 1].sum())
    counts = [(t.task, t.rows, t.positives) for t in tasks]
    assert counts == [("ctr", ROWS, clicked), ("cvr", clicked, bought), ("ctcvr", ROWS, bought)]
    for task in tasks:
        assert task.judged
        assert not task.holds
        assert task.auc.low <= task.auc.delta <= task.auc.high
        assert task.cluster == "user"
        assert 0 < task.clusters <= ROWS // 2
    cvr = tasks[1]
    mask = rows.labels_nT[:, 0] == 1
    assert cvr.auc.kernel == pytest.approx(
        auc(rows.labels_nT[mask, 1], rows.candidate_own_nT[mask, 1])
    )


def test_the_gain_is_what_tuning_sums(kernels):
    rows = paired(0.8)
    gain = (rows.base_loss - rows.candidate_loss).mean()
    assert kernels["pooled"].gate.gain == pytest.approx(gain)
    assert kernels[OTHER.name].gate.holding == ("cvr", "ctcvr")


def test_the_bundle_set_reads_back_the_kernels_by_the_names_they_were_tuned_under(kernels, root):
    bundle_set = read_bundle_set(root, base_fingerprint=BASE, schema_hash=SCHEMA)
    assert set(bundle_set.names) == set(kernels)
    verdicts = dict(zip(bundle_set.names, bundle_set.verdicts, strict=True))
    assert verdicts == {name: kernel.gate for name, kernel in kernels.items()}
    slot = bundle_set.names.index(SLASH.name)
    for name, weight in moved_kernel(1).items():
        expected = torch.zeros_like(weight) if name.startswith("probe") else weight
        assert torch.equal(bundle_set.weights[name][slot], expected)


def test_the_next_night_starts_from_what_was_published_with_its_statistics(root, kernels):
    live = live_kernels(root, base_fingerprint=BASE, schema_hash=SCHEMA, reads="hx")
    assert set(live.kernels) == {n for n, o in kernels.items() if o.published} == {"pooled"}
    for name, weight in moved_kernel(0).items():
        expected = torch.zeros_like(weight) if name.startswith("probe") else weight
        assert torch.equal(live.kernels["pooled"][name], expected)
    assert torch.equal(live.standard.mean_A, standard().mean_A)
    assert torch.equal(live.standard.scale_A, standard().scale_A)


def test_kernels_that_read_something_else_are_refused(root, kernels):  # noqa: ARG001
    with pytest.raises(BadRequest, match=r"kernel\.reads=h"):
        live_kernels(root, base_fingerprint=BASE, schema_hash=SCHEMA, reads="h")


def test_a_kernel_that_diverged_has_no_bundle_and_the_others_have_theirs(done, tmp_path):
    broken = copy.deepcopy(done)
    why = "the kernel of region=a diverged: its loss is nan"
    broken.levels[1].tuned.failed["region=a"] = why
    kernels = publish_bundles(
        broken, tmp_path / "bundles", provenance=PROVENANCE, tasks=TASKS, gate=GateSpec()
    )
    names = [kernel.domain for kernel in kernels]
    assert names == ["pooled", SLASH.name, CROSS.name, OTHER.name]
    assert not (tmp_path / "bundles" / "region=a").exists()
    assert tuning_result(broken, kernels).failed == {"region=a": why}


def test_a_run_records_what_it_measured_as_plain_json(done, published):
    result = tuning_result(done, published).as_json()
    assert json.loads(json.dumps(result)) == result
    assert [k["domain"] for k in result["kernels"]] == [k.domain for k in published]
    assert result["kernels"][0]["gate"] == published[0].gate.model_dump(mode="json")
    assert result["standardisation"]["from"] == "the cache"
    assert (result["epochs"], result["stopped_at_cap"]) == ([4, 4, 4], [])
    assert result["tables_and_trunk_unchanged"] is True
    assert result["cache"] == {"folder": "/c", "rows_read": 5, "stopped": ""}
    for name in ("below_floor", "contract", "labels"):
        assert result[name] == getattr(done, name)
    assert result["plan"] == [ITEMS.model_dump(mode="json")]


def test_a_bundle_more_waits_for_the_disk_three_times(done, tmp_path, monkeypatch):
    """Its two files and its folder: the night's folder is hidden until all bundles are whole."""
    syncs = []
    for name in ("sync_file", "sync_folder"):
        monkeypatch.setattr(files, name, syncs.append)
    counts = []
    for levels in (done.levels[:1], done.levels[:2]):
        syncs.clear()
        publish_bundles(
            dataclasses.replace(done, levels=levels), tmp_path / f"{len(levels)}",
            provenance=PROVENANCE, tasks=TASKS, gate=GateSpec(),
        )  # fmt: skip
        counts.append(len(syncs))
    bundles = len(done.levels[1].domains)
    assert counts[1] - counts[0] == 3 * bundles
