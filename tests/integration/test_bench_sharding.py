import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from iak.jobs import bench, cli
from iak.pipeline.bench import sharding
from iak.pipeline.bench.sharding.layouts import LAYOUTS
from iak.pipeline.bench.sharding.sizes import sizes_of
from iak.pipeline.bench.sharding.worker import Work, on_worker
from iak.pipeline.events import silent
from iak.pipeline.launcher import Launch, ProcessLauncher, TorchrunLauncher
from iak.pipeline.sharding.row_format import row_bytes
from iak.schemas.bench import BenchShardingSpec
from iak.schemas.cluster import ClusterSpec
from iak.schemas.record import BenchmarkRecord
from iak.schemas.sharding_result import ShardingResult

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "jobs" / "configs" / "bench"
ROWS, WIDTH = 1000, 8


def spec_of(out, **changes):
    settings = tomllib.loads((CONFIGS / "smoke" / "sharding.toml").read_text())
    return BenchShardingSpec.model_validate(settings | {"smoke": True, "out": out} | changes)


def held(layout, rank):
    """Bytes of a part of the first table: the optimiser has a number a row of the part."""
    rows = ROWS // 2 if layout.kind == "row_wise" else ROWS
    cols = WIDTH // 2 if layout.kind == "column_wise" else WIDTH
    if layout.kind == "table_wise" and rank > 0:
        return 0
    return rows * row_bytes(layout.precision, cols) + (4 * rows if layout.mode == "trained" else 0)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """What a bench of the smoke size came to, and where its files lie."""
    folder, heard = tmp_path_factory.mktemp("smoke"), []
    spec = spec_of(folder)
    result = sharding.measure(spec, heard.append)
    lines = [row for row in result.rows if row["table"] != "launchers"]
    return SimpleNamespace(
        spec=spec, folder=folder, heard=heard, targets=result.targets, notes=result.notes,
        limits=result.limits,
        whole=lines[: len(LAYOUTS)], narrow=lines[len(LAYOUTS) :],
    )  # fmt: skip


def test_every_layout_has_a_line_for_each_table(smoke):
    expected = [(layout.kind, layout.mode, layout.precision) for layout in LAYOUTS]
    for lines in (smoke.whole, smoke.narrow):
        assert [(line["sharding"], line["held"], line["precision"]) for line in lines] == expected


def test_a_line_has_times_and_bytes_of_every_worker(smoke):
    for layout, line in zip(LAYOUTS, smoke.whole, strict=True):
        assert line["error"] == ""
        assert len(line["slice_p50_ms"]) == smoke.spec.repeats
        assert 0 < line["p50_ms"] <= line["p90_ms"]
        assert line["held_bytes_per_worker"] == [held(layout, rank) for rank in (0, 1)]
        assert sum(line["sent_bytes_per_worker"]) == sum(line["received_bytes_per_worker"]) > 0


def test_a_line_is_compared_with_the_planner_where_it_can_count(smoke):
    for layout, line in zip(LAYOUTS, smoke.whole, strict=True):
        if layout.precision != "int4":
            assert line["times_planner"] > 0
            assert line["times_here"] > 0


def test_gradients_of_trained_tables_travel_back(smoke):
    by_layout = dict(zip(LAYOUTS, smoke.whole, strict=True))
    for layout, line in by_layout.items():
        if layout.mode == "trained":
            frozen = [by_layout[w] for w in LAYOUTS if w.kind == layout.kind and w.mode == "frozen"]
            assert line["wire_kib"] > max(other["wire_kib"] for other in frozen)


def test_a_layout_that_cannot_be_is_a_line_with_its_error(smoke):
    failed = [line for line in smoke.narrow if line["error"]]
    assert {line["sharding"] for line in failed} == {"column_wise"}
    assert len(failed) == 5
    assert "multiple of 4" in failed[0]["whole_error"][0]


def test_the_cluster_file_says_what_was_measured(smoke):
    path = smoke.folder / "sharding.cluster.toml"
    cluster = ClusterSpec.model_validate(tomllib.loads(path.read_text()))
    assert cluster.world == smoke.spec.workers
    link = smoke.limits["link_bytes_per_s"] / 1e9
    assert cluster.intra_gb_per_s == pytest.approx(link, rel=1e-3)
    assert cluster.constants.measured.endswith("sharding.json")
    assert [path.name for path in smoke.folder.iterdir()] == ["sharding.cluster.toml"]


def test_what_was_not_measured_is_said_and_progress_is_reported(smoke):
    assert smoke.targets == []
    assert any("Not measured" in note for note in smoke.notes)
    assert smoke.limits["lookup_bytes_per_s"] > 0
    assert any(event.get("what", "").endswith("slices") for event in smoke.heard)


def test_torchrun_runs_what_spawned_workers_run(tmp_path):
    spec = spec_of(tmp_path, tables=("200x8",), repeats=1)
    work = Work(spec=spec, sizes=sizes_of(spec, None))
    launch = Launch(
        function=on_worker, work=work, result=ShardingResult, title="sharding", run_dir=tmp_path,
        workers=2, device="cpu", max_failures=0,
    )  # fmt: skip
    spawned, by_torchrun = (
        launcher.run(launch, silent) for launcher in (ProcessLauncher(), TorchrunLauncher())
    )
    counted = ("kind", "mode", "precision", "error", "held_bytes", "sent_bytes", "collectives")
    for rank in (0, 1):
        of_each = [
            [{name: getattr(seen, name) for name in counted} for seen in found.workers[rank][0]]
            for found in (spawned, by_torchrun)
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
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=1000)
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
    assert len(by_launcher["ray"]) == len(LAYOUTS)
    assert by_launcher["ray"] == by_launcher["torchrun"]
    assert any("of their time under torchrun" in note for note in record.notes)
