"""Jobs of a server: their ids, which one still runs, which are ours, and how they ended."""

import os
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from iak.jobs import job_server
from iak.jobs.job_server import (
    CODE,
    COMMAND,
    exit_code,
    free_submission_id,
    job_named,
    jobs_of,
    send_when_ready,
    submission_prefix,
)
from iak.pipeline.errors import BadRequest, PipelineError

WORDS = ["finetune", "catalog=planted", "run_dir=/runs/R 1"]
PREFIX = submission_prefix(WORDS)


def details(name, status="RUNNING", *, started=0, command="finetune", **more):
    """Return a job as Ray's server describes it."""
    metadata = {COMMAND: command, CODE: "c0de"} if command else None
    fields = {"submission_id": name, "status": status, "metadata": metadata, "message": None}
    fields |= {"start_time": started, "end_time": None, "driver_exit_code": None}
    return SimpleNamespace(**fields | more)


class Server:
    """A job server with some jobs."""

    def __init__(self, *jobs):
        self.jobs = jobs

    def list_jobs(self):
        return list(self.jobs)

    def get_job_info(self, name):
        return next(job for job in self.jobs if job.submission_id == name)


def test_the_same_words_have_the_same_id_and_others_another():
    assert submission_prefix(list(WORDS)) == PREFIX
    assert submission_prefix([*WORDS, "seed=1"]) != PREFIX
    assert submission_prefix(["finetune", "catalog=planted run_dir=/runs/R", "1"]) != PREFIX
    assert PREFIX.startswith("iak-finetune-")


def test_the_first_job_of_a_command_is_number_one():
    assert free_submission_id(PREFIX, []) == (f"{PREFIX}1", None)


def test_a_running_job_is_found_and_ended_ones_are_counted():
    jobs = jobs_of(
        Server(
            details(f"{PREFIX}1", "FAILED", started=1000),
            details(f"{PREFIX}2", "RUNNING", started=2000),
            details("iak-finetune-other-9", "RUNNING", started=3000),
        )
    )
    number, running = free_submission_id(PREFIX, jobs)
    assert (number, running.id) == (f"{PREFIX}3", f"{PREFIX}2")


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_a_job_that_ended_is_not_followed(status):
    jobs = jobs_of(Server(details(f"{PREFIX}10", status)))
    assert free_submission_id(PREFIX, jobs) == (f"{PREFIX}11", None)


def test_jobs_of_other_programs_are_left_out_and_the_newest_comes_first():
    server = Server(
        details("raysubmit_x", command=""),
        details("iak-a-1", started=1_000),
        details("iak-b-1", started=2_000),
        details(None),
    )
    assert [job.id for job in jobs_of(server)] == ["iak-b-1", "iak-a-1"]
    assert jobs_of(server)[0].started == datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC)


def test_a_job_is_named_by_how_its_id_begins():
    server = Server(details("iak-a-1"), details("iak-a-11"), details("iak-b-1"))
    assert job_named(server, "iak-b").id == "iak-b-1"
    assert job_named(server, "iak-a-1").id == "iak-a-1"
    with pytest.raises(BadRequest, match="2 jobs begin with 'iak-a'"):
        job_named(server, "iak-a")
    with pytest.raises(BadRequest, match="no job is named 'iak-c'; there are iak-"):
        job_named(server, "iak-c")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", None, 0), ("FAILED", 4, 4), ("STOPPED", None, 1)],
)
def test_the_exit_code_is_the_jobs_own(status, code, expected):
    server = Server(details("iak-a-1", status, driver_exit_code=code))
    assert exit_code(server, "iak-a-1") == expected


def young(
    refusals, message="Request failed with status code 500: No available agent to submit job"
):
    """Return a list of sendings, and a function that sends and is refused so many times."""
    sent = []

    def send():
        sent.append(len(sent))
        if len(sent) <= refusals:
            raise RuntimeError(message)
        return "a-job"

    return sent, send


def test_a_job_is_sent_again_until_the_head_can_start_it(monkeypatch):
    monkeypatch.setattr(job_server, "_POLL_S", 0)
    sent, send = young(refusals=2)
    send_when_ready(send)
    assert len(sent) == 3


def test_a_head_that_never_starts_jobs_is_named(monkeypatch):
    monkeypatch.setattr(job_server, "_POLL_S", 0)
    _, send = young(refusals=1_000)
    with pytest.raises(PipelineError, match="no agent that starts jobs"):
        send_when_ready(send)


def test_a_job_that_the_server_refuses_is_sent_once():
    sent, send = young(refusals=1, message="the id is taken")
    with pytest.raises(RuntimeError, match="taken"):
        send_when_ready(send)
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("ray", False)],
)
def test_only_loopback_hides_a_token_without_encryption(host, is_loopback):
    assert job_server.is_loopback(host) == is_loopback


def test_no_other_address_is_taken_from_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    with job_server.only_this_address():
        assert "RAY_ADDRESS" not in os.environ
    assert os.environ["RAY_ADDRESS"] == "http://elsewhere:8265"
