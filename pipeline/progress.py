"""The progress file: worker 0 appends a line for each event, and the driver reports each line."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iak.pipeline.events import AnyEvent, Report, silent
from iak.pipeline.run_files import SHARED_DISK, RunFiles

PROGRESS = "progress.jsonl"
"""Its name in a run folder."""
_POLL_S = 0.3


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
    """Return a worker's report: worker 0 appends to the file, the others' events are dropped.

    Args:
        path: the progress file, in a folder that exists.
        rank: rank of the worker.
        files: the run's files, as this worker reaches them.
    """
    return line_writer(path, files) if rank == 0 else silent


@contextmanager
def following(path: Path, report: Report) -> Iterator[None]:
    """Report every line that is appended to a progress file until the block is left.

    Args:
        path: the file; it and its folder need not exist yet. Lines that it has already are left
            out.
        report: gets each line without its time, in a thread of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    start = path.stat().st_size if path.exists() else 0
    thread = threading.Thread(target=_follow, args=(path, start, report, stop), daemon=True)
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
                    event = json.loads(line)
                    event.pop("at", None)
                    report(event)
