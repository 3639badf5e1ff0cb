"""Do something again and again in a thread, until it is stopped."""

import threading
from collections.abc import Callable


class Repeated:
    """A thread that calls a function every few seconds."""

    def __init__(self, name: str, call: Callable[[], object]) -> None:
        """Prepare the thread.

        Args:
            name: name of the thread.
            call: what is called; it handles its own errors.
        """
        self._call = call
        self._every_s = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, every_s: float) -> None:
        """Call for the first time after `every_s` seconds, then again after as many each time."""
        self._every_s = every_s
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after a call that runs now."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            self._call()
