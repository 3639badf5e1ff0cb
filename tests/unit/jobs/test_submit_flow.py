"""`iak submit` against a job server that only notes what it is asked."""

import json
import os
from types import SimpleNamespace

import pytest

from iak.jobs import job_server, submit
from iak.jobs.submitted import BEGIN, END
from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.process import WORKER_ENVIRONMENT
from iak.schemas.job import SubmitSpec
from tests.unit.jobs.test_submit import RECORD

SECRET = "hunter2-of-this-shell"


class JobServer:
    """Notes what is submitted, and prints what a job would."""

    def __init__(self, lines=("working",), status="SUCCEEDED", code=0, breaks=None, running=None):
        self.lines, self.status, self.code, self.breaks = lines, status, code, breaks
        self.running, self.submitted, self.stopped, self.followed = running, [], [], []

    def list_jobs(self):
        """The job that runs already, where there is one, under the id that these words have."""
        if self.running is None:
            return []
        prefix = job_server.submission_prefix(self.running)
        metadata = {job_server.COMMAND: "running", job_server.CODE: "other code"}
        return [self.details(f"{prefix}1", "RUNNING", metadata)]

    def details(self, name, status, metadata):
        return SimpleNamespace(
            submission_id=name, status=status, metadata=metadata, message="it broke\nits logs",
            start_time=1, end_time=None, driver_exit_code=self.code,
        )  # fmt: skip

    def submit_job(self, **asked):
        self.submitted.append(asked)

    async def tail_job_logs(self, job):
        self.followed.append(job)
        for line in self.lines:
            # Ray hands over chunks that end anywhere.
            yield line[: len(line) // 2]
            yield line[len(line) // 2 :] + "\n"
        if self.breaks:
            raise self.breaks

    def get_job_logs(self, _):
        return "\n".join(self.lines) + "\n"

    def get_job_info(self, name):
        return self.details(name, self.status, {})

    def stop_job(self, job):
        self.stopped.append(job)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run `iak submit` against a server; the exit code, and what was shown."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    def submitted(server, command="bench sharding smoke=true", **settings):
        monkeypatch.setattr(submit, "connect", lambda _: server)
        code = submit.main(SubmitSpec(command=command, out=tmp_path / "out", **settings))
        return code, capsys.readouterr().out

    return submitted


def test_the_command_is_sent_word_by_word_with_the_workers_environment_alone(run):
    server = JobServer()
    assert run(server, "bench sharding 'out=my runs' smoke=true")[0] == 0
    (asked,) = server.submitted
    assert asked["entrypoint"] == (
        "python -m iak.jobs.submitted bench sharding 'out=my runs' smoke=true"
    )
    assert asked["runtime_env"]["env_vars"] == WORKER_ENVIRONMENT
    assert SECRET not in json.dumps(asked)


def test_what_the_job_prints_is_shown_without_its_documents_which_are_kept(run, tmp_path):
    document = [f"{BEGIN}sharding.json-----", *RECORD.splitlines(), END]
    code, shown = run(JobServer(["step 1 of [2]", *document, "done"]))
    assert code == 0
    assert "step 1 of [2]" in shown
    assert "done" in shown
    assert "BEGIN" not in shown
    assert '"bench": "data"' not in shown
    assert (tmp_path / "out" / "sharding.json").read_text() == RECORD + "\n"


@pytest.mark.parametrize(("code", "expected"), [(4, 4), (None, 1), (137, 137)])
def test_a_job_that_failed_ends_with_its_own_code(run, code, expected):
    found, shown = run(JobServer(status="FAILED", code=code))
    assert found == expected
    assert "the job ended as FAILED: it broke" in shown
    assert "its logs" not in shown


def test_ctrl_c_stops_the_job(run):
    server = JobServer(breaks=KeyboardInterrupt())
    assert run(server)[0] == 130
    assert server.stopped == [server.submitted[0]["submission_id"]]


WORDS = ["bench", "sharding", "smoke=true"]


def test_the_same_command_again_follows_the_job_that_runs_and_does_not_stop_it(run):
    server = JobServer(breaks=KeyboardInterrupt(), running=WORDS)
    code, shown = run(server)
    assert code == 130
    assert server.submitted == []
    assert server.stopped == []
    assert server.followed == [f"{job_server.submission_prefix(WORDS)}1"]
    assert "runs this command already" in shown
    assert "it runs other code than this checkout's" in shown


def test_a_connection_that_breaks_says_how_to_follow_the_job(run):
    server = JobServer(breaks=RuntimeError("websocket closed"))
    with pytest.raises(PipelineError, match=r"broke while job iak-bench-\w+-1 ran.*iak jobs logs"):
        run(server)
    assert server.stopped == [], "the job may still run"


def test_a_document_that_could_leave_the_folder_is_refused(run, tmp_path):
    server = JobServer([f"{BEGIN}../evil.json-----", RECORD, END])
    with pytest.raises(PipelineError, match="not a file name"):
        run(server)
    assert not (tmp_path / "evil.json").exists()


def test_a_quotation_without_an_end_is_refused_before_anything_is_sent(run):
    server = JobServer()
    with pytest.raises(BadRequest, match="cannot be read as a shell would"):
        run(server, "bench sharding out='x")
    assert server.submitted == []


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
