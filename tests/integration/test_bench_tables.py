import tomllib
from pathlib import Path

import pytest

from iak.pipeline.errors import BadRequest, DoesNotFit
from iak.pipeline.sharding.quantised import row_bytes
from infra.benchmarks import tables
from infra.benchmarks.specs import BenchTablesSpec

pytestmark = pytest.mark.slow

CONFIGS = Path("infra/benchmarks/configs")


def spec_of(name, **changes):
    return BenchTablesSpec.model_validate(
        tomllib.loads((CONFIGS / name).read_text()) | {"smoke": True} | changes
    )


def test_the_smoke_size_tells_a_whole_story(tmp_path):
    spec, told = spec_of("smoke/tables.toml", out=tmp_path), []
    lines, targets, notes, limits = tables.measure(spec, told.append)
    assert [line["rows"] for line in lines] == [*spec.smaller, spec.rows]
    for line in lines:
        held = -(-line["rows"] // 2) * row_bytes("int8", spec.dim)
        assert line["bytes_per_worker"] == [held, held]
        assert line["rows_compared"] == 2 * spec.checked_rows
        assert len(line["slice_p50_ms"]) == spec.repeats
        assert 0 < line["lookup_p50_ms"] < line["step_p50_ms"] <= line["step_p90_ms"]
        rates = [value for name, value in line.items() if name.endswith("_per_s")]
        assert len(rates) == 4
        assert min(rates) > 0
        assert line["ratio"] == line["step_p50_ms"] / lines[0]["step_p50_ms"]
    (target,) = targets
    assert target.is_met == (lines[-1]["ratio"] <= tables.MOST)
    assert bool(target.note) != target.is_met
    assert any("half uniform" in note for note in notes)
    assert limits["worker_bytes_per_s"] > 0
    assert told[-1]["what"] == "slices"
    assert not list(tmp_path.iterdir())


def test_a_table_that_does_not_fit_is_refused_before_it_is_written(tmp_path):
    spec = spec_of("tables.toml", out=tmp_path, rows=10**11)
    with pytest.raises(DoesNotFit, match=r"need 1\d{3}\.\d GiB"):
        tables.measure(spec, lambda _: None)


def test_rows_that_cannot_differ_are_refused(tmp_path):
    spec = spec_of("tables.toml", out=tmp_path, dim=2)
    with pytest.raises(BadRequest, match="cannot all differ"):
        tables.measure(spec, lambda _: None)
