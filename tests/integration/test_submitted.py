"""A job submitted to a Ray cluster leaves its record where it was asked from, and its exit code."""

import json
import subprocess
import sys
import tomllib

import pytest

import iak as iak_api
from iak.pipeline.lock import one_writer
from iak.pipeline.report.nights import read_night
from iak.schemas.cluster import ClusterSpec
from iak.schemas.record import BenchmarkRecord
from tests.faults.test_kill import write_catalog
from tests.integration.small_log import MODEL, write_log
from tests.ray_head import ray_head

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(2400),
    pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address"),
]


@pytest.fixture(scope="module")
def cluster():
    """(address, environment with its token) of a Ray head on loopback."""
    with ray_head() as head:
        yield head.address, head.environment


def submitted(cluster, command, out, **environment):
    """The exit code, and what was said."""
    words = ["submit", f"command={command}", f"out={out}"]
    return iak(cluster, *words, folder=out.parent, **environment)


def iak(cluster, *words, folder, with_address=True, **environment):
    """The exit code of a command that talks to the cluster, and what was said."""
    address, known = cluster
    words = [*map(str, words), *([f"address={address}"] if with_address else [])]
    code = "import sys; from iak.jobs.cli import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=known | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    said = done.stdout + done.stderr
    assert known["RAY_AUTH_TOKEN"] not in said
    return done.returncode, said


def test_a_submitted_bench_brings_its_record_and_cluster_back(cluster, tmp_path):
    out = tmp_path / "fetched"
    command = "bench sharding smoke=true tables=64x8 as_ray=true repeats=1"
    code, said = submitted(cluster, command, out, RAY_ADDRESS="http://elsewhere.invalid:1")
    assert code == 0, said
    assert "IAK DOCUMENT" not in said
    record = BenchmarkRecord.model_validate(json.loads((out / "sharding.json").read_text()))
    assert record.is_smoke
    assert {row["launcher"] for row in record.rows} == {"ray"}
    assert any(row.get("p50_ms") for row in record.rows)
    found = tomllib.loads((out / "sharding.cluster.toml").read_text())
    assert ClusterSpec.model_validate(found).world == 2


def test_the_exit_code_is_the_jobs(cluster, tmp_path):
    code, said = submitted(cluster, "bench sharding rows=1", tmp_path / "fetched")
    assert code == 2, said
    assert "error: iak bench sharding" in said
    assert list((tmp_path / "fetched").iterdir()) == []


def test_without_the_token_nothing_is_submitted(cluster, tmp_path):
    code, said = submitted(
        cluster, "bench sharding", tmp_path / "fetched", RAY_AUTH_TOKEN="no" * 16
    )
    assert code == 1
    assert "no Ray job server answers" in said


def _jobs(cluster, folder):
    """Return the jobs of the server, as `iak jobs list` writes them."""
    code, said = iak(cluster, "jobs", "list", f"json={folder / 'jobs.json'}", folder=folder)
    assert code == 0, said
    return json.loads((folder / "jobs.json").read_text())


def _begun(cluster, command, out):
    """Start a submission, and return its process."""
    address, known = cluster
    code = "import sys; from iak.jobs.cli import run; sys.exit(run(sys.argv[1:]))"
    words = ["submit", f"address={address}", f"command={command}", f"out={out}"]
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=out.parent,
        env=known,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _until_said(process, text):
    """Read what a process says until it says this; return all of it."""
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"it ended without {text!r}: {said}")


def test_the_same_command_follows_the_job_that_runs_it(cluster, tmp_path):
    run_dir = tmp_path / "run"
    settings = f"catalog=planted data_root={tmp_path} run_dir={run_dir} if_busy=wait"
    command = f"pretrain {settings}"
    with one_writer(run_dir, waits=False):  # the job waits for the folder until it is stopped
        first = _begun(cluster, command, tmp_path / "first")
        said = _until_said(first, "job iak-pretrain-")
        job = said.split("job ")[-1].split(" ")[0]
        second = _begun(cluster, command, tmp_path / "second")
        _until_said(second, f"job {job} runs this command already")
        same = [one for one in _jobs(cluster, tmp_path) if one["command"] == command]
        assert [(one["id"], one["status"]) for one in same] in (
            [(job, "RUNNING")],
            [(job, "PENDING")],
        )
        _until_said(first, "waiting")
        code, said = iak(cluster, "jobs", "stop", job.rpartition("-")[0], folder=tmp_path)
        assert code == 0, said
        assert "iak pretrain catalog=planted" in said
        for process in (first, second):
            said, _ = process.communicate(timeout=500)
            assert process.returncode == 1
            assert "the job ended as STOPPED" in said
    code, said = iak(cluster, "jobs", "stop", job, folder=tmp_path)
    assert code == 6, said
    code, said = iak(cluster, "jobs", "logs", job, folder=tmp_path)
    assert code == 0
    assert str(run_dir) in said


NIGHTLY = """
name = "small"
catalog = "catalog.toml"
data_root = "{folder}/log"
base = "{folder}/base"
registry = "{folder}/registry"
nights = "{folder}/nights"
cluster = "{address}"
scratch_every = 0
workers = {{ workers = 1, device = "cpu" }}
window = {{ days = 2, valid = 0.2, gate = 0.2 }}
[finetune]
kernel = {{ hidden = 8, code = 3 }}
pooled = {{ max_epochs = 1, min_batch = 64, max_batch = 64 }}
domain = {{ max_epochs = 1, min_batch = 64, max_batch = 64 }}
[finetune.gate]
z = 0
min_positives = 5
min_negatives = 5
auc_margin = 1
logloss_margin = 9
calibration_margin = 9
"""


def test_a_night_on_the_cluster_brings_its_record_and_page_back(cluster, tmp_path):
    write_log(tmp_path / "log", rows=6_000)
    for partition in (tmp_path / "log" / "events").glob("*/*"):
        (partition / "_SUCCESS").touch()
    write_catalog(tmp_path / "catalog.toml")
    iak_api.pretrain(
        tmp_path / "catalog.toml", tmp_path / "log", run_dir=tmp_path / "base", model=MODEL,
        batch_rows=128, epochs=1, workers=1, device="cpu",
    )  # fmt: skip
    file = tmp_path / "nightly.toml"
    file.write_text(NIGHTLY.format(folder=tmp_path, address=cluster[0]))
    words = ("nightly", "run", file, "date=2026-10-07", f"out={tmp_path / 'here'}")
    code, said = iak(cluster, *words, folder=tmp_path, with_address=False)
    assert code in (0, 4), said
    assert "job iak-nightly-" in said
    (folder,) = (tmp_path / "here").glob("2026-10-07-*")
    night = read_night(folder)
    assert night == read_night(tmp_path / "nights" / folder.name)
    assert night.status == "finished"
    pages = [(one / folder.name / "page.html").read_text() for one in _both(tmp_path)]
    assert pages[0].rstrip() == pages[1].rstrip()
    assert folder.name in (tmp_path / "here" / "index.html").read_text()
    code, said = iak(cluster, *words, folder=tmp_path, with_address=False)
    assert code == 6, said
    assert "is finished since" in said.replace("\n", " ")


def _both(folder):
    """Return where a night's folder lies on the cluster and here."""
    return folder / "nights", folder / "here"
