"""What an attempt leaves in the folder of a run."""

import json
from pathlib import Path

import pytest

from iak.jobs.attempt import RESULT, attempt_on, attempts_at, failure_message, result_of
from iak.pipeline.errors import BadLog
from iak.pipeline.events import StoresUsed
from iak.pipeline.launcher import Launch
from iak.pipeline.storage.store_counter import OF_PROCESS
from tests.unit.workers import outcomes


def launch(function, work, run_dir):
    return Launch(
        function=function, work=work, result=dict, title="t", run_dir=run_dir, workers=2,
        device="cpu", max_failures=0,
    )  # fmt: skip


def test_worker_0_leaves_the_result_and_begins_without_an_older_one(tmp_path):
    (tmp_path / RESULT).write_text('{"old": 1}')
    asked = launch(lambda worker, work, _: {"rank": worker.rank} | work, {"a": 2}, tmp_path)
    with attempts_at(asked, lambda _: None):
        assert not (tmp_path / RESULT).exists()
        assert outcomes(lambda worker: attempt_on(worker, asked), 2) == [None, None]
    assert result_of(asked) == {"rank": 0, "a": 2}


def refuse(*_):
    raise BadLog("a hole")


def test_a_refusal_is_raised_in_its_class_in_the_place_of_any_story(tmp_path):
    asked = launch(refuse, 0, tmp_path)
    (error,) = outcomes(lambda worker: attempt_on(worker, asked), 1)
    assert isinstance(error, BadLog)
    for ask in (lambda: result_of(asked), lambda: failure_message(tmp_path, "")):
        with pytest.raises(BadLog, match="a hole"):
            ask()


def lose_the_disk(*_):
    raise OSError("stale file handle")


def test_the_story_names_the_first_error_and_the_files_of_tracebacks(tmp_path):
    outcomes(lambda worker: attempt_on(worker, launch(lose_the_disk, 0, tmp_path)), 2)
    story = failure_message(tmp_path, "unused")
    assert "OSError: stale file handle" in story
    path = Path(story.rpartition(" ")[2])
    assert "stale file handle" in json.loads(path.read_text())["traceback"]


def use_stores(worker, *_):
    OF_PROCESS.count_read(10 + worker.rank)
    OF_PROCESS.count_written(1)
    if worker.rank:
        raise OSError("stale file handle")
    return {}


def test_every_worker_reports_what_it_exchanged_with_stores_also_one_that_fails(tmp_path):
    told, asked = [], launch(use_stores, 0, tmp_path)
    OF_PROCESS.take()  # of tests before in this process, which the workers share
    with attempts_at(asked, told.append):
        outcomes(lambda worker: attempt_on(worker, asked), 2)
    used = [event for event in told if event["event"] == StoresUsed.name]
    names = ("objects_read", "bytes_read", "objects_written", "bytes_written")
    assert [sum(event[name] for event in used) for name in names] == [2, 21, 2, 2]
