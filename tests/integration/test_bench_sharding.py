import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from iak.jobs import bench, cli
from iak.pipeline.bench import sharding
from iak.pipeline.bench.sharding.layouts import WAYS
from iak.pipeline.bench.sharding.sizes import sizes_of
from iak.pipeline.bench.sharding.worker import Work, on_worker
from iak.pipeline.events import silent
from iak.pipeline.launcher import ProcessLauncher, TorchrunLauncher
from iak.pipeline.sharding.quantised import row_bytes
from iak.schemas.bench import BenchShardingSpec
from iak.schemas.cluster import ClusterSpec
from iak.schemas.record import BenchmarkRecord

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "jobs" / "configs" / "bench"
ROWS, WIDTH = 1000, 8


def spec_of(out, **changes):
    settings = tomllib.loads((CONFIGS / "smoke" / "sharding.toml").read_text())
    return BenchShardingSpec.model_validate(settings | {"smoke": True, "out": out} | changes)


def held(way, rank):
    """Bytes of a part of the first table: the optimiser has a number a row of the part."""
    rows = ROWS // 2 if way.kind == "row_wise" else ROWS
    cols = WIDTH // 2 if way.kind == "column_wise" else WIDTH
    if way.kind == "table_wise" and rank > 0:
        return 0
    return rows * row_bytes(way.precision, cols) + (4 * rows if way.mode == "trained" else 0)


def test_the_smoke_size_tells_a_whole_story(tmp_path):
    spec, heard = spec_of(tmp_path), []
    rows, targets, notes, limits = sharding.measure(spec, heard.append)
    lines = [row for row in rows if row["table"] != "launchers"]
    assert [(line["sharding"], line["held"], line["precision"]) for line in lines] == 2 * [
        (way.kind, way.mode, way.precision) for way in WAYS
    ]
    whole, narrow = lines[: len(WAYS)], lines[len(WAYS) :]
    for way, line in zip(WAYS, whole, strict=True):
        assert line["error"] == ""
        assert len(line["slice_p50_ms"]) == spec.repeats
        assert 0 < line["p50_ms"] <= line["p90_ms"]
        assert line["held_bytes_per_worker"] == [held(way, rank) for rank in (0, 1)]
        assert sum(line["sent_bytes_per_worker"]) == sum(line["received_bytes_per_worker"]) > 0
        if way.precision != "int4":
            assert line["times_planner"] > 0
            assert line["times_here"] > 0
    by_way = dict(zip(WAYS, whole, strict=True))
    for way, line in by_way.items():
        if way.mode == "trained":  # gradients travel back
            frozen = [by_way[w] for w in WAYS if w.kind == way.kind and w.mode == "frozen"]
            assert line["wire_kib"] > max(other["wire_kib"] for other in frozen)
    failed = [line for line in narrow if line["error"]]
    assert {line["sharding"] for line in failed} == {"column_wise"}
    assert len(failed) == 5
    assert "multiple of 4" in failed[0]["whole_error"][0]
    assert targets == []
    assert any("Not measured" in note for note in notes)
    assert limits["lookup_bytes_per_s"] > 0
    cluster = ClusterSpec.model_validate(
        tomllib.loads((tmp_path / "sharding.cluster.toml").read_text())
    )
    assert cluster.world == spec.workers
    assert cluster.intra_gb_per_s == pytest.approx(limits["link_bytes_per_s"] / 1e9, rel=1e-3)
    assert cluster.constants.measured.endswith("sharding.json")
    assert [path.name for path in tmp_path.iterdir()] == ["sharding.cluster.toml"]
    assert any(event.get("what", "").endswith("slices") for event in heard)


def test_torchrun_runs_what_spawned_workers_run(tmp_path):
    spec = spec_of(tmp_path, tables=("200x8",), repeats=1)
    work = Work(spec=spec, sizes=sizes_of(spec, None))
    ours, theirs = (
        launcher.run(
            on_worker, work, silent,
            title="sharding", run_dir=tmp_path, workers=2, device="cpu", max_failures=0,
        )
        for launcher in (ProcessLauncher(), TorchrunLauncher())
    )  # fmt: skip
    counted = ("kind", "mode", "precision", "error", "held_bytes", "sent_bytes", "collectives")
    for rank in (0, 1):
        of_each = [
            [{name: seen[name] for name in counted} for seen in found["workers"][rank][0]]
            for found in (ours, theirs)
        ]
        assert of_each[0] == of_each[1]


def test_a_regression_fails_the_command(tmp_path, capsys):
    words = ["--smoke", "tables=200x8", "repeats=1", f"out={tmp_path}"]
    spec = cli.read_spec("bench sharding", words)
    assert bench.main(spec) == 0
    path = tmp_path / "sharding.json"
    record = BenchmarkRecord.model_validate(json.loads(path.read_text()))
    faster = [
        row | ({"p50_ms": row["p50_ms"] / 1e3} if row.get("p50_ms") else {}) for row in record.rows
    ]
    before = tmp_path / "before.json"
    before.write_text(record.model_copy(update={"rows": faster}).model_dump_json())
    assert cli.run(["bench", "sharding", *words, f"check_baseline={before}"]) == 1
    assert "step time against the baseline" in capsys.readouterr().out
    slower = [
        row | ({"p50_ms": row["p50_ms"] * 1e3} if row.get("p50_ms") else {}) for row in record.rows
    ]
    before.write_text(record.model_copy(update={"rows": slower}).model_dump_json())
    assert cli.run(["bench", "sharding", *words, f"check_baseline={before}"]) == 0


@pytest.mark.ray
def test_ray_and_torchrun_are_lines_of_one_table(tmp_path):
    words = ["--smoke", "tables=200x8", "repeats=1", "--as-ray", "--as-torchrun"]
    code = "import sys; from iak.jobs.cli import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "bench", "sharding", *words, f"out={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=240)
    record = BenchmarkRecord.model_validate(json.loads((tmp_path / "sharding.json").read_text()))
    lines = [row for row in record.rows if "sharding" in row]
    by_launcher = {
        name: [
            (line["way"], line["error"], line["wire_kib"], line["held_mib"])
            for line in lines
            if line["launcher"] == name
        ]
        for name in ("ray", "torchrun")
    }
    assert len(by_launcher["ray"]) == len(WAYS)
    assert by_launcher["ray"] == by_launcher["torchrun"]
    assert any("of their time under torchrun" in note for note in record.notes)
