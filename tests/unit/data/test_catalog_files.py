"""The files of a log that its catalogue can read, the same ones for every job and for a night."""

from datetime import date

import pyarrow as pa
import pytest

from iak.pipeline.data.catalog_files import catalog_files
from iak.pipeline.data.check import check_log
from iak.pipeline.data.partition_days import select_days
from iak.pipeline.data.view import open_log
from tests.builders import draw_rows, small_catalog, write_file

CATALOG = small_catalog(splits={"pretrain": {"days": [0, -1]}})
DAYS = [date(2026, 10, day) for day in (1, 2, 3)]


def changed(rows, column, kind):
    at = rows.schema.get_field_index(column)
    return rows.set_column(at, column, rows.column(at).cast(kind))


@pytest.fixture
def root(tmp_path):
    """A log of three days. One has ids in floats, and one has prices that are text."""
    for number, day in enumerate(DAYS):
        rows = draw_rows(6, first=6 * number)
        if number == 1:
            rows = changed(rows, "item_id", pa.float64())
        if number == 2:
            rows = changed(rows, "price", pa.string())
        write_file(tmp_path / f"events/region=ningbo/dt={day}/a.parquet", rows)
    return tmp_path


def test_what_breaks_the_contract_is_unreadable_by_its_schema_or_beside_others(root):
    found = catalog_files(str(root / "events"), CATALOG, version=None)
    assert [file.path.split("/")[1] for file in found.files] == ["dt=2026-10-01"]
    assert [file.reason for file in found.unreadable] == [
        "item_id: double, expected id as in other files",
        "price: string, expected number",
    ]


def test_only_admitted_files_are_listed(root):
    found = catalog_files(
        str(root / "events"),
        CATALOG,
        version=None,
        admits=lambda values: values.get("dt", "2026-10-02") == "2026-10-02",
    )
    # Floats alone are ids: no other file says otherwise.
    assert [file.path.split("/")[1] for file in found.files] == ["dt=2026-10-02"]
    assert not found.unreadable


def test_a_check_a_job_and_a_night_see_the_same_files(root):
    readable = {"region=ningbo/dt=2026-10-01/a.parquet"}
    view = open_log(CATALOG, str(root), wanted=["pretrain"])
    assert {file.path for file in view.snapshot.files} == readable
    night = select_days(CATALOG, str(root), (DAYS[0], DAYS[-1]))
    assert {file.path for file in night.snapshot.files} == readable
    told = " ".join(f.what for f in check_log(CATALOG, str(root), sample_rows=100).findings)
    assert "item_id: double, expected id" in told
    assert "price: string, expected number" in told
