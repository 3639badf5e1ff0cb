"""What `serve` states of measured times: ratios to the base, targets, and pages of its record."""

import pytest

from infra.benchmarks import readme
from infra.benchmarks.serve import findings
from infra.benchmarks.serve.online import ALL, BASE, POOLED, Asked
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


def test_the_page_states_each_line_of_the_record():
    result = findings.result(SPEC, SPEEDS, asked())
    record = result.model_dump(mode="json") | {
        "bench": "serve", "command": "x", "seconds": 60, "commit": "c",
        "machine": {"cores": 2, "processor": "p"},
    }  # fmt: skip
    lines = readme.serve_text(record, "folder").splitlines()
    assert "| 1,000 kernels | 85 | 0.85 |" in lines
    assert "| all kernels | 400 | 512 | 165.0 ms | 179.7 ms | 1.65 |" in lines
    assert "| base alone | 1 | 15.0 ms | 19.9 ms | 67 |" in lines
    assert "| 3 | 2.0 | 9.0 | 500 | 0 |" in lines
