"""A group is as large as what it has and what is free, and never larger than it may be."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy, ResizeDecision
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.config import ScalingConfig

from iak.jobs import elastic
from iak.jobs.elastic import (
    FreeResourcesPolicy,
    sized_by_what_is_free,
    workers_that_fit,
)
from iak.jobs.ray_launcher import RayLauncher
from iak.schemas.job import WorkersSpec

CPUS = {"node": {"CPU": 4.0}}


def policy_of(monkeypatch, *, fewest, most, free):
    policy = FreeResourcesPolicy(ScalingConfig(num_workers=(fewest, most)))
    monkeypatch.setattr(elastic.ray, "available_resources", lambda: {"CPU": float(free)})
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(policy, "_get_reserved_resources", lambda: CPUS)
    return policy


@given(free=st.floats(0, 1e6), need=st.floats(0.01, 1e3), gpus=st.integers(0, 8))
def test_as_many_fit_as_the_scarcest_resource_allows(free, need, gpus):
    count = workers_that_fit({"CPU": free, "GPU": gpus}, {"CPU": need, "GPU": 1.0, "memory": 0.0})
    assert count * need <= free * (1 + 1e-9)
    assert count <= gpus
    assert count == gpus or (count + 1) * need > free * (1 - 1e-9)


def test_what_nobody_has_fits_nowhere():
    assert workers_that_fit({"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}) == 0


@pytest.mark.parametrize(("free", "workers"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_a_group_starts_with_what_is_free_up_to_what_is_asked(monkeypatch, free, workers):
    policy = policy_of(monkeypatch, fewest=1, most=3, free=free)
    decision = policy.make_decision_for_non_running_worker_group()
    assert isinstance(decision, ResizeDecision)
    assert decision.num_workers == workers


def test_a_group_waits_while_fewer_than_the_fewest_fit(monkeypatch):
    policy = policy_of(monkeypatch, fewest=2, most=3, free=1)
    assert not isinstance(policy.make_decision_for_non_running_worker_group(), ResizeDecision)


def running_on(*nodes):
    workers = [SimpleNamespace(metadata=SimpleNamespace(node_id=node)) for node in nodes]
    return SimpleNamespace(num_workers=len(nodes), workers=workers, start_time=float("-inf"))


@pytest.mark.parametrize(("free", "workers"), [(0, None), (1, 3)])
def test_a_running_group_grows_by_what_is_free_beside_it(monkeypatch, free, workers):
    policy = policy_of(monkeypatch, fewest=1, most=3, free=free)
    decision = policy.make_decision_for_running_worker_group(running_on("node", "node"), None)
    assert getattr(decision, "num_workers", None) == workers


def test_a_group_that_lost_a_machine_has_what_it_holds_on_the_others(monkeypatch):
    policy = policy_of(monkeypatch, fewest=1, most=3, free=0)
    policy.make_decision_for_running_worker_group(running_on("node", "node", "lost"), None)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2
    waits = policy.make_decision_for_non_running_worker_group()
    assert not isinstance(waits, ResizeDecision), "the group that held them is gone"


def test_a_group_that_nobody_saw_running_is_sized_as_ray_would_after_a_while(monkeypatch):
    policy = policy_of(monkeypatch, fewest=1, most=3, free=0)
    assert not isinstance(policy.make_decision_for_non_running_worker_group(), ResizeDecision)
    monkeypatch.setattr(elastic, "PATIENCE_S", -1.0)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 3


def test_a_fixed_number_of_workers_keeps_rays_own_policy():
    create = data_parallel_trainer.create_scaling_policy
    with sized_by_what_is_free():
        make = data_parallel_trainer.create_scaling_policy
        assert isinstance(make(ScalingConfig(num_workers=2)), FixedScalingPolicy)
        assert isinstance(make(ScalingConfig(num_workers=(1, 2))), FreeResourcesPolicy)
    assert data_parallel_trainer.create_scaling_policy is create


def test_the_fewest_workers_are_not_more_than_all():
    with pytest.raises(ValidationError, match="min_workers=3 is more than workers=2"):
        WorkersSpec(workers=2, min_workers=3)
    launcher = RayLauncher.of(WorkersSpec(workers=2, min_workers=1, hung_after_s=60))
    assert launcher == RayLauncher(min_workers=1, hung_after_s=60)
