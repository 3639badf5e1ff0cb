"""Listing: which files belong to a log, what is pruned, and one path for each file."""

import os
from pathlib import Path

import pyarrow.fs
import pytest

from iak.pipeline.data import listing
from iak.pipeline.data.logs import take_snapshot
from iak.pipeline.errors import BadLog
from tests.builders import DAYS, draw_rows, small_catalog, snapshot_of, write_file, write_log

CATALOG = small_catalog()
LOCAL = pyarrow.fs.LocalFileSystem()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    log = tmp_path / "events"
    write_log(
        log, [("ningbo", DAYS[0], [4, 3]), ("ningbo", DAYS[1], [5]), ("hangzhou", DAYS[0], [6])]
    )
    return log


def listed(root, admits=lambda _: True):
    """Paths below the log's folder with their partition values, and the other folders."""
    others: list[tuple[str, str]] = []
    files = listing.list_files(LOCAL, str(root), (), ("region", "dt"), admits, others)
    return sorted((os.path.relpath(path, root), known) for path, known in files), others


def test_a_folder_that_is_not_admitted_is_not_entered(root):
    asked = []

    def admits(partition):
        asked.append(dict(partition))
        return partition.get("region") != "ningbo"

    files, _ = listed(root, admits)
    assert [path for path, _ in files] == [f"region=hangzhou/dt={DAYS[0]}/part-00002.parquet"]
    assert files[0][1] == (("region", "hangzhou"), ("dt", DAYS[0]))
    assert {"region": "ningbo"} in asked
    assert not [values for values in asked if values.get("region") == "ningbo" and "dt" in values]


def test_a_key_of_three_folders_is_their_date(tmp_path):
    null = "__HIVE_DEFAULT_PARTITION__"
    folders = [
        "year=2026/month=2/day=3",
        "year=2026/month=12/day=31",
        f"year=2026/month=2/day={null}",
    ]
    for folder in [*folders, "year=2026/day=1/month=2"]:
        write_file(tmp_path / folder / "hour=07" / "a.parquet", draw_rows(2))
    keys, asked, others = ("year/month/day", "hour"), [], []

    def admits(partition):
        asked.append(dict(partition))
        return partition.get("year/month/day") != "2026-12-31"

    listed = listing.list_files(LOCAL, str(tmp_path), (), keys, admits, others)
    assert sorted((known for _, known in listed), key=str) == [
        (("year/month/day", "2026-02-03"), ("hour", "07")),
        (("year/month/day", None), ("hour", "07")),
    ]
    assert {"year/month/day": "2026-12-31"} in asked
    assert others == [(f"{tmp_path}/year=2026/day=1", "no folder month=...")]


def by_value(root, keys, admits=lambda _: True):
    """Paths and partition values of a log whose folders are values alone, and other folders."""
    others = []
    files = listing.list_files(LOCAL, str(root), (), keys, admits, others, folder_names="value")
    return sorted((os.path.relpath(path, root), known) for path, known in files), others


def test_folders_may_be_values_without_keys(tmp_path):
    for name in ("nl/2026-10-01/a", "nl/2026-10-02", "dt=x/es", "region=es/2026-10-02/b/c", "top"):
        write_file(tmp_path / f"{name}.parquet", draw_rows(2))
    files, others = by_value(tmp_path, ("region", "dt"))
    assert files == [
        ("nl/2026-10-01/a.parquet", (("region", "nl"), ("dt", "2026-10-01"))),
        ("nl/2026-10-02.parquet", (("region", "nl"), ("dt", "2026-10-02"))),
        ("region=es/2026-10-02/b/c.parquet", (("region", "es"), ("dt", "2026-10-02"))),
        ("top.parquet", ()),
    ]
    assert others == [(f"{tmp_path}/dt=x", "no folder region=...")]


def test_a_folder_or_file_whose_value_is_not_admitted_is_left_out(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test/part-0", "valid_part_3"):
        write_file(tmp_path / f"{name}.parquet", draw_rows(2))
    files, _ = by_value(tmp_path, ("split",), lambda known: known["split"] != "test")
    assert [(path, *dict(known).values()) for path, known in files] == [
        ("train-00000-of-00002.parquet", "train"),
        ("train-00001-of-00002.parquet", "train"),
        ("valid_part_3.parquet", "valid"),
    ]


def test_a_date_of_three_folders_may_end_in_a_file(tmp_path):
    write_file(tmp_path / "2026/2/3.parquet", draw_rows(2))
    write_file(tmp_path / "2026/2/04/a.parquet", draw_rows(2))
    files, _ = by_value(tmp_path, ("year/month/day",))
    assert [dict(known)["year/month/day"] for _, known in files] == ["2026-02-04", "2026-02-03"]


def test_a_key_of_two_folders_is_their_month(tmp_path):
    for folder in ("year=2026/month=2", "year=2026/month=12"):
        write_file(tmp_path / folder / "a.parquet", draw_rows(2))
    listed = listing.list_files(LOCAL, str(tmp_path), (), ("year/month",), lambda _: True, [])
    assert {known for _, known in listed} == {
        (("year/month", "2026-02"),),
        (("year/month", "2026-12"),),
    }


def test_a_table_below_the_log_is_refused(root):
    (root / "region=ningbo" / f"dt={DAYS[0]}" / "_delta_log").mkdir()
    with pytest.raises(BadLog, match="is a table of its own"):
        listed(root)


def test_of_several_paths_of_one_file_the_first_is_read(tmp_path):
    (tmp_path / "a").write_text("rows")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c").hardlink_to(tmp_path / "a")
    (tmp_path / "d").write_text("other rows")
    files = [(str(tmp_path / name), ()) for name in "dcba"]
    paths: dict[listing.FileId, str] = {}
    kept, repeated = listing.without_repeats(LOCAL, str(tmp_path), files, paths)
    assert [Path(path).name for path, _ in kept] == ["a", "d"]
    assert [(Path(path).name, reason) for path, reason in repeated] == [
        ("b", "a link to a, whose rows count there"),
        ("c", "a link to a, whose rows count there"),
    ]
    assert sorted(paths.values()) == ["a", "d"]


def test_hidden_files_and_folders_are_a_writers_own(root):
    for name in (
        "_SUCCESS",
        ".a.parquet",
        "_b.parquet",
        "_temporary/0/c.parquet",
        ".tmp/d.parquet",
        "notes.txt",
    ):
        path = root / "region=ningbo/dt=2026-10-01" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half a file")
    (root / "_staging").mkdir()
    snapshot = snapshot_of(root, CATALOG)
    assert len(snapshot.files) == 3
    assert not snapshot.unreadable


def test_a_folder_whose_own_name_is_hidden_is_read_all_the_same(tmp_path):
    write_file(tmp_path / ".cache" / "_log" / "a.parquet", draw_rows(3))
    assert take_snapshot(str(tmp_path / ".cache" / "_log"), partition_keys=()).rows == 3


def test_a_flat_log_may_nest_its_files_as_it_likes(tmp_path):
    write_file(tmp_path / "a.parquet", draw_rows(2))
    write_file(tmp_path / "deep" / "er" / "b.parq", draw_rows(3))
    snapshot = take_snapshot(str(tmp_path), partition_keys=())
    assert [(f.path, f.rows) for f in snapshot.files] == [("a.parquet", 2), ("deep/er/b.parq", 3)]


def test_folders_that_are_no_partition_are_ignored_by_name(root):
    write_file(root / "d5" / "part.parquet", draw_rows(2))
    write_file(root / "region=ningbo" / "hour=3" / "part.parquet", draw_rows(2))
    snapshot = snapshot_of(root, CATALOG)
    assert [(i.path, i.reason) for i in sorted(snapshot.ignored, key=lambda i: i.path)] == [
        ("d5/", "no folder region=..."),
        ("region=ningbo/hour=3/", "no folder dt=..."),
    ]
