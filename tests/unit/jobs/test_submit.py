"""`iak submit` without a cluster: a job server that only notes what it is asked."""

import json
from types import SimpleNamespace

import pytest

from iak.jobs import job_server, submit
from iak.jobs.cli import run
from iak.jobs.submitted import BEGIN, END, documents_in
from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.fork_server import WORKER_ENVIRONMENT
from iak.pipeline.report.nights import read_night, write_night
from iak.schemas.job import SubmitSpec
from iak.schemas.record import BenchmarkRecord
from tests.nights import a_night

RECORD = BenchmarkRecord(
    bench="data", spec={}, is_smoke=True, command="iak", started_at="2026-11-20T00:00:00Z",
    seconds=1,
).model_dump_json(indent=1)  # fmt: skip


def logs_of(name, text):
    return f"before\n{BEGIN}{name}-----\n{text}\n{END}\nafter\n"


def test_documents_come_out_of_the_logs_as_they_went_in():
    logs = logs_of("data.json", RECORD) + logs_of("x.toml", 'a = "b"') + f"{BEGIN}cut.json-----\n{{"
    assert documents_in(logs) == {"data.json": RECORD + "\n", "x.toml": 'a = "b"\n'}


def test_a_record_is_kept_in_the_folder(tmp_path):
    assert submit.keep_documents(logs_of("data.json", RECORD), tmp_path) == [tmp_path / "data.json"]
    assert BenchmarkRecord.model_validate_json((tmp_path / "data.json").read_text()).seconds == 1


@pytest.mark.parametrize("name", ["../data.json", "/tmp/data.json", ".hidden", ""])
def test_a_document_stays_in_the_folder(name, tmp_path):
    logs = logs_of(name, RECORD)
    if not name:
        assert submit.keep_documents(logs, tmp_path) == []
        return
    with pytest.raises(PipelineError, match="not a file name"):
        submit.keep_documents(logs, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_record_is_refused(tmp_path):
    with pytest.raises(PipelineError, match="is not a record"):
        submit.keep_documents(logs_of("data.json", "{}"), tmp_path)


@pytest.mark.parametrize("command", ["zork", "submit command=x", "doctor", "bench zork"])
def test_only_verbs_that_make_sense_there_are_submitted(command):
    assert run(["submit", f"command={command}"]) == 2
    with pytest.raises(BadRequest, match="bench sharding"):
        submit.main(SubmitSpec(command=command))


def test_only_a_checkout_is_sent(tmp_path):
    with pytest.raises(BadRequest, match="not a checkout"):
        submit.main(SubmitSpec(command="bench scaling", project=tmp_path))


@pytest.mark.parametrize("address", ["ftp://host", "host:8265", "http://user:secret@host:8265"])
def test_an_address_is_http_and_carries_no_secret(address):
    assert run(["submit", "command=bench scaling", f"address={address}"]) == 2


def test_a_cluster_that_does_not_answer_is_told_in_a_sentence(tmp_path, capsys):
    words = ["command=bench scaling", "address=http://127.0.0.1:9", f"out={tmp_path}"]
    assert run(["submit", *words]) == 1
    assert "no Ray job server answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_a_nights_documents_lie_in_a_folder_of_their_own_beside_an_index(tmp_path):
    sealed = tmp_path / "there"
    sealed.mkdir()
    night = write_night(a_night(domains=1), sealed)
    text = (sealed / "night.json").read_text().rstrip("\n")
    logs = logs_of("night.json", text) + logs_of("page.html", "<p>one\x0ctwo</p>")
    folder = tmp_path / "here" / f"{night.night}-{night.id}"
    assert submit.keep_documents(logs, tmp_path / "here") == [
        folder / "night.json",
        folder / "page.html",
    ]
    assert read_night(folder) == night
    assert (folder / "page.html").read_text() == "<p>one\x0ctwo</p>\n"
    assert str(night.night) in (tmp_path / "here" / "index.html").read_text()


def test_a_nights_record_that_was_changed_on_its_way_is_refused(tmp_path):
    write_night(a_night(domains=1), tmp_path)
    text = (tmp_path / "night.json").read_text().rstrip("\n")
    with pytest.raises(PipelineError, match=r"night\.json is not a record"):
        submit.keep_documents(logs_of("night.json", text.replace("finished", "failed")), tmp_path)


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
def submitted(monkeypatch, tmp_path, capsys):
    """Run `iak submit` against a server; the exit code, and what was shown."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    def run(server, command="bench sharding smoke=true", **settings):
        monkeypatch.setattr(submit, "connect", lambda _: server)
        code = submit.main(SubmitSpec(command=command, out=tmp_path / "out", **settings))
        return code, capsys.readouterr().out

    return run


def test_the_command_is_sent_word_by_word_with_the_workers_environment_alone(submitted):
    server = JobServer()
    assert submitted(server, "bench sharding 'out=my runs' smoke=true")[0] == 0
    (asked,) = server.submitted
    assert asked["entrypoint"] == (
        "python -m iak.jobs.submitted bench sharding 'out=my runs' smoke=true"
    )
    assert asked["runtime_env"]["env_vars"] == WORKER_ENVIRONMENT
    assert SECRET not in json.dumps(asked)


def test_what_the_job_prints_is_shown_without_its_documents_which_are_kept(submitted, tmp_path):
    document = [f"{BEGIN}sharding.json-----", *RECORD.splitlines(), END]
    code, shown = submitted(JobServer(["step 1 of [2]", *document, "done"]))
    assert code == 0
    assert "step 1 of [2]" in shown
    assert "done" in shown
    assert "BEGIN" not in shown
    assert '"bench": "data"' not in shown
    assert (tmp_path / "out" / "sharding.json").read_text() == RECORD + "\n"


@pytest.mark.parametrize(("code", "expected"), [(4, 4), (None, 1), (137, 137)])
def test_a_job_that_failed_ends_with_its_own_code(submitted, code, expected):
    ended_with, shown = submitted(JobServer(status="FAILED", code=code))
    assert ended_with == expected
    assert "the job ended as FAILED: it broke" in shown
    assert "its logs" not in shown


def test_ctrl_c_stops_the_job(submitted):
    server = JobServer(breaks=KeyboardInterrupt())
    assert submitted(server)[0] == 130
    assert server.stopped == [server.submitted[0]["submission_id"]]


WORDS = ["bench", "sharding", "smoke=true"]


def test_the_same_command_again_follows_the_job_that_runs_and_does_not_stop_it(submitted):
    server = JobServer(breaks=KeyboardInterrupt(), running=WORDS)
    code, shown = submitted(server)
    assert code == 130
    assert server.submitted == []
    assert server.stopped == []
    assert server.followed == [f"{job_server.submission_prefix(WORDS)}1"]
    assert "runs this command already" in shown
    assert "its code differs from this checkout's" in shown


def test_a_connection_that_breaks_says_how_to_follow_the_job(submitted):
    server = JobServer(breaks=RuntimeError("websocket closed"))
    with pytest.raises(PipelineError, match=r"broke while job iak-bench-\w+-1 ran.*iak jobs logs"):
        submitted(server)
    assert server.stopped == [], "the job may still run"


def test_a_document_that_could_leave_the_folder_is_refused(submitted, tmp_path):
    server = JobServer([f"{BEGIN}../evil.json-----", RECORD, END])
    with pytest.raises(PipelineError, match="not a file name"):
        submitted(server)
    assert not (tmp_path / "evil.json").exists()


def test_a_quotation_without_an_end_is_refused_before_anything_is_sent(submitted):
    server = JobServer()
    with pytest.raises(BadRequest, match="cannot be read as a shell would"):
        submitted(server, "bench sharding out='x")
    assert server.submitted == []
