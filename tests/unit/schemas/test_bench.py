"""Benches take numbers of workers and sizes that they can compare."""

import pytest
from pydantic import ValidationError

from iak.schemas.bench import BenchScalingSpec, BenchSetupSpec, BenchShardingSpec


@pytest.mark.parametrize("workers", [(2, 4), (1, 4, 2), (1, 2, 2), (1,)])
def test_scaling_is_relative_to_one_worker_and_rises(workers):
    with pytest.raises(ValidationError):
        BenchScalingSpec(workers=workers)
    assert BenchScalingSpec(workers=(1, 2, 8)).workers == (1, 2, 8)


@pytest.mark.parametrize("size", ["100", "x16", "0x16", "100x", "100*16", "-1x4", "1e6x16"])
def test_a_table_is_written_as_rows_by_width(size):
    with pytest.raises(ValidationError):
        BenchShardingSpec(tables=(size,))
    assert BenchShardingSpec(tables=("1_000x16",)).tables == ("1_000x16",)


@pytest.mark.parametrize("threshold", [1.0, 0.5, 1_001])
def test_a_regression_is_more_than_the_same(threshold):
    with pytest.raises(ValidationError, match="threshold"):
        BenchShardingSpec(threshold=threshold)


@pytest.mark.parametrize("changes", [{"days": 11}, {"domains": ()}, {"rows": 0}, {"workers": 0}])
def test_a_setup_has_enough_days_rows_and_domains(changes):
    with pytest.raises(ValidationError, match=next(iter(changes))):
        BenchSetupSpec(**changes)
