"""A snapshot names exactly what a run will read, and everything that it cannot."""

from datetime import date
from pathlib import Path

import pytest

from iak.pipeline.data import logs, parquet
from iak.pipeline.data.check import check_log
from iak.pipeline.data.event_dates import read_dates
from iak.pipeline.data.logs import take_snapshot
from iak.pipeline.data.pieces import pieces_of
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadLog, BadRequest
from iak.schemas.log_snapshot import IgnoredFile
from tests.builders import (
    DAYS,
    EVERYTHING,
    draw_rows,
    small_catalog,
    snapshot_of,
    write_file,
    write_log,
)

CATALOG = small_catalog()


KEYS = ("region", "dt")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    log = tmp_path / "events"
    write_log(
        log, [("ningbo", DAYS[0], [4, 3]), ("ningbo", DAYS[1], [5]), ("hangzhou", DAYS[0], [6])]
    )
    return log


def test_files_come_in_one_order_with_their_groups_and_partition(root):
    snapshot = snapshot_of(root, CATALOG)
    assert [f.path for f in snapshot.files] == sorted(f.path for f in snapshot.files)
    assert [f.group_rows for f in snapshot.files] == [(6,), (4, 3), (5,)]
    assert snapshot.files[0].partition == (("region", "hangzhou"), ("dt", DAYS[0]))
    assert snapshot.rows == 18


def test_a_pruned_partition_is_never_opened(root):
    (root / "region=hangzhou/dt=2026-10-01/part-00002.parquet").write_bytes(b"no parquet at all")
    (root / "region=ningbo/dt=2026-10-02/part-00001.parquet").write_bytes(b"")
    asked = []

    def admits(partition):
        asked.append(dict(partition))
        return partition["region"] == "ningbo" and partition.get("dt") in (None, DAYS[0])

    snapshot = take_snapshot(str(root), partition_keys=KEYS, admits=admits)
    assert [f.rows for f in snapshot.files] == [7]
    assert not snapshot.unreadable
    assert {"region": "hangzhou", "dt": DAYS[0]} not in asked


def test_a_fingerprint_changes_with_its_file_and_with_no_other(root):
    before = snapshot_of(root, CATALOG)
    again = snapshot_of(root, CATALOG)
    assert before.fingerprint == again.fingerprint
    write_file(root / before.files[1].path, draw_rows(7, first=300), [4, 3])
    after = snapshot_of(root, CATALOG)
    changed = [
        a.fingerprint != b.fingerprint for a, b in zip(before.files, after.files, strict=True)
    ]
    assert changed == [False, True, False]
    assert before.fingerprint != after.fingerprint


def test_partition_values_are_decoded_and_the_default_partition_is_null(tmp_path):
    write_file(tmp_path / "region=a%2Fb%20c/dt=2026-10-01/a.parquet", draw_rows(1))
    write_file(tmp_path / "region=__HIVE_DEFAULT_PARTITION__/dt=2026-10-01/a.parquet", draw_rows(2))
    snapshot = snapshot_of(tmp_path, CATALOG)
    assert {dict(f.partition)["region"]: f.rows for f in snapshot.files} == {"a/b c": 1, None: 2}
    selection = parquet.select(snapshot, EVERYTHING, CATALOG)
    read = [
        parquet.read_piece(selection, p, CATALOG) for p in pieces_of(selection, rank=0, world=1)
    ]
    assert [r.rows.column("region").to_pylist() for r in read] == [[None] * 2, ["a/b c"]]


def test_a_file_outside_the_partitions_is_named(root):
    write_file(root / "stray.parquet", draw_rows(3))
    write_file(root / "region=ningbo" / "stray.parquet", draw_rows(3))
    snapshot = snapshot_of(root, CATALOG)
    assert [u.path for u in snapshot.unreadable] == ["region=ningbo/stray.parquet", "stray.parquet"]
    assert all("outside the folders region=.../dt=..." in u.reason for u in snapshot.unreadable)
    assert read_dates(str(root), CATALOG)[0].counted


@pytest.mark.parametrize(
    "uri", ["{0}/", "file://{0}", "events", "./events", "{0}/../events", "{0}/.././/events"]
)
def test_the_same_folder_is_found_however_its_path_is_written(root, monkeypatch, uri):
    monkeypatch.chdir(root.parent)
    snapshot = take_snapshot(uri.format(root), partition_keys=KEYS)
    assert snapshot.fingerprint == snapshot_of(root, CATALOG).fingerprint


@pytest.mark.parametrize("uri", ["nothing/here", "nope://bucket/log", "file:///a b"])
def test_a_folder_that_is_none_is_refused(uri):
    with pytest.raises(BadRequest, match="data_root"):
        take_snapshot(uri, partition_keys=())


def test_the_record_lists_files_and_quarantine(root):
    (root / "region=ningbo/dt=2026-10-01/cut.parquet").write_bytes(b"PAR1")
    record = logs.describe(snapshot_of(root, CATALOG))
    assert record.rows == sum(file.rows for file in record.files) == 18
    assert record.quarantined_files[0].path.endswith("cut.parquet")


def test_a_relative_folder_is_kept_absolute_for_workers_that_run_elsewhere(
    root, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    near = take_snapshot("events", partition_keys=KEYS)
    assert near.uri == str(root)
    assert near.fingerprint == take_snapshot(str(root), partition_keys=KEYS).fingerprint


def rename(root: Path, new: str = "{}-c000") -> None:
    for path in list(root.rglob("*.parquet")):
        path.rename(path.with_name(new.format(path.stem)))


@pytest.mark.parametrize("new", ["{}-c000", "{}", "{}.snappy", "{}.PARQUET", "000000_0"])
def test_a_file_that_begins_as_parquet_is_read_whatever_its_name(root, new):
    before = take_snapshot(str(root), partition_keys=KEYS)
    rename(root, new)
    after = take_snapshot(str(root), partition_keys=KEYS)
    assert (after.rows, after.ignored) == (18, ())
    assert [f.fingerprint for f in after.files] == [f.fingerprint for f in before.files]
    assert read_dates(str(root), CATALOG)[0].counted == (date(2026, 10, 1), date(2026, 10, 2))


@pytest.mark.parametrize(
    ("name", "start", "reason"),
    [
        ("part-0.csv", b"a,b\n1,2\n", "no Parquet: it begins with b'a,b\\n', not PAR1"),
        ("part-0.orc", b"ORC\x08", "no Parquet: it begins with b'ORC\\x08', not PAR1"),
        ("part-0", b"", "an empty file"),
        ("part-0", b"PA", "no Parquet: it begins with b'PA', not PAR1"),
        ("part-0", b"PARE....PARE", "an encrypted Parquet file"),
    ],
)
def test_other_files_are_ignored_by_name_with_the_reason(root, name, start, reason):
    (root / "region=ningbo/dt=2026-10-03").mkdir()
    (root / "region=ningbo/dt=2026-10-03" / name).write_bytes(start)
    snapshot = snapshot_of(root, CATALOG)
    path = f"region=ningbo/dt=2026-10-03/{name}"
    assert [(i.path, i.reason) for i in snapshot.ignored] == [(path, reason)]
    assert logs.describe(snapshot).ignored_files == (IgnoredFile(path=path, reason=reason),)
    assert read_dates(str(root), CATALOG)[0].counted == (date(2026, 10, 1), date(2026, 10, 2))
    report = check_log(CATALOG, str(root.parent), sample_rows=100)
    (finding,) = [f for f in report.findings if "ignored" in f.what]
    assert (finding.level, finding.what, finding.file, finding.count) == (
        "warn",
        f"1 ignored: {reason}",
        path,
        1,
    )


def test_a_log_whose_files_are_all_ignored_is_refused_with_their_number_and_why(root):
    for path in root.rglob("*.parquet"):
        path.with_suffix(".csv").write_text("a,b")
        path.unlink()
    with pytest.raises(BadLog, match=r"3 ignored: no Parquet: it begins with b'a,b'"):
        open_log(CATALOG, str(root.parent), wanted=["pretrain"])
