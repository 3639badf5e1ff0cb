"""`iak bench sharding` without workers: sizes, baseline, lines, cluster file."""

import json
import tomllib
from pathlib import Path

import pytest

from iak.pipeline.bench.sharding import baseline, constants, findings, launchers
from iak.pipeline.bench.sharding.layouts import LAYOUTS
from iak.pipeline.bench.sharding.sizes import Size, sizes_of
from iak.pipeline.bench.sharding.worker import Work
from iak.pipeline.errors import BadRequest
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.model.tables import TableShape
from iak.pipeline.sharding.cost_model import Bandwidths, expected
from iak.schemas.bench import BenchShardingSpec
from iak.schemas.cluster import ClusterSpec
from iak.schemas.log import Catalog
from iak.schemas.record import BenchmarkRecord
from iak.schemas.sharding_result import HostResult, LayoutLine, MachineRates, ShardingResult

RATES = {
    "copy_bytes_per_s": 1e10,
    "matmul_fp32_flops_per_s": 2e11,
    "matmul_bf16_flops_per_s": 1e12,
    "trunk_flops_per_s": 1.5e11,
    "collective_s": 1e-4,
    "link_bytes_per_s": 1e9,
    "lookup_bytes_per_s": 1e9,
    "step_s": 2e-3,
}
HOST = HostResult.model_validate({
    "name": 'a "host"', "device": "cpu", "accelerator": 'a "card" of 2\\3', "device_bytes": None,
    "bytes": 24 * 2**30, "bytes_are_assumed": False, "cores": 2, "workers": 2,
})  # fmt: skip
SHARED = {
    "log": {"name": "l", "partition_keys": ["region", "dt"], "date_key": "dt"},
    "domain": {"keys": ["region"]},
    "features": [
        {"kind": "categorical", "name": "item"},
        {"kind": "list", "name": "history", "table": "item", "last": 7},
    ],
    "tasks": [{"label": "click", "kind": "click"}],
    "splits": {"pretrain": {"days": [0, -9]}},
}


def measured(layout, *, step_s, error=""):
    """What one worker measured of a layout."""
    return {
        "kind": layout.kind, "mode": layout.mode, "precision": layout.precision, "error": error,
        "held_bytes": 2**20, "sent_bytes": 1024.0, "received_bytes": 512.0,
        "collectives": {"alltoall_base": 3}, "step_s": step_s,
    }  # fmt: skip


def result_of(slow=0):
    """Return the result of two workers; the second is slower in every other step."""
    workers = [
        [[
            measured(layout, step_s=[] if number == 1 else [[first * 1e-3, 2e-3], [2e-3, 2e-3]],
                 error="BadRequest: no" if number == 1 else "")
            for number, layout in enumerate(LAYOUTS)
        ]]
        for first in (1, 4 + slow)
    ]  # fmt: skip
    document = {"workers": workers, "rates": RATES, "hosts": [HOST], "seconds": 1.0}
    return ShardingResult.model_validate(document)


def work(**changes):
    spec = BenchShardingSpec(tables=("1_000x8",), workers=2, batch_rows=100, **changes)
    return Work(spec=spec, sizes=sizes_of(spec, None))


def record_of(lines):
    return BenchmarkRecord(
        bench="sharding", spec={}, is_smoke=True, command="iak",
        rows=[line.as_row() for line in lines],
        started_at="2026-11-20T00:00:00Z", seconds=1,
    )  # fmt: skip


def test_sizes_are_given_as_rows_by_width():
    assert work().sizes == (Size(name="given", rows=1000, width=8, ids_per_row=8),)


def test_a_catalogues_tables_are_read_by_all_their_features():
    declared = SHARED | {"tables": {"item": {"encoding": "hash", "rows": 500, "width": 4}}}
    catalog = Catalog.model_validate(declared)
    assert sizes_of(BenchShardingSpec(), catalog) == (
        Size(name="item", rows=500, width=4, ids_per_row=8),
    )


def test_a_vocabulary_that_nobody_counted_is_refused():
    with pytest.raises(BadRequest, match=r"\['item'\].*base="):
        sizes_of(BenchShardingSpec(), Catalog.model_validate(SHARED))


def test_a_step_is_as_long_as_its_slowest_worker_and_an_error_is_a_line():
    lines = findings.lines_of(work(), {"spawned": result_of()})
    assert len(lines) == len(LAYOUTS)
    assert lines[0].slice_p50_ms == (3.0, 2.0)
    assert lines[0].p50_ms == 2.0
    assert lines[0].lookups_per_s == 100 * 8 / 2e-3
    assert lines[0].wire_kib == 2.0
    assert lines[0].times_planner == pytest.approx(2.0 / lines[0].planner_ms, rel=1e-3)
    assert lines[1].error == "BadRequest"
    assert lines[1].whole_error == ("BadRequest: no",)
    assert "p50_ms" not in lines[1].as_row()
    (note,) = [n for n in findings.notes_of(work(), lines) if n.startswith("Not measured")]
    assert "frozen fp32 (spawned, given: 1,000 x 8)" in note


def test_both_launchers_stand_together_and_their_ratio_is_said():
    both = work(as_ray=True, as_torchrun=True)
    lines = findings.lines_of(both, {"ray": result_of(), "torchrun": result_of()})
    assert [line.launcher for line in lines[:4]] == ["ray", "torchrun"] * 2
    assert any("1.000 of their time" in note for note in findings.notes_of(both, lines))


def test_a_line_of_a_record_reads_back_as_it_was():
    for line in findings.lines_of(work(), {"spawned": result_of()}):
        assert LayoutLine.model_validate(json.loads(json.dumps(line.as_row()))) == line


def test_a_result_survives_the_launcher_s_json():
    result = result_of()
    assert ShardingResult.model_validate(json.loads(json.dumps(result.as_json()))) == result


def test_nothing_is_worse_than_itself(tmp_path):
    lines = findings.lines_of(work(), {"spawned": result_of()})
    path = tmp_path / "before.json"
    path.write_text(record_of(lines).model_dump_json())
    targets = baseline.compared(lines, baseline.read(path), threshold=1.25, source=path)
    assert len(targets) == 4
    assert all(target.is_met for target in targets)


@pytest.mark.parametrize(
    ("name", "number", "said_as"),
    [
        pytest.param("p50_ms", 2.6, "step time", id="slower"),
        pytest.param("wire_kib", 2.6, "bytes on the wire", id="more bytes"),
        pytest.param("held_mib", 1.3, "memory", id="more memory"),
    ],
)
def test_a_regression_is_named_with_how_much(name, number, said_as):
    before = findings.lines_of(work(), {"spawned": result_of()})
    after = [*before]
    after[2] = before[2].model_copy(update={name: number})
    targets = baseline.compared(after, record_of(before), threshold=1.25, source=Path("b.json"))
    (missed,) = [target for target in targets if not target.is_met]
    assert missed.name.startswith(said_as)
    assert missed.measured == pytest.approx(1.3)
    assert "frozen fp16: 1.30x" in missed.note
    eased = baseline.compared(after, record_of(before), threshold=1.5, source=Path("b.json"))
    assert all(target.is_met for target in eased)


def test_a_combination_that_fails_now_is_a_regression():
    before = findings.lines_of(work(), {"spawned": result_of()})
    failed = {"error": "DoesNotFit", "whole_error": ("DoesNotFit: no room",)}
    after = [before[0].model_copy(update=failed), *before[1:]]
    targets = baseline.compared(after, record_of(before), threshold=1.25, source=Path("b.json"))
    assert targets[0].measured == 1
    assert not targets[0].is_met
    assert "no room" in targets[0].note


def test_a_baseline_of_other_tables_or_another_bench_is_refused(tmp_path):
    lines = findings.lines_of(work(), {"spawned": result_of()})
    others = [line.model_copy(update={"table": "other"}) for line in lines]
    with pytest.raises(BadRequest, match="no combination in common"):
        baseline.compared(lines, record_of(others), threshold=1.25, source=Path("b.json"))
    path = tmp_path / "before.json"
    path.write_text(record_of(lines).model_copy(update={"bench": "tables"}).model_dump_json())
    with pytest.raises(BadRequest, match="bench 'tables'"):
        baseline.read(path)
    with pytest.raises(BadRequest, match="not a benchmark's record"):
        baseline.read(tmp_path / "missing.json")


def test_the_cluster_file_reads_back_as_it_was_measured():
    spec = BenchShardingSpec(workers=2)
    cluster = constants.cluster_of(spec, MachineRates(**RATES), [HOST], Path("out/sharding.json"))
    assert ClusterSpec.model_validate(tomllib.loads(constants.toml_of(cluster))) == cluster
    assert cluster.device_gb_per_s == 10
    assert cluster.intra_gb_per_s == 1
    assert cluster.device_memory_gib == 12
    assert cluster.constants.lookup_efficiency == 0.1
    assert cluster.constants.matmul_efficiency == 0.75
    assert cluster.constants.collective_us == 100
    assert cluster.constants.step_ms == 2
    assert cluster.constants.measured == "out/sharding.json"


def test_what_was_not_measured_is_assumed_and_said():
    some = {n: v for n, v in RATES.items() if n not in ("lookup_bytes_per_s", "step_s")}
    rates = MachineRates.model_validate(some)
    assert rates.as_limits() == some
    cluster = constants.cluster_of(BenchShardingSpec(), rates, [HOST], Path("r.json"))
    assert cluster.constants.lookup_efficiency == 0.3
    assert "lookup_efficiency and step_ms are assumed" in cluster.note


def test_the_launchers_are_those_that_are_asked_for():
    assert list(launchers(BenchShardingSpec(), None)) == ["spawned"]
    both = launchers(BenchShardingSpec(as_ray=True, as_torchrun=True), ProcessLauncher())
    assert list(both) == ["ray", "torchrun"]
    with pytest.raises(BadRequest, match="as_torchrun"):
        launchers(BenchShardingSpec(device="cuda"), None)


@pytest.mark.parametrize("kind", ["row_wise", "table_wise", "column_wise"])
def test_the_planner_counts_entries_optimiser_and_bandwidths(kind):
    shape = TableShape(name="t", rows=10_000, width=16, features=("f",))

    def estimate(precision, is_trained=False, measured=None):
        return expected(
            shape, kind, precision, is_trained=is_trained, world=2, device_type="cpu",
            local_rows=64, ids_per_row=4, measured=measured,
        )  # fmt: skip

    parts = 1 if kind == "table_wise" else 2
    assert estimate("fp32").held_bytes == 10_000 * 16 * 4 // parts
    assert estimate("int8").held_bytes == 10_000 * 16 // parts
    assert estimate("int4") is None
    assert estimate("fp32", is_trained=True).held_bytes > estimate("fp32").held_bytes
    assert estimate("fp32", is_trained=True).step_ms > estimate("fp32").step_ms
    slow, fast = (
        estimate("fp32", measured=Bandwidths(memory=speed, link=speed)).step_ms
        for speed in (1e8, 1e9)
    )
    assert slow == pytest.approx(10 * fast)


@pytest.mark.parametrize("machine", ["epyc-2-cores", "xeon-2-cores"])
def test_the_lines_of_committed_records_still_read(machine):
    record = baseline.read(Path(f"infra/benchmarks/{machine}/sharding.json"))
    rows = [row for row in record.rows if "sharding" in row]
    assert len(rows) >= len(LAYOUTS)
    for row in rows:
        line = LayoutLine.model_validate(row)
        assert line.as_row() == row
        assert bool(line.p50_ms) != bool(line.error)
