"""The smoke size of `iak bench scaling` tells measured and simulated lines of one story."""

import tomllib
from pathlib import Path

import pytest

from iak.pipeline.bench import scaling
from iak.pipeline.bench.scaling.workloads import NAMES
from iak.pipeline.errors import BadRequest
from iak.schemas.bench import BenchScalingSpec

# A whole bench takes minutes where other work shares the cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs" / "bench"


def spec_at(place, **changes):
    document = tomllib.loads((CONFIGS / "scaling.toml").read_text())
    small = tomllib.loads((CONFIGS / "smoke" / "scaling.toml").read_text())
    places = {"smoke": True, "cache": place / "cache", "out": place / "out"}
    return BenchScalingSpec.model_validate(document | small | places | changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("scaling")


@pytest.fixture(scope="module")
def found(place):
    spec, told = spec_at(place), []
    result = scaling.measure(spec, told.append)
    by_table = {}
    for row in result.rows:
        by_table.setdefault(row["table"], []).append(row)
    return spec, by_table, result.targets, result.notes, result.limits, told


def test_every_workload_is_measured_under_both_laws(found):
    spec, by_table, *_ = found
    told = [(r["workload"], r["scaling"], r["workers"]) for r in by_table["measured"]]
    assert told == [(n, s, w) for n in NAMES for s in ("strong", "weak") for w in spec.workers]
    for row in by_table["measured"]:
        rows = spec.batch_rows / (row["workers"] if row["scaling"] == "strong" else 1)
        assert row["kind"] == "measured"
        assert rows / 2 <= row["rows_a_worker"] <= 2 * rows
        assert row["rows_per_s"] == pytest.approx(
            1e3 * row["workers"] * row["rows_a_worker"] / row["step_ms"], rel=0.01
        )
        assert row["efficiency"] == 1 or row["workers"] > 1
        assert (row["sent_kib_a_step"] > 0) == (row["workers"] > 1)


def test_shares_add_up_and_name_the_collectives_of_each_workload(found):
    shares = found[1]["shares of a measured step"]
    for row in shares:
        parts = [value for value in row.values() if isinstance(value, float)]
        assert sum(parts) == pytest.approx(1, abs=1e-3)
        assert row["compute"] > 0
        if row["workers"] == 2:
            assert row["allreduce"] > 0
            assert (row["alltoall_base"] > 0) == (row["workload"] != NAMES[2])
    assert any(row["input"] > 0 for row in shares)


def test_the_simulation_sends_what_was_counted(found):
    spec, by_table, *_ = found
    rows = by_table["bytes a worker sends in a step"]
    assert {row["workers"] for row in rows} == {2, *spec.counted}
    for name in NAMES:
        own = [row for row in rows if row["workload"] == name]
        counted, foreseen = (
            sum(row[kind] for row in own) for kind in ("counted_kib", "simulated_kib")
        )
        assert foreseen == pytest.approx(counted, rel=0.15), own


def test_more_workers_are_simulated_over_every_link(found):
    spec, by_table, targets, notes, limits, told = found
    rows = by_table["simulated"]
    assert {row["kind"] for row in rows + by_table["model's error"]} == {"simulated"}
    assert len(rows) == len(NAMES) * 2 * len(spec.simulated) * len(spec.link_gb_per_s)
    for row in rows:
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)
        assert row["efficiency"] > 0
    slow, fast = spec.link_gb_per_s
    by_link = {
        link: {(r["workload"], r["scaling"], r["workers"]): r["step_ms"] for r in rows
               if r["link_gb_per_s"] == link}
        for link in (slow, fast)
    }  # fmt: skip
    assert all(by_link[slow][case] >= by_link[fast][case] for case in by_link[slow])
    assert len(by_table["model's error"]) == len(NAMES) * 2
    assert len(targets) == 1
    assert limits["loopback_wake_s"] > 0
    assert any("leaves out" in note for note in notes)
    assert {"event": "counting bytes", "workers": spec.counted[-1]} in told


def test_a_log_too_short_for_a_step_is_refused_whichever_group_meets_it(place):
    with pytest.raises(BadRequest, match="ask for more rows"):
        scaling.measure(spec_at(place, batch_rows=1 << 20, simulated=()), lambda _: None)
