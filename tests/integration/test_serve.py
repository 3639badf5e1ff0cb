"""Real servers: `curl` asks one, a promotion reaches it under load, and SIGTERM drains it.

Of two servers one is killed under load, and a client's one retry loses no request. What a server
said is compared with labels that arrive in a log, in a folder and on S3.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pytest
import urllib3

from iak.pipeline.data import stores
from tests.ports import free_port
from tests.s3 import make_bucket, moto_server, use
from tests.serving_load import (
    Load,
    arrow_of,
    ask,
    asked,
    predictions,
    promote_night,
    wait_until,
    write_place,
)
from tests.unit.serving.shop import write_shop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_place(tmp_path_factory.mktemp("serve"))


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
        wait_until(lambda: ask(f"{address}/ready") == 200)
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

    rows = write_shop(place / "again")
    load = Load([address], rows, predictions(place))
    try:
        wait_until(lambda: load.answered > 20)
        promote_night(place, 50)
        wait_until(lambda: 1 in load.seen)
    finally:
        load.end()
    assert (load.failed, load.retried, load.seen) == ([], 0, {0, 1})

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 0


def test_a_killed_server_loses_no_request_that_is_sent_once_more(place):
    rows = write_shop(place / "pair")
    with serving(place) as (killed, first), serving(place) as (_, second):
        load = Load([first, second], rows, predictions(place))
        try:
            wait_until(lambda: load.answered > 20)
            assert (load.failed, load.retried) == ([], 0)
            killed.kill()
            before = load.answered
            wait_until(lambda: load.retried > 20 and load.answered > before + 40)
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
        wait_until(lambda: calibration_of(address)[2]["not_read"] != "")
        assert calibration_of(address)[0] == {}
        assert calibration_of(address)[2]["waiting"] == len(served)

        arrive(tmp_path / "log" / "events")
        known = served.filter(pc.is_valid(served.column("click")))
        names = known.column("kernel").cast("string").to_pylist()
        clicks, p = (known.column(name).to_pylist() for name in ("click", "p.ctr"))
        own = {name: [n for n, k in enumerate(names) if k == name] for name in set(names)}
        expected = {k: (len(index), sum(clicks[n] for n in index)) for k, index in own.items()}
        wait_until(lambda: calibration_of(address)[0] == expected)
        _, predicted, said = calibration_of(address)
        assert predicted == pytest.approx({k: sum(p[n] for n in index) for k, index in own.items()})
        assert said["not_read"] == ""
        metrics = urllib3.request("GET", f"{address}/metrics").data.decode()
        assert "iak_serve_labelled_rows_total{" in metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 0
