"""Show the progress of long work on the console: a spinner, a bar for steps, or lines."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.status import Status

from iak.pipeline.events import AnyEvent
from iak.schemas.base import JsonObject

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
_POLL_S = 0.3
_LINE_EVERY_S = 4.5
"""Seconds between lines where the console shows no bar, so that nobody waits longer than five."""
_last_line = 0.0


class Announcement:
    """The name and the progress of work that is shown."""

    def __init__(self, what: str, detail: str) -> None:
        """Begin with nothing done.

        Args:
            what: the work, in words that can stand alone: `reading the log`.
            detail: its size, where that is known.
        """
        self.what, self.detail = what, detail
        self.start = time.monotonic()

    def update(self, detail: str) -> None:
        """Replace the detail; it is shown with the next line or turn of the spinner."""
        self.detail = detail

    def line(self) -> str:
        """Return the work, its detail, and the seconds it has taken."""
        seconds = time.monotonic() - self.start
        text = f"{self.what} ({self.detail})" if self.detail else self.what
        return f"{text}, {seconds:.0f} s" if seconds >= 1 else text


announcements: list[Announcement] = []


def update_detail(detail: str) -> None:
    """Replace the detail of the newest announcement, such as rows read so far, if one is shown."""
    if announcements:
        announcements[-1].update(detail)


@contextmanager
def announce(what: str, detail: str = "", *, after_s: float = 0.0) -> Iterator[Announcement]:
    """Show that work begins, and every few seconds that it goes on, until the block is left.

    A terminal shows a spinner. Elsewhere a plain line is written at once, and then another one
    every few seconds.

    Args:
        what: the work that begins: `reading the log`.
        detail: rows, bytes or workers, where they are known.
        after_s: seconds before anything is shown, for work that is mostly quick.
    """
    made = Announcement(what, detail)
    stop = threading.Event()
    announcements.append(made)
    with ExitStack() as stack:
        show: Callable[[], None] = partial(_print_lines, made, stop)
        if after_s:
            show = partial(_print_lines, made, stop, after_s)
        elif console.is_terminal:
            status = stack.enter_context(console.status(escape(f"{made.line()} ...")))
            show = partial(_update_spinner, made, stop, status)
        else:
            console.print(f"{made.line()} ...", markup=False, style="dim")
        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            stop.set()
            thread.join()
            announcements.remove(made)
    if console.is_terminal and not after_s:
        console.print(made.line(), markup=False, style="dim")


def _update_spinner(made: Announcement, stop: threading.Event, status: Status) -> None:
    """Show the present detail beside the spinner until `stop` is set."""
    while not stop.wait(_POLL_S):
        status.update(escape(f"{made.line()} ..."))


def _print_lines(made: Announcement, stop: threading.Event, first_s: float = 0.0) -> None:
    """Print a line every few seconds until `stop` is set, the first one after `first_s`."""
    if first_s:
        if stop.wait(first_s):
            return
        console.print(f"{made.line()} ...", markup=False, style="dim")
    while not stop.wait(_LINE_EVERY_S):
        console.print(f"  still {made.line()}", markup=False, style="dim")


class WorkersBar:
    """A bar for the steps of workers, and a line for each of their other events.

    Without a terminal there is no bar, but a line every few seconds.
    """

    def __init__(self, title: str) -> None:
        """Prepare a bar for workers that are being started.

        Args:
            title: work of the workers, in a word: `pretrain`.
        """
        self.title = title
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task(f"{title}: starting workers", total=None, note="")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._print_lines, daemon=True)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        if not console.is_terminal:
            self._bar.print(f"  {self.title}: starting workers ...")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self._stop.set()
        self._thread.join()
        self._bar.stop()

    def show(self, event: AnyEvent) -> None:
        """Show an event of a worker."""
        _show_line(dict(event), self.title, self._bar, self._task)

    def _print_lines(self) -> None:
        """Print what the workers do whenever nothing else was printed for a few seconds."""
        if console.is_terminal:
            return
        start = last = time.monotonic()
        while not self._stop.wait(_POLL_S):
            now = time.monotonic()
            last = max(last, _last_line)
            if now - last >= _LINE_EVERY_S:
                last = now
                waited_for = escape(self._bar.tasks[0].description)
                self._bar.print(f"  {waited_for}, {now - start:.0f} s")


def _show_line(event: JsonObject, title: str, bar: Progress, task: TaskID) -> None:
    """Move the bar by an event about steps; print any other event as a line above the bar."""
    kind = event.pop("event", "note")
    if kind == "step":
        note = "  ".join(
            _field_text(k, v) for k, v in event.items() if k not in ("step", "of", "what")
        )
        bar.update(
            task,
            description=f"{title}: {event.get('what', 'steps')}",
            completed=event["step"],
            total=event["of"],
            note=note,
        )
        if not console.is_terminal and _is_time_for_a_line():
            bar.print(
                f"  {title}: {event.get('what', 'step')} {event['step']}/{event['of']}  {note}"
            )
        return
    # The steps that the bar counted are done, and the next work has no count yet.
    bar.update(task, description=f"{title}: working, last event: {kind}", total=None)
    bar.print(f"  {title}: {kind}  {_line(event)}", markup=False)  # errors quote brackets


def print_event(title: str, event: AnyEvent) -> None:
    """Print an event as a line; of events about steps, one every few seconds."""
    fields = dict(event)
    kind = fields.pop("event", "note")
    if kind == "step" and not _is_time_for_a_line():
        return
    if kind == "step":
        kind = f"{fields.pop('what', 'steps')} {fields.pop('step')}/{fields.pop('of')}"
    console.print(f"  {title}: {kind}  {_line(fields)}", markup=False)


def _is_time_for_a_line() -> bool:
    """Return whether a line about steps is due. Without a terminal there is no bar to watch."""
    global _last_line  # noqa: PLW0603 - a process has one console
    now = time.monotonic()
    if now - _last_line < _LINE_EVERY_S:
        return False
    _last_line = now
    return True


def _line(event: AnyEvent) -> str:
    """Return the fields of an event as text, with log-loss and AUC of each task."""
    words = [_field_text(name, value) for name, value in event.items() if name != "tasks"]
    for task in event.get("tasks", ()):
        auc = "no AUC" if task["auc"] is None else f"AUC {task['auc']:.4f}"
        loss = "no loss" if task["log_loss"] is None else f"{task['log_loss']:.5f}"
        words.append(f"{task['task']}: {loss}, {auc}")
    return "  ".join(words)


def _field_text(name: str, value: object) -> str:
    text = f"{value:,.5g}" if isinstance(value, float) else f"{value}"
    return f"{name}={text}"
