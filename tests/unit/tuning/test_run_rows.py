"""A run's rows are read once, and later runs find what they need of them in the cache."""

from dataclasses import replace

import pytest
import torch

from iak.pipeline.activations.buffer import ActivationBuffer
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.events import RowsRead, silent
from iak.pipeline.tuning.run_rows import RunRows
from iak.pipeline.tuning.work import SPLITS

NAMES = (("pooled",), ("region=a", "region=b"), ())


@pytest.fixture
def prepared(work, alone):
    """Read the rows of a run, and give them their inputs."""

    def prepare(**cache):
        changed = replace(work, cache=replace(work.cache, **cache))
        frozen = FrozenBase.load(changed.base, changed.tables, changed.placement, alone)
        run = RunRows.read(changed, alone, silent)
        inputs = run.inputs(frozen.model)
        return run, inputs, run.with_inputs(inputs, NAMES)

    return prepare


def test_a_split_has_all_its_rows_with_the_slots_of_their_domains(prepared, work):
    _, inputs, rows = prepared()
    assert {split: len(rows[split]) for split in SPLITS} == {
        split: work.view.selections[split].rows for split in SPLITS
    }
    assert set(rows["tune"].slots_nL[:, 1].tolist()) == {-1, 0, 1}
    a_BA = rows["tune"].activations.of(torch.arange(3)).a_BA
    assert a_BA.shape == (3, inputs.base.width)
    assert inputs.statistics_width == 0


def test_the_next_run_finds_standardisation_and_rows_in_the_cache(prepared):
    run, inputs, rows = prepared()
    assert inputs.standard_from == "this run's rows"
    use = run.close(rows)
    assert (use.rows_read, use.rows_computed) == (0, sum(map(len, rows.values())))
    again, found, same = prepared()
    assert found.standard_from == "the cache"
    events = []
    again.report(same, events.append)
    (read,) = (event for event in events if isinstance(event, RowsRead))
    assert dict(read)["from_cache"] == use.rows_computed
    index = torch.arange(len(rows["valid"]))
    one, other = (r["valid"].activations.of(index).a_BA for r in (rows, same))
    assert torch.equal(one, other)
    assert again.close(same).rows_computed == 0


def test_without_a_cache_nothing_is_stored(prepared, work):
    run, _, rows = prepared(kind="recompute")
    assert not isinstance(rows["tune"].activations, ActivationBuffer)
    assert run.close(rows).folder == ""
    assert not work.cache.folder.exists()


def test_rows_of_the_gate_are_as_serving_reads_them(prepared):
    run, inputs, rows = prepared(precision="bf16")
    exact = run.exact_gate_rows(inputs, NAMES)
    index = torch.arange(len(exact))
    rounded_BA = rows["gate"].activations.of(index).a_BA
    exact_BA = exact.activations.of(index).a_BA
    assert not torch.equal(exact_BA, rounded_BA)
    assert torch.equal(exact_BA.bfloat16().float(), rounded_BA.float())
    assert torch.equal(exact.identity_n, rows["gate"].identity_n)
    assert exact.day_n is not None
    assert rows["gate"].day_n is None
