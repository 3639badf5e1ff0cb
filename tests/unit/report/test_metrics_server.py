"""The newest night's numbers over HTTP, by real scrapes."""

import socket
from urllib.request import urlopen

import pytest

from iak.pipeline.errors import BadRequest
from iak.pipeline.report.metrics import metrics_text
from iak.pipeline.report.metrics_server import serving_metrics
from iak.pipeline.runs.nightly_records import changed
from tests.nights import some_nights

HERE = "127.0.0.1"


def scrape(port):
    with urlopen(f"http://{HERE}:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return sorted(answer.read().splitlines())


def lines_of(record):
    """A record's lines, in an order that does not depend on how its document spells it."""
    return sorted(metrics_text(record).splitlines())


def test_a_scrape_has_the_newest_night_that_ended(tmp_path):
    older, newer, running = some_nights(3, domains=3)
    with serving_metrics(tmp_path, address=HERE, port=0) as port:
        assert scrape(port) == []
        changed(tmp_path, newer)
        assert scrape(port) == lines_of(newer)
        changed(tmp_path, older)
        changed(tmp_path, running, status="running", ended_at=None)
        broken = tmp_path / "2026-01-01-0123456789abcdef"
        broken.mkdir()
        (broken / "night.json").write_text("{")
        assert scrape(port) == lines_of(newer)
        changed(tmp_path, running)
        assert scrape(port) == lines_of(running)


def test_the_port_is_free_when_the_watch_ends(tmp_path):
    with serving_metrics(tmp_path, address=HERE, port=0) as port:
        pass
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((HERE, port))


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(BadRequest, match=f"port {port}: .*in use.* another metrics_port"),
            serving_metrics(tmp_path, address=HERE, port=port),
        ):
            pass
