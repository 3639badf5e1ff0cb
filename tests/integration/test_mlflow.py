"""Nights on a real MLflow server: sqlite, one worker, in an environment of its own."""

import subprocess
import time
from pathlib import Path

import pytest
from pydantic import ConfigDict
from urllib3 import request
from urllib3.exceptions import HTTPError

import iak
from iak.pipeline.publish.bundle import bundle_name
from iak.pipeline.runs.nightly_notify import check_tracking, notify
from iak.pipeline.runs.nightly_records import read_nights
from iak.pipeline.tracking.champion import follow_registry
from iak.pipeline.tracking.mlflow_answers import Answer
from iak.pipeline.tracking.mlflow_server import MlflowServer
from iak.pipeline.tracking.night_numbers import night_numbers
from tests.faults.test_kill import write_catalog
from tests.integration.small_log import MODEL, write_log
from tests.integration.test_seven_nights import GATE_SHARE, NIGHTLY, here
from tests.nights import some_nights
from tests.ports import free_port
from tests.tools import tool_python
from tests.unit.tracking.tracked import settings, written

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
]


class Anything(Answer):
    """An answer with all its fields."""

    model_config = ConfigDict(extra="allow")


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    """Address of a server of MLflow, which runs until the tests end."""
    python = tool_python("mlflow", "mlflow==3.17.2")
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    words = [
        *(str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "artefacts")),
    ]
    environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, server, folder / "log")
        yield address
    finally:
        server.terminate()
        server.wait(300)


def folder_of(record):
    return f"{record.night}-{record.id}"


def _wait_for(address, server, log):
    for _ in range(1200):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            if request("GET", f"{address}/health", retries=False, timeout=5).status == 200:
                return
        except HTTPError:
            pass
        time.sleep(0.5)
    pytest.fail(log.read_text()[-2000:])


def test_nights_are_runs_and_the_newest_version_has_the_aliases(mlflow, tmp_path):
    spec = settings(tmp_path, notify={"tracking": mlflow, "tensorboard": True})
    assert check_tracking(spec, None) == []
    nights = []
    # More numbers than one request takes, and a name that MLflow would refuse as it is.
    for record in some_nights(2, domains=40):
        odd = record.domains[1].decision.model_copy(update={"domain": [("city", "a:b/../\n")]})
        changed = record.domains[1].model_copy(update={"decision": odd})
        domains = [record.domains[0], changed, *record.domains[2:]]
        newest, _ = written(tmp_path, record, domains=domains)
        nights.append(folder_of(newest))
        assert notify(spec, newest, address=None, token=None) == []
    assert len(night_numbers(newest)) > 1000
    assert notify(spec, newest, address=None, token=None) == []

    server = MlflowServer(mlflow)
    found = server.post("runs/search", {"experiment_ids": ["1"]}, Anything).model_dump()["runs"]
    assert len(found) == 2
    run = found[0]
    assert run["info"]["status"] == "FINISHED"
    assert {m["key"]: m["value"] for m in run["data"]["metrics"]} == night_numbers(newest)
    assert {"key": "window.days", "value": "7"} in run["data"]["params"]
    files = server.get("artifacts/list", Anything, run_id=run["info"]["run_id"]).model_dump()
    assert {each["path"] for each in files["files"]} == {"bundles", "night.json", "page.html"}
    model = server.get("registered-models/get", Anything, name="shop").model_dump()
    aliases = {each["alias"]: each["version"] for each in model["registered_model"]["aliases"]}
    assert aliases == {"champion": "2", "candidate": "2"}
    version = server.get(
        "registered-models/alias", Anything, name="shop", alias="champion"
    ).model_dump()["model_version"]
    assert version["run_id"] == run["info"]["run_id"]
    bytes_of = f"{mlflow}/api/2.0/mlflow-artifacts/artifacts/1/{version['run_id']}/artifacts"
    pooled = newest.domains[0]
    kernel = request("GET", f"{bytes_of}/bundles/{pooled.bundle}/kernel.safetensors")
    assert kernel.data == b"weights of pooled"

    older = next(night for night in nights if night != folder_of(newest))
    assert "version 2" in follow_registry(server, "shop", nights)
    assert "version 1" in follow_registry(server, "shop", [older])
    for _ in range(2):  # the second time there is no alias to remove
        assert "has no champion" in follow_registry(server, "shop", [])
    model = server.get("registered-models/get", Anything, name="shop").model_dump()
    assert [each["alias"] for each in model["registered_model"]["aliases"]] == ["candidate"]


@pytest.mark.ray
@pytest.mark.night
def test_a_night_under_ray_is_a_run_with_its_numbers_page_and_kernels(mlflow, tmp_path):
    asked = _night_of_a_small_log(tmp_path, mlflow)
    with here(tmp_path) as cluster:
        cluster.begin("nightly", "run", str(asked), "date=2026-10-07")
        assert cluster.end() == 0
    (record,) = read_nights(tmp_path / "nights").records
    trained = [d for d in record.domains if d.outcome == "promoted"]
    assert "pooled" in {d.decision.name for d in trained}

    server = MlflowServer(mlflow)
    experiment = server.get("experiments/get-by-name", Anything, experiment_name="planted")
    number = experiment.model_dump()["experiment"]["experiment_id"]
    found = server.post("runs/search", {"experiment_ids": [number]}, Anything).model_dump()["runs"]
    (run,) = found
    assert run["info"]["status"] == "FINISHED"
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert tags["iak.id"] == record.id
    assert tags["iak.registry_generation"] == str(record.registry_after)
    metrics = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert metrics == night_numbers(record)

    version = server.get(
        "registered-models/alias", Anything, name="planted", alias="champion"
    ).model_dump()["model_version"]
    assert version["run_id"] == run["info"]["run_id"]
    files = f"{mlflow}/api/2.0/mlflow-artifacts/artifacts/{number}/{version['run_id']}/artifacts"
    folder = tmp_path / "nights" / folder_of(record)
    assert request("GET", f"{files}/page.html").data == (folder / "page.html").read_bytes()
    for domain in trained:
        stored = request("GET", f"{files}/bundles/{domain.bundle}/kernel.safetensors")
        name = bundle_name(dict(domain.decision.domain) or None)
        kernel = Path(record.run_dir) / "bundles" / name / "kernel.safetensors"
        assert stored.data == kernel.read_bytes()


def _night_of_a_small_log(folder, mlflow):
    """Write a small log, a base and the file of a night that MLflow keeps; return the file."""
    write_log(folder / "log", rows=12_000)
    for partition in (folder / "log" / "events").glob("*/*"):
        (partition / "_SUCCESS").touch()
    write_catalog(folder / "catalog.toml")
    iak.pretrain(
        folder / "catalog.toml", folder / "log", run_dir=folder / "base", model=MODEL,
        batch_rows=128, epochs=1, workers=1, device="cpu",
    )  # fmt: skip
    settings = {"cluster": "local", "gate": GATE_SHARE, "refreshed": "2027-01-01"}
    file = folder / "nightly.toml"
    file.write_text(NIGHTLY.format(folder=folder, mlflow=mlflow, **settings))
    return file
