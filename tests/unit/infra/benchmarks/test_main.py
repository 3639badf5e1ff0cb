"""`python -m infra.benchmarks`: settings, record, picture, exit code."""

import json
import tomllib

import pytest

from iak.schemas.record import BenchmarkRecord, BenchmarkResult, Target
from infra.benchmarks import specs
from infra.benchmarks.__main__ import BENCHMARKS, CONFIGS, SCRIPTS, main

SPECS = {name: getattr(specs, benchmark.spec) for name, benchmark in BENCHMARKS.items()}
SIZES = {
    "faults": "per_class",
    "gate": "rows",
    "nights": "rows",
    "quality": "trials",
    "terms": "rows",
    "trunks": "planted_rows",
}
"""The setting that a smoke run makes smaller, where it is not batch_rows."""
GATES = ("chain of nights", "present gate, every night")
LINES = {
    "data": [
        {"table": "stages", "encoding": "mixed", "stage": stage, "rows_per_s": speed,
         "of_raw_decode": speed / 100, "ns_per_row": 1.0, "of_decode_as_asked": 1.0}
        for stage, speed in (("raw decode", 100), ("decode + encode", 75))
    ],
    "finetune": [
        {"table": "variants", "variant": "a", "what": "w", "rows_per_s": 10, "times_a": 1.0,
         "times_a_with_cache_pass": None, "slowest_over_fastest_slice": 1.0, "tables_mib": 5.0,
         "optimiser_mib": 1.0, "sent_kib_a_step": 0.0, "times_the_floor": 2.0},
        {"table": "nights", "what": "first night [x]", "seconds": 3.0},
        {"table": "domains", "domains": 1, "separate_epoch_s": 2.0, "bank_epoch_s": 1.0,
         "bank_of_1_same_rows_epoch_s": 1.0, "bank_whole_s": 5.0, "separate_whole_s": 9.0,
         "epochs_of_mean_row": 3.0},
    ],
    "tables": [
        {"rows": rows, "step_p50_ms": 2.0, "step_p90_ms": 3.0, "ratio": 1.0, "lookup_p50_ms": 1.0,
         "uniform_through_all_workers_per_s": 5, "uniform_of_own_rows_per_s": 7,
         "zipf_through_all_workers_per_s": 5, "zipf_of_own_rows_per_s": 7}
        for rows in (10, 100)
    ],
    "gate": [
        *(
            {"table": "errors", "world": "luck", "gate": gate, "promoted": 1, "domains": 20,
             "share": 0.05, "share_at_most": 0.2}
            for gate in GATES
        ),
        *(
            {"table": "power", "rows_a_night": 100, "gate": gate, "nights": nights, "domains": 20,
             "smallest_gain": 0.1 / nights}
            for gate in GATES for nights in (1, 7, 30)
        ),
        {"table": "floors", "floor": 0.02, "rows_a_night": 10, "promoted_if_a_night_loses_0.1": 0.5,
         "smallest_gain_of_30_nights": 0.01},
    ],
    "nights": [
        {"table": "nights", "night": night, "method": method, "task": task, "delta_auc": 0.01,
         "low": 0.0, "high": 0.02}
        for night in (1, 2) for task in ("ctr", "cvr")
        for method in ("chain", "oracle")
    ],
    "quality": [
        *(
            {"table": "league", "log": log, "method": method, "what": method, "task": "ctr",
             "seeds": 2, "auc": 0.7, "delta_auc": delta, "low": delta and delta - 1e-3,
             "high": delta and delta + 1e-3, "lowest_seed": delta, "highest_seed": delta,
             "is_first": True}
            for log in ("frappe", "xmrec")
            for method, delta in (("base", 0.0), ("iak", 2e-3), ("lora", None))
        ),
        {"table": "pairs", "log": "xmrec", "method": "iak", "rival": "lora", "task": "ctr",
         "seeds": 2, "delta_auc": 1e-3, "low": 0.0, "high": 2e-3, "verdict": "open",
         "is_first": True},
    ],
    "trunks": [
        {"table": "trunks", "log": "movielens", "method": method, "task": "ctr", "is_first": True,
         "seeds": 2, "auc": 0.7, "delta_auc": 2e-3, "low": 1e-3, "high": 3e-3, "lowest_seed": 1e-3,
         "highest_seed": 2e-3}
        for method in ("dlrm", "dlrm-din")
    ],
    "terms": [
        {"table": "terms", "condition": condition, "variant": variant, "seeds": 2, "share": 0.5,
         "minus_shipped": -0.01, "low": low, "high": low and low + 0.01, "shown": "",
         "delta_auc": 0.01, "calibration": 1.0, "harmed": 0, "domains": 4}
        for condition in ("as they are", "few rows")
        for variant, low in (("as shipped", None), ("without the rate", -0.02))
    ],
    "serve": [
        *(
            {"table": "files", "what": what, "rows_per_s": 9_000, "of_base": 1.0}
            for what in ("the base alone", "20 kernels")
        ),
        *(
            {"table": "domains", "server": server, "domains": 8, "rows": 512, "p50_ms": 50.0,
             "p99_ms": 70.0, "times_base": 1.0}
            for server in ("base alone", "all kernels")
        ),
        *(
            {"table": "sizes", "server": "all kernels", "rows": rows, "p50_ms": 5.0, "p99_ms": 7.0,
             "rows_per_s": 200}
            for rows in (1, 512)
        ),
        {"table": "promotions", "promotions": 2, "seconds": 1.0, "slowest_s": 2.0, "requests": 90,
         "failed": 0},
    ],
    "faults": [
        {"table": table, "fault": "base file flipped", "where": "manifest", "injected": 3,
         "survived": 1, "refused_by_name": 1, "wrong": 1, "lost": 0, "rows_lost": None,
         "rows_repeated": None, "seconds_to_recover": 0.5, "times_undamaged": 1.0}
        for table in ("faults", "bad inputs")
    ],
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """Return a function that reads a command line, and starts nothing."""

    def read(name, *words):
        seen = []

        def start(_name, spec, *_):
            seen.append(spec)
            return 0

        monkeypatch.setattr("iak.jobs.bench.run_benchmark", start)
        assert main([name, *words]) == 0
        return seen[0]

    return read


@pytest.mark.parametrize("name", SPECS)
def test_every_shipped_file_is_a_benchmark_and_smoke_is_smaller(name, asked, tmp_path):
    whole = asked(name, f"out={tmp_path}")
    small = asked(name, "--smoke", "seed=7", f"out={tmp_path}")
    assert isinstance(whole, SPECS[name])
    assert small.smoke
    assert small.seed == 7
    size = SIZES.get(name, "batch_rows")
    assert getattr(small, size) < getattr(whole, size)
    own = [CONFIGS / f"{name}.toml"] if name != "faults" else []  # the defaults are its size
    for file in (*own, CONFIGS / "smoke" / f"{name}.toml"):
        assert set(tomllib.loads(file.read_text())) <= set(SPECS[name].model_fields)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_help(name, capsys):
    assert main([name, "--help"]) == 0
    assert f"Usage: python -m infra.benchmarks {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert f"infra.benchmarks {name}" in capsys.readouterr().out


def test_help_lists_every_name(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in (*BENCHMARKS, *SCRIPTS) if f"  {name} " not in text] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "the names are data"),
        (["sharding", "--smoke"], "iak bench sharding"),
        (["data", "batch_rowz=1"], "python -m infra.benchmarks data: there is no setting"),
        (["data", "batch_rows=0"], "batch_rows"),
    ],
)
def test_an_error_says_what_to_do(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


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

    monkeypatch.setattr(f"infra.benchmarks.{name}.measure", measure)
    words = [name, f"out={tmp_path}"]
    assert main([*words, "--check-targets"]) == (0 if is_met else 1)
    assert main(words) == 0
    record = BenchmarkRecord.model_validate(json.loads((tmp_path / f"{name}.json").read_text()))
    assert record.rows == LINES[name]
    assert record.machine.cores >= 1
    assert record.command == f"python -m infra.benchmarks {name} out={tmp_path}"
    assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    told = capsys.readouterr().out
    assert "[x]" in told
    assert ("met" if is_met else "missed: slow") in told
