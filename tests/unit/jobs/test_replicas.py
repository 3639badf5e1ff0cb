"""Replicas of Ray Serve: what is asked of Ray, and that a token stays where it is."""

import pickle

import pytest
from ray.serve._private.api import (
    call_user_app_builder_with_args_if_necessary as as_serve_deploy_calls,
)

from iak.jobs import replicas
from iak.jobs.replicas import Replica, application, needs_no_token, reason_in
from iak.jobs.serve import TOKEN
from iak.pipeline.errors import BadRequest, PipelineError
from iak.schemas.serving import ReplicasSpec, ServeSpec
from tests.unit.serving.shop import shop_catalog, shop_toml, write_base

ALONE = Replica.__mro__[1]
"""The class without Ray Serve's part."""


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "shop.toml").write_text(shop_toml())
    return ServeSpec(catalog=tmp_path / "shop.toml", base=tmp_path / "R1")


def deployment_of(bound):
    return bound._bound_deployment


@pytest.mark.parametrize(
    ("given", "range_of_replicas"),
    [({}, (1, 1)), ({"least": 2}, (2, 2)), ({"least": 2, "most": 5}, (2, 5))],
)
def test_replicas_stay_between_their_bounds(spec, given, range_of_replicas):
    asked = ReplicasSpec(requests=3, cpus=0.5, **given)
    deployment = deployment_of(application(spec.model_copy(update={"replicas": asked})))
    scaled = deployment._deployment_config.autoscaling_config
    assert (scaled.min_replicas, scaled.max_replicas) == range_of_replicas
    assert scaled.get_target_ongoing_requests() == 3
    assert deployment.ray_actor_options["num_cpus"] == 0.5


def test_a_file_of_serve_deploy_asks_for_a_token(spec, monkeypatch):
    monkeypatch.setenv(TOKEN, "a secret")
    given = {"catalog": str(spec.catalog), "base": str(spec.base), "replicas": {"least": 2}}
    arguments = deployment_of(as_serve_deploy_calls(application, given)).init_kwargs
    assert arguments == {"is_open": False}
    assert b"a secret" not in pickle.dumps(arguments)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, True), ({TOKEN: "a secret"}, False), ({"RAY_ADDRESS": "10.0.0.1:6379"}, False)],
)
def test_requests_need_no_token_on_a_local_ray_alone(environment, expected):
    assert needs_no_token(environment) == expected


def test_a_replica_without_the_token_of_its_machine_does_not_start(spec, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(BadRequest, match=f"{TOKEN} is not in the environment of a replica"):
        ALONE(spec, shop_catalog(), is_open=False)


def test_a_replica_is_ill_once_its_thread_has_ended(tmp_path, spec):
    write_base(tmp_path / "R1" / "base")
    replica = ALONE(spec, shop_catalog(), is_open=True)
    replica.check_health()
    replica.service.close()
    with pytest.raises(PipelineError, match="thread that predicts has ended"):
        replica.check_health()
    replica.ends.pop_all()


def test_the_replica_is_found_by_its_name():
    """Ray Serve sends the class to other machines by module and name."""
    assert pickle.loads(pickle.dumps(Replica)) is replicas.Replica


def test_what_a_replica_ended_with_is_found_in_what_ray_serve_says():
    said = (
        "The deployment failed to start 3 times in a row. Error:\n"
        "RuntimeError: Traceback (most recent call last):\n"
        '  File "scorer.py", line 89, in of\n'
        "    raise _corrupt(\n"
        "iak.pipeline.errors.Corrupt: R2/bundles/pooled: it has SHA-256 a6, expected 44"
    )
    assert reason_in(["", said]) == "R2/bundles/pooled: it has SHA-256 a6, expected 44"
    assert reason_in(["no node has room"]) == ""
