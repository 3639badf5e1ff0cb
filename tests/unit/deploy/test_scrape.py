"""A real Prometheus scrapes a night's metrics, and loads the rules."""

import json
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from iak.pipeline.deploy.alerts import alert_rules
from iak.pipeline.report.metrics import metrics_text
from tests.nights import a_night
from tests.ports import free_port
from tests.tools import debian_program
from tests.unit.deploy.nights import nights

pytestmark = pytest.mark.slow
RECORD = a_night(domains=3)


class _Metrics(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(metrics_text(RECORD))

    def log_message(self, *words):
        pass


@contextmanager
def _served():
    """Serve the metrics on loopback, as a node exporter would; yield the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Metrics)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _prometheus(program, folder, target):
    """Start Prometheus on loopback with the rules; yield its address."""
    port = free_port()
    (folder / "rules.yaml").write_text(alert_rules(nights(name=RECORD.name)))
    job = {"job_name": "iak", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
    config["rule_files"] = ["rules.yaml"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [str(program), f"--config.file={folder}/prometheus.yml"]
    command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/api/v1"
    finally:
        process.terminate()
        process.wait(300)


def _asked(address, path, *, tries=480):
    """Return the first answer with data."""
    for _ in range(tries):
        try:
            with urllib.request.urlopen(f"{address}/{path}", timeout=5) as answer:
                data = json.load(answer)["data"]
        except OSError:  # it is starting
            data = {}
        if data.get("result") or data.get("groups"):
            return data
        time.sleep(0.5)
    raise AssertionError(f"no answer to {path} in {tries} tries")


def test_a_night_is_scraped_and_the_rules_are_loaded(tmp_path):
    program = debian_program("prometheus", "usr/bin/prometheus")
    with _served() as target, _prometheus(program, tmp_path, target) as address:
        found = _asked(address, "query?query=iak_night_kernels")["result"]
        groups = _asked(address, "rules")["groups"]
    counts = {one["metric"]["outcome"]: float(one["value"][1]) for one in found}
    assert counts == {outcome: float(n) for outcome, n in RECORD.counts.items()}
    assert {one["metric"]["service"] for one in found} == {RECORD.name}
    assert len(groups[0]["rules"]) == 9
