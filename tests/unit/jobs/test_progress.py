"""What is said while something takes its time."""

import json
import threading

import pytest
from rich.console import Console

from iak.jobs import progress
from iak.jobs.progress import WorkersBar, announce, update_detail
from iak.pipeline.progress import following


@pytest.fixture
def said(monkeypatch):
    """A console without a terminal, and what was written to it; waiting is short."""
    console = Console(record=True, width=100, force_terminal=False, highlight=False)
    monkeypatch.setattr(progress, "console", console)
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.01)
    monkeypatch.setattr(progress, "_POLL_S", 0.01)
    return lambda: console.export_text(clear=False)


def wait_for(told, said):
    """Wait until a line was said; give up loudly, whatever the machine's pace."""
    pause = threading.Event()
    for _ in range(12_000):
        if told in said():
            return
        pause.wait(0.01)
    pytest.fail(f"{told!r} was never said; said was {said()!r}")


def test_what_begins_is_said_at_once(said):
    with announce("starting Ray", "2 workers"):
        assert "starting Ray (2 workers) ..." in said()


def test_what_goes_on_is_said_again_with_what_is_known_by_then(said):
    with announce("reading", "0 rows"):
        update_detail("5,000 of 9,000 rows")
        wait_for("still reading (5,000 of 9,000 rows)", said)


def test_nothing_is_said_after_the_end(said):
    with announce("reading"):
        wait_for("still reading", said)
    before = said()
    threading.Event().wait(0.05)
    update_detail("lost")
    assert said() == before


def test_what_is_mostly_quick_is_announced_only_when_it_is_not(said):
    with announce("loading", after_s=60):
        pass
    assert not said()
    with announce("loading", after_s=0.01):
        wait_for("still loading", said)
    assert "loading ..." in said()


def test_an_error_ends_the_announcement(said):
    with pytest.raises(KeyError), announce("reading"):
        raise KeyError
    assert "reading" in said()
    assert not progress.announcements


def test_workers_that_say_nothing_are_still_spoken_for(said, tmp_path):
    path = tmp_path / "progress.jsonl"
    with WorkersBar("pretrain") as bar, following(path, bar.show):
        assert "pretrain: starting workers ..." in said()
        wait_for("pretrain: starting workers, ", said)
        path.write_text(json.dumps({"event": "step", "what": "steps", "step": 3, "of": 9}) + "\n")
        wait_for("pretrain: steps 3/9", said)


def test_a_cause_of_failure_keeps_its_brackets(said, tmp_path):
    path = tmp_path / "progress.jsonl"
    with WorkersBar("pretrain") as bar, following(path, bar.show):
        cause = "[enforce fail at alloc.cpp:1] no memory"
        path.write_text(json.dumps({"event": "restart", "cause": cause}) + "\n")
        wait_for("[enforce fail at alloc.cpp:1]", said)


def test_workers_that_have_spoken_are_no_longer_starting(said, tmp_path):
    path = tmp_path / "progress.jsonl"
    with WorkersBar("finetune") as bar, following(path, bar.show):
        path.write_text(json.dumps({"event": "rows", "tune": 7}) + "\n")
        wait_for("finetune: working, last event: rows", said)
        assert "starting workers" not in said().rpartition("rows")[2]
