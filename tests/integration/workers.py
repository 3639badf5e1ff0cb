"""Gloo workers that stay: each story is a call to them, and not processes that start again.

`run_on_workers` starts workers for each call. Here they start once a module, so that every story
can have a fixture of its own.
"""

import faulthandler
import os
import pickle
import signal
import tempfile
import time
import traceback
from multiprocessing.connection import Connection, wait
from pathlib import Path

from iak.pipeline.fork_server import fork_server
from iak.pipeline.process import LIBRARIES, process_group

ANSWER_WITHIN_S = 500
"""Seconds without an answer after which workers count as hung: well above the slowest story on a
busy machine, and below pytest's limit, which would not say where they hang."""


class StayingWorkers:
    """A process group whose workers wait for the next story."""

    def __init__(self, world):
        self._meeting = tempfile.TemporaryDirectory(prefix="iak-staying-")
        context = fork_server(LIBRARIES)
        pipes = [context.Pipe() for _ in range(world)]
        self._connections = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(rank, world, self._meeting.name, theirs))
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self._processes, pipes, strict=True):
            process.start()
            theirs.close()  # the worker holds the other copy, so its death reads as end of file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()
        self._meeting.cleanup()

    def run(self, story, *args):
        """Call `story(worker, *args)` on every worker, and return what each gave, by rank.

        Raises:
            Exception: the first error of a worker. All are ended, since others may wait for it.
            RuntimeError: no worker answered in time; the text has every worker's stack.
        """
        for connection in self._connections:
            connection.send_bytes(pickle.dumps((story, args)))
        answers = {}
        while len(answers) < len(self._connections):
            waiting = [c for c in self._connections if c not in answers]
            ready = wait(waiting, timeout=ANSWER_WITHIN_S)
            if not ready:
                raise RuntimeError(self._stacks_of_hung())
            for connection in ready:
                answers[connection] = self._answer(connection)
        return [answers[connection] for connection in self._connections]

    def _answer(self, connection):
        try:
            answer, error = pickle.loads(connection.recv_bytes())
        except EOFError:
            answer, error = None, RuntimeError("a worker ended without a word")
        if error is not None:
            self._kill()
            raise error
        return answer

    def _stacks_of_hung(self):
        """Return where each worker is, and end all."""
        for process in self._processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGUSR1)
        time.sleep(1)  # they write their stacks by themselves, even while they wait in C
        lines = [f"no answer within {ANSWER_WITHIN_S} s"]
        for rank, process in enumerate(self._processes):
            lines += [f"rank {rank}, exit code {process.exitcode}:"]
            lines += [_stack_path(self._meeting.name, rank).read_text()]
        self._kill()
        return "\n".join(lines)

    def _kill(self):
        for process in self._processes:
            process.kill()


def _stack_path(meeting, rank):
    """Return the file in which a worker writes its stack when asked."""
    return Path(meeting) / f"stack-{rank}.txt"


def _serve(rank, world, meeting, connection: Connection):
    """Answer stories until the other end is closed."""
    group = process_group(
        rank, world, init_method=f"file://{meeting}/store", backend="gloo", threads=1
    )
    with _stack_path(meeting, rank).open("w") as stacks:
        faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
        with group as worker:
            _answer_stories(worker, connection)


def _answer_stories(worker, connection: Connection):
    while True:
        try:
            story, args = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            answer = story(worker, *args), None
        except Exception as error:  # noqa: BLE001 - raised by the test
            error.add_note(traceback.format_exc())
            answer = None, error
        connection.send_bytes(pickle.dumps(answer))
