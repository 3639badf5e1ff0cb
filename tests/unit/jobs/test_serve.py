"""`iak serve`: who may ask. Requests themselves: `tests/unit/serving`."""

import pytest

from iak.jobs import serve
from iak.jobs.serve import TOKEN, check_libraries, check_token
from iak.pipeline.errors import BadRequest
from iak.schemas.serving import ReplicasSpec, ServeSpec


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_token(host):
    check_token(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_beyond_loopback_a_token_is_needed(host):
    with pytest.raises(BadRequest, match=TOKEN) as refused:
        check_token(host, None)
    assert host in str(refused.value)
    check_token(host, "a secret")


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1:80", ""])
def test_what_is_no_address_is_refused_with_or_without_a_token(host):
    for token in (None, "a secret"):
        with pytest.raises(BadRequest, match="expected an IP address or localhost"):
            check_token(host, token)


def test_libraries_that_are_missing_are_named_with_the_extra(monkeypatch):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BadRequest, match=r"granian and starlette.*iak\[serve\]"):
        check_libraries("granian", "starlette", extra="serve")


def test_replicas_say_which_extra_they_need(monkeypatch):
    monkeypatch.setattr(
        serve.importlib.util, "find_spec", lambda name: None if name == "fastapi" else name
    )
    spec = ServeSpec(catalog="shop.toml", base="R1", replicas=ReplicasSpec(least=2))
    with pytest.raises(BadRequest, match=r"needs fastapi; .*iak\[replicas\]"):
        serve.main(spec)
