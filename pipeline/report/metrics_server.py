"""Serve the newest night's numbers to Prometheus, which scrapes them over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from iak.pipeline.errors import BadRequest
from iak.pipeline.report.metrics import night_registry
from iak.pipeline.report.nights import night_folders
from iak.pipeline.storage.working_copy import folder_exists, readable_folder
from iak.schemas.night import NightRecord


@contextmanager
def serving_metrics(nights: Path, *, address: str, port: int) -> Iterator[int]:
    """Serve `/metrics` in a thread of its own, and yield the port.

    Args:
        nights: folder of the nights. It is read at every scrape.
        address: address of this machine on which the server listens.
        port: 0 takes a free one.

    Raises:
        BadRequest: the address or the port cannot be used.
    """
    registry = CollectorRegistry()
    registry.register(_NewestNight(nights))
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:  # also a name that cannot be resolved
        raise BadRequest(
            f"metrics cannot be served on {address}, port {port}: {error}. Give another "
            "metrics_port or metrics_address, or leave metrics_port out"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _NewestNight(Collector):
    """Collects the numbers of the newest night that has ended; nothing before the first one.

    A night that still runs has no end yet, and would look like one that failed.
    """

    def __init__(self, nights: Path) -> None:
        self._nights = nights

    def collect(self) -> Iterator[Metric]:
        if not folder_exists(self._nights):
            return
        records = [folder.record for folder in night_folders(readable_folder(self._nights))]
        ended = [record for record in records if record is not None and record.ended_at is not None]
        if ended:
            yield from night_registry(max(ended, key=_order)).collect()


def _order(record: NightRecord) -> tuple[object, ...]:
    return record.night, record.started_at
