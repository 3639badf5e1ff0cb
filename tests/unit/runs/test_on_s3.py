"""What is done to nights and runs that lie on S3 once they have ended: gc, forget, trackers."""

import itertools
import shutil
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iak.pipeline.registry.bases import open_base
from iak.pipeline.runs import stale
from iak.pipeline.runs.finished_run import finished_run
from iak.pipeline.runs.forget import find_touched
from iak.pipeline.runs.nightly_notify import notify
from iak.pipeline.runs.nightly_records import Nights, night_folder
from iak.pipeline.runs.stale import remove_stale_runs
from iak.pipeline.runs.stored_run import is_stored
from iak.pipeline.storage.lease import take_lease
from iak.pipeline.storage.store import open_store
from iak.pipeline.storage.working_copy import local_folder, read_copy, written_copy
from iak.schemas.paths import bucket_uri
from tests.s3 import make_bucket, moto_server, objects_of, use
from tests.unit.jobs.test_registry import run_of
from tests.unit.registry.nights import NAMES, promote
from tests.unit.runs.platform import write_platform
from tests.unit.tracking.fake_mlflow import fake_mlflow
from tests.unit.tracking.tracked import settings, written

_names = itertools.count()


@pytest.fixture(scope="module")
def s3():
    server, endpoint = moto_server()
    make_bucket(endpoint, "ended")
    yield endpoint
    server.stop()


@pytest.fixture
def uri(s3, monkeypatch, tmp_path):
    """A prefix of its own."""
    use(monkeypatch, s3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"s3://ended/{next(_names)}"


def store(folder, uri):
    """Store a local folder, as the run or night that worked in it does."""
    with written_copy(uri, waits=False, is_kept=is_stored) as place:
        shutil.copytree(folder, place.folder, dirs_exist_ok=True)
    return uri


@pytest.fixture
def nights(uri, tmp_path, monkeypatch):
    """Four nights with a run folder each."""
    records = [
        SimpleNamespace(night=date(2026, 10, day), id=f"{day:016x}", status="finished")
        for day in range(1, 5)
    ]
    for name, size in {"record.json": 2, "bundles/index.json": 3, "worker-0.log": 5}.items():
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    for record in records:
        store(tmp_path / "run", bucket_uri(night_folder(Path(uri), record) / "tune"))
    monkeypatch.setattr(stale, "read_nights", lambda _: Nights(records=records, problems=()))
    return Path(uri)


def files(run):
    folder = read_copy(f"{bucket_uri(run)}/tune")
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_run_folders_of_old_nights_are_emptied_but_for_their_records(nights, s3):
    old, new = nights / f"2026-10-01-{1:016x}", nights / f"2026-10-04-{4:016x}"
    would = remove_stale_runs(nights, keep=2, dry_run=True)
    assert files(old) == files(new) == {"record.json", "bundles/index.json", "worker-0.log"}
    done = remove_stale_runs(nights, keep=2, dry_run=False)
    assert done == would
    assert [(one.path.parent.name[:10], one.bytes) for one in done] == [
        ("2026-10-01", 8), ("2026-10-02", 8),
    ]  # fmt: skip
    assert files(old) == {"record.json"}
    assert len(files(new)) == 3
    left = [key for key in objects_of(s3, "ended") if old.name in key and "/files/" in key]
    assert len(left) == 1  # the bytes went as well
    assert remove_stale_runs(nights, keep=2, dry_run=False) == []


def test_a_run_folder_in_use_is_left_alone(nights):
    busy = nights / f"2026-10-01-{1:016x}"
    lease = take_lease(open_store(f"{bucket_uri(busy)}/tune"), waits=False)
    done = remove_stale_runs(nights, keep=2, dry_run=False)
    lease.release()
    assert [one.path.parent.name[:10] for one in done] == ["2026-10-02"]
    assert len(files(busy)) == 3


def test_the_page_and_curves_of_a_night_reach_tensorboard_and_mlflow(uri, tmp_path):
    record, _ = written(tmp_path)
    asked = {"base": tmp_path, "nights": Path(f"{uri}/nights"), "registry": f"{uri}/registry"}
    run_dir = store(tmp_path / "runs" / record.id, f"{uri}/run")
    record, folder = written(tmp_path, record)
    record = record.model_copy(update={"run_dir": run_dir})
    store(tmp_path / "nights", f"{uri}/nights")
    with fake_mlflow() as server:
        tracking = {"tracking": server.address, "tensorboard": True}
        spec = settings(tmp_path, **asked, notify=tracking)
        assert notify(spec, record, address=None, token=None) == []
        artifacts = {name.partition("/artifacts/")[2] or name for name in server.artifacts}
    assert any(name.endswith("page.html") for name in artifacts)
    assert any(name.endswith("kernel.safetensors") for name in artifacts)
    stored = read_copy(f"{uri}/nights")
    assert list((stored / folder.name / "tensorboard").iterdir())


@pytest.fixture
def registry(uri, tmp_path):
    """A registry of one run, which read user 4's row on a base, all of it on S3."""
    (tmp_path / "log" / "events").mkdir(parents=True)
    pq.write_table(pa.table({"user_id": [3, 4, 5]}), tmp_path / "log" / "part.parquet")
    base_uri = store(write_platform(tmp_path).base, f"{uri}/base")
    return {"log": tmp_path / "log", "base": base_uri, "uri": uri}


def promoted(registry, tmp_path, cache):
    snapshot = {
        "uri": str(registry["log"]),
        "files": [{"path": "part.parquet", "rows": 3}],
    }
    base = open_base(Path(registry["base"]))
    run = run_of(
        tmp_path / "R1", snapshot=snapshot, catalog={"log": {"user": "user_id"}},
        base_fingerprint=base.manifest.fingerprint,
        inputs={"base": base.manifest.fingerprint},
        result={"base_fingerprint": base.manifest.fingerprint},
        spec={"cache": {"folder": cache}, "base": registry["base"]},
    )  # fmt: skip
    run_uri = store(run, f"{registry['uri']}/R1")
    where = open_store(f"{registry['uri']}/registry")
    promote(where, finished_run(Path(run_uri)))
    return where, run_uri


def test_forget_finds_and_empties_the_cache_of_all_machines_and_this_ones_copy(
    registry, tmp_path, s3
):
    cache = f"{registry['uri']}/cache"
    where, run_uri = promoted(registry, tmp_path, cache)
    obstore.put(open_store(cache).client, "ab/x.rows", b"rows")
    copy = local_folder(cache, "caches") / "ab" / "x.rows"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"rows")
    report = find_touched(where, {"4"}, remove_caches=False)
    assert {(b.domain, b.run, b.state, b.rows) for b in report.bundles} == {
        (name, run_uri, "touched", 1) for name in NAMES
    }
    (found,) = report.caches
    assert (found.path, found.bytes, found.is_removed) == (cache, 4, False)
    (found,) = find_touched(where, {"4"}, remove_caches=True).caches
    assert found.is_removed
    assert not copy.exists()
    assert not any(key.endswith(".rows") for key in objects_of(s3, "ended"))


def test_forget_opens_a_base_on_s3_and_empties_the_cache_beside_its_copy_here(registry, tmp_path):
    where, _ = promoted(registry, tmp_path, None)
    entry = open_base(Path(registry["base"])).folder.parent / "activations" / "ab" / "x.rows"
    entry.parent.mkdir(parents=True)
    entry.write_bytes(b"rows")
    report = find_touched(where, {"4"}, remove_caches=True)
    (base,) = report.bases
    assert base.path == registry["base"]
    assert base.reason == "the catalogue names no user column (log.user)"
    (found,) = report.caches
    assert (found.bytes, found.is_removed) == (4, True)
    assert not entry.exists()
