"""A worker is killed without warning; the run ends by itself as if nothing had happened.

One driver process runs the real verbs: undisturbed with workers of this machine, and disturbed
under one local Ray. This process watches the run folders of the latter, and kills a worker once
there is something to resume from.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from iak.pipeline.runs.outputs import verify_outputs
from iak.schemas.manifest import BaseManifest, BundleManifest
from iak.schemas.record import RunRecord
from tests.integration.small_log import MODEL, SHIPPED, SPLITS, write_log

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(1600)]

ROOT = Path(__file__).parents[2]
SOME_HELD = 4
DRIVER = """
import json, sys
from iak.jobs.cli import run

def run_all(commands):
    for words in commands:
        code = run(words)
        if code not in (0, 4):
            sys.exit(code)

whole, killed = json.loads(sys.argv[1])
run_all(whole)
from iak.jobs.ray_launcher import ray_cluster
with ray_cluster(2):
    run_all(killed)
"""
PRETRAIN = [
    "batch_rows=64", "epochs=1", "patience=9", "checkpoint_every_steps=20", "shuffle_rows=2048",
    "placement.row_wise_from_rows=100", f"model.mlp={MODEL['mlp'][0]}",
    *(f"model.{k}={v}" for k, v in MODEL.items() if k != "mlp"),
]  # fmt: skip
STAGE = ("lr=1e-3", "max_epochs=3", "patience=3", "min_batch=16", "max_batch=16")
FINETUNE = [
    "kernel.hidden=8", "kernel.code=3", "placement.row_wise_from_rows=100", "gate.min_positives=5",
    "checkpoint_every_s=0",
    *(f"pooled.{how}" for how in (*STAGE, "compression_epochs=1", "shrink=0")),
    *(f"domain.{how}" for how in (*STAGE, "compression_epochs=0", "shrink=0.01")),
]  # fmt: skip


def commands(place):
    common = ["workers=2", "device=cpu", f"catalog={place / 'catalog.toml'}"]
    common.append(f"data_root={place / 'log'}")
    return [
        [
            [verb, *common, *settings, f"run_dir={place / f'{verb}-{how}'}"]
            + [f"base={place / 'pretrain-whole'}"] * (verb == "finetune")
            for verb, settings in (("pretrain", PRETRAIN), ("finetune", FINETUNE))
        ]
        for how in ("whole", "killed")
    ]


def below(pid):
    """Processes below this one, by /proc, with their command lines."""
    parents, told = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            told[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found, new = {}, {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= {child: told[child] for child in new}
    return found


def train_workers(driver):
    """The Ray Train workers that live below the driver."""
    return sorted(pid for pid, words in below(driver.pid).items() if "RayTrainWorker" in words)


def wait_for(is_there, driver):
    """Wait until something is there; the test's own limit ends it where it never is."""
    while not is_there():
        assert driver.poll() is None, "the driver ended before it could be disturbed"
        time.sleep(0.02)


def kill_one(driver, place):
    workers = train_workers(driver)
    assert len(workers) == 2, workers
    os.kill(workers[place], signal.SIGKILL)


def end(driver):
    """Stop what is left of this driver's Ray, by pid."""
    left = below(driver.pid) if driver.poll() is None else {}  # its number may be another's by now
    driver.kill()
    driver.wait()
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def write_catalog(path):
    """The shipped catalogue, its splits cut for a log of eight days."""
    splits = [
        "\n".join([f"[splits.{name}]", *(f"{key} = {value}" for key, value in split.items())])
        for name, split in SPLITS.items()
    ]
    path.write_text(SHIPPED.read_text().partition("[splits.")[0] + "\n\n".join(splits))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The four runs, two of which lose a worker."""
    place = tmp_path_factory.mktemp("kill")
    write_log(place / "log", rows=24_000)
    write_catalog(place / "catalog.toml")
    with (place / "driver.txt").open("wb") as told:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, json.dumps(commands(place))],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT / "infra/package"), "OMP_NUM_THREADS": "1"},
            stdout=told,
            stderr=subprocess.STDOUT,
        )
    try:
        checkpoints = place / "pretrain-killed" / "checkpoints"
        wait_for(lambda: len([*checkpoints.glob("step-*")]) >= 2, driver)
        kill_one(driver, 1)
        wait_for((place / "finetune-killed" / "tune.safetensors").exists, driver)
        kill_one(driver, 0)
        assert driver.wait() == 0, (place / "driver.txt").read_text()[-4000:]
    finally:
        end(driver)
    return place


def record(runs, name):
    return RunRecord.model_validate_json((runs / name / "record.json").read_bytes())


def events(runs, name):
    lines = (runs / name / "progress.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def manifests(runs, name):
    found = sorted((runs / name / "bundles").glob("*/manifest.json"))
    return [BundleManifest.model_validate_json(path.read_bytes()) for path in found]


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_the_killed_run_resumed_by_itself(runs, verb):
    resumed = [e for e in events(runs, f"{verb}-killed") if e["event"] == "resumed"]
    assert len(resumed) == 1
    assert resumed[0].get("step", 20) >= 20
    assert not [e for e in events(runs, f"{verb}-whole") if e["event"] == "resumed"]
    restarted = [e for e in events(runs, f"{verb}-killed") if e["event"] == "restarted"]
    assert [e["attempt"] for e in restarted] == [2]
    assert "without an error" in restarted[0]["cause"]
    assert not list((runs / f"{verb}-killed").glob("worker-*.error.json"))
    for how in ("whole", "killed"):
        found = record(runs, f"{verb}-{how}")
        assert (found.status, found.attempts) == ("finished", 1)


def test_the_killed_pretraining_publishes_the_same_base(runs):
    whole, killed = (
        BaseManifest.model_validate_json((runs / name / "base/manifest.json").read_bytes())
        for name in ("pretrain-whole", "pretrain-killed")
    )
    assert killed.digest == whole.digest
    assert [f.sha256 for f in killed.files] == [f.sha256 for f in whole.files]
    assert killed.metrics == whole.metrics
    one, other = (record(runs, f"pretrain-{how}").result for how in ("whole", "killed"))
    for told in ("steps", "rows", "best_step", "best_valid_loss", "contract"):
        assert one[told] == other[told], told


def test_the_killed_tuning_publishes_the_same_kernels_and_verdicts(runs):
    whole, killed = manifests(runs, "finetune-whole"), manifests(runs, "finetune-killed")
    assert [m.name for m in whole] == ["pooled", "region=a", "region=b", "region=c"]
    assert [m.weights_digest for m in killed] == [m.weights_digest for m in whole]
    assert [m.verdict for m in killed] == [m.verdict for m in whole]
    one, other = (record(runs, f"finetune-{how}").result for how in ("whole", "killed"))
    first, then = one.pop("cache"), other.pop("cache")
    assert one["standardisation"].pop("from") == "this run's rows"
    assert other["standardisation"].pop("from") == "the cache"
    assert one == other
    assert then["rows_read"] == first["rows_computed"] > 0 == then["rows_computed"]


def test_the_killed_runs_read_what_the_whole_ones_read_and_their_results_verify(runs):
    for verb in ("pretrain", "finetune"):
        whole, killed = (record(runs, f"{verb}-{how}") for how in ("whole", "killed"))
        assert whole.inputs == killed.inputs
        for how, found in (("whole", whole), ("killed", killed)):
            assert [*found.outputs] == [{"pretrain": "base", "finetune": "bundles"}[verb]]
            verify_outputs(runs / f"{verb}-{how}", found.outputs)


def test_nothing_of_a_finished_run_is_left_to_resume(runs):
    for how in ("whole", "killed"):
        assert not (runs / f"pretrain-{how}" / "checkpoints").exists()
        assert not (runs / f"finetune-{how}" / "tune.safetensors").exists()
