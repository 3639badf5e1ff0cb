"""Real servers: `curl` asks one, a promotion reaches it under load, and SIGTERM drains it.

Of two servers one is killed under load, and a client's one retry loses no request. What a server
said is compared with labels that arrive in a log, in a folder and on S3.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pytest
import urllib3

from iak.pipeline.data import stores
from iak.pipeline.serving.requests import ARROW
from iak.pipeline.storage.folder_store import FolderStore
from tests.ports import free_port
from tests.s3 import make_bucket, moto_server, use
from tests.unit.base.test_published_base import ALONE
from tests.unit.registry.nights import promote
from tests.unit.serving.shop import (
    read_all,
    run_of,
    score,
    score_work,
    shop_toml,
    write_base,
    write_bundles,
    write_shop,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]
READY_S, FOLLOWED_S = 300.0, 300.0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("serve")
    write_shop(root)
    base = write_base(root / "R1" / "base")
    for seed in (0, 50):
        folder = write_bundles(root / f"night-{seed}" / "bundles", base, seed=seed)
        score(ALONE, score_work(root, base, folder, root / f"scores-{seed}"))
    (root / "shop.toml").write_text(shop_toml())
    promote(FolderStore(root / "registry"), run_of(root / "night-0"))
    return root


@contextmanager
def running(place, *words):
    """Yield a server with these settings: its process, and its address."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "iak.jobs.cli", "serve", *words, f"port={port}"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "infra/package"), "OMP_NUM_THREADS": "1"},
        cwd=place,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: ask(f"{address}/ready") == 200, READY_S)
        yield process, address
    finally:
        process.kill()
        process.wait()


@contextmanager
def serving(place, *more):
    """Yield a server that follows the registry: its process, and its address."""
    words = [
        f"catalog={place / 'shop.toml'}", f"base={place / 'R1'}", "follow_s=0.2",
        f"bundles=registry:{place / 'registry'}@champion", "limits.seconds=120", *more,
    ]  # fmt: skip
    with running(place, *words) as server:
        yield server


@pytest.fixture
def server(place):
    with serving(place) as running:
        yield running


def ask(url):
    try:
        return urllib3.request("GET", url, retries=False).status
    except urllib3.exceptions.HTTPError:
        return None


def wait_until(is_so, seconds):
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.1)


def arrow_of(rows):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def asked(pool, body):
    """Return the answer of one request, sent once; None where there is none."""
    try:
        answer = pool.urlopen("POST", "/predict", body, {"content-type": ARROW}, retries=False)
    except urllib3.exceptions.HTTPError:
        return None
    return answer.data if answer.status == 200 else None


def compared(scores):
    """Predictions without reasons: a registry has no kernel that the gate held."""
    return scores.drop_columns(["reason"]).to_pylist()


class Load:
    """Clients that ask again and again, and compare every answer with the nights' predictions.

    A request that a server does not answer is sent once more, to the next server if there is one.
    """

    def __init__(self, addresses, rows, nights):
        self.addresses, self.rows, self.nights = addresses, rows, nights
        self.answered, self.retried, self.failed, self.seen = 0, 0, [], set()
        self.is_over, self.count = threading.Event(), threading.Lock()
        self.clients = [threading.Thread(target=self.run, args=(n,)) for n in range(3)]
        for client in self.clients:
            client.start()

    def run(self, number):
        pools = [urllib3.connection_from_url(address) for address in self.addresses]
        while not self.is_over.is_set():
            first, number = 31 * number % 450, number + 3
            body = arrow_of(self.rows.slice(first, 40))
            tried = [pools[(number + attempt) % len(pools)] for attempt in range(2)]
            answer = asked(tried[0], body)
            if answer is None:
                with self.count:
                    self.retried += 1
                answer = asked(tried[1], body)
            self.note(first, answer)

    def note(self, first, answer):
        with self.count:
            if answer is None:
                self.failed.append(first)
                return
            scores = compared(pa.ipc.open_stream(answer).read_all())
            is_of = [scores == night[first : first + 40] for night in self.nights]
            self.answered += any(is_of)
            self.seen |= {is_of.index(True)} if any(is_of) else {"a mixture"}

    def end(self):
        self.is_over.set()
        for client in self.clients:
            client.join()


def test_curl_a_promotion_under_load_and_a_drain(place, server):
    process, address = server
    row = {
        "event_id": 7, "user_id": "u1", "item_id": 3, "hist": [1], "slot": 1, "price": 2.5,
        "age": None, "scene": "feed", "region": "hangzhou",
    }  # fmt: skip
    said = subprocess.run(
        ["curl", "--silent", "--fail", f"{address}/predict", "--json", json.dumps({"rows": [row]})],
        check=True,
        capture_output=True,
    )
    (answer,) = json.loads(said.stdout)["rows"]
    assert (answer["id"], answer["kernel"]) == ("7", "region=hangzhou/scene=feed")

    nights = [compared(read_all(place / f"scores-{seed}")) for seed in (0, 50)]
    rows = write_shop(place / "again")
    load = Load([address], rows, nights)
    try:
        wait_until(lambda: load.answered > 20, READY_S)
        promote(FolderStore(place / "registry"), run_of(place / "night-50"))
        wait_until(lambda: 1 in load.seen, FOLLOWED_S)
    finally:
        load.end()
    assert (load.failed, load.retried, load.seen) == ([], 0, {0, 1})

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 0


def test_a_killed_server_loses_no_request_that_is_sent_once_more(place):
    expected = compared(read_all(place / "scores-0")), compared(read_all(place / "scores-50"))
    rows = write_shop(place / "pair")
    with serving(place) as (killed, first), serving(place) as (_, second):
        load = Load([first, second], rows, expected)
        try:
            wait_until(lambda: load.answered > 20, READY_S)
            assert (load.failed, load.retried) == ([], 0)
            killed.kill()
            before = load.answered
            wait_until(lambda: load.retried > 20 and load.answered > before + 40, READY_S)
        finally:
            load.end()
        assert ask(f"{first}/health") is None
        assert ask(f"{second}/health") == 200
    assert (load.failed, "a mixture" in load.seen) == ([], False)


@pytest.fixture(params=["folder", "s3"])
def arriving(request, tmp_path, monkeypatch):
    """A root below which no label lies yet, and what lets a log arrive there."""
    if request.param == "folder":
        (tmp_path / "labels").mkdir()
        yield tmp_path / "labels", lambda log: shutil.copytree(log, tmp_path / "labels" / "events")
        return
    server, endpoint = moto_server()
    make_bucket(endpoint, "labels")
    use(monkeypatch, endpoint)

    def arrive(log):
        store, path = stores.open_uri("s3://labels/shop/events")
        pafs.copy_files(str(log), path, destination_filesystem=store)

    yield "s3://labels/shop", arrive
    server.stop()


def calibration_of(address):
    """What a server says of its labels: by kernel, rows with a known click, and both sums."""
    said = urllib3.request("GET", f"{address}/kernels").json()["calibration"]
    lines = [line for line in said["sums"] if line["task"] == "ctr"]
    sums = {line["kernel"]: (line["rows"], line["observed"]) for line in lines if line["rows"]}
    return sums, {line["kernel"]: line["predicted"] for line in lines if line["rows"]}, said


def test_what_was_served_is_compared_with_labels_as_they_arrive(place, arriving, tmp_path):
    root, arrive = arriving
    rows = write_shop(tmp_path / "log")
    with serving(place, f"labels.data={root}", "labels.every_s=0.2") as (process, address):
        body = arrow_of(rows.drop_columns(["click", "order"]))
        scores = pa.ipc.open_stream(asked(urllib3.connection_from_url(address), body)).read_all()
        served = scores.append_column("click", rows.column("click"))
        served = served.filter(pc.is_valid(served.column("kernel")))
        wait_until(lambda: calibration_of(address)[2]["not_read"] != "", READY_S)
        assert calibration_of(address)[0] == {}
        assert calibration_of(address)[2]["waiting"] == len(served)

        arrive(tmp_path / "log" / "events")
        known = served.filter(pc.is_valid(served.column("click")))
        names = known.column("kernel").cast("string").to_pylist()
        clicks, p = (known.column(name).to_pylist() for name in ("click", "p.ctr"))
        own = {name: [n for n, k in enumerate(names) if k == name] for name in set(names)}
        expected = {k: (len(index), sum(clicks[n] for n in index)) for k, index in own.items()}
        wait_until(lambda: calibration_of(address)[0] == expected, READY_S)
        _, predicted, said = calibration_of(address)
        assert predicted == pytest.approx({k: sum(p[n] for n in index) for k, index in own.items()})
        assert said["not_read"] == ""
        metrics = urllib3.request("GET", f"{address}/metrics").data.decode()
        assert "iak_serve_labelled_rows_total{" in metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 0
