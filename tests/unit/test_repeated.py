"""A repeated call goes on until it is stopped, and one that never started can be stopped too."""

import threading

from iak.pipeline.repeated import Repeated


def test_it_calls_again_and_again_until_it_is_stopped():
    calls, enough = [], threading.Event()

    def call():
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            enough.set()

    repeated = Repeated("again", call)
    repeated.start(0.001)
    assert enough.wait(60)
    repeated.stop()
    assert set(calls) == {"again"}
    assert "again" not in {thread.name for thread in threading.enumerate()}


def test_what_never_started_is_stopped_without_a_wait():
    Repeated("never", lambda: None).stop()
