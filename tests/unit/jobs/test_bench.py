"""`iak bench`: settings, record, picture, exit code."""

import json
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

import iak.jobs
from iak.jobs import bench, cli
from iak.schemas.bench import (
    BenchDataSpec,
    BenchFaultsSpec,
    BenchFinetuneSpec,
    BenchScalingSpec,
    BenchShardingSpec,
    BenchTablesSpec,
)
from iak.schemas.record import BenchmarkRecord, Target

CONFIGS = Path(__file__).parents[3] / "jobs" / "configs" / "bench"
SPECS = {
    "data": BenchDataSpec,
    "finetune": BenchFinetuneSpec,
    "tables": BenchTablesSpec,
    "scaling": BenchScalingSpec,
    "sharding": BenchShardingSpec,
    "faults": BenchFaultsSpec,
}
SIZES = {"faults": "per_class"}
"""The setting that a smoke run makes smaller, where it is not batch_rows."""
LINES = {
    "data": [
        {"table": "stages", "encoding": "mixed", "stage": stage, "rows_per_s": speed,
         "of_raw_decode": speed / 100, "ns_per_row": 1.0, "of_decode_as_asked": 1.0}
        for stage, speed in (("raw decode", 100), ("decode + encode", 75))
    ],
    "finetune": [
        {"table": "variants", "variant": "a", "what": "w", "rows_per_s": 10, "times_a": 1.0,
         "tables_mib": 5.0, "optimiser_mib": 1.0},
        {"table": "nights", "what": "first night [x]", "seconds": 3.0},
        {"table": "domains", "domains": 1, "separate_epoch_s": 2.0, "bank_epoch_s": 1.0,
         "bank_of_1_same_rows_epoch_s": 1.0},
    ],
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
    "tables": [
        {"rows": rows, "step_p50_ms": 2.0, "step_p90_ms": 3.0, "ratio": 1.0, "lookup_p50_ms": 1.0,
         "uniform_through_all_workers_per_s": 5, "uniform_of_own_rows_per_s": 7,
         "zipf_through_all_workers_per_s": 5, "zipf_of_own_rows_per_s": 7}
        for rows in (10, 100)
    ],
    "scaling": [
        line
        for scaling in ("strong", "weak")
        for line in (
            {"table": "measured", "workload": "tuning", "scaling": scaling, "workers": 1,
             "efficiency": 1.0},
            {"table": "shares of a measured step", "workload": "tuning", "scaling": scaling,
             "workers": 1, "input": 0.1, "compute": 0.5, "waiting": 0.1, "allreduce": 0.3},
            {"table": "simulated", "workload": "tuning", "scaling": scaling, "workers": 4,
             "link_gb_per_s": 1.25, "efficiency": 0.5},
        )
    ],
    "faults": [
        {"table": table, "fault": "base file flipped", "where": "manifest", "injected": 3,
         "survived": 1, "refused_by_name": 1, "wrong": 1, "lost": 0, "rows_lost": None,
         "rows_repeated": None, "seconds_to_recover": 0.5, "times_undamaged": 1.0}
        for table in ("faults", "bad inputs")
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_every_shipped_file_is_a_bench_and_smoke_is_smaller(name):
    whole = cli.read_spec(f"bench {name}", [])
    small = cli.read_spec(f"bench {name}", ["--smoke", "seed=7"])
    assert isinstance(whole, SPECS[name])
    assert small.smoke
    assert small.seed == 7
    size = SIZES.get(name, "batch_rows")
    assert getattr(small, size) < getattr(whole, size)
    own = [CONFIGS / f"{name}.toml"] if name != "faults" else []  # the defaults are its size
    for file in (*own, CONFIGS / "smoke" / f"{name}.toml"):
        assert set(tomllib.loads(file.read_text())) <= set(SPECS[name].model_fields)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("is_met", [True, False])
def test_a_bench_keeps_its_record_and_picture_and_says_whether_targets_are_met(
    name, is_met, tmp_path, monkeypatch, capsys
):
    target = Target(name="fast", wanted="at least 2x", measured=1.0, is_met=is_met, note="slow")

    def no_ray(*_):
        return [], target

    class Body:
        @staticmethod
        def measure(spec, report, **_):
            report({"event": "step", "what": "slices", "step": 1, "of": 2})
            assert spec.out == tmp_path
            return LINES[name], [target], ["a note about [x]"], {"bytes_per_s": 1e9}

    monkeypatch.setattr(bench, "importlib", SimpleNamespace(import_module=lambda _: Body))
    monkeypatch.setitem(sys.modules, "iak.jobs._bench_ray", SimpleNamespace(ray_share=no_ray))
    monkeypatch.setattr(iak.jobs, "_bench_ray", SimpleNamespace(ray_share=no_ray), raising=False)
    spec = SPECS[name](out=tmp_path, check_targets=True)
    assert bench.main(spec) == (0 if is_met else 1)
    assert bench.main(spec.model_copy(update={"check_targets": False})) == 0
    record = BenchmarkRecord.model_validate(json.loads((tmp_path / f"{name}.json").read_text()))
    assert record.rows == LINES[name]
    assert record.machine["cores"] >= 1
    assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    told = capsys.readouterr().out
    assert "[x]" in told
    assert ("met" if is_met else "missed: slow") in told
