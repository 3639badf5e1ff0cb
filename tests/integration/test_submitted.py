"""A job submitted to a Ray cluster leaves its record where it was asked from, and its exit code."""

import json
import os
import secrets
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from iak.schemas.cluster import ClusterSpec
from iak.schemas.record import BenchmarkRecord

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address"),
]

ROOT = Path(__file__).parents[2]
HEAD = """
import os, sys, ray
from iak.jobs.ray_launcher import local_settings
os.environ["RAY_worker_niceness"] = "0"
ray.init(log_to_driver=False, **local_settings(2) | {
    "_node_ip_address": "127.0.0.2", "include_dashboard": True,
    "dashboard_host": "127.0.0.2", "dashboard_port": int(sys.argv[1]),
})
print("up", flush=True)
sys.stdin.read()
ray.shutdown()
"""
# 127.0.0.2 is loopback too, and one that Ray's own processes do not replace by the machine's
# routable address, where nobody would listen.


@pytest.fixture(scope="module")
def cluster():
    """(address, environment with its token) of a Ray head on loopback that ends with its input."""
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment |= {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": str(ROOT / "infra/package"),
    }
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD, str(port)],
        cwd=ROOT,
        env=environment | {"RAY_AUTH_MODE": "token"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert head.stdout.readline() == "up\n"
        yield f"http://127.0.0.2:{port}", environment
    finally:
        head.communicate(timeout=60)


def submitted(cluster, command, out, **environment):
    """The exit code, and what was said."""
    address, known = cluster
    words = ["submit", f"address={address}", f"command={command}", f"out={out}"]
    code = "import sys; from iak.jobs.cli import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=out.parent,
        env=known | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    said = done.stdout + done.stderr
    assert known["RAY_AUTH_TOKEN"] not in said
    return done.returncode, said


def test_a_submitted_bench_brings_its_record_and_cluster_back(cluster, tmp_path):
    out = tmp_path / "fetched"
    command = "bench sharding smoke=true tables=64x8 as_ray=true repeats=1"
    code, said = submitted(cluster, command, out, RAY_ADDRESS="http://elsewhere.invalid:1")
    assert code == 0, said
    assert "IAK DOCUMENT" not in said
    record = BenchmarkRecord.model_validate(json.loads((out / "sharding.json").read_text()))
    assert record.is_smoke
    assert {row["launcher"] for row in record.rows} == {"ray"}
    assert any(row.get("p50_ms") for row in record.rows)
    found = tomllib.loads((out / "sharding.cluster.toml").read_text())
    assert ClusterSpec.model_validate(found).world == 2


def test_the_exit_code_is_the_jobs(cluster, tmp_path):
    code, said = submitted(cluster, "bench sharding rows=1", tmp_path / "fetched")
    assert code == 2, said
    assert "error: iak bench sharding" in said
    assert list((tmp_path / "fetched").iterdir()) == []


def test_without_the_token_nothing_is_submitted(cluster, tmp_path):
    code, said = submitted(
        cluster, "bench sharding", tmp_path / "fetched", RAY_AUTH_TOKEN="no" * 16
    )
    assert code == 1
    assert "no Ray job server answers" in said
