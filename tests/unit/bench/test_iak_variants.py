"""The variants of this project, as far as they need no base."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.bench.iak_variants import InputVariant, Known, some_of, stage_of
from iak.pipeline.bench.setup import BenchSetup
from iak.pipeline.bench.wide_log import WideKnobs
from iak.schemas.bench import BenchSetupSpec


def known(rows):
    """Domains of these sizes, largest first."""
    counts = {f"d{k}": count for k, count in enumerate(sorted(rows, reverse=True))}
    return Known(source=None, rows=None, domains=tuple(counts), counts=counts)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=200), st.integers(1, 10**5))
def test_some_domains_keep_their_order_and_are_spread_over_all_sizes(rows, wanted):
    every = known(rows)
    some = some_of(every, wanted)
    positions = [every.domains.index(name) for name in some]
    assert positions == sorted(positions)
    gaps = {b - a for a, b in pairwise(positions)}
    assert len(gaps) <= 1
    if positions:
        # The first and the last are half a gap from the ends, or nearer.
        step = gaps.pop() if gaps else len(every.domains)
        assert positions[0] <= step
        assert len(every.domains) - positions[-1] <= step + 1


def test_about_as_many_rows_are_taken_as_are_wanted():
    every = known([100] * 200)
    rows = sum(every.counts[name] for name in some_of(every, 5_000))
    assert rows == pytest.approx(5_000, rel=0.1)


def test_all_domains_are_taken_where_more_rows_are_wanted_than_there_are():
    every = known([5, 4, 3])
    assert some_of(every, 10**9) == every.domains


def test_kernels_with_the_same_inputs_share_a_bank_whatever_keeps_them():
    kept, computed = (InputVariant(reads="hx", keeps=how) for how in ("bf16", "recompute"))
    assert kept.inputs == computed.inputs == "hx"
    assert InputVariant(reads="hx", keeps="bf16", narrow=256).inputs == "hx256"
    assert InputVariant(reads="h", keeps="bf16").inputs == "h"


def test_a_stage_is_the_setting_s_with_what_the_benchmark_changes():
    spec = BenchSetupSpec(rows=6_000, table_rows=5_000, batch_rows=64, seed=5)
    nowhere = Path("nowhere")
    setup = BenchSetup(
        spec=spec,
        knobs=WideKnobs(rows=6_000, days=12, table_rows=5_000, domains=(1,)),
        data_root="nowhere",
        base=nowhere,
        progress=nowhere,
    )
    stage = stage_of(setup, spec.domain, compression_epochs=0)
    assert stage.spec == spec.domain.model_copy(update={"compression_epochs": 0})
    assert (stage.beta, stage.step_rows, stage.seed) == (spec.kernel.beta, 64, 5)
