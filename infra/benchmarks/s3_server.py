"""Serve the S3 API on this machine, with a proxy before it that fails as its owner asks."""

import http.client
import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import obstore
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-no-message-shows",
    "AWS_REGION": "us-east-1",
}
CUT = 0
"""Status with which the proxy closes the connection without an answer."""
Fault = Callable[[str, str, int], tuple[int, bool] | None]
"""Takes method, path and number of a request. It returns None to pass the request on, or a pair:
the status to answer, and whether the server still gets the request, so that only its answer is
lost. It may sleep, which makes the answer late."""
_OWN_HEADERS = {"connection", "content-length", "date", "server", "transfer-encoding"}


def moto_server() -> tuple[ThreadedMotoServer, str]:
    """Start moto's server (5.2.5, 0.3 s), and return its endpoint too.

    It forgets everything when it stops.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return server, f"http://{host}:{port}"


def make_bucket(endpoint: str, name: str) -> None:
    """Make a bucket on a server."""
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
    connection.request("PUT", f"/{name}")
    answer = connection.getresponse()
    connection.close()
    if answer.status != http.client.OK:
        raise OSError(f"{endpoint} made no bucket {name}: {answer.status}")


def bucket_of(endpoint: str, name: str) -> S3Store:
    """Return a client of a bucket."""
    return S3Store(
        name, endpoint=endpoint, client_options={"allow_http": True}, region="us-east-1",
        access_key_id="x", secret_access_key="x",
    )  # fmt: skip


def objects_of(endpoint: str, name: str) -> dict[str, bytes]:
    """Return key -> bytes of everything in a bucket."""
    bucket = bucket_of(endpoint, name)
    keys = [entry["path"] for entry in obstore.list(bucket).collect()]
    return {key: bytes(obstore.get(bucket, key).bytes()) for key in keys}


class Proxy:
    """Stands before a server, and does to each request what `fault` says."""

    def __init__(self, endpoint: str) -> None:
        """Listen on a free port of loopback, and pass requests on to `endpoint`."""
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault = lambda *_: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, endpoint))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: Proxy, endpoint: str) -> type[BaseHTTPRequestHandler]:
    """Return the class that handles a proxy's requests."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:  # noqa: ANN401 - as in the base class
            """Write no log."""

        def pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            """Send the request to the server, and return its answer."""
            connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

        def do(self) -> None:
            """Answer one request."""
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            number = len(proxy.requests)
            proxy.requests.append((self.command, self.path))
            fault = proxy.fault(self.command, self.path, number)
            if fault is None:
                self.answer(*self.pass_on(body))
                return
            status, is_passed = fault
            if is_passed:
                self.pass_on(body)
            if status == CUT:
                self.close_connection = True
                return
            self.answer(status, [], b"")

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            """Send an answer."""
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in _OWN_HEADERS:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

    return Handler
