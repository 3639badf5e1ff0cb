"""`iak bench`: settings, record, picture, exit code."""

import json
import sys
import tomllib
from pathlib import Path

import pytest

from iak.jobs import bench, cli
from iak.schemas.bench import BenchScalingSpec, BenchShardingSpec
from iak.schemas.record import BenchmarkRecord, BenchmarkResult, Target
from iak.schemas.scaling_result import MeasuredLine, SimulatedLine

CONFIGS = Path(__file__).parents[3] / "jobs" / "configs" / "bench"
SPECS = {"scaling": BenchScalingSpec, "sharding": BenchShardingSpec}
LINES = {
    "sharding": [
        {"table": "given: 10 x 8", "way": "row trained fp32", "launcher": launcher,
         "sharding": "row_wise", "held": "trained", "precision": "fp32", "p50_ms": 2.0,
         "planner_ms": 1.0, "here_ms": 1.5, "error": ""}
        for launcher in ("ray", "torchrun")
    ] + [
        {"table": "given: 10 x 8", "way": "column frozen int4", "launcher": "ray",
         "sharding": "column_wise", "held": "frozen", "precision": "int4", "error": "BadRequest",
         "whole_error": ["BadRequest: no"]},
        {"table": "launchers", "launcher": "ray", "whole_s": 3.0},
    ],
    "scaling": [
        line
        for scaling in ("strong", "weak")
        for line in (
            MeasuredLine(
                workload="tuning", scaling=scaling, workers=1, efficiency=1.0, rows_a_worker=8.0,
                step_ms=2.0, rows_per_s=4_000, slowest_over_fastest_slice=1.0, sent_kib_a_step=0.0,
                sent_kib_by_collective={}, collectives_a_step={}, profiled_step_ms=3.0,
            ).as_row(),
            {"table": "shares of a measured step", "kind": "measured", "workload": "tuning",
             "scaling": scaling, "workers": 1, "input": 0.1, "compute": 0.5, "waiting": 0.1,
             "allreduce": 0.3},
            SimulatedLine(
                workload="tuning", scaling=scaling, workers=4, link_gb_per_s=1.25, efficiency=0.5,
                rows_a_worker=8, step_ms=4.0, rows_per_s=8_000, input=0.1, compute=0.4,
                collectives=0.5, shares={}, sent_kib_a_step=1.0, link_beats_loopback=False,
            ).as_row(),
        )
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_every_shipped_file_is_a_bench_and_smoke_is_smaller(name):
    whole = cli.read_spec(f"bench {name}", [])
    small = cli.read_spec(f"bench {name}", ["--smoke", "seed=7"])
    assert isinstance(whole, SPECS[name])
    assert small.smoke
    assert small.seed == 7
    assert small.batch_rows < whole.batch_rows
    for file in (CONFIGS / f"{name}.toml", CONFIGS / "smoke" / f"{name}.toml"):
        assert set(tomllib.loads(file.read_text())) <= set(SPECS[name].model_fields)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("is_met", [True, False])
def test_a_benchmark_keeps_its_record_and_picture_and_says_whether_targets_are_met(
    name, is_met, tmp_path, monkeypatch, capsys
):
    target = Target(name="fast", wanted="at least 2x", measured=1.0, is_met=is_met, note="slow")

    def measure(spec, report, **_):
        report({"event": "step", "what": "slices", "step": 1, "of": 2})
        assert spec.out == tmp_path
        return BenchmarkResult(
            rows=LINES[name], targets=[target], notes=["a note about [x]"],
            limits={"bytes_per_s": 1e9},
        )  # fmt: skip

    monkeypatch.setattr(f"iak.pipeline.bench.{name}.measure", measure)
    monkeypatch.setattr(sys, "argv", ["iak", "bench", name])
    spec = SPECS[name](out=tmp_path, check_targets=True)
    assert bench.main(spec) == (0 if is_met else 1)
    assert bench.main(spec.model_copy(update={"check_targets": False})) == 0
    record = BenchmarkRecord.model_validate(json.loads((tmp_path / f"{name}.json").read_text()))
    assert record.rows == LINES[name]
    assert record.machine.cores >= 1
    assert record.command == f"iak bench {name}"
    assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    told = capsys.readouterr().out
    assert "[x]" in told
    assert ("met" if is_met else "missed: slow") in told


@pytest.mark.parametrize("name", ["data", "faults", "finetune", "tables"])
def test_a_benchmark_that_moved_names_its_new_command(name, capsys):
    assert cli.run(["bench", name, "--smoke"]) == 2
    assert f"python -m infra.benchmarks {name}" in capsys.readouterr().err
