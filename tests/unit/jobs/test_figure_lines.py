"""Lines of a record are read with the columns that a picture draws, whatever others they have."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from iak.jobs._figure_lines import SharesLine, SizeLine, StageLine, VariantLine
from iak.schemas.record import BenchmarkRecord


def record(*rows):
    return BenchmarkRecord(
        bench="data", spec={}, is_smoke=False, command="iak", seconds=1.0, rows=list(rows),
        started_at=datetime(2026, 10, 1, tzinfo=UTC),
    )  # fmt: skip


STAGE = {"stage": "decode", "encoding": "mixed", "rows_per_s": 2e6, "of another version": [1]}


def test_lines_of_one_table_are_read_and_the_others_left_out():
    rows = [STAGE | {"table": "stages"}, {"table": "overlap"}]
    (line,) = record(*rows).lines(StageLine, "stages")
    assert (line.stage, line.rows_per_s) == ("decode", 2e6)


def test_a_record_of_one_table_need_not_name_it():
    assert len(record(STAGE).lines(StageLine, "stages")) == 1
    assert len(record(STAGE).lines(StageLine)) == 1


def test_a_line_without_a_column_that_is_drawn_is_refused():
    with pytest.raises(ValidationError, match="rows_per_s"):
        record({"stage": "decode", "encoding": "mixed"}).lines(StageLine)


def test_columns_that_differ_from_record_to_record_are_found_by_their_names():
    size = SizeLine(rows=9, step_p50_ms=2, lookup_p50_ms=1, all_at_once_per_s=4, ratio=1.0)
    assert size.rates == {"all at once": 4.0}
    shares = SharesLine(table="t", workload="w", scaling="weak", workers=2, forward=0.75, sent=0.25)
    assert shares.shares == {"forward": 0.75, "sent": 0.25}


def test_memory_that_was_not_measured_counts_as_none():
    line = VariantLine(variant="a", rows_per_s=1, times_a=1, tables_mib=3.5)
    assert line.memory["tables"] == 3.5
    assert sum(line.memory.values()) == 3.5
