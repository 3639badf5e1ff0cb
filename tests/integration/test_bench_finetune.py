"""The variants are what they say: who changes tables and trunk, what is sent, what stands still."""

import tomllib
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from iak.pipeline.base import published_base as bases
from iak.pipeline.bench import iak_variants, setup, torchrec_variants
from iak.pipeline.bench.counters import cost_of
from iak.pipeline.bench.iak_variants import InputVariant
from iak.pipeline.bench.torchrec_variants import Continued, FullFineTune, TorchRecKernel
from iak.pipeline.process import run_on_workers
from iak.pipeline.sharding.shard import dense_state, digest_model, local_shards
from infra.benchmarks import finetune as bench
from infra.benchmarks.specs import BenchFinetuneSpec

# A whole bench takes minutes where other work shares the cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMOKE = Path("infra/benchmarks/configs/smoke/finetune.toml")
FULL = Path("infra/benchmarks/configs/finetune.toml")


def silent(_):
    return


def spec_at(place, **changes):
    document = tomllib.loads(SMOKE.read_text())
    places = {"smoke": True, "cache": place / "cache", "out": place / "out"}
    return BenchFinetuneSpec.model_validate(document | places | changes)


def state(training, worker):
    """Digests of the tables, and of trunk and towers."""
    digest = digest_model(training.model, worker).by_name
    dense = set(dense_state(training.model))
    return (
        {n: d for n, d in digest.items() if n not in dense},
        {n: d for n, d in digest.items() if n in dense},
    )


def ask_plain(worker, ground):
    """What each of (a), (b), (c) changes, and the loss before and after."""
    place = Continued(ground, worker=worker, report=silent)
    batches = place.batches(4)
    answers = {"rows": [b.rows for b in batches]}
    trainers = {
        "a": FullFineTune(place),
        "b": place,
        "c": TorchRecKernel(place, ground.spec.kernel, seed=0),
    }
    for name, trainer in trainers.items():
        place.to_the_base()
        before = state(place, worker)
        losses = [float(trainer.step(batches[0])) for _ in range(12)]
        after = state(place, worker)
        changed = [x != y for x, y in zip(before, after, strict=True)]
        answers[name] = {"changed": changed, "losses": losses, "start": before}
    answers["learns"] = all(p.requires_grad for p in place.dense.values())
    answers["cost a"] = cost_of(lambda: trainers["a"].step(batches[0]))
    answers["cost c"] = cost_of(lambda: trainers["c"].step(batches[0]))
    answers["tables"] = torchrec_variants.tables_bytes(place.model)
    place.to_the_base()
    answers["run"] = place.fine_tune()
    return answers


def ask_ours(worker, ground):
    """Slices of the same kernels, from rows computed again and kept."""
    view = ground.view("tune")
    whole = iak_variants.read_split(bases.open_base(ground.base), view, "tune", worker)
    names = iak_variants.some_of(whole, 1_000)
    known = iak_variants.only(whole, names)
    model = iak_variants.open_frozen(ground, worker, "fp32")
    before = digest_model(model, worker).combined
    answers = {"names": names, "counts": whole.counts, "rows": 0}
    for keeps in ("recompute", "fp32"):
        inputs = InputVariant(reads="hx", keeps=keeps)
        through = iak_variants.through_base(model, known, view, inputs, worker)
        rows = iak_variants.tuning_rows(through, known, inputs, worker)
        slices = iak_variants.slices_of(ground, through, rows, known.domains, worker)
        twin = iak_variants.slices_of(ground, through, rows, known.domains, worker, twin=slices)
        steps = slices.epoch()
        answers[keeps] = {
            "bank": slices.bank.flat_KN.clone(),
            "steps": steps,
            "some": slices.some_steps(1),
            "cost": cost_of(lambda twin=twin: twin.some_steps(1)),
            "held": slices.held_bytes(),
            "same memory": twin.bank is slices.bank and twin.tuner.adam is slices.tuner.adam,
        }
        answers["rows"] = slices.rows
    answers["unchanged"] = digest_model(model, worker).combined == before
    answers["frozen bytes"] = iak_variants.frozen_bytes(model)
    shards = [s.tensor_RW for s in local_shards(model)]
    answers["shards"] = sum(t.numel() * t.element_size() for t in shards)
    dist.barrier()
    return answers


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def ground(place):
    (place / "out").mkdir()
    return setup.prepare(spec_at(place), place / "out" / "progress.jsonl", silent)


@pytest.fixture(scope="module")
def with_plain(ground):
    return run_on_workers(ask_plain, 2, ground)


@pytest.fixture(scope="module")
def with_ours(ground):
    return run_on_workers(ask_ours, 2, ground)


def test_everything_trains_in_a_and_b_and_only_the_kernel_in_c(with_plain):
    for answers in with_plain:
        assert answers["a"]["changed"] == [True, True]
        assert answers["b"]["changed"] == [True, True]
        assert answers["c"]["changed"] == [False, False]
        assert answers["learns"], "the trunk learns again after (c)"


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_each_learns_the_batch_it_is_given(with_plain, name):
    for answers in with_plain:
        losses = answers[name]["losses"]
        assert losses[-1] < losses[0]
        assert answers[name]["start"] == answers["a"]["start"], "each starts from the base"


def test_tables_at_rate_0_still_send_their_gradients(with_plain):
    for answers in with_plain:
        full, plain_kernel = answers["cost a"], answers["cost c"]
        backward = full.collectives["alltoall_base"]
        assert plain_kernel.collectives["alltoall_base"] == backward
        assert plain_kernel.sent_bytes > 0.5 * full.sent_bytes


def test_batches_are_of_one_size(with_plain, ground):
    for answers in with_plain:
        assert answers["rows"] == [ground.spec.batch_rows // 2] * 4


def test_a_run_to_its_best_step_starts_with_the_base(with_plain):
    for answers in with_plain:
        run = answers["run"]
        assert run.losses[0][0] == 0
        assert run.best_loss == min(loss for _, loss in run.losses)
        assert 0 < run.best_s <= run.trained_s


def test_some_domains_are_small_and_large_ones_and_all_their_rows(with_ours):
    for answers in with_ours:
        counts = answers["counts"]
        assert answers["rows"] == sum(counts[name] for name in answers["names"])
        assert len(counts) > len(answers["names"]) > 1


def test_kept_rows_tune_the_same_kernels_as_rows_computed_again(with_ours):
    for answers in with_ours:
        recomputed, kept = answers["recompute"], answers["fp32"]
        torch.testing.assert_close(recomputed["bank"], kept["bank"], atol=1e-4, rtol=1e-3)
        assert recomputed["steps"] == kept["steps"] > recomputed["some"] == 1


def test_kept_rows_ask_nobody_for_anything_but_gradients(with_ours):
    for answers in with_ours:
        assert "alltoall_base" in answers["recompute"]["cost"].collectives
        kept = answers["fp32"]["cost"]
        assert set(kept.collectives) == {"allreduce"}
        assert kept.sent_bytes < answers["recompute"]["cost"].sent_bytes
        assert answers["fp32"]["held"]["cache"] > answers["recompute"]["held"]["cache"] == 0


def test_twins_tune_one_bank_and_nothing_touches_the_tables(with_ours):
    for answers in with_ours:
        assert answers["unchanged"]
        assert all(answers[keeps]["same memory"] for keeps in ("recompute", "fp32"))
        assert answers["frozen bytes"] >= answers["shards"] > 0


def test_a_base_is_made_once(ground, place):
    stamp = (ground.base / "manifest.json").stat().st_mtime_ns
    again = setup.prepare(ground.spec, place / "out" / "again.jsonl", silent)
    assert (again.base / "manifest.json").stat().st_mtime_ns == stamp
    assert setup.base_folder(
        ground.spec.model_copy(update={"batch_rows": 8}), ground.knobs
    ) != setup.base_folder(ground.spec, ground.knobs)


@pytest.mark.ray
# Ray Train 2.60 sets deprecated settings of its own.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_whole_bench_tells_every_variant_night_and_number_of_domains(ground):
    result = bench.measure(ground.spec, silent)
    rows, targets, notes, limits = result.rows, result.targets, result.notes, result.limits
    by_table = {}
    for row in rows:
        by_table.setdefault(row["table"], []).append(row)
    assert "".join(r["variant"][0] for r in by_table["variants"]) == "abcd" + 7 * "e" + "ddd"
    assert all(r["rows_per_s"] > 0 and r["seconds_to_best"] > 0 for r in by_table["variants"][2:])
    first, _, steady, _, *others = by_table["nights"][2:]
    assert len(others) == 4
    assert first["rows_from_cache"] == 0
    assert steady["rows_from_cache"] > steady["rows_through_base"]
    assert [r["domains"] for r in by_table["domains"]] == list(ground.spec.domains)
    assert [r["what"] for r in by_table["ray"]] == ["plain torch.distributed", "Ray Train"]
    assert len(targets) == 13
    assert notes
    assert min(limits.values()) > 0


def test_the_shipped_sizes_are_those_of_the_targets():
    spec = BenchFinetuneSpec.model_validate(tomllib.loads(FULL.read_text()))
    assert (spec.rows, spec.table_rows, spec.workers) == (2_000_000, 20_000_000, 2)
    assert (spec.model.trunk, spec.model.width) == ("mlp", 64)
    assert spec.model.mlp == (1024, 512, 256)
    assert (spec.domains, spec.repeats) == ((1, 10, 100, 1000), 5)
