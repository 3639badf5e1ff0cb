"""What workers are started with, and that the process that starts them keeps its own."""

import os

from iak.pipeline.fork_server import WORKER_ENVIRONMENT
from iak.pipeline.process import run_on_workers


def ask_environment(_):
    return {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}


def test_workers_are_started_with_their_environment_and_this_process_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    before = dict(os.environ)
    assert run_on_workers(ask_environment, 2) == [WORKER_ENVIRONMENT] * 2
    assert dict(os.environ) == before
