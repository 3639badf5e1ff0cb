"""Show the events of a run on the console: phases, the steps of workers, notices."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from iak.jobs.progress import WorkersBar, announce, console, update_detail
from iak.jobs.skipped import show_partly_read
from iak.pipeline.events import (
    AnyEvent,
    Event,
    FilesCarried,
    LogPartlyRead,
    Notice,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    Report,
    StoresUsed,
    WorkersEnded,
    WorkersStarted,
)


@contextmanager
def console_report() -> Iterator[Report]:
    """Yield a report that shows every event of a run on the console."""
    shown = _ShownRun()
    try:
        yield shown.show
    finally:
        shown.close()


class _ShownRun:
    """The part of a run that the console shows now: open phases, and the workers' bar."""

    def __init__(self) -> None:
        self._phases: list[ExitStack] = []
        self._bar: WorkersBar | None = None

    def show(self, event: AnyEvent) -> None:
        """Show an event. Events that this class does not know are not shown."""
        match event:
            case PhaseStarted():
                self._phases.append(ExitStack())
                if event.description:
                    begun = announce(event.description, event.detail, after_s=event.show_after_s)
                    self._phases[-1].enter_context(begun)
            case PhaseAdvanced():
                update_detail(event.detail)
            case PhaseEnded():
                self._phases.pop().close()
            case WorkersStarted():
                # Entered by hand: the bar stays from this event to `WorkersEnded`.
                self._bar = WorkersBar(event.title).__enter__()
            case WorkersEnded():
                self._close_bar()
            case LogPartlyRead():
                show_partly_read(event)
            case FilesCarried():
                _show_carried(event)
            case Notice():
                _show_notice(event)
            case Event():
                pass
            case _ if event["event"] == StoresUsed.name:
                pass  # each worker reports every second; the record and the page have the sums
            case _ if self._bar:
                self._bar.show(event)

    def close(self) -> None:
        """End whatever is still shown."""
        self._close_bar()
        while self._phases:
            self._phases.pop().close()

    def _close_bar(self) -> None:
        bar, self._bar = self._bar, None
        if bar:
            bar.__exit__()


def _show_carried(carried: FilesCarried) -> None:
    text = (
        f"files between machines: {carried.bytes_received:,} bytes to the driver's, "
        f"{carried.bytes_sent:,} from it"
    )
    console.print(text, style="dim")


def _show_notice(notice: Notice) -> None:
    style = "yellow" if notice.is_warning else "dim" if notice.is_minor else None
    text = notice.text if style else f"  {notice.text}"
    console.print(text, markup=False, style=style)  # paths and names may hold brackets
