"""Run `iak serve` as a process of its own, and ask it over loopback."""

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from iak.pipeline.errors import PipelineError
from iak.pipeline.serving.requests import ARROW

_READY_S = 600.0
"""Seconds within which a server must have read its base and kernels."""
_ANSWER_S = 60.0
_LOOK_S = 0.2


@contextmanager
def serving(words: Sequence[str], log: Path) -> Iterator["Client"]:
    """Yield a client of a fresh server, which ends with the block.

    Args:
        words: settings of `iak serve`, without its port.
        log: file that gets what the server prints.

    Raises:
        PipelineError: it ended before it took requests, or took none for ten minutes.
    """
    port = _free_port()
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "iak.jobs.cli", "serve", *words, f"port={port}"],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        client = Client(port)
        _wait_until_ready(client, process, log)
        client.close()  # the server drops a connection that is idle while others start
        yield client
    finally:
        process.terminate()
        process.wait()


class Client:
    """One client with one connection, which is kept open."""

    def __init__(self, port: int) -> None:
        """Connect when the first request is sent.

        Args:
            port: port of the server on this machine.
        """
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)

    def another(self) -> "Client":
        """Return another client of the same server."""
        return Client(self.port)

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        self._connection.close()

    def is_ready(self) -> bool:
        """Ask whether the server takes requests."""
        try:
            self._connection.request("GET", "/ready")
            response = self._connection.getresponse()
            response.read()
        except OSError:
            self._connection.close()
            return False
        return response.status == 200

    def predict(self, body: bytes) -> tuple[int, bytes]:
        """Send rows as an Arrow stream; return the status and the body of the answer."""
        self._connection.request("POST", "/predict", body, {"content-type": ARROW})
        response = self._connection.getresponse()
        return response.status, response.read()

    def seconds(self, body: bytes) -> float:
        """Return the time from a request to its whole answer.

        Raises:
            PipelineError: it was refused.
        """
        started = time.perf_counter()
        status, answer = self.predict(body)
        taken = time.perf_counter() - started
        if status != 200:
            raise PipelineError(f"the server answered {status}: {answer[:200]!r}")
        return taken


def body_of(rows: pa.Table) -> bytes:
    """Return rows as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def rows_of(answer: bytes) -> list[dict[str, Any]]:
    """Return the rows of an answer."""
    rows: list[dict[str, Any]] = pa.ipc.open_stream(answer).read_all().to_pylist()
    return rows


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _wait_until_ready(client: Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + _READY_S
    while not client.is_ready():
        if process.poll() is not None or time.monotonic() > until:
            raise PipelineError(f"iak serve takes no requests: {log.read_text()[-2000:]}")
        time.sleep(_LOOK_S)
