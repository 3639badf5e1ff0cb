"""The progress file: workers append a line for each event, and the driver reports each line.

Worker 0 writes what all workers do together. Rows that a worker does by itself, and what it moves
between object stores, are written by each worker, and the driver adds them up. So nobody waits for
another worker to report progress.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from iak.pipeline.events import (
    AnyEvent,
    Report,
    RowsDone,
    StoresUsed,
    WorkDone,
    WorkersRestarted,
)
from iak.pipeline.run_files import SHARED_DISK, RunFiles

PROGRESS = "progress.jsonl"
"""Its name in a run folder."""
_POLL_S = 0.3
_ROWS_EVERY_S = 2.0
"""Seconds between two reports of a worker's rows."""
_OF_EACH_WORKER = frozenset({RowsDone.name, StoresUsed.name})
"""Events that count for the worker that reports them."""
_log = logging.getLogger(__name__)


def line_writer(path: Path, files: RunFiles = SHARED_DISK) -> Report:
    """Return a report that appends each event to a file, with the time at which it came.

    Args:
        path: the progress file; made where it is missing.
        files: the run's files, as this process reaches them.
    """
    lock = threading.Lock()

    def report(event: AnyEvent) -> None:
        line = json.dumps({"at": round(time.time(), 2), **event})
        with lock:
            files.call_on_driver(append_line, path, line)

    return report


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, which is made where it is missing."""
    with path.open("a") as file:
        file.write(line + "\n")


def worker_report(path: Path, rank: int, files: RunFiles = SHARED_DISK) -> Report:
    """Return a worker's report, which appends to the file.

    Of workers other than worker 0, only what each of them does by itself is written.

    Args:
        path: the progress file, in a folder that exists.
        rank: rank of the worker.
        files: the run's files, as this worker reaches them.
    """
    write = line_writer(path, files)
    if rank == 0:
        return write

    def report(event: AnyEvent) -> None:
        if event["event"] in _OF_EACH_WORKER:
            write(event)

    return report


class RowCounter:
    """Reports how many of its rows a worker has done: at the start, every few seconds, at the end.

    It waits for no other worker.
    """

    def __init__(
        self,
        report: Report,
        what: str,
        *,
        rank: int,
        of: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with no row.

        Args:
            report: gets the events.
            what: what is done with the rows, in words: `rows read`.
            rank: rank of the worker.
            of: rows that this worker has to do; without any, nothing is reported.
            clock: returns seconds.
        """
        self._report, self._what, self._rank, self._of = report, what, rank, of
        self._clock, self._due, self._done = clock, 0.0, 0
        if of:
            self._say()

    def add(self, rows: int) -> None:
        """Count further rows as done."""
        self._done += rows
        if rows and (self._done >= self._of or self._clock() >= self._due):
            self._say()

    def _say(self) -> None:
        self._due = self._clock() + _ROWS_EVERY_S
        self._report(RowsDone(self._what, self._rank, self._done, self._of))


def summed(report: Report) -> Report:
    """Return a report that adds up what each worker says of its rows.

    The sum is reported as `WorkDone`. All other events are passed on.

    Args:
        report: gets the events.
    """
    rows: dict[str, dict[int, tuple[int, int]]] = {}

    def add_up(event: AnyEvent) -> None:
        if event["event"] == WorkersRestarted.name:
            rows.clear()  # all workers begin again, perhaps in another number
        if event["event"] != RowsDone.name:
            report(event)
            return
        of_worker = rows.setdefault(event["what"], {})
        of_worker[event["rank"]] = (event["done"], event["of"])
        done, of = (sum(numbers) for numbers in zip(*of_worker.values(), strict=True))
        report(WorkDone(event["what"], done, of))

    return add_up


@contextmanager
def following(path: Path, report: Report) -> Iterator[None]:
    """Report every line that is appended to a progress file until the block is left.

    What each worker says of its rows is added up (`summed`).

    Args:
        path: the file; it and its folder need not exist yet. Lines that it has already are left
            out.
        report: gets each line without its time, in a thread of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    start = path.stat().st_size if path.exists() else 0
    thread = threading.Thread(target=_follow, args=(path, start, summed(report), stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(path: Path, position: int, report: Report, stop: threading.Event) -> None:
    is_last = False
    while not is_last:
        is_last = stop.wait(_POLL_S)  # one more reading after the last line was written
        if not path.exists():
            continue
        with path.open() as file:
            file.seek(position)
            for line in file:
                if line.endswith("\n"):  # else its writer is still at it
                    position += len(line.encode())
                    _report_line(line, report)


def _report_line(line: str, report: Report) -> None:
    """Report the event of a line. One that is damaged, and with it the event, is left out.

    A worker that dies, or a disk that is full, may leave half a line, to which the next attempt
    appends its first one.
    """
    try:
        event = json.loads(line)
    except ValueError:
        _log.warning("a line of progress is damaged, and is left out: %.80s", line.rstrip())
        return
    event.pop("at", None)
    report(event)
