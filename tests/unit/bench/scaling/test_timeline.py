"""A step's time is split into parts that add up."""

import pytest
import torch
from torch import distributed as dist

from iak.pipeline.bench.scaling.timeline import COMPUTE, INPUT, WAITING, Profile, Timeline, parts_of
from iak.pipeline.process import process_group


def profile(**changes):
    fields = {"step_s": 1.0, "input_s": 0.1, "waiting_s": 0.2, "moving_s": {"allreduce": 0.3},
              "sent": {}, "calls": {"allreduce": 1.0}}  # fmt: skip
    return Profile(**fields | changes)


def test_collectives_take_what_they_took_and_watching_slows_the_rest():
    parts = parts_of([profile(), profile(waiting_s=0.0)], step_s=0.85, input_s=0.05)
    assert sum(parts.values()) == pytest.approx(0.85)
    left = 0.85 - 0.05 - 0.3
    waited = 0.1 / (1.0 - 0.1 - 0.3)
    assert parts == pytest.approx(
        {INPUT: 0.05, COMPUTE: left * (1 - waited), WAITING: left * waited, "allreduce": 0.3}
    )


def test_where_collectives_took_longer_than_the_step_all_take_the_profiles_proportion():
    parts = parts_of([profile()], step_s=0.2, input_s=0.05)
    wanted = {INPUT: 0.05, COMPUTE: 0.4 / 6, WAITING: 0.2 / 6, "allreduce": 0.3 / 6}
    assert parts == pytest.approx(wanted)


def test_a_step_that_only_waits_for_rows_has_no_other_part():
    parts = parts_of([profile()], step_s=0.5, input_s=0.6)
    assert parts[INPUT] == 0.5
    assert sum(parts.values()) == pytest.approx(0.5)


def test_collectives_are_timed_by_name_ddps_own_included():
    def backward_and_sum():
        replica = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 8))
        with Timeline() as timeline:
            replica(torch.ones(2, 8)).sum().backward()
            work = dist.all_reduce(torch.ones(4), async_op=True)
            work.wait()
            dist.all_to_all_single(torch.ones(2), torch.ones(2))
        return timeline

    with process_group(0, 1, backend="gloo"):
        timeline = backward_and_sum()
    assert timeline.calls == {"allreduce": 2, "alltoall_base": 1}
    assert set(timeline.moving_s) == set(timeline.calls)
    assert min(timeline.moving_s.values()) > 0
    assert timeline.waiting_s > 0
