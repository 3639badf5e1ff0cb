"""Signs of life: who stands still, and who does not although much time has passed."""

import os
import time

import pytest

from iak.jobs.heartbeat import BEAT_S, Heartbeats, begin_heartbeat


class Heart:
    """A worker's file, that beats when it is told to."""

    def __init__(self, path):
        self.path, self._now = path, 0

    def beat(self):
        self._now += 1
        self.path.touch()
        os.utime(self.path, ns=(self._now, self._now))


@pytest.fixture
def hearts(tmp_path):
    return [Heart(tmp_path / name) for name in ("one", "other")]


def looks(hearts, rounds, *, beating):
    """Look after each round, in which some hearts beat; return the rounds with one that stopped."""
    beats = Heartbeats([heart.path for heart in hearts], hung_after_s=5)
    stopped = []
    for number in range(rounds):
        for heart in beating(number):
            heart.beat()
        if beats.has_one_stopped():
            stopped.append(number)
    return stopped


def test_a_worker_that_stops_is_noticed_after_so_many_looks(hearts):
    stopped = looks(hearts, 20, beating=lambda n: hearts if n < 10 else hearts[:1])
    assert stopped == list(range(9 + 1 + int(5 / BEAT_S), 20))


def test_a_worker_that_beats_now_and_then_lives_and_one_yet_to_begin_is_waited_for(hearts):
    assert looks(hearts, 40, beating=lambda n: hearts[:1] if n % 5 == 0 else []) == []


def test_a_process_beats_by_itself(tmp_path):
    begin_heartbeat(tmp_path / "heart")
    heart = tmp_path / "heart"
    wait_for(heart.exists)
    first = heart.stat().st_mtime_ns
    wait_for(lambda: heart.stat().st_mtime_ns > first)


def wait_for(is_there):
    for _ in range(4_000):
        if is_there():
            return
        time.sleep(0.05)
    pytest.fail("no sign of life")
