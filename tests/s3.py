"""A server of the S3 API for tests, and a proxy before it that fails as a test asks."""

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import obstore
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-no-message-shows",
    "AWS_REGION": "us-east-1",
}
_OWN_HEADERS = {"connection", "content-length", "date", "server", "transfer-encoding"}


def moto_server():
    """Start moto's server (5.2.5, 0.3 s); it forgets everything when it stops."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return server, "http://{}:{}".format(*server.get_host_and_port())


def make_bucket(endpoint, name):
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1",
        aws_access_key_id="x", aws_secret_access_key="x",
    )  # fmt: skip
    client.create_bucket(Bucket=name)


def use(monkeypatch, endpoint):
    """Let this process and its children find the server, with keys that it takes."""
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)


def objects_of(endpoint, bucket):
    """Return key -> bytes of everything in a bucket."""
    store = S3Store(
        bucket, endpoint=endpoint, client_options={"allow_http": True}, region="us-east-1",
        access_key_id="x", secret_access_key="x",
    )  # fmt: skip
    keys = [entry["path"] for entry in obstore.list(store).collect()]
    return {key: bytes(obstore.get(store, key).bytes()) for key in keys}


class Proxy:
    """Stands before a server, and does to each request what `fault` says.

    `fault(method, path, number)` returns None to pass a request on, or a pair: the status to
    answer, and whether the server still gets the request, so that only its answer is lost.
    """

    def __init__(self, endpoint: str):
        self.requests: list[tuple[str, str]] = []
        self.fault: Callable[[str, str, int], tuple[int, bool] | None] = lambda *_: None
        proxy, host = self, endpoint.removeprefix("http://")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def pass_on(self, body):
                connection = http.client.HTTPConnection(host)
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()

            def do(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                number = len(proxy.requests)
                proxy.requests.append((self.command, self.path))
                fault = proxy.fault(self.command, self.path, number)
                if fault is None:
                    status, headers, content = self.pass_on(body)
                else:
                    if fault[1]:
                        self.pass_on(body)
                    status, headers, content = fault[0], [], b""
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in _OWN_HEADERS:
                        self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
