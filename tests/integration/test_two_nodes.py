"""Two machines that share nothing but S3: a base, a night that loses one of them, and predictions.

Ray's nodes on this machine have cache folders of their own. Drivers run beside the head, which
takes no worker, as in Kubernetes.
"""

import json
import subprocess
import sys
import time

import pyarrow.dataset as ds
import pytest

import iak
from iak.pipeline.base.published_base import open_base
from iak.pipeline.events import silent
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.registry.commits import read_head
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.runs.nightly import NightRequest, run_night
from iak.pipeline.runs.nightly_records import read_nights
from iak.pipeline.runs.predict import predict
from iak.pipeline.storage.store import open_store
from iak.pipeline.storage.working_copy import read_copy
from iak.schemas.scoring import PredictSpec
from tests.integration.test_nightly import SEVENTH
from tests.integration.test_object_store import (
    PRETRAINING,
    WORKERS,
    nightly,
    outcomes,
    stored_log,
    weights,
)
from tests.ray_nodes import ray_nodes

pytestmark = [
    pytest.mark.ray,
    pytest.mark.night,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs further loopback addresses"),
]
TWO = {"workers": 2, "device": "cpu"}
DRIVER = """
import json, sys
from datetime import date
import iak
from iak.jobs.ray_launcher import RayLauncher
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.runs.nightly import NightRequest, run_night
from iak.pipeline.runs.predict import predict
from iak.schemas.nightly import NightlySpec
from iak.schemas.scoring import PredictSpec

def report(event):
    print(json.dumps(dict(event), default=str), flush=True)

what, settings = json.loads(sys.argv[1])
launcher = RayLauncher()
if what == "base":
    iak.pretrain(**settings, launcher=launcher, report=report)
elif what == "night":
    asked = NightlySpec.model_validate(settings)
    run_night(asked, launcher, NightRequest(night=date(2026, 10, 7)), report)
else:
    asked = PredictSpec.model_validate(settings)
    predict(asked, load_catalog(asked.catalog), launcher, report)
"""
PATIENCE_S = 1000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A log on S3, a head, and two nodes for workers."""
    folder = tmp_path_factory.mktemp("log")
    with (
        pytest.MonkeyPatch.context() as patch,
        stored_log(folder, patch) as environment,
        ray_nodes(**environment) as nodes,
    ):
        nodes.join("first")
        nodes.join("second")
        nodes.log = folder
        patch.setenv("XDG_CACHE_HOME", str(folder / "reader"))
        yield nodes


def start(cluster, what, settings, *, is_local=False):
    """Start a driver on the head's machine, on the cluster or on a Ray of its own."""
    words = ["-c", DRIVER, json.dumps([what, settings], default=str)]
    return cluster.driver(words, is_local=is_local)


def said_by(driver):
    """Wait for a driver's end, and return its events."""
    try:
        code = driver.process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        driver.process.kill()
        code = driver.process.wait()
    said = driver.said()
    assert code == 0, said[-4000:]
    return said


def finish(driver):
    """Return the bytes of files that went to the driver's machine, and from it."""
    said = said_by(driver)
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    (carried,) = (event for event in events if event["event"] == "files_carried")
    return carried["bytes_received"], carried["bytes_sent"]


def catalog(cluster):
    return cluster.log / "catalog.toml"


@pytest.fixture(scope="module")
def base(cluster):
    """A base that two machines trained, and the bytes between them."""
    settings = PRETRAINING | TWO | {"run_dir": "s3://shop/two/base"}
    settings |= {"catalog": catalog(cluster), "data_root": "s3://shop/log"}
    settings |= {"checkpoint_every_steps": 10}
    return "s3://shop/two/base", finish(start(cluster, "base", settings))


def test_two_machines_train_the_base_that_one_trains(cluster, base, tmp_path):
    settings = PRETRAINING | TWO
    iak.pretrain(catalog(cluster), cluster.log / "log", run_dir=tmp_path / "base", **settings)
    uri, (sent, _) = base
    trained = open_base(read_copy(uri))
    alone = open_base(tmp_path / "base")
    assert trained.manifest.files == alone.manifest.files
    assert sent > sum(file.bytes for file in trained.manifest.files)


def wait_for(is_there, driver):
    """Wait until something is there; the test's own limit ends it where it never is."""
    while not is_there():
        assert driver.process.poll() is None, driver.said()[-4000:]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def night(cluster, base):
    """A night whose second machine was killed in the midst of its tuning, and replaced."""
    asked = of_two_workers(nightly(cluster.log, base[0], "two", tuning={"checkpoint_every_s": 0.0}))
    driver = start(cluster, "night", asked.model_dump(mode="json"))
    runs = cluster.cache("head") / "iak/scratch/runs"
    wait_for(lambda: any(runs.glob("tune-*/tune.previous.safetensors")), driver)
    cluster.kill("second")
    cluster.join("third")
    return asked, finish(driver)


@pytest.fixture(scope="module")
def expected(cluster, base):
    """The same night, by two processes and without Ray: its outcomes and weights."""
    asked = of_two_workers(nightly(cluster.log, base[0], "alone"))
    return result_of(run_night(asked, ProcessLauncher(), NightRequest(night=SEVENTH), silent))


def of_two_workers(asked):
    workers = asked.workers.model_copy(update={"workers": 2})
    return asked.model_copy(update={"workers": workers})


def result_of(record):
    return outcomes(record), weights(read_copy(record.run_dir) / "bundles")


def test_a_night_that_loses_a_machine_goes_on_with_another_to_the_same_bundles(
    cluster, night, expected
):
    asked, (sent, fetched) = night
    (record,) = read_nights(asked.nights).records
    assert expected[1]
    assert result_of(record) == expected
    assert record.attempts == 1  # the run itself went on
    assert read_head(open_store(asked.registry)).pointers["champion"].keys() >= {"pooled"}
    assert sent > 0 < fetched
    traffic = record.traffic
    assert (traffic.from_workers.bytes, traffic.to_workers.bytes) == (sent, fetched)
    # The machines' copies of the base alone come from S3, each of several files.
    assert traffic.from_stores.files > 3 < traffic.to_stores.files
    for name in ("first", "second", "third"):
        copies = cluster.cache(name) / "iak/scratch/copies"
        assert any(copies.glob("*/base/manifest.json")), name


def test_a_night_on_s3_under_a_local_ray_comes_to_the_same_bundles(cluster, base, expected):
    asked = of_two_workers(nightly(cluster.log, base[0], "local"))
    driver = start(cluster, "night", asked.model_dump(mode="json"), is_local=True)
    said = said_by(driver)
    assert "files_carried" not in said
    (record,) = read_nights(asked.nights).records
    assert result_of(record) == expected


def test_two_machines_predict_what_one_predicts(cluster, base, night, tmp_path):
    asked, _ = night
    settings = {
        "catalog": catalog(cluster), "data_root": "s3://shop/log", "base": base[0],
        "bundles": f"registry:{asked.registry}@champion", "part_rows": 300,
        "dates": ("2026-10-08", "2026-10-08"),
    }  # fmt: skip
    finish(start(cluster, "rows", settings | TWO | {"run_dir": "s3://shop/two/predicted"}))
    alone = PredictSpec.model_validate(settings | WORKERS | {"run_dir": tmp_path / "predicted"})
    predict(alone, load_catalog(alone.catalog), ProcessLauncher())
    stored = read_copy("s3://shop/two/predicted") / "predictions"
    parts = sorted(path.name for path in stored.glob("*.parquet"))
    assert len(parts) > 2
    here = tmp_path / "predicted" / "predictions"
    assert parts == sorted(path.name for path in here.glob("*.parquet"))
    assert ds.dataset(stored).to_table() == ds.dataset(here).to_table()
