"""Requests to a server that breaks, refuses, redirects or is none: bounded, without the token."""

import socket

import pytest

from iak.pipeline.errors import BadRequest, Unreachable
from iak.pipeline.tracking.mlflow_answers import Experiment
from iak.pipeline.tracking.mlflow_server import ATTEMPTS, MlflowServer, Refused

TOKEN = "T0KEN-of-a-user"


def client(address, **changes):
    return MlflowServer(address, TOKEN, **{"timeout_s": 120, "backoff_s": 0, **changes})


def create(address, **changes):
    return client(address, **changes).post("experiments/create", {"name": "shop"}, Experiment)


@pytest.mark.parametrize("codes", [[], [503], [500, 429]])
def test_what_passes_is_tried_again(mlflow, codes):
    wanted = len(codes) + 1
    mlflow.codes = codes
    assert create(mlflow.address).experiment_id == "1"
    assert len(mlflow.requests) == wanted
    assert all(head["Authorization"] == f"Bearer {TOKEN}" for *_, head in mlflow.requests)


@pytest.mark.parametrize(
    ("codes", "requests", "said"),
    [
        ([500] * 9, ATTEMPTS, "answered 500: as the test wants it"),
        ([401], 1, "Is MLFLOW_TRACKING_TOKEN right?"),
        ([302], 1, "answered 302"),
        ([0], 1, "cannot be reached"),  # the server may have done it: nothing is sent again
    ],
)
def test_an_error_is_bounded_and_never_shows_the_token(mlflow, caplog, codes, requests, said):
    caplog.set_level(0)
    mlflow.codes = codes
    with pytest.raises(Unreachable, match=mlflow.address) as caught:
        create(mlflow.address)
    assert said in str(caught.value)
    assert len(mlflow.requests) == requests
    assert TOKEN not in f"{caught.value!r} {caplog.text}"


def test_a_refusal_keeps_the_code_of_mlflow(mlflow):
    with pytest.raises(Refused) as caught:
        client(mlflow.address).get(
            "experiments/get-by-name", Experiment, experiment_name="none of that name"
        )
    assert caught.value.code == "RESOURCE_DOES_NOT_EXIST"


@pytest.mark.parametrize("raw", [b"<html>a proxy</html>", b"[]", b'{"experiment_id": {}}'])
def test_another_kind_of_server_is_named(mlflow, raw):
    mlflow.raw = raw
    with pytest.raises(Unreachable, match="is no MLflow server"):
        create(mlflow.address)


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 cannot be reached: NewConnectionError"):
        create("http://127.0.0.1:1")


def test_a_server_that_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unreachable, match="cannot be reached: ReadTimeoutError"):
            create(address, timeout_s=0.2)


def test_requests_end_when_the_time_for_all_of_them_is_spent(mlflow):
    with pytest.raises(Unreachable, match="too slow"):
        create(mlflow.address, budget_s=-1)
    assert mlflow.requests == []


@pytest.mark.parametrize("token", ["T0KEN\r\nX: y", "T0KÉN"])
def test_a_token_that_is_no_header_is_refused_without_showing_it(token):
    with pytest.raises(BadRequest, match="MLFLOW_TRACKING_TOKEN") as caught:
        MlflowServer("http://127.0.0.1:1", token)
    assert "T0K" not in str(caught.value)
