"""A file is named by its content, read once for it, and refused when it becomes another."""

import os
import sqlite3
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.data import content, fingerprints, footer, snapshot
from iak.pipeline.data.check import check_log
from iak.pipeline.data.content import KeptContents
from iak.pipeline.data.file_problems import file_problems
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadLog
from tests.builders import DAYS, small_catalog, write_log

CATALOG = small_catalog()
FILE = "region=ningbo/dt=2026-10-01/part-00000.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A log of three files, none of which changed a moment ago."""
    write_log(
        tmp_path / "events",
        [("ningbo", DAYS[0], [4, 3]), ("ningbo", DAYS[1], [5]), ("hangzhou", DAYS[0], [6])],
    )
    restate(tmp_path, "click")  # by the writer that restates it later: it may keep the footer
    return tmp_path


@pytest.fixture(autouse=True)
def _settled(monkeypatch):
    """Files of a test are a moment old; a kept digest is believed of older ones alone."""
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**12))


def opened(root: Path, kept: Path | None = None):
    return open_log(CATALOG, str(root), wanted=["pretrain"], kept=KeptContents(kept))


def first(root: Path, kept: Path | None = None):
    snapshot = opened(root, kept).snapshot
    return next(f for f in snapshot.files if f.path == FILE)


def restate(root: Path, column: str) -> None:
    """Write other values of one column into a file that keeps its path, size and times."""
    path = root / "events" / FILE
    before, groups = path.stat(), pq.ParquetFile(path).metadata
    table = pq.read_table(path, partitioning=None)
    values = table.column(column).to_pylist()
    is_label = column in ("click", "order")
    values = [v if v is None else 1 - v for v in values] if is_label else values[::-1]
    index = table.schema.get_field_index(column)
    field = table.schema.field(column)
    table = table.set_column(index, field, pa.array(values, field.type))
    rows = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    with pq.ParquetWriter(path, table.schema, write_statistics=False) as writer:
        start = 0
        for count in rows:
            writer.write_table(table.slice(start, count))
            start += count
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# ---------------------------------------------------------------- footers


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(0, 60),
    group_rows=st.integers(1, 30),
    has_dictionary=st.booleans(),
    has_checksums=st.booleans(),
    version=st.sampled_from(["1.0", "2.6"]),
)
def test_chunks_lie_where_pyarrow_says(rows, group_rows, has_dictionary, has_checksums, version):
    table = pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "text": pa.array([f"w{i % 3}" for i in range(rows)], pa.string()),
            "list": pa.array([[i, i + 1] for i in range(rows)], pa.list_(pa.int64())),
            "struct": pa.array([{"a": i, "b": None} for i in range(rows)],
                               pa.struct({"a": pa.int64(), "b": pa.float32()})),
        }
    )  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, row_group_size=group_rows, use_dictionary=has_dictionary, version=version,
        write_page_checksum=has_checksums,
    )  # fmt: skip
    whole = sink.getvalue().to_pybytes()
    length = int.from_bytes(whole[-8:-4], "little")
    result = footer.chunks_of(whole[-8 - length : -8], file_bytes=len(whole))
    metadata = pq.read_metadata(pa.BufferReader(whole))
    assert len(result) == metadata.num_row_groups
    for index, chunks in enumerate(result):
        for position, chunk in enumerate(chunks):
            column = metadata.row_group(index).column(position)
            start = column.data_page_offset
            if column.has_dictionary_page and column.dictionary_page_offset < start:
                start = column.dictionary_page_offset
            assert chunk == (
                column.path_in_schema.split(".")[0],
                start,
                column.total_compressed_size,
            )
            if chunk.start:
                header = whole[chunk.start : chunk.start + chunk.length]
                assert footer.has_checksum(header) == has_checksums


@pytest.fixture(scope="module")
def good_footer(tmp_path_factory) -> tuple[bytes, int]:
    path = tmp_path_factory.mktemp("footer") / "good.parquet"
    pq.write_table(pa.table({"a": [1, 2, 3], "b": ["x", "y", "x"]}), path, row_group_size=2)
    whole = path.read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    return whole[-8 - length : -8], len(whole)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_footer_raises_one_kind_of_error(good_footer, data):
    whole, size = good_footer
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for content_ in (bytes(damaged), bytes(damaged[:cut])):
        try:
            groups = footer.chunks_of(content_, file_bytes=size)
        except ValueError:
            continue
        assert all(c.start + c.length <= size for group in groups for c in group)


# ---------------------------------------------------------------- fingerprints


def test_a_restated_label_changes_the_digest_of_others_alone(root):
    before = first(root)
    size = (root / "events" / FILE).stat().st_size
    restate(root, "click")
    after = first(root)
    assert (root / "events" / FILE).stat().st_size == size, "the fault hides in size and times"
    assert after.content.others != before.content.others
    assert after.content.features == before.content.features
    assert after.fingerprint != before.fingerprint


def test_a_changed_feature_changes_the_digest_of_features_alone(root):
    before = first(root)
    restate(root, "price")
    after = first(root)
    assert after.content.features != before.content.features
    assert after.content.others == before.content.others
    assert after.fingerprint != before.fingerprint


def test_a_column_that_nobody_reads_is_no_content(root):
    path = root / "events" / FILE
    before = first(root)
    table = pq.read_table(path, partitioning=None)
    schema = pa.schema([*table.schema, ("unread", pa.int64())])
    with pq.ParquetWriter(path, schema, write_statistics=False) as writer:
        for start, count in ((0, 4), (4, 3)):
            part = table.slice(start, count)
            writer.write_table(part.append_column("unread", pa.array(range(count), pa.int64())))
    after = first(root)
    assert after.content.features == before.content.features
    assert after.content.others == before.content.others


# ---------------------------------------------------------------- kept digests


@pytest.fixture
def read_files(monkeypatch) -> list[str]:
    """Collects the files that are read for their content."""
    read: list[str] = []
    real = fingerprints.read_content

    def counted(handle, *args, **kwargs):
        read.append("file")
        return real(handle, *args, **kwargs)

    monkeypatch.setattr(fingerprints, "read_content", counted)
    return read


def test_an_unchanged_file_is_read_once_for_its_content(root, read_files):
    kept = root / "digests.sqlite"
    before = opened(root, kept).snapshot
    assert len(read_files) == 3
    assert opened(root, kept).snapshot.fingerprint == before.fingerprint
    assert len(read_files) == 3
    restate(root, "click")
    assert opened(root, kept).snapshot.fingerprint != before.fingerprint
    assert len(read_files) == 4, "times of writing are set back, the time of change is not"


def test_a_file_that_settles_while_it_is_listed_has_not_changed(root, monkeypatch):
    ages = iter([False, True] * 100)
    monkeypatch.setattr(content, "_is_settled", lambda _: next(ages))
    assert opened(root).snapshot.rows == 18


def test_a_file_that_changed_a_moment_ago_is_read_again(root, read_files, monkeypatch):
    monkeypatch.setattr(content, "_SETTLED_NS", 10**15)
    for _ in range(2):
        opened(root, root / "digests.sqlite")
    assert len(read_files) == 6


def test_kept_digests_that_are_damaged_are_read_again(root, read_files):
    kept = root / "digests.sqlite"
    before = opened(root, kept).snapshot.fingerprint
    with sqlite3.connect(kept) as store:
        store.execute("UPDATE contents SET content = replace(content, 'a', 'b')")
    assert opened(root, kept).snapshot.fingerprint == before
    kept.write_bytes(b"no database" * 100)
    assert opened(root, kept).snapshot.fingerprint == before
    assert opened(root, kept).snapshot.fingerprint == before
    assert len(read_files) == 3 * 3, "read first, damaged twice, kept at last"


def test_a_run_goes_on_where_nothing_can_be_kept(root, caplog):
    blocked = root / "a file"
    blocked.write_text("")
    assert opened(root, blocked / "digests.sqlite").snapshot.fingerprint
    assert "cannot be kept" in caplog.text


# ---------------------------------------------------------------- reading


def test_a_file_that_is_rewritten_while_a_run_reads_is_refused_by_name(root):
    view = opened(root)
    assert sum(len(rows) for rows, _ in view.raw_rows("pretrain")) == 18
    restate(root, "order")
    with pytest.raises(BadLog, match=rf"{FILE} .*labels.*another content"):
        list(view.raw_rows("pretrain"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_footer_that_changes_after_the_listing_is_refused_by_name(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("footer")
    write_log(root / "events", [("ningbo", DAYS[0], [4, 3])])
    path = root / "events" / FILE
    whole = bytearray(path.read_bytes())
    length = int.from_bytes(whole[-8:-4], "little")
    view = open_log(CATALOG, str(root), wanted=["pretrain"])
    at = data.draw(st.integers(len(whole) - 8 - length, len(whole) - 1), label="byte")
    whole[at] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    path.write_bytes(whole)
    with pytest.raises(BadLog, match=FILE):
        list(view.raw_rows("pretrain"))


def test_an_object_is_known_by_its_version(root, monkeypatch, read_files):
    version = ["one"]
    for module in (fingerprints, snapshot):
        monkeypatch.setattr(module, "version_of", lambda _: version[0])
    view = opened(root)
    assert not read_files, "the store's version stands for the content"
    assert len(list(view.raw_rows("pretrain"))) == 4
    version[0] = "two"
    with pytest.raises(BadLog, match="is another version"):
        list(view.raw_rows("pretrain"))
    assert opened(root).snapshot.fingerprint != view.snapshot.fingerprint


def test_the_version_is_the_etag_whatever_its_case():
    class Handle:
        def __init__(self, pairs):
            self.pairs = pairs

        def metadata(self):
            return self.pairs

    assert content.version_of(Handle({b"etag": b"a1"})) == "a1"
    assert content.version_of(Handle({b"ETag": b"a1"})) == "a1"
    assert content.version_of(Handle({b"Content-Type": b"x"})) == ""
    assert content.version_of(Handle(None)) == ""


def test_a_footer_that_does_not_say_where_columns_lie_is_quarantined(root, monkeypatch):
    real = fingerprints.read_content

    def broken(handle, *args, **kwargs):
        if handle.size() == (root / "events" / FILE).stat().st_size:
            raise ValueError("a column chunk at 9 of 99 bytes lies outside the file")
        return real(handle, *args, **kwargs)

    monkeypatch.setattr(fingerprints, "read_content", broken)
    view = opened(root)
    assert [u.path for u in view.snapshot.unreadable] == [FILE]
    assert view.selections["pretrain"].rows == 11


# ---------------------------------------------------------------- links


def test_a_link_inside_the_log_counts_no_row_twice(root):
    log = root / "events"
    (log / "region=wuhan").symlink_to(log / "region=ningbo", target_is_directory=True)
    (log / "region=ningbo" / f"dt={DAYS[0]}" / "more").symlink_to(log / "region=hangzhou")
    view = opened(root)
    assert view.selections["pretrain"].rows == 18
    messages = [problem.message for problem in file_problems(view.snapshot)]
    assert any("ignored: a link to region=ningbo/" in line for line in messages), messages


def test_a_link_is_left_out_although_its_target_is_pruned(root):
    log = root / "events"
    (log / "region=wuhan").symlink_to(log / "region=ningbo", target_is_directory=True)
    catalog = small_catalog(splits={"pretrain": {"where": {"region": ["wuhan", "hangzhou"]}}})
    view = open_log(catalog, str(root), wanted=["pretrain"])
    assert view.selections["pretrain"].rows == 6


def test_a_file_with_two_names_counts_once(root):
    log = root / "events"
    os.link(log / FILE, log / FILE.replace("part-00000", "part-00009"))
    view = opened(root)
    assert view.selections["pretrain"].rows == 18
    assert any("a link to" in p.message for p in file_problems(view.snapshot))


def test_a_partition_on_another_disk_is_read(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "region=ningbo"
    (root / "events" / "region=ningbo").rename(elsewhere)
    (root / "events" / "region=ningbo").symlink_to(elsewhere, target_is_directory=True)
    assert opened(root).selections["pretrain"].rows == 18


# ---------------------------------------------------------------- checksums


def test_files_without_page_checksums_are_named(root):
    path = root / "events" / FILE
    pq.write_table(pq.read_table(path, partitioning=None), path, write_page_checksum=True)
    report = check_log(CATALOG, str(root), sample_rows=100)
    assert len(report.without_checksums) == 2
    assert FILE not in report.without_checksums
