"""What `serve` states of measured times: ratios to the base, targets, and pages of its record."""

from datetime import UTC, datetime

import pytest

from iak.schemas.record import BenchmarkRecord
from infra.benchmarks import readme
from infra.benchmarks.serve import findings, peft_batch
from infra.benchmarks.serve.online import ALL, BASE, POOLED, Asked
from infra.benchmarks.serve.peft_batch import MixedBatches
from infra.benchmarks.specs import BenchServeSpec

SPEC = BenchServeSpec(domains=(1, 1000))
SPEEDS = {"base": [100.0, 80.0, 120.0], "kernels": [85.0, 90.0, 70.0]}


def asked(**changes):
    times = {(BASE, 8): [0.1, 0.1], (POOLED, 8): [0.11, 0.11], (ALL, 8): [0.112, 0.114]}
    times |= {(ALL, 400): [0.15, 0.18]}
    fields = {
        "by_domains": times,
        "by_rows": {(BASE, 1): [0.01, 0.02], (ALL, 1): [0.02, 0.02]},
        "promotion_s": [1.0, 9.0, 2.0],
        "requests": 500,
        "failed": 0,
    }
    return Asked(**fields | changes)


def measured(**changes):
    result = findings.result(SPEC, SPEEDS, asked(**changes))
    return {target.name: (target.measured, target.is_met) for target in result.targets}


def test_targets_are_ratios_to_the_base_of_the_same_run():
    files, few, many, promoted, failed = measured().values()
    assert files == (pytest.approx(0.85), True)
    assert few == (pytest.approx(1.13), True)
    assert many == (pytest.approx(1.65), False)
    assert promoted == (2.0, True)
    assert failed == (0, True)


def test_one_failed_request_misses_the_target():
    *_, (name, value) = measured(failed=1).items()
    assert "failed" in name
    assert value == (1, False)


MIXED = MixedBatches(
    seconds={
        (peft_batch.BASE, 0): [0.02, 0.02],
        (peft_batch.KERNELS, 10): [0.024, 0.024],
        (peft_batch.TOWERS, 10): [0.03, 0.04],
        (peft_batch.EVERYWHERE, 10): [0.06, 0.06],
        (peft_batch.KERNELS, 100): [0.03, 0.03],
        (peft_batch.TOWERS, 100): [0.3, 0.31],
    },
    version="0.21.0",
)


def test_kernels_are_compared_with_peft_s_batch_of_the_same_adapters():
    result = findings.result(SPEC, SPEEDS, asked(), MIXED)
    ten, hundred = result.targets[-2:]
    assert (ten.measured, ten.is_met) == (pytest.approx(0.035 / 0.024), False)
    assert (hundred.measured, hundred.is_met) == (pytest.approx(0.305 / 0.03), True)
    times = {(r["what"], r["adapters"]): r["times_base"] for r in result.rows[-6:]}
    assert times[peft_batch.EVERYWHERE, 10] == pytest.approx(3.0)
    assert "PEFT 0.21.0" in result.notes[-1]


def test_without_peft_the_record_says_so_and_has_no_line_of_it():
    result = findings.result(SPEC, SPEEDS, asked())
    assert not any(row["table"] == "adapters" for row in result.rows)
    assert not any("PEFT" in target.name for target in result.targets)
    assert "PEFT is not installed" in result.notes[-1]


def test_the_page_states_each_line_of_the_record():
    result = findings.result(SPEC, SPEEDS, asked(), MIXED)
    record = BenchmarkRecord(
        bench="serve", spec={}, is_smoke=False, command="x", started_at=datetime.now(UTC),
        seconds=60, commit="c", rows=result.rows, targets=result.targets, notes=result.notes,
    )  # fmt: skip
    lines = readme.serve_text(record, "folder").splitlines()
    assert "| 1,000 kernels | 85 | 0.85 |" in lines
    assert "| all kernels | 400 | 512 | 165.0 ms | 179.7 ms | 1.65 |" in lines
    assert "| base alone | 1 | 15.0 ms | 19.9 ms | 67 |" in lines
    assert "| 3 | 2.0 | 9.0 | 500 | 0 |" in lines
    assert "| kernels | 10 | 512 | 24.0 ms | 1.20 |" in lines
