"""Tuning by two workers, killed and resumed, kept or recomputed: always the same kernels."""

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import distributed as dist

from pipeline.data.view import open_log
from pipeline.errors import BadLog, WrongBase
from pipeline.iak.bank import stack
from pipeline.process import run_on_workers
from pipeline.publish.choice import read_shelf
from pipeline.publish.offer import Papers, offer
from pipeline.publish.predict import BASE, IAK, PUBLISHED, PredictWork, predict
from pipeline.sharding.shard import dense_state, unwrap
from pipeline.training import base as bases
from pipeline.training import finetune as module
from pipeline.training.activations import compute
from pipeline.training.finetune import (
    CHECKPOINT,
    SPLITS,
    FinetuneWork,
    collect,
    digest_of,
    finetune,
    frozen_base,
)
from pipeline.training.tune import LevelTuner, standard_of
from schemas.job import KernelSpec
from tests.integration.small_log import catalog, publish_base, write_log
from tests.unit.iak.small import SHAPE, moved_kernel, only, setting, stage, tuning_rows

pytestmark = pytest.mark.slow

DOMAINS = 3
CUTS = {  # which rows the second worker holds
    "halves": lambda rows: torch.arange(len(rows)) % 2 == 1,
    "uneven": lambda rows: torch.arange(len(rows)) % 7 == 1,
    "all of one domain": lambda rows: rows.slots_nL[:, 1] == 1,
    "none": lambda rows: torch.zeros(len(rows), dtype=torch.bool),
}
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
"""Between sums over one worker and over two: float32 rounds them in another order."""
PUBLISH_ALL = -1e9


def tuned_level(worker, cut=None):
    """Both phases of a level, on this worker's rows."""
    rows = [tuning_rows(count, DOMAINS, seed) for count, seed in ((400, 0), (150, 1))]
    if cut is not None:
        rows = [only(r, CUTS[cut](r) == bool(worker.rank)) for r in rows]
    bank = stack(SHAPE, {str(k): moved_kernel(k) for k in range(DOMAINS)})
    how = stage(shrink=0.01, max_epochs=4)
    done = LevelTuner(bank, level=1, stage=how, setting=setting(*rows, worker)).run(
        report=lambda _: None
    )
    scale = standard_of(rows[0], reads_x=True, worker=worker)
    return done, (scale.mean_A, scale.scale_A)


def finetune_work(place, run_dir, **changes):
    view = open_log(catalog(), str(place / "log"), wanted=[*SPLITS, "test"])
    how = {"min_batch": 16, "max_batch": 64, "max_epochs": 3}
    fields = {
        "view": view, "base": bases.open_base(place / "base"),
        "kernel": KernelSpec(hidden=8, code=3, adapter_rank=2), "pooled": stage(**how),
        "domain": stage(**how, compression_epochs=0, shrink=0.01), "run_dir": run_dir,
        "keeps_activations": True, "encode_rows": 100, "sharding": {}, "row_wise_from_rows": 100,
    }  # fmt: skip
    run_dir.mkdir(exist_ok=True)
    return FinetuneWork(**fields | changes)


class Killed(Exception):
    """A worker's end, as far as a test can play it."""


class Impatient:
    """Dies at the second epoch it hears of: one epoch, or one level, is in the checkpoint."""

    def __init__(self):
        self.heard = 0

    def __call__(self, event):
        self.heard += str(event.get("event", "")).startswith("level")
        if self.heard == 2:
            raise Killed


def silent(_):
    return


def finetune_killed_again_and_again(work, worker):
    """As many attempts as it takes, each of one epoch."""
    for attempt in range(100):
        try:
            return finetune(work, worker=worker, report=Impatient()), attempt
        except Killed:
            dist.barrier()
    raise AssertionError("100 attempts did not do it")


def checkpoint_bytes(work, worker):
    dist.barrier()
    return (work.run_dir / CHECKPOINT).read_bytes() if worker.rank == 0 else b""


def ask(worker, place):
    """Everything that two workers can tell about tuning."""
    answers = {"levels": {cut: tuned_level(worker, cut) for cut in CUTS}}
    work = finetune_work(place, place / f"whole-{worker.world}")
    answers["whole"] = finetune(work, worker=worker, report=silent)
    answers["file"] = checkpoint_bytes(work, worker)
    again = finetune_work(place, place / "killed")
    answers["killed"], answers["attempts"] = finetune_killed_again_and_again(again, worker)
    answers["killed file"] = checkpoint_bytes(again, worker)
    looked_up = finetune_work(place, place / "recomputed", keeps_activations=False)
    answers["recomputed"] = finetune(looked_up, worker=worker, report=silent)
    answers["frozen"] = ask_frozen(work, worker)
    answers["offers"] = ask_offers(work, answers["whole"], worker, place)
    answers["few"] = ask_few(work, worker)
    return answers


def ask_frozen(work, worker):
    model, _ = frozen_base(work.base, {}, 100, worker)
    rows = collect(work.view, work.base, "gate", worker, Counter())
    kept = compute(
        model, rows, work.view.catalog, worker=worker, batch_rows=64, advance=lambda _: None
    )
    found = digest_of(model, worker)
    return {
        "combined": found.combined,
        "by name": dict(found.by_name),
        "needs graph": kept.h.requires_grad or kept.x.requires_grad,
        "trainable": [n for n, p in dense_state(model).items() if p.requires_grad],
        "gradients": [n for n, p in unwrap(model).named_parameters() if p.grad is not None],
    }


def ask_few(work, worker):
    """Five rows over the workers, one at a time: at the end one worker has none left."""
    model, _ = frozen_base(work.base, {}, 100, worker)
    whole = collect(work.view, work.base, "gate", worker, Counter())
    rows = whole.slice(0, 3 if worker.rank == 0 else 0)
    kept = compute(
        model, rows, work.view.catalog, worker=worker, batch_rows=1, advance=lambda _: None
    )
    everything = compute(
        model, whole, work.view.catalog, worker=worker, batch_rows=500, advance=lambda _: None
    )
    return kept.h, everything.h[: len(rows)]


def ask_offers(work, done, worker, place):
    """Bundles of which some are published, and every test row's probabilities under them."""
    manifest = work.base.manifest
    if worker.rank == 0:
        papers = Papers(
            base_fingerprint=manifest.fingerprint, schema_hash=manifest.schema_hash,
            data_window={}, spec={"kernel": {"reads": "hx"}}, versions={},
            created_at=datetime.now(UTC),
        )  # fmt: skip
        offer(done, place / "bundles", papers=papers, z=PUBLISH_ALL, min_rows=30)
    dist.barrier()
    predictions = PredictWork(
        view=work.view, truth=None, base=work.base, bundles=place / "bundles",
        run_dir=place / "evaluate", splits=("test",), batch_rows=100, sharding={},
        row_wise_from_rows=100,
    )  # fmt: skip
    return predict(predictions, worker=worker, report=silent)


def ask_alone(worker, place):
    """The base that all share, and what one worker makes of all rows."""
    publish_base(worker, place / "log", place / "base")
    work = finetune_work(place, place / "alone")
    return tuned_level(worker), finetune(work, worker=worker, report=silent)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("tuning")
    write_log(place / "log")
    return place


@pytest.fixture(scope="module")
def alone(place):
    return run_on_workers(ask_alone, 1, place)[0]


@pytest.fixture(scope="module")
def two(place, alone):  # noqa: ARG001 - alone made the base
    return run_on_workers(ask, 2, place)


def same(one, other):
    """Bit for bit, in weights and in how they came about."""
    how = ("start_loss", "best_loss", "best_epoch", "epochs", "stopped_at_cap")
    return one.bank.names == other.bank.names and all(
        [getattr(one, f) == getattr(other, f) for f in how]
        + [torch.equal(w, other.bank.weights[n]) for n, w in one.bank.weights.items()]
    )


def assert_close(one, other):
    assert (one.bank.names, one.best_epoch) == (other.bank.names, other.best_epoch)
    for name, weight in one.bank.weights.items():
        torch.testing.assert_close(weight, other.bank.weights[name], **TOLERANCE, msg=name)
    assert one.best_loss == pytest.approx(other.best_loss, rel=1e-5)


@pytest.mark.parametrize("cut", CUTS)
def test_two_workers_tune_as_one_however_rows_are_split(two, alone, cut):
    done, scale = alone[0]
    for answers in two:
        found, found_scale = answers["levels"][cut]
        assert_close(found, done)
        torch.testing.assert_close(found_scale, scale)
    assert same(two[0]["levels"][cut][0], two[1]["levels"][cut][0])
    assert max(done.best_epoch) > 1


def test_two_workers_finetune_as_one(two, alone):
    whole = two[0]["whole"]
    for level, expected in zip(whole.levels, alone[1].levels, strict=True):
        assert_close(level.tuned, expected.tuned)
        assert level.rows == expected.rows
        assert level.judged.keys() == expected.judged.keys()
        for name, judged in level.judged.items():
            for field in ("base_loss", "candidate_loss"):
                found = np.sort(getattr(judged, field))
                wanted = np.sort(getattr(expected.judged[name], field))
                np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert whole.below_floor == alone[1].below_floor


def test_every_level_is_tuned_and_thin_domains_are_not(two):
    whole = two[0]["whole"]
    pooled, regions, crosses = (level.rows for level in whole.levels)
    assert set(pooled) == {"pooled"}
    assert sum(regions.values()) == sum(pooled.values())
    assert min(crosses.values()) >= 60 > max(whole.below_floor.values())
    assert sum(crosses.values()) + sum(whole.below_floor.values()) == sum(pooled.values())
    assert all(len(judged.base_loss) for level in whole.levels for judged in level.judged.values())


def test_the_two_workers_hold_the_same_kernels(two):
    for mine, theirs in zip(two[0]["whole"].levels, two[1]["whole"].levels, strict=True):
        assert same(mine.tuned, theirs.tuned)


def test_killed_after_every_epoch_and_level_it_still_ends_with_the_same_bytes(two):
    for answers in two:
        whole, killed = answers["whole"], answers["killed"]
        assert all(same(a.tuned, b.tuned) for a, b in zip(whole.levels, killed.levels, strict=True))
        epochs = sum(level.tuned.epochs for level in whole.levels)
        assert answers["attempts"] >= epochs
    assert two[0]["file"] == two[0]["killed file"] != b""


def test_kept_and_recomputed_activations_tune_the_same(two):
    for answers in two:
        for a, b in zip(answers["whole"].levels, answers["recomputed"].levels, strict=True):
            assert_close(a.tuned, b.tuned)


def test_the_base_is_the_same_before_and_after_and_gathers_no_gradient(two, place):
    manifest = bases.open_base(place / "base").manifest
    for answers in two:
        frozen = answers["frozen"]
        assert frozen["combined"] == answers["whole"].digest == answers["offers"]["digest"]
        assert frozen["by name"] == manifest.digest
        assert (frozen["needs graph"], frozen["trainable"], frozen["gradients"]) == (False, [], [])


def test_a_worker_that_runs_out_of_rows_takes_part_in_the_lookups(two):
    for answers in two:
        found, expected = answers["few"]
        torch.testing.assert_close(found, expected)
    assert [len(answers["few"][0]) for answers in two] == [3, 0]


@pytest.mark.usefixtures("two")
def test_another_log_does_not_resume_a_checkpoint(place):
    path = place / "killed" / CHECKPOINT
    assert set(module._load(path, snapshot=finetune_work(place, place).view.snapshot.fingerprint))
    with pytest.raises(BadLog, match="the log changed since"):
        module._load(path, snapshot="another")


@pytest.mark.usefixtures("two")
def test_rows_are_predicted_by_their_own_bundle_or_their_ancestors(place):
    files = sorted((place / "evaluate" / "predictions").glob("test-*.parquet"))
    assert len(files) == 2
    shelf, rows = opened(place), pq.read_table(files)
    assert len(rows) == finetune_work(place, place).view.selections["test"].rows
    base, iak, published = (
        rows.column(f"own.{method}.ctr").to_numpy() for method in (BASE, IAK, PUBLISHED)
    )
    paths = [["pooled", n.rpartition("/")[0], n] for n in rows.column("domain").to_pylist()]
    slots = np.array([shelf.slot_for(p, published_only=False) for p in paths])
    published_slots = np.array([shelf.slot_for(p, published_only=True) for p in paths])
    depths = {name.count("/") + ("=" in name) for name in np.array(shelf.names)[slots]}
    assert depths == {1, 2}, "some domains have a kernel, others take their region's"
    is_held = slots != published_slots
    assert is_held.any(), "some gate slices are meant to be thin"
    np.testing.assert_allclose(iak[~is_held], published[~is_held], rtol=1e-5)
    assert (iak[is_held] != published[is_held]).any()
    assert (iak != base).mean() > 0.9


def opened(place):
    manifest = bases.open_base(place / "base").manifest
    return read_shelf(
        place / "bundles", base_fingerprint=manifest.fingerprint, schema_hash=manifest.schema_hash
    )


@pytest.mark.usefixtures("two")
def test_bundles_are_refused_on_another_base(place):
    schema = bases.open_base(place / "base").manifest.schema_hash
    with pytest.raises(WrongBase):
        read_shelf(place / "bundles", base_fingerprint="0" * 64, schema_hash=schema)
