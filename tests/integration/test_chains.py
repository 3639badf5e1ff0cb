"""Nights judged as chains on two workers: the gate's rows are those that would be served."""

from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import torch
from torch import distributed as dist

from iak.pipeline.process import run_on_workers
from iak.pipeline.publish.judge_chains import NightChains
from iak.pipeline.publish.predict import PredictWork, predict
from iak.pipeline.publish.publish_bundles import Provenance, publish_bundles, tuning_result
from iak.pipeline.tuning.finetune import finetune
from iak.pipeline.tuning.work import Live
from iak.schemas.domain import POOLED
from iak.schemas.job import ChainSpec, GateSpec, KernelSpec
from iak.schemas.log_snapshot import DataWindow
from iak.schemas.manifest import BundleSettings
from iak.schemas.predictions import metric_tasks
from iak.schemas.tuning import TuningResult
from tests.integration.small_log import publish_base, write_log
from tests.integration.test_tuning import FP32, cache_config, finetune_work, silent

pytestmark = pytest.mark.slow
BF16 = {"kind": "cache", "precision": "bf16"}
GATE = GateSpec(
    min_positives=5, min_negatives=5, auc_margin=1, logloss_margin=9, calibration_margin=9,
    chain=ChainSpec(at_once=1.0, at_once_margin=0.0, alpha=0.5),
)  # fmt: skip
"""A gate that few rows may pass: evidence over nights is not what is tested here."""
FIRST, SECOND = date(2026, 10, 8), date(2026, 10, 9)


def work_of(place, name, **changes):
    return finetune_work(place, place / name, cache=cache_config(place, **BF16), **changes)


def published(work, done, worker, place, chains):
    """What the gate made of a run, on worker 0."""
    manifest = work.base.manifest
    kernels = []
    if worker.rank == 0:
        provenance = Provenance(
            base_fingerprint=manifest.fingerprint, schema_hash=manifest.schema_hash,
            data_window=DataWindow(), spec=BundleSettings(kernel=KernelSpec()), versions={},
            created_at=datetime.now(UTC),
        )  # fmt: skip
        tasks = metric_tasks(work.view.catalog.tasks, negatives_kept=1.0)
        kernels = publish_bundles(
            done, place, provenance=provenance, tasks=tasks, gate=GATE, chains=chains
        )
    dist.barrier()
    return kernels


def ask_base(worker, place):
    publish_base(worker, place / "log", place / "base")


def ask(worker, place):
    """A first night, a second one that starts from its kernels, and the first judged alone."""
    plain = finetune(work_of(place, "plain"), worker=worker, report=silent)
    work = work_of(place, "first", compares_chains=True)
    first = finetune(work, worker=worker, report=silent)
    kernels = published(work, first, worker, place / "bundles", NightChains(night=FIRST))
    promoted = {k.domain for k in kernels if k.published}
    names: list = [promoted]
    dist.broadcast_object_list(names, src=0)
    live = Live(
        kernels={
            name: level.tuned.bank.slot(slot)
            for level in first.levels
            for slot, name in enumerate(level.tuned.bank.names)
            if name in names[0]
        },
        standard=first.standard,
    )
    work = work_of(place, "second", compares_chains=True, live=live)
    second = finetune(work, worker=worker, report=silent)
    states = {k.domain: k.chain.state for k in kernels}
    chains = NightChains(night=SECOND, states=states)
    later = published(work, second, worker, place / "bundles-2", chains)
    predicted = predict(
        PredictWork(
            view=work.view, truth=None, base=work.base, bundles=place / "bundles",
            run_dir=place / "evaluate", splits=("gate",), batch_rows=100, tables=FP32,
            placement=work.placement,
        ),
        worker=worker, report=silent,
    )  # fmt: skip
    return {
        "plain": plain, "first": first, "second": second, "kernels": kernels, "later": later,
        "predicted": predicted,
    }  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("chains")
    write_log(place / "log")
    return place


@pytest.fixture(scope="module")
def nights(place):
    run_on_workers(ask_base, 1, place)
    return run_on_workers(ask, 2, place)[0]


@pytest.fixture(scope="module")
def predictions(place, nights):  # noqa: ARG001 - nights wrote them
    return ds.dataset(place / "evaluate" / "predictions").to_table()


def last_level(done):
    return done.levels[-1]


def largest_gap(rows, predicted, method, column):
    """Largest difference between the gate's probabilities of a task and those of evaluation."""
    served = np.sort(predicted.column(f"own.{method}.ctr").to_numpy())
    return np.abs(np.sort(getattr(rows, column)[:, 0]) - served).max()


def test_the_gate_reads_what_evaluation_predicts_and_not_what_the_cache_rounded(
    nights, predictions
):
    level, rounded = last_level(nights["first"]), last_level(nights["plain"])
    gaps: dict[str, list[float]] = {"exact": [], "rounded": []}
    for name, rows in level.gate_rows.items():
        mine = predictions.filter(pa.compute.equal(predictions.column("domain"), name))
        assert len(mine) == len(rows.labels_nT)
        for method, column in (("base", "base_own_nT"), ("iak", "candidate_own_nT")):
            gaps["exact"].append(largest_gap(rows, mine, method, column))
            gaps["rounded"].append(largest_gap(rounded.gate_rows[name], mine, method, column))
    assert len(gaps["exact"]) >= 4
    assert max(gaps["exact"]) < 2e-6
    assert max(gaps["rounded"]) > 1e-5


def test_to_judge_chains_tunes_the_very_same_kernels(nights):
    for plain, compared in zip(nights["plain"].levels, nights["first"].levels, strict=True):
        assert torch.equal(plain.tuned.bank.flat_KN, compared.tuned.bank.flat_KN)
    assert nights["plain"].gate_seconds == 0 < nights["first"].gate_seconds


def test_a_first_night_is_compared_with_the_kernels_above_and_a_second_with_what_serves(nights):
    pooled, *below = nights["first"].levels
    assert not pooled.compared.tuned_above
    for level in below:
        assert level.compared.tuned_above.keys() == level.gate_rows.keys()
        assert not level.compared.live
        assert not level.compared.serving_above
    promoted = {k.domain for k in nights["kernels"] if k.published}
    assert promoted
    for level in nights["second"].levels:
        names = promoted & level.gate_rows.keys()
        assert level.compared.live.keys() == level.compared.live_over_above.keys() == names
    assert nights["second"].live == promoted


def test_days_of_the_gates_rows_are_those_of_their_folders(nights):
    rows = nights["first"].levels[0].gate_rows[POOLED]
    days = {date.fromordinal(int(d) + date(1970, 1, 1).toordinal()) for d in rows.day_n}
    split = nights["kernels"][0].chain.state.counted_to
    assert len(days) > 1
    assert split["ctr"] == max(days)


def test_chains_begin_in_the_first_night_and_are_never_counted_twice(nights):
    before = {k.domain: k.chain for k in nights["kernels"]}
    for kernel in nights["later"]:
        chain = kernel.chain
        assert chain.state.last_night == SECOND
        # The second night reads the same days, which the first one used up.
        assert (chain.observation, chain.state.nights) == (None, 0)
        assert chain.state.counted_to == before[kernel.domain].state.counted_to
    assert all(k.gate.reason == k.reason == k.chain.sentence for k in nights["later"])


def test_a_runs_record_holds_its_chains(nights):
    result = tuning_result(nights["first"], nights["kernels"])
    read = TuningResult.model_validate(result.as_json())
    assert read.kernels == result.kernels
    assert all(kernel.chain is not None for kernel in read.kernels)
