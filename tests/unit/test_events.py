"""Events are frozen types that read as the JSON object they become."""

import json
from dataclasses import FrozenInstanceError

import pytest

from iak.pipeline.events import (
    BaseValidated,
    BenchAdvanced,
    LevelAdvanced,
    Notice,
    PhaseStarted,
    RowsDone,
    TowersValidated,
    WorkDone,
    WorkersStarted,
    silent,
)


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


WORKER_EVENTS = [
    (WorkDone("test rows", 3, 9), {"event": "step", "what": "test rows", "step": 3, "of": 9}),
    (
        WorkDone("level 1", 2, 8, {"epoch": 1}),
        {"event": "step", "what": "level 1", "step": 2, "of": 8, "epoch": 1},
    ),
    (
        RowsDone("rows read", 1, 5, 9),
        {"event": "rows_done", "what": "rows read", "rank": 1, "done": 5, "of": 9},
    ),
    (LevelAdvanced(1, {"kernels": 8}), {"event": "level 1", "kernels": 8}),
    (BenchAdvanced("log", {"rows": 5}), {"event": "log", "rows": 5}),
    (TowersValidated(7, {"ctr": 0.5}), {"event": "towers", "step": 7, "ctr": 0.5}),
    (
        BaseValidated(of="parent", step=0, valid_loss=0.5, best=True, tasks=[]),
        {"event": "parent", "step": 0, "valid_loss": 0.5, "best": True, "tasks": []},
    ),
]


@pytest.mark.parametrize(("event", "line"), WORKER_EVENTS)
def test_a_worker_event_is_the_line_that_it_becomes(event, line):
    assert list(event.items()) == list(line.items())
    assert event == json.loads(json.dumps(dict(event))) == line
    with pytest.raises(KeyError):
        event["numbers"]
