"""Notice a worker of this machine that stands still, such as one that a signal has stopped.

Its peers notice that it does not join their collective calls. A single worker has no peers. So
each worker also touches a file every second, and the command looks at these files.
"""

import threading
import time
from collections.abc import Iterable
from pathlib import Path

BEAT_S = 1.0
"""Seconds between two touches of a worker's file, and between two looks of the command."""


def begin_heartbeat(path: Path) -> None:
    """Let this process touch a file every second, until it ends.

    Args:
        path: the file; made where it is missing.
    """
    threading.Thread(target=_beat, args=(path,), daemon=True).start()


def _beat(path: Path) -> None:
    while True:
        path.touch()
        time.sleep(BEAT_S)


class Heartbeats:
    """The signs of life of several workers, as the command sees them."""

    def __init__(self, paths: Iterable[Path], *, hung_after_s: int) -> None:
        """Begin to look.

        Args:
            paths: file of each worker. One that is not there yet is waited for without limit.
            hung_after_s: seconds without a sign of life after which a worker counts as dead.
        """
        self._seen: dict[Path, int | None] = dict.fromkeys(paths)
        self._looks = dict.fromkeys(self._seen, 0)
        # Looks are counted instead of seconds. So a worker does not count as dead because the
        # machine slept, or because the command was stopped together with its workers.
        self._most_looks = hung_after_s / BEAT_S

    def has_one_stopped(self) -> bool:
        """Look once, and return whether a worker stands still; call it every BEAT_S seconds."""
        for path, last in self._seen.items():
            state = path.stat().st_mtime_ns if path.exists() else None
            is_still = state is not None and state == last
            self._looks[path] = self._looks[path] + 1 if is_still else 0
            self._seen[path] = state
        return max(self._looks.values()) > self._most_looks
