import pytest
from pydantic import ValidationError

from iak.schemas.job_server import LOOPBACK, JobsListSpec, JobsLogsSpec, JobsSpec, JobsStopSpec


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://ray.example/"])
def test_an_address_is_http(address):
    assert JobsSpec(address=address).address == address


@pytest.mark.parametrize(
    "address",
    [
        "ray://127.0.0.1:10001",
        "127.0.0.1:8265",
        "http://me:secret@host",  # a token in a setting would be in every log
        "http://host/path",
        "http://host with spaces",
        "",
    ],
)
def test_another_address_is_refused(address):
    with pytest.raises(ValidationError, match="address"):
        JobsSpec(address=address)


def test_without_an_address_the_server_is_this_machine_s():
    assert JobsListSpec().address == LOOPBACK


@pytest.mark.parametrize("kind", [JobsLogsSpec, JobsStopSpec])
@pytest.mark.parametrize("asked", [{}, {"job": ""}, {"job": "line\nbreak"}])
def test_a_job_needs_a_name(kind, asked):
    with pytest.raises(ValidationError, match="job"):
        kind(**asked)


def test_json_is_the_name_on_the_command_line(tmp_path):
    assert JobsListSpec(json=tmp_path / "jobs.json").json_out == tmp_path / "jobs.json"
    with pytest.raises(ValidationError, match="last"):
        JobsListSpec(last=0)
