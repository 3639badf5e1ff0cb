"""`iak submit` without a cluster: what is refused, and what is taken out of a job's logs."""

import pytest

from iak.jobs import submit
from iak.jobs.cli import run
from iak.jobs.submitted import BEGIN, END, documents_in
from iak.pipeline.errors import BadRequest, PipelineError
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
