"""Seven nights of a platform whose log drifts, played one after the other on a real Ray.

They are played twice: each night as a command on this machine, and submitted to a job server.

1. An ordinary night.
2. A worker is killed, and the night fails. Run again, it goes on.
3. A broken client reports a click for every impression in region b: the gate holds its kernel.
4. The platform corrects that day, which an earlier night has read; region c's newest day is late.
5. Both days are taken up, and the base is refreshed.
6. An ordinary night on the new base. Then region a is rolled back.
7. An ordinary night.
"""

import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import iak
from iak.jobs import cli
from iak.pipeline.data import hashing
from iak.pipeline.data.splits import SLICE_SALT
from iak.pipeline.registry.commits import read_commit, read_history
from iak.pipeline.registry.stored_bundles import read_entry
from iak.pipeline.runs.nightly_records import read_nights
from iak.pipeline.storage.folder_store import FolderStore
from iak.schemas.night import NightRecord
from tests.faults.test_kill import below, end
from tests.integration.small_log import MODEL, SHIPPED, write_log
from tests.ray_head import RayHead, ray_head
from tests.unit.tracking.fake_mlflow import fake_mlflow

pytestmark = [
    pytest.mark.night,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(4800),
    pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
]
ROOT = Path(__file__).parents[2]
REGIONS = ("a", "b", "c")
EVERY = {"pooled", "region=a", "region=b", "region=c"}
BASE_DAYS = [date(2026, 10, 1) + timedelta(days=n) for n in range(5)]
NIGHTS = [BASE_DAYS[-1] + timedelta(days=n + 1) for n in range(7)]
GATE_SHARE = 0.2
PATIENCE_S = 600
SPLITS = """
[splits.pretrain]
days = [0, -1]
slice = [0.0, 0.9]

[splits.pretrain_valid]
days = [0, -1]
slice = [0.9, 1.0]
"""
NIGHTLY = """
name = "planted"
catalog = "catalog.toml"
data_root = "{folder}/log"
base = "{folder}/base"
registry = "{folder}/registry"
nights = "{folder}/nights"
cluster = "{cluster}"
scratch_every = 0
workers = {{ workers = 1, device = "cpu", max_failures = 0 }}
window = {{ days = 2, valid = 0.2, gate = {gate} }}
ready = {{ needs_marker = true }}
refresh = {{ dates = ["{refreshed}"], from_rates = 0.3 }}
notify = {{ tracking = "{mlflow}" }}
[finetune]
kernel = {{ hidden = 8, code = 3 }}
pooled = {{ max_epochs = 2, min_batch = 64, max_batch = 64 }}
domain = {{ max_epochs = 2, live_epochs = 2, lr = 3e-3, min_batch = 64, max_batch = 64 }}
[finetune.gate]
z = 0
min_positives = 5
min_negatives = 5
auc_margin = 1
logloss_margin = 0.2
calibration_margin = 0.2
chain = {{ alpha = 0.99, at_once = 1.0, at_once_margin = 0 }}
"""
"""A gate that sees large harm alone: a day of a small log shows no small one."""
DRIVER = """
import json, sys
from iak.jobs.cli import run
from iak.jobs.ray_launcher import ray_cluster
with ray_cluster(1):
    for line in sys.stdin:
        print("exit code", run(json.loads(line)), flush=True)
"""


SUBMIT = "import sys; from iak.jobs.cli import run; sys.exit(run(sys.argv[1:]))"


@dataclass
class Here:
    """A driver that runs every night under the one local Ray that it started."""

    folder: Path
    driver: subprocess.Popen

    cluster = "local"

    @property
    def pid(self):
        """The process that workers live below."""
        return self.driver.pid

    def begin(self, *words):
        self.driver.stdin.write(json.dumps(words) + "\n")
        self.driver.stdin.flush()

    def end(self):
        """The exit code of what began."""
        for line in self.driver.stdout:
            if line.startswith("exit code "):
                return int(line.split()[-1])
        raise AssertionError("the driver is gone: " + (self.folder / "driver.txt").read_text())


@contextmanager
def here(folder):
    with (folder / "driver.txt").open("wb") as errors:
        driver = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", DRIVER],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT / "infra/package"), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield Here(folder, driver)
        driver.communicate(timeout=PATIENCE_S)  # its input ends, and its Ray with it
    finally:
        end(driver)
        driver.stdout.close()


@dataclass
class There:
    """A Ray head with a job server, to which each night is submitted by a process of its own."""

    folder: Path
    head: RayHead
    job: subprocess.Popen | None = None

    @property
    def cluster(self):
        return self.head.address

    @property
    def pid(self):
        """The process that workers live below."""
        return self.head.process.pid

    def begin(self, *words):
        with (self.folder / "submitted.txt").open("ab") as said:
            self.job = subprocess.Popen(
                [sys.executable, "-c", SUBMIT, *words, f"out={self.folder / 'here'}"],
                cwd=self.folder,
                env=self.head.environment,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def end(self):
        """The exit code of what began, which is that of its job."""
        return self.job.wait(timeout=3 * PATIENCE_S)


@contextmanager
def there(folder):
    with ray_head() as head:
        cluster = There(folder, head)
        try:
            yield cluster
        finally:
            if cluster.job is not None and cluster.job.poll() is None:
                cluster.job.kill()
                cluster.job.wait()


@dataclass
class Week:
    """The platform's folder, and what became of its nights."""

    folder: Path
    cluster: Here | There
    mlflow: ThreadingHTTPServer
    """A server that answers as MLflow does, and keeps every night."""
    codes: dict[int, list[int]] = field(default_factory=dict)
    """Number of the night, from 1 -> exit codes of its runs."""
    failed: NightRecord | None = None
    """The record of the night whose worker was killed, before it went on."""

    @property
    def store(self):
        return FolderStore(self.folder / "registry")

    def record(self, number):
        """The record of a night."""
        records = [r for r in read_nights(self.folder / "nights").records if r.night == day(number)]
        (record,) = records
        return record

    def domain(self, number, name):
        (found,) = (d for d in self.record(number).domains if d.decision.name == name)
        return found

    def champions(self, generation):
        """Domain -> the bundle that served it after a commit."""
        pointers = read_commit(self.store, generation).pointers["champion"]
        return {pointer.name: pointer.bundle for pointer in pointers.values()}

    def after(self, number):
        """Domain -> the bundle that served it after a night."""
        return self.champions(self.record(number).registry_after)

    def deliver(self, day, regions=REGIONS):
        """Let the platform write a day of some regions, complete with its marker."""
        for region in regions:
            part = Path("events", f"region={region}", f"dt={day}")
            shutil.copytree(self.folder / "made" / part, self.folder / "log" / part)
            (self.folder / "log" / part / "_SUCCESS").touch()

    def begin(self):
        self.cluster.begin("nightly", "run", str(self.folder / "nightly.toml"))

    def finish(self, number):
        self.codes.setdefault(number, []).append(self.cluster.end())

    def run(self, number):
        """Run the night of the last complete day."""
        self.begin()
        self.finish(number)


def day(number):
    """The date of a night."""
    return NIGHTS[number - 1]


def prepare(folder, cluster, mlflow):
    """A log with the base's days, a base that learned from them, and the file of its nights."""
    write_log(folder / "made", rows=48_000, days=12, skew=2.0, users=3_000, domain_difference=1.5)
    shutil.copytree(folder / "made" / "truth", folder / "log" / "truth")
    text = SHIPPED.read_text().partition("[splits.")[0] + SPLITS
    # Slices of users, so that a client that breaks may leave those of the gate's slice alone.
    text = text.replace('user = "user_id"', 'user = "user_id"\nslice_by = "user_id"')
    (folder / "catalog.toml").write_text(text)
    week = Week(folder, cluster, mlflow)
    for each in BASE_DAYS:
        week.deliver(each)
    iak.pretrain(
        folder / "catalog.toml", folder / "log", run_dir=folder / "base", model=MODEL,
        batch_rows=128, epochs=1, patience=9, workers=1, device="cpu",
    )  # fmt: skip
    (folder / "nightly.toml").write_text(
        NIGHTLY.format(
            folder=folder, cluster=cluster.cluster, gate=GATE_SHARE, refreshed=day(5),
            mlflow=mlflow.address,
        )
    )  # fmt: skip
    return week


def break_client(folder, day):
    """Let a region's day say that users outside the gate's slice clicked on everything."""
    (path,) = (folder / "log/events/region=b" / f"dt={day}").glob("*.parquet")
    rows = pq.read_table(path, partitioning=None)
    keys = hashing.keys_of(rows["user_id"])
    reached = hashing.unit_interval(keys, salt=SLICE_SALT) < 1 - GATE_SHARE
    clicks = np.where(reached, 1, rows["label_click"].to_numpy()).astype(np.int8)
    column = rows.schema.get_field_index("label_click")
    pq.write_table(rows.set_column(column, "label_click", pa.array(clicks)), path)


def kill_a_worker(week):
    """Kill a worker of the night that runs once it has begun to tune.

    The test's own limit ends the wait where it never does.
    """
    while not list(week.folder.glob(f"nights/{day(2)}-*/tune/progress.jsonl")):
        begun = [r for r in read_nights(week.folder / "nights").records if r.night == day(2)]
        assert {r.status for r in begun} <= {"planned", "running"}, "the night did not tune"
        time.sleep(0.02)
    (worker,) = (p for p, words in below(week.cluster.pid).items() if "RayTrainWorker" in words)
    os.kill(worker, signal.SIGKILL)


def play(week):
    """Play the seven nights."""
    week.deliver(day(1))
    week.run(1)

    week.deliver(day(2))
    week.begin()
    kill_a_worker(week)
    week.finish(2)
    week.failed = week.record(2)
    week.run(2)

    week.deliver(day(3))
    break_client(week.folder, day(3))
    week.run(3)

    shutil.rmtree(week.folder / "log/events/region=b" / f"dt={day(3)}")
    week.deliver(day(3), ["b"])
    week.deliver(day(4), ["a", "b"])
    week.run(4)

    week.deliver(day(4), ["c"])
    week.deliver(day(5))
    week.run(5)

    week.deliver(day(6))
    week.run(6)
    words = ("registry", "rollback", "domain=region=a", f"registry={week.folder / 'registry'}")
    assert cli.run(words) == 0

    week.deliver(day(7))
    week.run(7)
    week.run(7)


@pytest.fixture(scope="module", params=[here, there], ids=["local", "submitted"])
def week(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("week")
    with fake_mlflow() as mlflow, request.param(folder) as cluster:
        week = prepare(folder, cluster, mlflow)
        play(week)
    return week


def test_every_night_ends_with_the_exit_code_of_its_story(week):
    assert week.codes == {1: [0], 2: [1, 0], 3: [4], 4: [4], 5: [0], 6: [0], 7: [0, 6]}
    records = [week.record(number) for number in range(1, 8)]
    assert [record.night for record in records] == NIGHTS
    assert {record.status for record in records} == {"finished"}
    assert [record.exit_code for record in records] == [0, 0, 4, 4, 0, 0, 0]


def test_a_night_whose_worker_was_killed_fails_and_goes_on(week):
    failed, done = week.failed, week.record(2)
    assert (failed.status, failed.exit_code, failed.registry_after) == ("failed", 1, None)
    assert "it was killed, ran out of memory" in failed.error
    assert (done.id, done.attempts, done.error) == (failed.id, 2, None)
    assert promoted(week, 2) == EVERY


def test_the_gate_holds_what_a_bad_day_taught_and_the_live_kernel_serves_on(week):
    held = week.domain(3, "region=b")
    assert (held.outcome, held.served_by) == ("held", "own")
    assert held.sentence.startswith("worse than")
    assert held.sentence.endswith("the live kernel goes on")
    assert held.bundle == week.after(2)["region=b"] != held.candidate
    # The pooled kernel has learned from the bad day too; kernels of other regions have not.
    assert promoted(week, 3) == {"region=a", "region=c"}


def test_a_mended_day_and_a_late_one_hold_their_domains_for_a_night(week):
    assert promoted(week, 4) == {"pooled", "region=a"}
    corrected, late = (week.domain(4, name) for name in ("region=b", "region=c"))
    assert {corrected.outcome, late.outcome} == {"held"}
    assert f"region=b/{day(3)} changed after an earlier night had read it" in corrected.sentence
    assert late.sentence == f"region=c/{day(4)} has no file"
    before, after = week.after(3), week.after(4)
    assert [after[name] for name in ("region=b", "region=c")] == [
        before[name] for name in ("region=b", "region=c")
    ]
    taken = {(d.partition[0][1], d.day): d for d in week.record(5).days if d.is_late}
    assert set(taken) == {("c", day(4))}
    assert {d.state for d in week.record(5).days} == {"complete"}


def test_every_live_kernel_comes_over_to_the_refreshed_base(week):
    night = week.record(5)
    assert night.refresh.published
    assert (set(night.refresh.carried), night.refresh.dropped) == (EVERY, [])
    parent, child = week.record(4).base_fingerprint, night.base_fingerprint
    assert child == night.refresh.fingerprint != parent
    for number, base in ((4, parent), (5, child), (7, child)):
        assert week.record(number).base_fingerprint == base
        commit = read_commit(week.store, week.record(number).registry_after)
        assert {p.base_fingerprint for p in commit.pointers["champion"].values()} == {base}
    # Each began from the kernel that served on the base before.
    assert parents(week, 5) == week.after(4)


def test_a_rollback_moves_one_domain_and_the_next_night_starts_from_it(week):
    rolled = week.record(7).registry_before
    assert read_commit(week.store, rolled).action == "rollback"
    between = range(week.record(6).registry_after + 1, rolled)
    assert {read_commit(week.store, number).action for number in between} <= {"gc"}
    assert week.champions(rolled) == week.after(6) | {"region=a": week.after(5)["region=a"]}
    assert parents(week, 7) == week.champions(rolled)


def test_the_pointers_and_the_history_say_what_happened(week):
    # A night ends with gc, which moves nothing.
    history = [commit for commit in read_history(week.store) if commit.action != "gc"]
    expected = [
        ("promote", EVERY),
        ("promote", EVERY),
        ("promote", {"region=a", "region=c"}),
        ("promote", {"pooled", "region=a"}),
        ("promote", EVERY),
        ("promote", EVERY),
        ("rollback", {"region=a"}),
        ("promote", EVERY),
    ]
    assert [(c.action, {move.folder for move in c.moves}) for c in history] == expected
    last = week.record(7)
    served = {d.decision.name: d.bundle for d in last.domains}
    assert history[-1].generation == last.registry_after
    assert week.after(7) == served == {d.decision.name: d.candidate for d in last.domains}


def test_every_night_has_a_page_and_the_index_leads_to_all_of_them(week):
    index = (week.folder / "nights" / "index.html").read_text()
    for number in range(1, 8):
        record = week.record(number)
        page = Path(record.page)
        assert f"{page.parent.name}/{page.name}" in index
        text = page.read_text()
        assert all(name in text for name in EVERY)
    bad = html.unescape(Path(week.record(3).page).read_text())
    assert week.domain(3, "region=b").sentence in bad


def test_every_night_is_one_run_of_mlflow_and_the_last_is_its_champion(week):
    runs = week.mlflow.runs
    records = [week.record(number) for number in range(1, 8)]
    assert [run["tags"]["iak.id"] for run in runs] == [record.id for record in records]
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    for run, record in zip(runs, records, strict=True):
        assert run["tags"]["iak.registry_generation"] == str(record.registry_after)
    versions = [version["run_id"] for version in week.mlflow.versions]
    assert versions == [run["info"]["run_id"] for run in runs]
    assert week.mlflow.aliases == {"champion": "7", "candidate": "7"}


def test_a_submitted_night_brings_its_record_and_page_back(week):
    if isinstance(week.cluster, Here):
        assert not (week.folder / "here").exists()
        return
    came = {record.night: record for record in read_nights(week.folder / "here").records}
    assert came == {day(number): week.record(number) for number in range(1, 8)}
    for number in range(1, 8):
        there = Path(week.record(number).page)
        page = week.folder / "here" / there.parent.name / there.name
        assert page.read_text().rstrip() == there.read_text().rstrip()


def promoted(week, number):
    """The domains whose new kernel a night let serve."""
    return {d.decision.name for d in week.record(number).domains if d.outcome == "promoted"}


def parents(week, number):
    """Domain -> the bundle from which the kernel that serves it after a night was tuned."""
    commit = read_commit(week.store, week.record(number).registry_after)
    pointers = commit.pointers["champion"].values()
    return {p.name: read_entry(week.store, p.stored).lineage.parent for p in pointers}
