"""gc of folders: old nights' run folders are emptied, tables that nobody maps are removed."""

import os
from datetime import date
from types import SimpleNamespace

import pytest

from iak.pipeline.lock import one_writer
from iak.pipeline.runs import stale
from iak.pipeline.runs.nightly_records import Nights, night_folder
from iak.pipeline.runs.stale import remove_stale_runs, remove_unused_tables

CONTENT = {"record.json": 2, "bundles/index.json": 3, "worker-0.log": 5}


@pytest.fixture
def nights(tmp_path, monkeypatch):
    """Five nights with a run folder each; the second still runs."""
    records = [
        SimpleNamespace(
            night=date(2026, 10, day), id=f"{day:016x}",
            status="running" if day == 2 else "finished",
        )
        for day in range(1, 6)
    ]  # fmt: skip
    for record in records:
        folder = night_folder(tmp_path, record)
        for name, size in CONTENT.items():
            path = folder / "tune" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * size)
        (folder / "page.html").write_text("page")
        (folder / "refresh" / "base").mkdir(parents=True)
        (folder / "refresh" / "base" / "manifest.json").write_text("{}")
    monkeypatch.setattr(stale, "read_nights", lambda _: Nights(records=records, problems=()))
    return tmp_path


def files(place):
    return {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()}


def test_run_folders_of_ended_nights_are_emptied_but_for_their_records(nights):
    before = files(nights)
    done = remove_stale_runs(nights, keep=2, dry_run=False)
    gone = before - files(nights)
    assert {one.path.parent.name[:10] for one in done} == {"2026-10-01", "2026-10-03"}
    assert {one.bytes for one in done} == {8}
    assert {name.split("/", 1)[1] for name in gone} == {
        "tune/bundles/index.json",
        "tune/worker-0.log",
    }
    assert len(gone) == 4
    assert remove_stale_runs(nights, keep=2, dry_run=False) == []


def test_a_dry_run_says_the_same_and_changes_nothing(nights):
    before = files(nights)
    would = remove_stale_runs(nights, keep=2, dry_run=True)
    assert files(nights) == before
    assert would == remove_stale_runs(nights, keep=2, dry_run=False)


def test_a_run_folder_in_use_is_left_alone(nights):
    busy = nights / "2026-10-01-0000000000000001" / "tune"
    with one_writer(busy, waits=False):
        done = remove_stale_runs(nights, keep=2, dry_run=False)
    assert [one.path.parent.name[:10] for one in done] == ["2026-10-03"]
    assert (busy / "worker-0.log").exists()


def test_more_nights_kept_than_there_are_removes_nothing(nights):
    assert remove_stale_runs(nights, keep=9, dry_run=False) == []


def test_tables_that_nobody_maps_are_removed_with_their_bytes(tmp_path, monkeypatch):
    root = tmp_path / "mapped" / ("ab" * 8)
    folder = root / ("cd" * 6)
    folder.mkdir(parents=True)
    (folder / "table.bin").write_bytes(b"x" * 10)
    (folder / "index.json").write_bytes(b"{}")
    lock = root / f".{folder.name}.lock"
    lock.touch()
    os.utime(lock, (1, 1))
    opened = SimpleNamespace(folder=tmp_path / "base")
    monkeypatch.setattr(stale, "open_base", lambda _: opened)
    would = remove_unused_tables(tmp_path, days=14, dry_run=True)
    assert [(one.path, one.bytes) for one in would] == [(folder, 12)]
    assert folder.is_dir()
    assert remove_unused_tables(tmp_path, days=14, dry_run=False) == would
    assert not folder.exists()
