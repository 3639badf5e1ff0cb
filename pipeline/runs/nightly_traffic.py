"""Count what a night moves between machines: objects of stores, and files of workers."""

import threading

from iak.pipeline.events import AnyEvent, FilesCarried, Report, StoresUsed
from iak.pipeline.storage.store_counter import StoreCounter
from iak.schemas.traffic import Carried, NightTraffic, StoreTraffic


class TrafficCounter:
    """Adds up what the driver counts and what the events of a night report."""

    def __init__(self, stores: StoreCounter) -> None:
        """Begin with nothing.

        Args:
            stores: counts the objects of this process.
        """
        self._stores, self._reported = stores, NightTraffic()
        self._lock = threading.Lock()  # workers' events come in a thread of their own

    def counted(self, report: Report) -> Report:
        """Return a report that also counts the traffic that events report.

        Args:
            report: gets every event.
        """

        def count_and_report(event: AnyEvent) -> None:
            with self._lock:
                self._reported += _traffic_in(event)
            report(event)

        return count_and_report

    def take(self) -> NightTraffic:
        """Return what was moved since the last call."""
        with self._lock:
            reported, self._reported = self._reported, NightTraffic()
        return reported + _of_stores(self._stores.take())


def _traffic_in(event: AnyEvent) -> NightTraffic:
    """Return the traffic that an event reports, which most do not."""
    if event["event"] == FilesCarried.name:
        return NightTraffic(
            from_workers=Carried(files=event["files_received"], bytes=event["bytes_received"]),
            to_workers=Carried(files=event["files_sent"], bytes=event["bytes_sent"]),
        )
    if event["event"] == StoresUsed.name:
        return NightTraffic(
            from_stores=Carried(files=event["objects_read"], bytes=event["bytes_read"]),
            to_stores=Carried(files=event["objects_written"], bytes=event["bytes_written"]),
        )
    return NightTraffic()


def _of_stores(used: StoreTraffic) -> NightTraffic:
    return NightTraffic(from_stores=used.read, to_stores=used.written)
