"""A snapshot names exactly what a run will read, and everything that it cannot."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.data import logs, parquet
from iak.pipeline.data.check import check_log
from iak.pipeline.data.file_problems import file_problems
from iak.pipeline.data.logs import take_snapshot
from iak.pipeline.data.pieces import pieces_of
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.splits import Split
from iak.pipeline.data.view import open_log, read_dates
from iak.pipeline.errors import BadLog, BadRequest, PipelineError
from tests.builders import (
    DAYS,
    EVERYTHING,
    batch_of,
    draw_rows,
    encoding_of,
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


def test_a_jobs_splits_prune_before_anything_is_opened(root):
    catalog = small_catalog(splits={"tune": {"where": {"region": ["ningbo"]}, "days": [0, 0]}})
    (root / "region=hangzhou/dt=2026-10-01/part-00002.parquet").write_bytes(b"no parquet at all")
    view = open_log(catalog, str(root.parent), wanted=["tune"])
    assert view.snapshot.rows == view.selections["tune"].rows == 7
    assert not view.snapshot.unreadable


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


def test_hidden_files_and_folders_are_a_writers_own(root):
    for name in (
        "_SUCCESS",
        ".a.parquet",
        "_b.parquet",
        "_temporary/0/c.parquet",
        ".tmp/d.parquet",
        "notes.txt",
    ):
        place = root / "region=ningbo/dt=2026-10-01" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"half a file")
    (root / "_staging").mkdir()
    snapshot = snapshot_of(root, CATALOG)
    assert len(snapshot.files) == 3
    assert not snapshot.unreadable


def test_a_folder_whose_own_name_is_hidden_is_read_all_the_same(tmp_path):
    write_file(tmp_path / ".cache" / "_log" / "a.parquet", draw_rows(3))
    assert take_snapshot(str(tmp_path / ".cache" / "_log"), partition_keys=()).rows == 3


def test_a_file_outside_the_partitions_is_named(root):
    write_file(root / "stray.parquet", draw_rows(3))
    write_file(root / "region=ningbo" / "stray.parquet", draw_rows(3))
    snapshot = snapshot_of(root, CATALOG)
    assert [u.path for u in snapshot.unreadable] == ["region=ningbo/stray.parquet", "stray.parquet"]
    assert all("outside the folders region=.../dt=..." in u.reason for u in snapshot.unreadable)
    assert read_dates(str(root), CATALOG)[0].counted


def test_a_flat_log_may_nest_its_files_as_it_likes(tmp_path):
    write_file(tmp_path / "a.parquet", draw_rows(2))
    write_file(tmp_path / "deep" / "er" / "b.parq", draw_rows(3))
    snapshot = take_snapshot(str(tmp_path), partition_keys=())
    assert [(f.path, f.rows) for f in snapshot.files] == [("a.parquet", 2), ("deep/er/b.parq", 3)]


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


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda b: b[: len(b) // 2], id="cut in the middle"),
        pytest.param(lambda b: b[:-3], id="cut in the footer"),
        pytest.param(lambda _: b"", id="zero bytes"),
        pytest.param(lambda _: b"PAR1PAR1", id="magic alone"),
        pytest.param(
            lambda b: b[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1", id="huge footer"
        ),
        pytest.param(lambda b: b[:-200] + b"\0" * 150 + b[-50:], id="holes in the footer"),
    ],
)
def test_a_damaged_file_is_quarantined_by_name_while_others_are_read(root, damage):
    path = root / "region=ningbo/dt=2026-10-01/part-00000.parquet"
    path.write_bytes(damage(path.read_bytes()))
    snapshot = snapshot_of(root, CATALOG)
    assert [u.path for u in snapshot.unreadable] == [
        "region=ningbo/dt=2026-10-01/part-00000.parquet"
    ]
    assert snapshot.unreadable[0].reason.startswith("no whole Parquet file: ")
    assert snapshot.rows == 11


def read_everything(root: Path) -> int:
    selection = parquet.select(snapshot_of(root, CATALOG), EVERYTHING, CATALOG)
    rows = batch_of(draw_rows(9).append_column("region", pa.array(["a"] * 9)))
    worker = Reader(
        selection=selection, catalog=CATALOG, encoding=encoding_of(rows, CATALOG), rank=0, world=1
    )
    return sum(len(part) for part in worker.in_order())


def test_chunks_beyond_the_end_of_the_file_are_a_named_error(root):
    path = root / "region=ningbo/dt=2026-10-01/part-00000.parquet"
    held = path.read_bytes()
    footer = 8 + int.from_bytes(held[-8:-4], "little")
    path.write_bytes(b"PAR1" + held[-footer:])
    with pytest.raises(BadLog, match=r"part-00000\.parquet, row group 0 cannot be decoded"):
        read_everything(root)


@given(st.data())
@settings(max_examples=100)
def test_no_damage_whatever_ends_in_an_unnamed_error(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("log")
    path = write_file(root / "region=a/dt=2026-10-01/a.parquet", draw_rows(30), [20, 10])
    held = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        held[data.draw(st.integers(0, len(held) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(held)
    try:
        with np.errstate(all="ignore"):
            read_everything(root)
    except PipelineError as error:
        assert "a.parquet" in str(error)  # noqa: PT017 - most damages raise nothing


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda t: t.drop_columns(["price"]), "missing columns: price", id="missing"),
        pytest.param(
            lambda t: t.set_column(2, "user_id", pa.array([1.5] * len(t))),
            "user_id: double, expected id",
            id="retyped id",
        ),
        pytest.param(
            lambda t: t.set_column(4, "hist", t.column("item_id")),
            "hist: int64, expected list of ids",
            id="list turned scalar",
        ),
        pytest.param(
            lambda t: t.set_column(5, "slot", pa.array(["x"] * len(t))),
            "slot: string, expected whole number",
            id="text in an identity table",
        ),
        pytest.param(
            lambda t: t.set_column(9, "click", pa.array(["yes"] * len(t))),
            "click: string, expected label",
            id="text label",
        ),
    ],
)
def test_a_file_that_breaks_the_schema_is_quarantined_by_name_while_others_are_read(
    root, change, reason
):
    write_file(root / "region=ningbo/dt=2026-10-03/bad.parquet", change(draw_rows(5)))
    snapshot = snapshot_of(root, CATALOG)
    assert [(u.path, u.reason) for u in snapshot.unreadable] == [
        ("region=ningbo/dt=2026-10-03/bad.parquet", reason)
    ]
    assert snapshot.rows == 18


def test_a_log_without_a_readable_file_is_refused_with_the_reasons(root):
    rows = draw_rows(3)
    place = rows.schema.get_field_index("price")
    for path in root.rglob("*.parquet"):
        write_file(path, rows.set_column(place, "price", pa.array(["dear"] * 3)))
    with pytest.raises(BadLog, match=r"3 of 3 files: price: string, expected number \(9 rows\)"):
        open_log(CATALOG, str(root.parent), wanted=["pretrain"])


@pytest.mark.parametrize(
    ("column", "values", "advice"),
    [
        ("user_id", [1.5] * 3, "write ids that are doubles as int64"),
        ("price", ["dear"] * 3, "read text as categorical"),
        ("click", ["yes"] * 3, "A label is 0, 1 or null, as a number or a boolean."),
        ("hist", [1] * 3, "one list a row"),
        ("slot", ["x"] * 3, "for text leave its encoding out"),
    ],
)
def test_a_column_of_another_type_is_refused_with_what_would_be_read(root, column, values, advice):
    rows = draw_rows(3)
    for path in root.rglob("*.parquet"):
        at = rows.schema.get_field_index(column)
        write_file(path, rows.set_column(at, column, pa.array(values)))
    with pytest.raises(BadLog, match=r"3 of 3 files: .*, expected ") as refused:
        open_log(CATALOG, str(root.parent), wanted=["pretrain"])
    assert advice in str(refused.value)
    findings = check_log(CATALOG, str(root.parent), sample_rows=100).findings
    assert [advice in f.remedy for f in findings if "expected" in f.what] == [True]


def test_windows_of_one_kind_are_told_once(root):
    days = {"days": [0, 0]}
    splits = {
        name: {**days, "slice": [at / 4, (at + 1) / 4], "where": {"region": ["xian"]}}
        for at, name in enumerate(("tune", "valid", "gate"))
    }
    catalog = small_catalog(splits=splits)
    with pytest.raises(BadLog) as refused:
        open_log(catalog, str(root.parent), wanted=list(splits))
    message = str(refused.value)
    assert "the window of splits 'tune', 'valid', 'gate' is 2026-10-01 to 2026-10-01" in message
    assert message.count("the log's first day") == 1


def test_an_undeclared_split_is_refused_with_what_to_add(root):
    with pytest.raises(BadRequest, match=r"Add \[splits.gate\]"):
        open_log(CATALOG, str(root.parent), wanted=["gate"])


def test_a_split_whose_folders_are_all_missing_is_refused(root):
    catalog = small_catalog(splits={"test": {"dates": ["2027-01-01", "2027-01-02"]}})
    with pytest.raises(BadLog, match="no file at all"):
        open_log(catalog, str(root.parent), wanted=["test"])


def test_the_record_lists_files_and_quarantine(root):
    (root / "region=ningbo/dt=2026-10-01/cut.parquet").write_bytes(b"PAR1")
    told = logs.describe(snapshot_of(root, CATALOG))
    assert told["rows"] == sum(f["rows"] for f in told["files"]) == 18
    assert told["quarantined_files"][0]["path"].endswith("cut.parquet")


def test_a_split_of_one_region_reads_only_its_rows(root):
    ningbo = Split(name="n", first=None, last=None, where={"region": ("ningbo",)}, slice=(0.0, 1.0))
    assert parquet.select(snapshot_of(root, CATALOG), ningbo, CATALOG).rows == 12


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
    assert logs.describe(snapshot)["ignored_files"] == [{"path": path, "reason": reason}]
    assert read_dates(str(root), CATALOG)[0].counted == (date(2026, 10, 1), date(2026, 10, 2))
    report = check_log(CATALOG, str(root.parent), sample_rows=100)
    (found,) = [f for f in report.findings if "ignored" in f.what]
    assert (found.level, found.what, found.file, found.count) == (
        "warn",
        f"1 ignored: {reason}",
        path,
        1,
    )


def test_folders_that_are_no_partition_are_ignored_by_name(root):
    write_file(root / "d5" / "part.parquet", draw_rows(2))
    write_file(root / "region=ningbo" / "hour=3" / "part.parquet", draw_rows(2))
    snapshot = snapshot_of(root, CATALOG)
    assert [(i.path, i.reason) for i in sorted(snapshot.ignored, key=lambda i: i.path)] == [
        ("d5/", "no folder region=..."),
        ("region=ningbo/hour=3/", "no folder dt=..."),
    ]


def test_a_log_whose_files_are_all_ignored_is_refused_with_their_number_and_why(root):
    for path in root.rglob("*.parquet"):
        path.with_suffix(".csv").write_text("a,b")
        path.unlink()
    with pytest.raises(BadLog, match=r"3 ignored: no Parquet: it begins with b'a,b'"):
        open_log(CATALOG, str(root.parent), wanted=["pretrain"])


def test_files_are_not_read_for_one_reason_a_line_with_their_rows(root):
    for number in (1, 2):
        write_file(
            root / f"region=ningbo/dt=2026-10-02/late-{number}.parquet",
            draw_rows(5).drop_columns(["price"]),
        )
    (root / "region=ningbo/dt=2026-10-02/cut.parquet").write_bytes(b"PAR1")
    (root / "region=ningbo/dt=2026-10-02/notes.txt").write_text("note")
    messages = [p.message for p in file_problems(snapshot_of(root, CATALOG))]
    assert messages == [
        "2 of 6 files lack price (10 rows)",
        "1 of 6 files: no whole Parquet file: 4 bytes are too few for Parquet",
        "1 ignored: no Parquet: it begins with b'note', not PAR1",
    ]
