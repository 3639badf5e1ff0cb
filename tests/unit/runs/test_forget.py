"""A deletion request: what it touches, what it does not, and what nobody can know any more."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iak.jobs import cli
from iak.pipeline.registry.commits import read_head
from iak.pipeline.runs.finished_run import finished_run
from iak.pipeline.runs.forget import find_touched
from iak.pipeline.storage.folder_store import FolderStore
from tests.unit.jobs.test_registry import run_of
from tests.unit.registry.nights import NAMES, promote, stored

FIRST, SECOND = "day=1/part.parquet", "day=2/part.parquet"
USERS = {FIRST: [1, 2, 2], SECOND: [3, 4, 5]}


@pytest.fixture
def place(tmp_path):
    """Two nights in a registry: the first read day 1, the second both days."""
    for name, users in USERS.items():
        path = tmp_path / "log" / name
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"user_id": users}), path)
    for seed, names in enumerate([[FIRST], [FIRST, SECOND]]):
        run = read_by(tmp_path, f"R{seed}", names, seed=seed)
        promote(FolderStore(tmp_path / "registry"), finished_run(run))
    return tmp_path


def read_by(place, name, files, *, seed, counted=()):
    """Write a run that read some files of the log."""
    run = place / name
    snapshot = {
        "uri": str(place / "log"),
        "files": [{"path": file, "rows": len(USERS[file])} for file in files],
        "counted": {"files": [{"path": file, "rows": len(USERS[file])} for file in counted]},
    }
    cache = place / "cache" / name
    entry = cache / "ab" / "x.rows"
    entry.parent.mkdir(parents=True)
    entry.write_bytes(b"rows")
    return run_of(
        run, seed=seed, snapshot=snapshot, catalog={"log": {"user": "user_id"}},
        spec={"cache": {"folder": str(cache)}},
    )  # fmt: skip


def touched(place, *users, remove_caches=False):
    return find_touched(FolderStore(place / "registry"), set(users), remove_caches=remove_caches)


def states(report):
    return {(b.run.rsplit("/", 1)[1], b.state, b.rows) for b in report.bundles}


def test_only_what_read_the_users_rows_is_touched(place):
    report = touched(place, "4", "9")
    assert states(report) == {("R0", "untouched", 0), ("R1", "touched", 1)}
    assert [(f.path, f.rows) for f in report.files] == [(f"{place}/log/{SECOND}", 1)]
    assert {b.domain for b in report.bundles} == set(NAMES)


def test_rows_that_only_statistics_counted_touch_a_bundle_as_well(place):
    run = read_by(place, "R2", [FIRST], seed=2, counted=[SECOND])
    promote(FolderStore(place / "registry"), finished_run(run))
    assert ("R2", "touched", 1) in states(touched(place, "4"))


def test_rows_of_several_users_and_files_are_added(place):
    assert states(touched(place, "2", "5")) == {("R0", "touched", 2), ("R1", "touched", 3)}


def test_a_touched_bundle_says_whether_it_serves(place):
    head = read_head(FolderStore(place / "registry"))
    serving = {b.stored for b in touched(place, "2").bundles if b.aliases == ["champion"]}
    assert serving == set(stored(head).values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda place: (place / "log" / FIRST).unlink(), "part.parquet is gone"),
        (
            lambda place: pq.write_table(pa.table({"user_id": [7]}), place / "log" / FIRST),
            "was rewritten since",
        ),
        (
            lambda place: pq.write_table(pa.table({"other": [1, 2, 3]}), place / "log" / FIRST),
            "has no column user_id",
        ),
        (lambda place: (place / "R0" / "record.json").unlink(), "the run folder .* is gone"),
    ],
)
def test_what_cannot_be_known_is_said_with_its_reason(place, change, reason):
    change(place)
    first = [b for b in touched(place, "1").bundles if b.run.endswith("R0")]
    assert {b.state for b in first} == {"unknown"}
    assert first[0].rows is None
    assert re.search(reason, first[0].reason)


def test_caches_are_listed_and_removed_only_when_asked_to(place):
    (cache,) = [c for c in touched(place, "5").caches if c.state == "touched"]
    assert (cache.path, cache.bytes, cache.is_removed) == (f"{place}/cache/R1", 4, False)
    report = touched(place, "5", remove_caches=True)
    assert [(c.state, c.is_removed) for c in report.caches] == [
        ("untouched", False),
        ("touched", True),
    ]
    assert not list((place / "cache" / "R1").rglob("*.rows"))
    assert list((place / "cache" / "R0").rglob("*.rows"))


def test_users_are_compared_as_text(tmp_path, place):
    pq.write_table(pa.table({"user_id": ["1", "x", "x"]}), tmp_path / "log" / FIRST)
    assert touched(place, "x").files[0].rows == 2


def test_the_verb_shows_a_table_and_writes_all_as_json(place, capsys):
    (place / "users.txt").write_text("4\n\n 2 \n")
    words = [f"registry={place / 'registry'}", f"rows_of={place / 'users.txt'}"]
    assert cli.run(["registry", "forget", *words, f"json={place / 'shown.json'}"]) == 0
    document = json.loads((place / "shown.json").read_text())
    assert (document["users"], len(document["bundles"])) == (2, 2 * len(NAMES))
    assert "rows of 2 users" in capsys.readouterr().out
    (place / "users.txt").write_text("\n")
    assert cli.run(["registry", "forget", *words]) == 2
    assert "names no user" in capsys.readouterr().err
