"""The console shows what begins and ends, the workers' bar while there are workers, and notices."""

import pytest
from rich.console import Console

from iak.jobs import console_report as report_module
from iak.jobs import progress, tables
from iak.jobs.console_report import console_report
from iak.pipeline.events import (
    LogListed,
    LogPartlyRead,
    Notice,
    NotRead,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    StoresUsed,
    WorkDone,
    WorkersEnded,
    WorkersStarted,
)


@pytest.fixture
def said(monkeypatch):
    """What is written to a console without a terminal."""
    console = Console(record=True, width=160, force_terminal=False, highlight=False)
    for module in (progress, report_module, tables):
        monkeypatch.setattr(module, "console", console)
    return lambda: console.export_text(clear=False)


def test_a_phase_is_said_when_it_begins_and_forgotten_when_it_ends(said):
    with console_report() as report:
        report(PhaseStarted("list", "listing files", "9 files"))
        assert "listing files (9 files) ..." in said()
        report(PhaseAdvanced("5 of 9 files"))
        assert [made.detail for made in progress.announcements] == ["5 of 9 files"]
        report(PhaseEnded("list"))
        assert progress.announcements == []


def test_phases_inside_each_other_end_from_the_inside(said):
    with console_report() as report:
        report(PhaseStarted("outer", "reading"))
        report(PhaseStarted("inner", "hashing"))
        report(PhaseEnded("inner"))
        assert [made.what for made in progress.announcements] == ["reading"]
    assert progress.announcements == []
    assert said().index("reading") < said().index("hashing")


def test_a_phase_without_words_is_silent(said):
    with console_report() as report:
        report(PhaseStarted("train"))
        report(PhaseEnded("train"))
    assert said() == ""


def test_a_line_of_a_worker_is_shown_while_there_are_workers(said):
    line = {"event": "published", "domain": "region=[rome]"}
    with console_report() as report:
        report(line | {"domain": "too early"})
        report(PhaseStarted("train"))
        report(WorkersStarted("finetune"))
        report(line)
        report(WorkersEnded("finetune"))
        report(line | {"domain": "too late"})
    assert "finetune: published  domain=region=[rome]" in said()
    assert "too early" not in said()
    assert "too late" not in said()


def test_what_workers_exchange_with_stores_is_for_the_record_alone(said):
    with console_report() as report:
        report(WorkersStarted("finetune"))
        report(dict(StoresUsed(1, 2, 3, 4)))
        report(WorkDone("rows read", 5, 9))
        report(WorkersEnded("finetune"))
    assert "stores_used" not in said()
    assert "finetune: rows read 5/9" in said()


def test_an_error_closes_what_is_shown(said):
    def broken():
        with console_report() as report:
            report(PhaseStarted("list", "listing"))
            report(WorkersStarted("pretrain"))
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert progress.announcements == []
    assert "listing" in said()


@pytest.mark.parametrize(
    ("notice", "line"),
    [
        (Notice("kept as it is"), "  kept as it is"),
        (Notice("few rows", is_warning=True), "few rows"),
        (Notice("cache at [/cache]", is_minor=True), "cache at [/cache]"),
    ],
)
def test_a_notice_is_a_line_and_its_brackets_are_text(said, notice, line):
    with console_report() as report:
        report(notice)
    assert said().splitlines() == [line]


def test_what_is_not_read_is_a_table(said):
    groups = (
        NotRead("no Parquet", files=2, rows=None, examples=("a", "b")),
        NotRead("damaged", files=None, rows=1_234, is_estimated=True, days="2026-10-01"),
    )
    with console_report() as report:
        report(LogPartlyRead("shop", groups))
    shown = said()
    assert "not read of log 'shop'" in shown
    assert "about 1,234" in shown
    assert "a, b" in shown


def test_an_event_that_the_console_does_not_know_is_left_out(said):
    with console_report() as report:
        report(LogListed(files=3, rows=9))
    assert said() == ""
