"""A job's view of a log: the rows of its splits, or a refusal that says what to change."""

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from iak.pipeline.data import parquet
from iak.pipeline.data.check import check_log
from iak.pipeline.data.splits import Split
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadLog, BadRequest
from tests.builders import (
    DAYS,
    draw_rows,
    small_catalog,
    snapshot_of,
    write_file,
    write_log,
)

CATALOG = small_catalog()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    log = tmp_path / "events"
    write_log(
        log, [("ningbo", DAYS[0], [4, 3]), ("ningbo", DAYS[1], [5]), ("hangzhou", DAYS[0], [6])]
    )
    return log


def test_a_jobs_splits_prune_before_anything_is_opened(root):
    catalog = small_catalog(splits={"tune": {"where": {"region": ["ningbo"]}, "days": [0, 0]}})
    (root / "region=hangzhou/dt=2026-10-01/part-00002.parquet").write_bytes(b"no parquet at all")
    view = open_log(catalog, str(root.parent), wanted=["tune"])
    assert view.snapshot.rows == view.selections["tune"].rows == 7
    assert not view.snapshot.unreadable


def test_a_log_without_a_readable_file_is_refused_with_the_reasons(root):
    rows = draw_rows(3)
    index = rows.schema.get_field_index("price")
    for path in root.rglob("*.parquet"):
        write_file(path, rows.set_column(index, "price", pa.array(["dear"] * 3)))
    with pytest.raises(BadLog, match=r"3 of 3 files: price: string, expected number \(9 rows\)"):
        open_log(CATALOG, str(root.parent), wanted=["pretrain"])


@pytest.mark.parametrize(
    ("column", "values", "advice"),
    [
        ("user_id", [Decimal("1.5")] * 3, "write ids that are doubles as int64"),
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


def test_ids_with_a_fraction_are_refused_with_file_column_and_value(root):
    for number, path in enumerate(sorted(root.rglob("*.parquet"))):
        rows = draw_rows(3, first=3 * number)
        at = rows.schema.get_field_index("user_id")
        write_file(path, rows.set_column(at, "user_id", pa.array([1.0, 2.5, None])))
    where = r"parquet, row group 0: user_id \(double\): 2\.5 is no whole number"
    view = open_log(CATALOG, str(root.parent), wanted=["pretrain"])
    with pytest.raises(BadLog, match=where):
        list(view.raw_rows("pretrain"))
    findings = check_log(CATALOG, str(root.parent), sample_rows=100).findings
    assert [f.level for f in findings if "2.5" in f.what] == ["refuse"]


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


def test_a_split_of_one_region_reads_only_its_rows(root):
    ningbo = Split(name="n", first=None, last=None, where={"region": ("ningbo",)}, slice=(0.0, 1.0))
    assert parquet.select(snapshot_of(root, CATALOG), ningbo, CATALOG).rows == 12


def test_a_log_named_by_values_alone_has_the_rows_of_one_named_by_keys(tmp_path):
    layout = [("ningbo", "2026-10-01", [9, 4]), ("hangzhou", "2026-10-02", [6])]
    rows = {}
    for names in ("key=value", "value"):
        write_log(tmp_path / names / "events", layout)
        if names == "value":
            for folder in sorted((tmp_path / names).rglob("*=*"), reverse=True):
                folder.rename(folder.with_name(folder.name.partition("=")[2]))
        catalog = small_catalog(
            log__folder_names=names, splits={"pretrain": {"where": {"region": ["ningbo"]}}}
        )
        view = open_log(catalog, str(tmp_path / names), wanted=["pretrain"])
        rows[names] = [row for raw, _ in view.raw_rows("pretrain") for row in raw.to_pylist()]
    assert str(rows["value"]) == str(rows["key=value"])  # a price may be NaN
    assert len(rows["value"]) == 13
