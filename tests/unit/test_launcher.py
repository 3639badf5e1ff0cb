"""A function on every worker of this machine: its result, its events, its errors."""

import json
from dataclasses import replace
from pathlib import Path
from types import NoneType

import pytest
import torch
from pydantic import ValidationError
from torch import distributed as dist

from iak.pipeline.errors import BadRequest, Corrupt, DoesNotFit
from iak.pipeline.events import WorkersEnded, WorkersStarted, silent
from iak.pipeline.launcher import Launch, ProcessLauncher, TorchrunLauncher
from iak.pipeline.process import process_group
from iak.schemas.sharding_result import MachineRates

ROOT = Path(__file__).parents[2]


def launch(function, work, run_dir, *, report=silent, workers=1, device="cpu"):
    return ProcessLauncher().run(launch_of(function, work, run_dir, workers, device), report)


def launch_of(function, work, run_dir, workers, device="cpu"):
    return Launch(
        function=function, work=work, result=dict,
        title="sum", run_dir=run_dir, workers=workers, device=device, max_failures=3,
    )  # fmt: skip


def sum_ranks(worker, work, report):
    """Sum the ranks over all workers; report from each of them."""
    report({"event": "rank", "rank": worker.rank, "work": work})
    total = torch.tensor([worker.rank + 1])
    dist.all_reduce(total)
    return {"total": int(total), "pair": (1, 2), 3: torch.get_num_threads()}


def refuse(worker, work, _report):
    if worker.rank == work:
        raise Corrupt(f"worker {worker.rank} read a broken file")
    dist.barrier()
    return {}


@pytest.mark.parametrize(("workers", "total"), [(1, 1), (2, 3)])
def test_worker_0_returns_and_reports(tmp_path, workers, total):
    events = []
    run_dir = tmp_path / "run"
    result = launch(sum_ranks, "w", run_dir, report=events.append, workers=workers)
    assert result == {"total": total, "pair": [1, 2], "3": 1}
    line = {"event": "rank", "rank": 0, "work": "w"}
    assert events == [WorkersStarted("sum"), line, WorkersEnded("sum")]
    (written,) = map(json.loads, (run_dir / "progress.jsonl").read_text().splitlines())
    assert written.pop("at") > 0
    assert written == line


def forget_the_result(_worker, _work, _report):
    return None


def test_a_result_is_of_the_class_that_the_launch_names(tmp_path):
    of_rates = replace(launch_of(forget_the_result, "w", tmp_path, 1), result=MachineRates)
    with pytest.raises(ValidationError, match="MachineRates"):
        ProcessLauncher().run(of_rates, silent)
    of_nothing = replace(of_rates, result=NoneType)
    assert ProcessLauncher().run(of_nothing, silent) is None


def test_lines_of_an_earlier_attempt_are_not_reported_again(tmp_path):
    events = []
    launch(sum_ranks, "first", tmp_path, workers=2)
    launch(sum_ranks, "second", tmp_path, report=events.append, workers=2)
    assert [event["work"] for event in events if event["event"] == "rank"] == ["second"]
    assert len((tmp_path / "progress.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(("workers", "rank"), [(1, 0), (2, 1)])
def test_a_workers_error_is_raised_after_the_end_is_reported(tmp_path, workers, rank):
    events = []
    with pytest.raises(Corrupt, match=f"worker {rank} read a broken file"):
        launch(refuse, rank, tmp_path, report=events.append, workers=workers)
    assert events[-1] == WorkersEnded("sum")


def test_a_single_worker_leaves_the_process_as_it_was(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert launch(sum_ranks, "w", tmp_path)["3"] == 1
        assert torch.get_num_threads() == 2
        assert not dist.is_initialized()
    finally:
        torch.set_num_threads(before)


def test_a_single_worker_joins_the_callers_process_group(tmp_path):
    with process_group(0, 1, backend="gloo"):
        assert launch(sum_ranks, "w", tmp_path)["total"] == 1
        assert dist.is_initialized()


def test_torchrun_returns_reports_and_raises_as_processes_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    events = []
    result = TorchrunLauncher().run(launch_of(sum_ranks, "w", tmp_path, 2), events.append)
    assert result == {"total": 3, "pair": [1, 2], "3": 1}
    line = {"event": "rank", "rank": 0, "work": "w"}
    assert events == [WorkersStarted("sum"), line, WorkersEnded("sum")]
    with pytest.raises(Corrupt, match="worker 1 read a broken file"):
        TorchrunLauncher().run(launch_of(refuse, 1, tmp_path, 2), silent)


def test_torchrun_on_gpus_that_are_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DoesNotFit, match="this machine has 1 GPUs"):
        TorchrunLauncher().run(launch_of(sum_ranks, "w", tmp_path, 2, "cuda"), silent)


def test_several_workers_on_gpus_are_refused(tmp_path):
    with pytest.raises(BadRequest, match="device=cuda with workers=2 needs Ray or torchrun"):
        launch(sum_ranks, "w", tmp_path, workers=2, device="cuda")
