"""What workers are started with, and that the process that starts them keeps its own."""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import torch
from torch import nn

from iak.pipeline.fork_server import WORKER_ENVIRONMENT
from iak.pipeline.process import LIBRARIES, run_on_workers, seed_device

ROOT = Path(__file__).parents[2]


def ask_environment(_):
    return {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}


def test_workers_are_started_with_their_environment_and_this_process_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    before = dict(os.environ)
    assert run_on_workers(ask_environment, 2) == [WORKER_ENVIRONMENT] * 2
    assert dict(os.environ) == before


def ask_setting(_):
    return os.environ.get("IAK_OF_THIS_CALL"), os.getppid(), {*LIBRARIES} <= {*sys.modules}


def call_twice():
    """Run workers of two calls, whose environments differ, from a process that has run none."""
    parents = set()
    for setting in ("first", "second"):
        os.environ["IAK_OF_THIS_CALL"] = setting
        for found, parent, has_libraries in run_on_workers(ask_setting, 2):
            assert (found, has_libraries) == (setting, True)
            parents.add(parent)
    assert len(parents) == 1
    assert parents != {os.getpid()}
    print("shared")  # noqa: T201 - the answer of this process


def test_workers_share_libraries_and_see_settings_that_are_newer_than_what_they_share():
    """In a process of its own: this one may have a fork server of another test already."""
    code = "from tests.unit.test_process import call_twice; call_twice()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "shared\n"), done.stderr


def test_a_seeded_device_draws_as_after_a_seed_of_all_devices(monkeypatch):
    def drawn(seed, *of):
        seed(2**40 + 3, *of)
        return torch.rand(5), nn.functional.dropout(torch.ones(64))

    expected = drawn(torch.manual_seed)
    monkeypatch.setattr(traceback, "format_stack", None)  # what makes the other seed dear
    found = drawn(seed_device, torch.device("cpu"))
    assert all(map(torch.equal, found, expected))
