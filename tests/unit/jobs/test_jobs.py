"""`iak jobs list | logs | stop`, against a job server that is played."""

import json

import pytest

from iak.jobs import jobs
from iak.pipeline.errors import BadRequest
from iak.schemas.job_server import JobsListSpec, JobsLogsSpec, JobsStopSpec
from tests.unit.jobs.test_job_server import Server, details


class Recording(Server):
    """A job server that keeps what it was asked to stop."""

    def __init__(self, *known):
        super().__init__(*known)
        self.stopped = []

    def stop_job(self, name):
        self.stopped.append(name)

    def get_job_logs(self, name):
        return f"what {name} printed\n"


@pytest.fixture
def asked(monkeypatch, capsys):
    """Run a verb at a server with some jobs; its exit code and what it prints."""

    def run(server, spec):
        monkeypatch.setattr(jobs, "connect", lambda _: server)
        code = jobs.main(spec)
        return code, capsys.readouterr().out

    return run


def test_the_newest_jobs_are_listed_and_written_as_json(asked, tmp_path):
    server = Recording(
        details("iak-a-1", "SUCCEEDED", started=60_000, end_time=120_000, driver_exit_code=4),
        details("iak-b-1", started=180_000),
    )
    out = tmp_path / "new" / "jobs.json"
    code, said = asked(server, JobsListSpec(json=out))
    assert code == 0
    assert said.index("iak-b-1") < said.index("iak-a-1")
    newest, oldest = json.loads(out.read_text())
    assert (newest["id"], newest["status"], newest["ended"]) == ("iak-b-1", "RUNNING", None)
    assert (oldest["exit_code"], oldest["ended"]) == (4, "1970-01-01T00:02:00+00:00")


def test_no_more_jobs_are_listed_than_are_asked_for(asked, tmp_path):
    server = Recording(*(details(f"iak-a-{n}", started=n * 1000) for n in range(5)))
    out = tmp_path / "jobs.json"
    asked(server, JobsListSpec(last=2, json=out))
    assert [job["id"] for job in json.loads(out.read_text())] == ["iak-a-4", "iak-a-3"]


def test_a_job_s_output_is_shown_as_it_is(asked):
    server = Recording(details("iak-a-1", "SUCCEEDED"))
    assert asked(server, JobsLogsSpec(job="iak-a")) == (0, "what iak-a-1 printed\n")


@pytest.mark.parametrize(("status", "code", "stopped"), [("RUNNING", 0, 1), ("FAILED", 6, 0)])
def test_only_a_job_that_runs_is_stopped(asked, status, code, stopped):
    server = Recording(details("iak-a-1", status))
    assert asked(server, JobsStopSpec(job="iak-a-1"))[0] == code
    assert len(server.stopped) == stopped


def test_an_ambiguous_name_stops_nothing(asked):
    server = Recording(details("iak-a-1"), details("iak-a-2"))
    with pytest.raises(BadRequest, match="2 jobs begin with"):
        asked(server, JobsStopSpec(job="iak-a"))
    assert server.stopped == []
