"""Workers whose loss becomes no number stop together, each with the same sentence."""

import dataclasses

import pytest

from iak.pipeline.base.pretrain import pretrain
from iak.pipeline.errors import Diverged
from iak.pipeline.process import run_on_workers
from tests.integration.small_log import catalog, pretrain_spec, pretrain_work, write_log

pytestmark = pytest.mark.slow


def diverge(worker, work):
    """What this worker says when it stops."""
    with pytest.raises(Diverged) as told:
        pretrain(work, worker=worker, report=lambda _: None)
    return str(told.value)


def test_all_workers_stop_at_the_same_step_with_the_same_words(tmp_path):
    log = write_log(tmp_path / "log", rows=2_000)
    work = pretrain_work(pretrain_spec(log, tmp_path / "run"), catalog())
    wild = work.optim.model_copy(update={"dense_lr": 1e30, "warmup_steps": 0})
    one, other = run_on_workers(diverge, 2, dataclasses.replace(work, optim=wild))
    assert one == other
    assert "optim.dense_lr=1e+30" in one
    assert not (tmp_path / "run" / ".best").exists()
