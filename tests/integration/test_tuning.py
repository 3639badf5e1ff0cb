"""Tuning by two workers, killed and resumed, kept or recomputed: always the same kernels."""

from collections import Counter
from contextlib import nullcontext
from datetime import UTC, datetime
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import distributed as dist

from iak.pipeline.activations import rows as tuning
from iak.pipeline.activations.buffer import ActivationBuffer, MissingBlock, StandardizedBase
from iak.pipeline.activations.rows import RowSource
from iak.pipeline.activations.standardizer import fit_standardizer
from iak.pipeline.base import published_base as bases
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadLog, BadRequest, Corrupt, WrongBase
from iak.pipeline.iak.bank import stack
from iak.pipeline.process import run_on_workers
from iak.pipeline.publish.bundle_set import read_bundle_set
from iak.pipeline.publish.predict import PredictWork, predict
from iak.pipeline.publish.predictions import read_predictions
from iak.pipeline.publish.publish_bundles import Provenance, publish_bundles
from iak.pipeline.runs.finetune import night_placement
from iak.pipeline.sharding.placement_rule import as_document, plan_tables
from iak.pipeline.sharding.shard import dense_state, unwrap
from iak.pipeline.tuning import checkpoint
from iak.pipeline.tuning.checkpoint import CHECKPOINT, PREVIOUS, TuningCheckpoint
from iak.pipeline.tuning.finetune import finetune
from iak.pipeline.tuning.tune import CohortTuner
from iak.pipeline.tuning.work import SPLITS, ActivationCacheConfig, FinetuneWork, Live
from iak.schemas.job import FinetuneSpec, FrozenTablesSpec, GateSpec, KernelSpec
from iak.schemas.log_snapshot import DataWindow
from iak.schemas.manifest import BundleSettings
from iak.schemas.plan import PlacementRuleSpec, ResolvedPlacement
from iak.schemas.predictions import BASE, IAK, PUBLISHED, metric_tasks
from iak.schemas.tuning import CacheUse
from tests.integration.small_log import catalog, publish_base, write_log
from tests.integration.workers import StayingWorkers
from tests.unit.iak.small import ALONE, SHAPE, context, moved_kernel, only, stage, tuning_rows

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
PUBLISH_SOME = GateSpec(
    z=0, min_positives=5, min_negatives=5, auc_margin=1, logloss_margin=9, calibration_margin=9
)
"""A gate that any gain passes on a few rows."""
FP32 = FrozenTablesSpec(precision="fp32")


def tuned_level(worker, cut=None):
    """Both phases of a level, on this worker's rows."""
    rows = [tuning_rows(count, DOMAINS, seed) for count, seed in ((400, 0), (150, 1))]
    if cut is not None:
        rows = [only(r, CUTS[cut](r) == bool(worker.rank)) for r in rows]
    bank = stack(SHAPE, {str(k): moved_kernel(k) for k in range(DOMAINS)})
    how = stage(shrink=0.01, max_epochs=4)
    return CohortTuner(bank, level=1, stage=how, context=context(*rows, worker)).run(
        report=lambda _: None
    )


def cache_config(place, kind="memory", precision="fp32", **changes):
    fields = {
        "kind": kind, "precision": precision, "folder": place / "activations",
        "budget_bytes": 2**30, "memory_bytes": 2**30,
    }  # fmt: skip
    return ActivationCacheConfig(**fields | changes)


def finetune_work(place, run_dir, **changes):
    view = open_log(catalog(), str(place / "log"), wanted=[*SPLITS, "test"])
    how = {"min_batch": 16, "max_batch": 64, "max_epochs": 3}
    fields = {
        "view": view, "base": bases.open_base(place / "base"),
        "kernel": KernelSpec(hidden=8, code=3, adapter_rank=2, narrow=8), "pooled": stage(**how),
        "domain": stage(**how, compression_epochs=0, shrink=0.01), "run_dir": run_dir,
        "tables": FP32, "cache": cache_config(place), "live": None, "checkpoint_every_s": 0,
        "placement": ResolvedPlacement(row_wise_from_rows=100),
    }  # fmt: skip
    run_dir.mkdir(exist_ok=True)
    return FinetuneWork(**fields | changes)


class Killed(Exception):
    """A worker's end, as far as a test can play it."""


class Impatient:
    """Dies at the second epoch it hears of: one epoch, or one level, is in the checkpoint."""

    def __init__(self, dies_at=2, told=None):
        self.heard, self.dies_at = 0, dies_at
        self.told = [] if told is None else told

    def __call__(self, event):
        self.told.append(event)
        self.heard += str(event.get("event", "")).startswith("level")
        if self.heard == self.dies_at:
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


def finetune_killed_and_damaged(work, worker):
    """Attempts of two epochs, whose newest checkpoint is damaged, or seems so to worker 1 alone."""
    told = []
    for attempt in range(100):
        seems = worker.rank == 1 and attempt % 2
        with unreadable_newest() if seems else nullcontext():
            try:
                report = Impatient(dies_at=3, told=told)
                return finetune(work, worker=worker, report=report), told
            except Killed:
                dist.barrier()
        if worker.rank == 0 and attempt % 2:
            path = work.run_dir / CHECKPOINT
            data = path.read_bytes()
            path.write_bytes(data[:-3] + bytes([data[-3] ^ 4]) + data[-2:])
        dist.barrier()
    raise AssertionError("100 attempts did not do it")


def unreadable_newest():
    """This process cannot read the newest checkpoint, whatever others see."""
    real = checkpoint.read_levels

    def read(path, snapshot):
        if path.name == CHECKPOINT:
            raise Corrupt("it is damaged, as this worker sees it")
        return real(path, snapshot)

    return mock.patch.object(checkpoint, "read_levels", read)


def checkpoint_bytes(work, worker):
    dist.barrier()
    return (work.run_dir / CHECKPOINT).read_bytes() if worker.rank == 0 else b""


def ask_levels(worker):
    """One level, however its rows are split over the workers."""
    return {cut: tuned_level(worker, cut) for cut in CUTS}


def ask_whole(worker, place):
    """An undisturbed run, and the bytes of its checkpoint."""
    work = finetune_work(place, place / f"whole-{worker.world}")
    return finetune(work, worker=worker, report=silent), checkpoint_bytes(work, worker)


def ask_killed(worker, place):
    """The same run, killed after every epoch: what it comes to, the attempts, the checkpoint."""
    work = finetune_work(place, place / "killed")
    done, attempts = finetune_killed_again_and_again(work, worker)
    return done, attempts, checkpoint_bytes(work, worker)


def ask_damaged(worker, place):
    """The same run, its newest checkpoint damaged at times: also what was said of that."""
    work = finetune_work(place, place / "damaged")
    done, told = finetune_killed_and_damaged(work, worker)
    return done, told, checkpoint_bytes(work, worker)


def ask_planned(worker, place):
    return finetune(planned_work(place), worker=worker, report=silent)


CACHES = {
    "recomputed": {"kind": "recompute"},
    "recomputed bf16": {"kind": "recompute", "precision": "bf16"},
    "in a file": {"kind": "cache", "memory_bytes": 1, "precision": "bf16"},
    "cached": {"kind": "cache"},
    "cached again": {"kind": "cache"},
    "no budget": {"kind": "cache", "budget_bytes": 0},
}


def plan_of_a_person(place):
    """What the rule would cut by rows lies whole, and the other way round."""
    opened = bases.open_base(place / "base")
    shapes = bases.table_shapes(opened.catalog, opened.encoding, opened.model)
    asked = {shape.name: "table_wise" if shape.rows >= 100 else "row_wise" for shape in shapes}
    rule = PlacementRuleSpec(sharding=asked)
    made = plan_tables(shapes, world=2, device=torch.device("cpu"), rule=rule)
    return as_document(made, job="finetune", world=2)


def planned_work(place):
    return finetune_work(
        place, place / "planned", placement=ResolvedPlacement(plan=plan_of_a_person(place))
    )


def ask_kept(worker, place):
    """The same run, its activations kept in other ways, one after the other."""
    found = {}
    for name, config in CACHES.items():
        run_dir = place / name.replace(" ", "-")
        work = finetune_work(place, run_dir, cache=cache_config(place, **config))
        found[name] = finetune(work, worker=worker, report=silent)
        dist.barrier()
    return found


def ask_live(worker, place, done):
    """The next night, from the kernels that serve."""
    kernels = {
        name: level.tuned.bank.slot(slot)
        for level in done.levels
        for slot, name in enumerate(level.tuned.bank.names)
    }
    live = Live(kernels=kernels, standard=done.standard)
    return finetune(finetune_work(place, place / "live", live=live), worker=worker, report=silent)


def through_base(model, work, worker):
    source = RowSource(
        reader=reader_of(work, "gate", worker), cache=None, contract=Counter()
    )  # fmt: skip
    rows = source.read()
    features = [source.features_of(piece) for piece in rows.pieces]
    catalog = work.view.catalog
    encoded = tuning.joined(features, catalog)
    scale = fit_standardizer(model, encoded, catalog, reads_x=True, narrow=0, worker=worker)
    base = StandardizedBase(model=model, catalog=catalog, standard=scale, device=worker.device)
    return base, encoded


def reader_of(work, split, worker):
    return Reader(
        selection=work.view.selections[split], catalog=work.view.catalog,
        encoding=work.base.encoding, rank=worker.rank, world=worker.world,
    )  # fmt: skip


def ask_frozen(worker, place):
    work = finetune_work(place, place / "frozen")
    frozen = FrozenBase.load(work.base, FP32, work.placement, worker)
    model = frozen.model
    base, rows = through_base(model, work, worker)
    a_BA = base.look_up(rows)
    sums = [a_BA.sum(0), a_BA.square().sum(0), torch.tensor(float(len(a_BA)))]
    for part in sums:
        dist.all_reduce(part)
    found = frozen.digest()
    return {
        "combined": found.combined,
        "by name": dict(found.by_name),
        "needs graph": a_BA.requires_grad,
        "trainable": [n for n, p in dense_state(model).items() if p.requires_grad],
        "gradients": [n for n, p in unwrap(model).named_parameters() if p.grad is not None],
        "moments": (sums[0] / sums[2], sums[1] / sums[2]),
    }


def ask_few(worker, place):
    """Three rows of worker 0 and none of worker 1, one at a time."""
    work = finetune_work(place, place / "few")
    frozen = FrozenBase.load(work.base, FP32, work.placement, worker)
    base, whole = through_base(frozen.model, work, worker)
    rows = whole.slice(0, 3 if worker.rank == 0 else 0)
    blocks = [
        MissingBlock(first=at, stop=at + 1, rows=rows.slice(at, 1)) for at in range(len(rows))
    ]
    activations = ActivationBuffer(
        a_nA=torch.empty(len(rows), base.width), missing=blocks, base=base, worker=worker
    )
    first = activations.of(torch.tensor([0, 0])[: len(rows)])
    kept = activations.of(torch.arange(len(rows)))
    assert torch.equal(first.a_BA, kept.a_BA[[0, 0]] if len(rows) else kept.a_BA)
    expected = base.look_up(whole)[: len(rows)]
    return kept.a_BA, expected, activations.is_whole


def ask_published(worker, place, done):
    """Bundles of which some are published, and every test row's probabilities under them."""
    work = finetune_work(place, place / "published")
    manifest = work.base.manifest
    if worker.rank == 0:
        provenance = Provenance(
            base_fingerprint=manifest.fingerprint, schema_hash=manifest.schema_hash,
            data_window=DataWindow(), spec=BundleSettings(kernel=KernelSpec()), versions={},
            created_at=datetime.now(UTC),
        )  # fmt: skip
        tasks = metric_tasks(work.view.catalog.tasks, negatives_kept=1.0)
        publish_bundles(
            done, place / "bundles", provenance=provenance, tasks=tasks, gate=PUBLISH_SOME
        )
    dist.barrier()
    predictions = PredictWork(
        view=work.view, truth=None, base=work.base, bundles=place / "bundles",
        run_dir=place / "evaluate", splits=("test",), batch_rows=100, tables=FP32,
        placement=ResolvedPlacement(row_wise_from_rows=100),
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
def workers(alone):  # noqa: ARG001 - alone made the base
    with StayingWorkers(2) as staying:
        yield staying


@pytest.fixture(scope="module")
def levels(workers):
    return workers.run(ask_levels)


@pytest.fixture(scope="module")
def whole(workers, place):
    """What each worker's undisturbed run came to."""
    return [done for done, _ in workers.run(ask_whole, place)]


@pytest.fixture(scope="module")
def checkpoint_of_whole(whole, place):  # noqa: ARG001 - the run wrote it
    return (place / "whole-2" / CHECKPOINT).read_bytes()


@pytest.fixture(scope="module")
def killed(workers, place):
    return workers.run(ask_killed, place)


@pytest.fixture(scope="module")
def damaged(workers, place):
    return workers.run(ask_damaged, place)


@pytest.fixture(scope="module")
def kept(workers, place):
    """Name of a cache -> what worker 0's run with it came to, and worker 1's."""
    by_rank = workers.run(ask_kept, place)
    return {name: [answers[name] for answers in by_rank] for name in CACHES}


@pytest.fixture(scope="module")
def frozen(workers, place):
    return workers.run(ask_frozen, place)


@pytest.fixture(scope="module")
def published(workers, place, whole):
    """Bundles and predictions of the run, in `place`."""
    return workers.run(ask_published, place, whole[0])


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
def test_two_workers_tune_as_one_however_rows_are_split(levels, alone, cut):
    done = alone[0]
    for answers in levels:
        assert_close(answers[cut], done)
    assert same(levels[0][cut], levels[1][cut])
    assert max(done.best_epoch) > 1


def test_two_workers_finetune_as_one(whole, alone):
    done = whole[0]
    for level, expected in zip(done.levels, alone[1].levels, strict=True):
        assert_close(level.tuned, expected.tuned)
        assert level.rows == expected.rows
        assert level.gate_rows.keys() == expected.gate_rows.keys()
        for name, judged in level.gate_rows.items():
            for field in ("base_loss", "candidate_loss"):
                found = np.sort(getattr(judged, field))
                wanted = np.sort(getattr(expected.gate_rows[name], field))
                np.testing.assert_allclose(found, wanted, atol=1e-5)
            np.testing.assert_array_equal(
                np.sort(judged.user_n), np.sort(expected.gate_rows[name].user_n)
            )
    assert done.below_floor == alone[1].below_floor


def test_a_saved_plan_is_followed_and_changes_no_kernel(workers, whole, place):
    wanted = {t.table: (t.type, [s.rank for s in t.shards]) for t in plan_of_a_person(place).tables}
    assert {kind for kind, _ in wanted.values()} == {"table_wise", "row_wise"}
    for planned, done in zip(workers.run(ask_planned, place), whole, strict=True):
        assert {t.table: (t.type, list(t.ranks)) for t in planned.plan} == wanted
        by_rule = {t.table: t.type for t in done.plan}
        assert all(by_rule[name] != kind for name, (kind, _) in wanted.items())
        assert planned.digest == done.digest
        for a, b in zip(done.levels, planned.levels, strict=True):
            assert_close(a.tuned, b.tuned)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"workers": 3}, "workers: plan 2, job 3"),
        ({"tables": FrozenTablesSpec(precision="int8")}, r"\(precision\): plan fp32, job int8"),
        ({"tables": FrozenTablesSpec(precision="fp32", mapped=True)}, "keeps all tables"),
        (
            {"placement": {"plan": "plan.json", "sharding": {"item_id": "row_wise"}}},
            r"leave out placement\.sharding",
        ),
    ],
)
def test_a_plan_that_is_not_for_this_tuning_says_what_differs(place, tmp_path, changes, says):
    file = tmp_path / "plan.json"
    file.write_text(plan_of_a_person(place).model_dump_json())
    asked = {"catalog": "x", "data_root": "x", "run_dir": tmp_path, "base": place, "tables": FP32}
    spec = FinetuneSpec(**asked | {"placement": {"plan": file}} | changes)
    opened = bases.open_base(place / "base")
    if says is None:
        assert night_placement(spec, opened).plan == plan_of_a_person(place)
        return
    with pytest.raises(BadRequest, match=says):
        night_placement(spec, opened)


def test_every_level_is_tuned_and_thin_domains_are_not(whole):
    done = whole[0]
    pooled, regions, crosses = (level.rows for level in done.levels)
    assert set(pooled) == {"pooled"}
    assert sum(regions.values()) == sum(pooled.values())
    assert min(crosses.values()) >= 60 > max(done.below_floor.values())
    assert sum(crosses.values()) + sum(done.below_floor.values()) == sum(pooled.values())
    assert all(
        len(judged.base_loss) for level in done.levels for judged in level.gate_rows.values()
    )


def test_the_two_workers_hold_the_same_kernels(whole):
    for mine, theirs in zip(whole[0].levels, whole[1].levels, strict=True):
        assert same(mine.tuned, theirs.tuned)


def test_killed_after_every_epoch_and_level_it_still_ends_with_the_same_bytes(
    whole, killed, checkpoint_of_whole
):
    for done, (resumed, attempts, _) in zip(whole, killed, strict=True):
        assert all(same(a.tuned, b.tuned) for a, b in zip(done.levels, resumed.levels, strict=True))
        assert attempts >= sum(level.tuned.epochs for level in done.levels)
    assert killed[0][2] == checkpoint_of_whole != b""


def test_resumed_from_the_checkpoint_before_a_damaged_one_it_ends_with_the_same_bytes(
    whole, damaged, checkpoint_of_whole
):
    for done, (resumed, _, _) in zip(whole, damaged, strict=True):
        assert all(same(a.tuned, b.tuned) for a, b in zip(done.levels, resumed.levels, strict=True))
    assert damaged[0][2] == checkpoint_of_whole


def test_worker_0_alone_says_which_checkpoint_was_damaged_and_which_is_taken(damaged):
    told = [e["message"] for e in damaged[0][1] if e.get("event") == "loaded"]
    seen = [sum(word in line for line in told) for word in ("digest", "as this worker sees it")]
    assert min(seen) >= 1
    assert all(PREVIOUS in line for line in told)
    assert not [e for e in damaged[1][1] if e.get("event") == "loaded"]


@pytest.mark.parametrize("name", ["recomputed", "cached", "cached again", "no budget"])
def test_kept_cached_or_recomputed_activations_tune_the_same(whole, kept, name):
    for done, other in zip(whole, kept[name], strict=True):
        for a, b in zip(done.levels, other.levels, strict=True):
            assert_close(a.tuned, b.tuned)


def test_what_is_read_from_the_cache_tunes_the_same_bits(kept):
    for cached, again in zip(kept["cached"], kept["cached again"], strict=True):
        for a, b in zip(cached.levels, again.levels, strict=True):
            assert same(a.tuned, b.tuned)


def test_a_lower_precision_is_the_same_however_it_is_kept(whole, kept):
    runs = zip(kept["in a file"], kept["recomputed bf16"], whole, strict=True)
    for in_a_file, recomputed, done in runs:
        for a, b in zip(in_a_file.levels, recomputed.levels, strict=True):
            assert_close(a.tuned, b.tuned)
        for a, b in zip(in_a_file.levels, done.levels, strict=True):
            assert a.tuned.best_loss == pytest.approx(b.tuned.best_loss, rel=0.03)


def test_what_one_run_computes_the_next_one_reads(kept):
    first, again, gone = (kept[name][0].cache for name in ("cached", "cached again", "no budget"))
    assert first.rows_read == 0 < first.rows_computed == again.rows_read
    assert again.rows_computed == again.bytes_written == 0 < first.bytes_written
    assert gone.rows_read == first.rows_computed
    assert gone.entries_evicted > 0 == again.entries_evicted
    assert kept["recomputed"][0].cache == CacheUse()


def test_contract_and_gate_rows_are_the_same_from_the_cache(whole, kept):
    cached, again = kept["cached"][0], kept["cached again"][0]
    assert again.contract == whole[0].contract
    for a, b in zip(cached.levels, again.levels, strict=True):
        assert a.rows == b.rows
        assert a.gate_rows.keys() == b.gate_rows.keys()
        for name, judged in a.gate_rows.items():
            np.testing.assert_array_equal(judged.base_loss, b.gate_rows[name].base_loss)


def test_a_night_starts_from_the_kernels_that_serve_or_from_a_better_parent(workers, place, whole):
    done, live = whole[0], workers.run(ask_live, place, whole[0])[0]
    for depth, (a, b) in enumerate(zip(done.levels, live.levels, strict=True)):
        assert a.tuned.bank.names == b.tuned.bank.names
        served = a.tuned.best_loss
        pairs = list(zip(b.tuned.start_loss, served, strict=True))
        assert all(start <= loss * (1 + 1e-6) for start, loss in pairs)
        assert any(start == pytest.approx(loss, rel=1e-6) for start, loss in pairs) or depth
    torch.testing.assert_close(live.standard.mean_A, done.standard.mean_A)


def test_the_base_is_the_same_before_and_after_and_gathers_no_gradient(
    whole, frozen, published, place
):
    manifest = bases.open_base(place / "base").manifest
    for loaded, done, predicted in zip(frozen, whole, published, strict=True):
        assert loaded["combined"] == done.digest == predicted.digest
        assert loaded["by name"] == manifest.digest
        assert (loaded["needs graph"], loaded["trainable"], loaded["gradients"]) == (False, [], [])


def test_what_kernels_read_has_mean_zero_and_deviation_one_over_all_workers(frozen):
    for answers in frozen:
        mean, square = answers["moments"]
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
        assert ((square - 1).abs() < 1e-3).logical_or(square < 1e-6).all()


def test_a_worker_that_runs_out_of_rows_takes_part_in_the_lookups(workers, place):
    few = workers.run(ask_few, place)
    for found, expected, is_whole in few:
        torch.testing.assert_close(found, expected)
        assert not is_whole  # nobody knows yet: it is told at the next call
    assert [len(found) for found, _, _ in few] == [3, 0]


@pytest.mark.usefixtures("killed")
def test_another_log_does_not_resume_a_checkpoint(place):
    def checkpoint(snapshot):
        return TuningCheckpoint(
            place / "killed", snapshot=snapshot, every_s=0, worker=ALONE, report=silent
        )

    assert set(checkpoint(finetune_work(place, place).view.snapshot.fingerprint).load())
    with pytest.raises(BadLog, match="the log changed since"):
        checkpoint("another").load()


@pytest.mark.usefixtures("published")
def test_rows_are_predicted_by_their_own_bundle_or_their_ancestors(place):
    files = sorted((place / "evaluate" / "predictions").glob("test-*.parquet"))
    assert len(files) == 2
    bundle_set, rows = opened(place), pq.read_table(files)
    assert len(rows) == finetune_work(place, place).view.selections["test"].rows
    base, iak, published = (
        rows.column(f"own.{method}.ctr").to_numpy() for method in (BASE, IAK, PUBLISHED)
    )
    paths = [["pooled", n.rpartition("/")[0], n] for n in rows.column("domain").to_pylist()]
    slots = np.array([bundle_set.slot_for(p, published_only=False) for p in paths])
    published_slots = np.array([bundle_set.slot_for(p, published_only=True) for p in paths])
    depths = {name.count("/") + ("=" in name) for name in np.array(bundle_set.names)[slots]}
    assert depths == {1, 2}, "some domains have a kernel, others take their region's"
    is_held = slots != published_slots
    assert is_held.any(), "some gate slices are meant to be thin"
    np.testing.assert_allclose(iak[~is_held], published[~is_held], rtol=1e-5)
    assert (iak[is_held] != published[is_held]).any()
    assert (iak != base).mean() > 0.9
    served = np.array([*bundle_set.names, BASE])[published_slots]
    assert rows.column("served").to_pylist() == served.tolist()


@pytest.mark.usefixtures("published")
def test_predictions_carry_each_rows_key_and_id_and_say_what_they_are(place):
    found = read_predictions(place / "evaluate", "test")
    log = pq.read_table(place / "log" / "events").to_pydict()
    ids = dict(zip(log["event_id"], log["label_click"], strict=True))
    table = found.table
    assert (
        len(set(table.column("row").to_pylist())) == len(table) == len(set(table["id"].to_pylist()))
    )
    clicks = dict(zip(table["id"].to_pylist(), table["y.ctr"].to_pylist(), strict=True))
    assert all(ids[int(i)] == click for i, click in clicks.items() if click is not None)
    document = found.document
    assert (document.split, document.row_id, document.has_users) == ("test", "event_id", True)
    assert [t.name for t in document.tasks] == ["ctr", "cvr", "ctcvr"]
    assert document.methods == (BASE, IAK, PUBLISHED)


def opened(place):
    manifest = bases.open_base(place / "base").manifest
    return read_bundle_set(
        place / "bundles", base_fingerprint=manifest.fingerprint, schema_hash=manifest.schema_hash
    )


@pytest.mark.usefixtures("published")
def test_bundles_are_refused_on_another_base(place):
    schema = bases.open_base(place / "base").manifest.schema_hash
    with pytest.raises(WrongBase):
        read_bundle_set(place / "bundles", base_fingerprint="0" * 64, schema_hash=schema)
