"""Lines of a record are read with the columns that a reader needs, whatever others they have."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from iak.schemas.record import BenchmarkRecord
from infra.benchmarks.record_lines import SharesLine, SizeLine, StageLine, VariantLine


def record(*rows):
    return BenchmarkRecord(
        bench="data", spec={}, is_smoke=False, command="iak", seconds=1.0, rows=list(rows),
        started_at=datetime(2026, 10, 1, tzinfo=UTC),
    )  # fmt: skip


STAGE = {
    "stage": "decode", "encoding": "mixed", "rows_per_s": 2_000_000, "of_raw_decode": 1.0,
    "of another version": [1],
}  # fmt: skip


def test_lines_of_one_table_are_read_and_the_others_left_out():
    rows = [STAGE | {"table": "stages"}, {"table": "overlap"}]
    (line,) = record(*rows).lines(StageLine, "stages")
    assert (line.stage, line.rows_per_s) == ("decode", 2_000_000)


def test_a_record_of_one_table_need_not_name_it():
    assert len(record(STAGE).lines(StageLine, "stages")) == 1
    assert len(record(STAGE).lines(StageLine)) == 1


def test_a_line_without_a_column_that_is_read_is_refused():
    with pytest.raises(ValidationError, match="rows_per_s"):
        record({"stage": "decode", "encoding": "mixed"}).lines(StageLine)


def test_columns_that_differ_from_record_to_record_are_found_by_their_names():
    size = SizeLine(
        rows=9, step_p50_ms=2, step_p90_ms=3, ratio=1.0, lookup_p50_ms=1, all_at_once_per_s=4,
        uniform_through_all_workers_per_s=5, zipf_through_all_workers_per_s=6, another=7,
    )  # fmt: skip
    assert size.rates == {
        "uniform through all workers": 5.0, "zipf through all workers": 6.0, "all at once": 4.0,
    }  # fmt: skip
    shares = SharesLine(
        table="t", workload="w", scaling="weak", workers=2, input=0.25, compute=0.25, waiting=0.0,
        reduce=0.3, gather=0.2,
    )  # fmt: skip
    assert shares.collectives == pytest.approx(0.5)


def test_memory_that_was_not_measured_counts_as_none():
    line = VariantLine(
        variant="a", what="w", rows_per_s=1, times_a=1, times_a_with_cache_pass=None,
        slowest_over_fastest_slice=1.0, tables_mib=3.5, optimiser_mib=0.0, sent_kib_a_step=0.0,
        times_the_floor=2.0,
    )  # fmt: skip
    assert line.memory["tables"] == 3.5
    assert sum(line.memory.values()) == 3.5
