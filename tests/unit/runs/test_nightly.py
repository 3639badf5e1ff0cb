"""A night's record from its first line to its end; `tests/integration/test_nightly.py` tunes."""

import pytest

from iak.pipeline.errors import INTERRUPTED, BadRequest, Busy
from iak.pipeline.lock import one_writer
from iak.pipeline.report.nights import read_night
from iak.pipeline.runs import nightly
from iak.pipeline.runs.nightly import NightRequest, run_night
from iak.pipeline.runs.nightly_records import changed, night_folder
from iak.pipeline.runs.record import AlreadyFinished
from tests.unit.runs.platform import NOW, write_platform

ASKED = NightRequest(clock=lambda: NOW)


@pytest.fixture
def spec(tmp_path):
    return write_platform(tmp_path)


def planned(spec):
    return run_night(spec, None, NightRequest(dry_run=True, clock=lambda: NOW))


def broken_by(error, monkeypatch):
    def tune_once(*_, **__):
        raise error

    monkeypatch.setattr(nightly, "tune_once", tune_once)


def test_a_dry_run_decides_and_writes_nothing(spec):
    record = planned(spec)
    assert record.status == "planned"
    assert {domain.outcome for domain in record.domains} == {"waiting"}
    assert {domain.served_by for domain in record.domains} == {"base"}
    assert record.base_age_days == 2
    assert not spec.nights.exists()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BadRequest("no such catalogue"), "failed", BadRequest.exit_code),
        (RuntimeError("a bug"), "failed", 1),
        (KeyboardInterrupt(), "interrupted", INTERRUPTED),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_night_that_breaks_leaves_its_record_and_its_page(spec, monkeypatch, error, status, code):
    broken_by(error, monkeypatch)
    with pytest.raises(type(error)):
        run_night(spec, None, ASKED)
    record = read_night(night_folder(spec.nights, planned(spec)))
    assert (record.status, record.exit_code) == (status, code)
    assert record.ended_at == NOW
    assert str(error) in record.error
    assert (night_folder(spec.nights, record) / "page.html").is_file()
    assert (spec.nights / "index.html").is_file()


def test_a_broken_night_goes_on_under_its_own_decisions(spec, monkeypatch):
    broken_by(RuntimeError("a bug"), monkeypatch)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            run_night(spec, None, ASKED)
    record = read_night(night_folder(spec.nights, planned(spec)))
    assert record.attempts == 2
    assert len(list(spec.nights.glob("*/night.json"))) == 1


def test_a_finished_night_is_not_run_again_but_gets_its_page(spec):
    done = {"status": "finished", "exit_code": 0, "ended_at": NOW}
    record = changed(spec.nights, planned(spec), **done)
    with pytest.raises(AlreadyFinished, match="is finished since 2026-10-04 03:00"):
        run_night(spec, None, ASKED)
    assert (night_folder(spec.nights, record) / "page.html").is_file()


def test_two_nights_do_not_run_at_once(tmp_path):
    spec = write_platform(tmp_path, schedule={"if_busy": "leave"})
    with one_writer(spec.nights, waits=False), pytest.raises(Busy):
        run_night(spec, None, ASKED)


def test_a_night_before_that_cannot_be_read_is_a_notice(spec):
    (spec.nights / "2026-10-01-damaged").mkdir(parents=True)
    (spec.nights / "2026-10-01-damaged" / "night.json").write_text("{")
    (notice,) = planned(spec).notices
    assert "an earlier night could not be read" in notice
    assert "2026-10-01-damaged" in notice


def test_a_page_that_cannot_be_written_fails_no_night(spec, monkeypatch):
    def write_pages(_):
        raise OSError("no space left")

    monkeypatch.setattr(nightly, "write_pages", write_pages)
    changed(spec.nights, planned(spec), status="finished", exit_code=0, ended_at=NOW)
    events = []
    with pytest.raises(AlreadyFinished):
        run_night(spec, None, ASKED, events.append)
    assert any("the page was not written: no space left" in str(event) for event in events)
