"""Follow the progress of worker processes through a file that they write."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iak.pipeline.process import Worker

Report = Callable[[Mapping[str, Any]], None]
_POLL_S = 0.5


def writer(path: Path, worker: Worker) -> Report:
    """Return a report that appends worker 0's events to the file and drops the others'."""

    def report(event: Mapping[str, Any]) -> None:
        if worker.rank == 0:
            with path.open("a") as file:
                file.write(json.dumps(event, default=str) + "\n")

    return report


@contextmanager
def followed(path: Path, report: Report) -> Iterator[None]:
    """Report every line that is written to the file while the block lasts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, report, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(path: Path, report: Report, stop: threading.Event) -> None:
    with path.open() as file:
        line_so_far = ""
        while True:
            is_last = stop.wait(_POLL_S)
            for line in file:
                line_so_far += line
                if line_so_far.endswith("\n"):
                    report(json.loads(line_so_far))
                    line_so_far = ""
            if is_last:
                return
