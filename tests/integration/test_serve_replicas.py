"""Replicas of Ray Serve: a promotion reaches all, a killed one loses no request, SIGTERM drains."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.ports import free_port
from tests.serving_load import (
    Load,
    ask,
    predictions,
    promote_night,
    wait_until,
    write_place,
)
from tests.unit.serving.shop import write_shop

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
TOKEN = "a secret"
WORDS = (
    "catalog=shop.toml", "base=R1", "bundles=registry:registry@champion", "follow_s=0.2",
    "limits.seconds=120", "replicas.least=2", "replicas.most=2",
)  # fmt: skip


@contextmanager
def replicas(place):
    """Yield two replicas on a local Ray: the process that started them, and their address."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "iak.jobs.cli", "serve", *WORDS, f"port={port}"],
        env=environment
        | {"PYTHONPATH": str(ROOT / "infra/package"), "OMP_NUM_THREADS": "1"}
        | {"IAK_SERVE_TOKEN": TOKEN},
        cwd=place,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: ask(f"{address}/ready") == 200)
        yield process, address
    finally:
        left = psutil.Process(process.pid).children(recursive=True) if is_there(process) else []
        for child in [process, *left]:
            child.kill()
        process.wait()


def is_there(process):
    return process.poll() is None


def processes_of(process):
    """The processes of the replicas, which Ray names after them."""
    children = psutil.Process(process.pid).children(recursive=True)
    return {child for child in children if "ServeReplica:" in " ".join(cmdline(child))}


def cmdline(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_replicas_follow_a_promotion_lose_no_request_and_drain(tmp_path):
    place = write_place(tmp_path)
    rows = write_shop(place / "again")
    with replicas(place) as (process, address):
        assert ask(f"{address}/kernels") == 401
        assert ask(f"{address}/kernels", TOKEN) == 200
        load = Load([address], rows, predictions(place), TOKEN)
        try:
            wait_until(lambda: load.answered > 20)
            promote_night(place, 50)
            wait_until(lambda: 1 in load.seen)
            assert (load.failed, load.retried) == ([], 0)

            killed = next(iter(processes_of(process)))
            assert len(processes_of(process)) == 2
            killed.kill()
            before = load.answered
            wait_until(lambda: load.answered > before + 40)
            wait_until(lambda: len(processes_of(process) - {killed}) == 2)
        finally:
            load.end()
        assert (load.failed, load.seen) == ([], {0, 1})

        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 0
        assert psutil.wait_procs(children, timeout=60)[1] == []
        assert ask(f"{address}/health") is None
