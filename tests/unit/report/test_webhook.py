"""One line of JSON over HTTP, to a server of the test: retries, refusals, and a secret address."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from iak.pipeline.report.webhook import ATTEMPTS, send_summary
from tests.nights import a_night

SECRET = "T0KEN-in-the-path"


class Hook(BaseHTTPRequestHandler):
    """Answer with the codes that the test lists, the last one again and again."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers["Content-Type"], json.loads(body)))
        codes = self.server.codes
        code = codes.pop(0) if len(codes) > 1 else codes[0]
        if code == 0:  # the connection breaks without an answer
            self.close_connection = True
            return
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words):
        """Print nothing."""


@pytest.fixture
def hook():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.got, server.codes = [], [200]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_port}/{SECRET}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def send(address):
    night = a_night(domains=2)
    return send_summary(night, address, variable="IAK_HOOK", timeout_s=120, pause_s=0)


def test_a_summary_arrives_once_as_json(hook):
    assert send(hook.address) is None
    ((path, kind, body),) = hook.got
    assert path == f"/{SECRET}"
    assert kind == "application/json"
    assert body["text"].startswith("shop, night of 2026-10-28: 3 of 3 kernels promoted")
    assert "\n" not in body["text"]
    assert body["kernels"] == {"promoted": 3, "held": 0, "failed": 0, "waiting": 0}


@pytest.mark.parametrize("codes", [[503, 200], [429, 500, 200], [0, 200]])
def test_what_passes_is_tried_again(hook, codes):
    wanted = len(codes)
    hook.codes = codes
    assert send(hook.address) is None
    assert len(hook.got) == wanted


@pytest.mark.parametrize(
    ("code", "requests", "said"),
    [
        (500, ATTEMPTS, "answered 500"),
        (404, 1, "answered 404"),
        (302, 1, "answered 302"),
        (0, ATTEMPTS, "the connection broke"),
    ],
)
def test_a_failure_is_a_notice_without_the_address(hook, caplog, capfd, code, requests, said):
    hook.codes = [code]
    caplog.set_level(0)
    notice = send(hook.address)
    assert said in notice
    assert "IAK_HOOK" in notice
    assert len(hook.got) == requests
    out, err = capfd.readouterr()
    for written in (notice, caplog.text, out, err):
        assert SECRET not in written
        assert str(hook.server_port) not in written


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (None, "IAK_HOOK is not set"),
        ("", "IAK_HOOK is not set"),
        ("file:///etc/passwd", "no http or https address"),
        ("hooks.example.org/T0KEN", "no http or https address"),
        ("http://[T0KEN", "no http or https address"),
        ("http://127.0.0.1:1/T0KEN", "cannot be reached (ConnectionRefusedError)"),
        ("http://127.0.0.1:1/T0KEN\r\nX: y", "the connection broke (InvalidURL)"),
    ],
)
def test_an_address_that_cannot_work_is_a_notice(address, said):
    notice = send(address)
    assert said in notice
    assert "T0KEN" not in notice
