"""The numbers on the benchmarks' page are those of the records."""

from pathlib import Path

import pytest

from iak.schemas.record import BenchmarkRecord
from infra.benchmarks import readme

ROOT = Path(__file__).parents[4]
BENCHMARKS = ROOT / "infra" / "benchmarks"
PAGE = BENCHMARKS / "README.md"
RECORDS = BENCHMARKS / "epyc-2-cores"


def test_what_the_page_says_of_benchmarks_is_what_the_records_hold():
    text = PAGE.read_text()
    assert readme.written(text, RECORDS) == text


def test_another_number_in_a_record_is_another_page():
    record = BenchmarkRecord.model_validate_json((RECORDS / "tables.json").read_bytes())
    before = readme.tables_text(record, "x")
    record.rows[0]["step_p50_ms"] += 1
    assert readme.tables_text(record, "x") != before


def test_every_picture_that_the_page_shows_is_there():
    shown = [part.partition(")")[0] for part in PAGE.read_text().split("](")[1:]]
    pictures = [name for name in shown if name.endswith(".png")]
    assert len(pictures) == 11
    assert all((BENCHMARKS / name).is_file() for name in pictures)


@pytest.mark.parametrize(
    "name",
    [
        "cpu-2-cores/table",
        "cpu-2-cores/schedules",
        "epyc-2-cores/mapped",
        "epyc-2-cores/two_builds",
        "epyc-2-cores/seven_logs/table",
        "epyc-2-cores/seven_logs_by_init/table",
    ],
)
def test_a_scripts_table_stands_on_the_page_line_by_line(name):
    table = (ROOT / f"infra/benchmarks/{name}.md").read_text().splitlines()
    said = PAGE.read_text().splitlines()
    _, _, *lines = table
    assert lines
    assert [line for line in lines if line not in said] == []


def test_a_night_has_a_line_and_a_method_without_rows_a_dash():
    row = {"table": "nights", "night": 1, "task": "ctr", "method": "chain"}
    measured = {"delta_auc": 0.0053, "low": 0.004, "high": 0.0066}
    rows = [row | measured, row | {"night": 2, "method": "oracle"} | measured]
    gate = BenchmarkRecord.model_validate_json((RECORDS / "gate.json").read_bytes())
    record = gate.model_copy(update={"rows": rows})
    lines = readme.nights_text(record, "x").splitlines()
    assert "| night | chain | oracle |" in lines
    assert "| 1 | +53 [+40, +66] | - |" in lines
    assert "| 2 | - | +53 [+40, +66] |" in lines
