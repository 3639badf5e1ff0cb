"""Events are frozen types that read as the JSON object they become."""

import json
from dataclasses import FrozenInstanceError

import pytest

from iak.pipeline.events import Notice, PhaseStarted, WorkersStarted, silent


def test_an_event_reads_as_its_line():
    event = PhaseStarted("snapshot", "listing the log's files")
    assert event["event"] == "phase_started"
    assert event["phase"] == event.phase == "snapshot"
    assert json.loads(json.dumps({**event})) == {
        "event": "phase_started", "phase": "snapshot", "description": "listing the log's files",
        "detail": "", "show_after_s": 0.0,
    }  # fmt: skip
    assert len(event) == len([*event]) == 5
    with pytest.raises(KeyError):
        event["nothing"]


def test_events_are_frozen_and_equal_by_value():
    assert Notice("a") == Notice("a") != Notice("b")
    assert WorkersStarted("a") != Notice("a")
    with pytest.raises(FrozenInstanceError):
        Notice("a").text = "b"


def test_silence_takes_any_event():
    assert silent(Notice("a")) is None
    assert silent({"event": "step"}) is None
