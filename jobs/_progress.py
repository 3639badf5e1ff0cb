"""Show a run's progress file as it grows: a bar for steps, a line for what is worth keeping."""

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
_POLL_S = 0.3
_LINE_EVERY_S = 8.0
_last_line = 0.0


@contextmanager
def show_progress(path: Path, title: str) -> Iterator[None]:
    """Follow a progress file, from its present end, until the block is left."""
    stop = threading.Event()
    start = path.stat().st_size if path.exists() else 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{title}: starting workers", total=None, note="")
        thread = threading.Thread(
            target=_follow, args=(path, start, title, bar, task, stop), daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _follow(
    path: Path, place: int, title: str, bar: Progress, task: TaskID, stop: threading.Event
) -> None:
    while True:
        is_last = stop.wait(_POLL_S)
        if path.exists():
            with path.open() as file:
                file.seek(place)
                for line in file:
                    if line.endswith("\n"):
                        place += len(line.encode())
                        _show(json.loads(line), title, bar, task)
        if is_last:
            return


def _show(event: dict[str, Any], title: str, bar: Progress, task: TaskID) -> None:
    kind = event.pop("event", "note")
    event.pop("at", None)
    if kind == "step":
        note = "  ".join(_told(k, v) for k, v in event.items() if k not in ("step", "of", "what"))
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
    bar.print(f"  {title}: {kind}  {_line(event)}")


def print_event(title: str, event: Mapping[str, Any]) -> None:
    """An event as a line; of steps, one now and then."""
    told = dict(event)
    kind = told.pop("event", "note")
    if kind == "step" and not _is_time_for_a_line():
        return
    if kind == "step":
        kind = f"{told.pop('what', 'steps')} {told.pop('step')}/{told.pop('of')}"
    console.print(f"  {title}: {kind}  {_line(told)}", markup=False)


def _is_time_for_a_line() -> bool:
    """Without a terminal there is no bar to watch, but a line now and then."""
    global _last_line  # noqa: PLW0603 - one display a process
    now = time.monotonic()
    if now - _last_line < _LINE_EVERY_S:
        return False
    _last_line = now
    return True


def _line(event: Mapping[str, Any]) -> str:
    """Return what an event says, and of each task it measured the log-loss and the AUC."""
    words = [_told(name, value) for name, value in event.items() if name != "tasks"]
    for task in event.get("tasks", ()):
        auc = "no AUC" if task["auc"] is None else f"AUC {task['auc']:.4f}"
        loss = "no loss" if task["log_loss"] is None else f"{task['log_loss']:.5f}"
        words.append(f"{task['task']}: {loss}, {auc}")
    return "  ".join(words)


def _told(name: str, value: object) -> str:
    text = f"{value:,.5g}" if isinstance(value, float) else f"{value}"
    return f"{name}={text}"
