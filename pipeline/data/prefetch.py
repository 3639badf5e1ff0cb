"""Produce items in a background thread, a bounded number ahead of the consumer."""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T], *, depth: int) -> Iterator[T]:
    """Yield the same items, produced by a thread that is at most `depth` items ahead.

    An error of the producer is raised here. The thread has ended when this generator has ended,
    whether it was exhausted, closed or broken by an error.

    Args:
        items: items that the thread iterates over.
        depth: items that may wait in the queue, at least one.
    """
    ready: queue.Queue[tuple[bool, object]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def produce() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                ready.put((True, item))
            ready.put((False, None))
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, raised there
            ready.put((False, error))

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            is_item, item = ready.get()
            if not is_item:
                if isinstance(item, BaseException):
                    raise item
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        # The producer may wait in `put` on a full queue. Empty it until the thread sees the flag.
        while thread.is_alive():
            with suppress(queue.Empty):
                ready.get(timeout=0.01)
