"""Log, runs, base, bundles and nights on S3, and nothing else is shared: moto's server plays it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as pafs
import pytest

import iak
from iak.jobs import cli
from iak.pipeline.base.published_base import open_base
from iak.pipeline.errors import BadRequest, Busy
from iak.pipeline.events import PhaseStarted, TrainingResumed, silent
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.registry.bases import open_base as open_named_base
from iak.pipeline.registry.commits import read_head
from iak.pipeline.registry.stored_bundles import read_entry
from iak.pipeline.runs.nightly import NightRequest, run_night
from iak.pipeline.runs.nightly_records import read_nights
from iak.pipeline.runs.record import AlreadyFinished, read_record
from iak.pipeline.storage.store import open_store
from iak.pipeline.storage.working_copy import read_copy
from iak.pipeline.tuning.tune import CohortTuner
from iak.schemas.nightly import NightlySpec
from iak.schemas.paths import reference_text
from tests.faults.test_kill import write_catalog
from tests.integration.small_log import MODEL, write_log
from tests.integration.test_nightly import EIGHTH, OPEN_GATE, ROOT, SEVENTH, STAGE, TRAINED
from tests.s3 import KEYS, make_bucket, moto_server

pytestmark = [
    pytest.mark.night,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
]
WORKERS = {"workers": 1, "device": "cpu"}
TUNING = {
    **WORKERS, "kernel": {"hidden": 8, "code": 3}, "pooled": STAGE, "domain": STAGE,
    "gate": OPEN_GATE,
}  # fmt: skip
PRETRAINING = {
    **WORKERS, "model": MODEL, "batch_rows": 128, "epochs": 1, "patience": 9, "shuffle_rows": 256,
    "placement": {"row_wise_from_rows": 100},
}  # fmt: skip

KILLED = """
import json, os, signal, sys, time
import iak
from iak.pipeline.base import checkpoint
from iak.pipeline.storage import working_copy
from iak.pipeline.storage.store import open_store
from iak.pipeline.storage.stored_folder import StoredFolder

settings, save = json.loads(sys.argv[1]), checkpoint.save
working_copy.BEAT_S = 0.1

def is_stored(path):
    head = StoredFolder(open_store(settings["run_dir"])).head()
    return head is not None and path in head.files

def save_and_die(folder, model, adam, state, **how):
    save(folder, model, adam, state, **how)
    while not is_stored(f"checkpoints/step-{state.step:08d}/state.json"):
        time.sleep(0.05)
    if state.step == 20:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.save = save_and_die
iak.pretrain(**settings)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A log on S3, beside which only its catalogue is a file."""
    folder = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch, stored_log(folder, patch):
        yield folder


@contextmanager
def stored_log(folder, patch):
    """Yield what finds a server of S3 with a log below s3://shop/log, as in a local folder."""
    server, endpoint = moto_server()
    environment = KEYS | {"AWS_ENDPOINT_URL": endpoint}
    for name, value in environment.items():
        patch.setenv(name, value)
    make_bucket(endpoint, "shop")
    write_log(folder / "log", rows=12_000)
    for partition in (folder / "log" / "events").glob("*/*"):
        (partition / "_SUCCESS").touch()
    store, root = pafs.FileSystem.from_uri("s3://shop/log")
    pafs.copy_files(str(folder / "log"), root, destination_filesystem=store)
    write_catalog(folder / "catalog.toml")
    yield environment
    server.stop()


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """Machines that share no disk: each has its own cache folder, and goes to work when called."""

    def use(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return tmp_path / name

    use("first")
    return use


def weights(bundles):
    return {path.parent.name: path.read_bytes() for path in bundles.glob("*/kernel.safetensors")}


def test_a_base_and_its_kernels_are_the_same_on_s3_as_in_folders(place, tmp_path, machines):
    catalog, log = place / "catalog.toml", place / "log"
    iak.pretrain(catalog, log, run_dir=tmp_path / "R1", **PRETRAINING)
    iak.tune_night(catalog, log, base=tmp_path / "R1", run_dir=tmp_path / "R2", **TUNING)
    iak.evaluate(
        catalog,
        log,
        base=tmp_path / "R1",
        bundles=tmp_path / "R2",
        run_dir=tmp_path / "R3",
        **WORKERS,
    )

    on_s3 = "s3://shop/log"
    iak.pretrain(catalog, on_s3, run_dir="s3://shop/runs/R1", **PRETRAINING)
    machines("second")
    iak.tune_night(catalog, on_s3, base="s3://shop/runs/R1", run_dir="s3://shop/runs/R2", **TUNING)
    machines("third")
    iak.evaluate(
        catalog, on_s3, base="s3://shop/runs/R1/base", bundles="s3://shop/runs/R2",
        run_dir="s3://shop/runs/R3", **WORKERS,
    )  # fmt: skip

    machines("reader")
    base, tuned, judged = (read_copy(f"s3://shop/runs/{name}") for name in ("R1", "R2", "R3"))
    assert open_base(base).manifest.files == open_base(tmp_path / "R1").manifest.files
    assert weights(tuned / "bundles") == weights(tmp_path / "R2" / "bundles") != {}
    assert (judged / "metrics.json").read_bytes() == (tmp_path / "R3/metrics.json").read_bytes()

    record = read_record(tuned)
    assert (record.status, record.spec["run_dir"]) == ("finished", "s3://shop/runs/R2")
    assert record.spec["base"] == "s3://shop/runs/R1"
    for words in (["show", "s3://shop/runs/R2"], ["compare", *["s3://shop/runs/R3"] * 2]):
        assert cli.run([*words, f"json={tmp_path / 'shown.json'}"]) == 0
    machines("fourth")
    with pytest.raises(AlreadyFinished):
        iak.tune_night(
            catalog, on_s3, base="s3://shop/runs/R1", run_dir="s3://shop/runs/R2", **TUNING
        )


@pytest.fixture(scope="module")
def base(place, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("trainer")))
        iak.pretrain(
            place / "catalog.toml", "s3://shop/log", run_dir="s3://shop/models/base", **PRETRAINING
        )
    return "s3://shop/models/base"


def test_a_worker_on_another_machine_brings_the_base_to_the_path_that_the_driver_names(
    base, machines
):
    machines("driver")
    opened = open_named_base(Path(base))
    shutil.rmtree(opened.folder)
    opened.bring()
    assert open_base(opened.folder).manifest == opened.manifest
    shutil.rmtree(opened.folder)
    machines("elsewhere")
    with pytest.raises(BadRequest, match="XDG_CACHE_HOME is another path for this"):
        opened.bring()


def nightly(place, base, name, *, tuning=None, **changes):
    """A `nightly.toml` with everything on S3 but the catalogue, which travels beside it."""
    settings = {k: v for k, v in TUNING.items() if k not in WORKERS} | (tuning or {})
    settings |= {"cache": {"folder": f"s3://shop/{name}/cache"}}
    document = {
        "name": "planted", "catalog": str(place / "catalog.toml"), "data_root": "s3://shop/log",
        "base": base, "registry": f"s3://shop/{name}/registry", "nights": f"s3://shop/{name}/nights",
        "workers": WORKERS, "window": {"days": 2, "valid": 0.2, "gate": 0.2},
        "ready": {"needs_marker": True}, "scratch_every": 0,
        "finetune": settings,
    }  # fmt: skip
    return NightlySpec.model_validate(document | changes)


def run(asked, night, report=silent):
    return run_night(asked, ProcessLauncher(), NightRequest(night=night), report)


def outcomes(record):
    return {domain.decision.name: domain.outcome for domain in record.domains}


def test_nights_on_s3_go_on_from_each_other_on_machines_that_share_nothing_else(
    place, base, machines
):
    asked = nightly(place, base, "platform")
    machines("monday")
    first = run(asked, SEVENTH)
    machines("tuesday")
    second = run(asked, EIGHTH)

    for record in (first, second):
        assert {n for n, outcome in outcomes(record).items() if outcome == "promoted"} == TRAINED
        assert record.base == base
        assert record.page.startswith("s3://shop/platform/nights/")
        assert record.run_dir == f"{record.page.removesuffix('/page.html')}/tune"
    assert [first.registry_after, second.registry_after] == [1, 2]
    assert first.rows_from_cache == 0 < second.rows_from_cache

    machines("reader")
    assert read_nights(asked.nights).records == [first, second]
    tuned = read_record(read_copy(second.run_dir))
    assert tuned.spec["live"] == f"registry:{asked.registry}@champion"
    store = open_store(asked.registry)
    pointer = read_head(store).pointers["champion"]["region=a"]
    lineage = read_entry(store, pointer.stored).lineage
    assert (lineage.base, lineage.run) == (base, second.run_dir)
    pages = open_store(str(reference_text(asked.nights)))
    assert b"planted" in pages.read("index.html")
    assert pages.read(second.page.removeprefix(f"{pages.uri}/"))

    with pytest.raises(AlreadyFinished, match=r"with exit code 0: s3://shop/platform/nights/"):
        run(asked, EIGHTH)


def test_a_night_that_broke_goes_on_on_another_machine_to_the_same_bundles(
    place, base, machines, monkeypatch
):
    """It dies in the midst of its tuning, of which a checkpoint is stored."""
    epochs, deadly, real = [], [None], CohortTuner.epoch

    def epoch(tuner, number):
        epochs.append(number)
        if len(epochs) == deadly[0]:
            raise ValueError("died")
        return real(tuner, number)

    monkeypatch.setattr(CohortTuner, "epoch", epoch)
    whole = run(nightly(place, base, "whole"), SEVENTH)
    needed = len(epochs)
    epochs.clear()
    deadly[0] = needed
    asked = nightly(place, base, "broken", tuning={"checkpoint_every_s": 0.0})
    machines("dies")
    with pytest.raises(ValueError, match="died"):
        run(asked, SEVENTH)
    epochs.clear()
    deadly[0] = None
    machines("goes on")
    record = run(asked, SEVENTH)
    assert record.attempts == 2
    assert 0 < len(epochs) < needed
    assert outcomes(record) == outcomes(whole)
    one, other = (weights(read_copy(night.run_dir) / "bundles") for night in (whole, record))
    assert one == other != {}


def test_a_base_that_a_night_refreshed_on_s3_is_frozen_by_the_next_one_elsewhere(
    place, base, machines
):
    asked = nightly(place, base, "fresh", refresh={"dates": [str(SEVENTH)], "from_rates": 0.3})
    machines("monday")
    first = run(asked, SEVENTH)
    machines("tuesday")
    second = run(asked, EIGHTH)
    assert first.refresh.published
    assert first.refresh.run_dir.startswith("s3://shop/fresh/nights/")
    assert second.base == first.refresh.run_dir
    machines("reader")
    fresh = open_named_base(Path(second.base)).manifest
    assert fresh.parent == open_named_base(Path(base)).manifest.fingerprint
    assert second.base_fingerprint == first.base_fingerprint == fresh.fingerprint


@pytest.mark.faults
def test_a_run_that_was_killed_goes_on_on_another_machine_to_the_same_base(place, base, machines):
    """It has no time to store anything at its end, or to release its lease."""
    settings = PRETRAINING | {
        "catalog": str(place / "catalog.toml"), "data_root": "s3://shop/log",
        "run_dir": "s3://shop/killed", "checkpoint_every_steps": 10,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, json.dumps(settings)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "infra/package"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    seen = []
    machines("goes on")
    iak.pretrain(**settings, report=seen.append)
    assert [event.step for event in seen if isinstance(event, TrainingResumed)] == [20]
    machines("reader")
    one, other = (open_named_base(Path(uri)).manifest for uri in ("s3://shop/killed", base))
    assert one.files == other.files


def test_two_nights_on_two_machines_never_run_at_once(place, base, machines):
    asked = nightly(place, base, "busy", schedule={"if_busy": "leave"})
    seen = []

    def report(event):
        if isinstance(event, PhaseStarted) and event.phase == "promote" and not seen:
            machines("second")
            with pytest.raises(Busy, match="s3://shop/busy/nights is in use by process"):
                run(asked, SEVENTH)
            machines("first")
            seen.append(event)

    record = run(asked, SEVENTH, report)
    assert (record.exit_code, len(seen)) == (0, 1)
