import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from iak.pipeline.errors import BadRequest, DoesNotFit
from iak.pipeline.sharding.row_format import row_bytes
from infra.benchmarks import tables
from infra.benchmarks.specs import BenchTablesSpec

pytestmark = pytest.mark.slow

CONFIGS = Path("infra/benchmarks/configs")


def spec_of(name, **changes):
    return BenchTablesSpec.model_validate(
        tomllib.loads((CONFIGS / name).read_text()) | {"smoke": True} | changes
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """What a bench of the smoke size came to."""
    folder, told = tmp_path_factory.mktemp("smoke"), []
    spec = spec_of("smoke/tables.toml", out=folder)
    result = tables.measure(spec, told.append)
    lines, targets, notes, limits = result.rows, result.targets, result.notes, result.limits
    return SimpleNamespace(
        spec=spec,
        folder=folder,
        lines=lines,
        targets=targets,
        notes=notes,
        limits=limits,
        told=told,
    )


def test_every_size_has_a_line_with_what_each_worker_holds(smoke):
    spec = smoke.spec
    assert [line["rows"] for line in smoke.lines] == [*spec.smaller, spec.rows]
    for line in smoke.lines:
        held = -(-line["rows"] // 2) * row_bytes("int8", spec.dim)
        assert line["bytes_per_worker"] == [held, held]
        assert line["rows_compared"] == 2 * spec.checked_rows


def test_a_step_takes_longer_than_its_lookup(smoke):
    for line in smoke.lines:
        assert len(line["slice_p50_ms"]) == smoke.spec.repeats
        assert 0 < line["lookup_p50_ms"] < line["step_p50_ms"] <= line["step_p90_ms"]
        rates = [value for name, value in line.items() if name.endswith("_per_s")]
        assert len(rates) == 4
        assert min(rates) > 0


def test_times_are_relative_to_the_smallest_table_and_the_target_is_of_the_largest(smoke):
    for line in smoke.lines:
        assert line["ratio"] == line["step_p50_ms"] / smoke.lines[0]["step_p50_ms"]
    (target,) = smoke.targets
    assert target.is_met == (smoke.lines[-1]["ratio"] <= tables.MAX_STEP_RATIO)
    assert bool(target.note) != target.is_met


def test_notes_limits_and_progress_are_told_and_no_table_stays(smoke):
    assert any("half uniform" in note for note in smoke.notes)
    assert smoke.limits["worker_bytes_per_s"] > 0
    assert smoke.told[-1]["what"] == "slices"
    assert not list(smoke.folder.iterdir())


def test_a_table_that_does_not_fit_is_refused_before_it_is_written(tmp_path):
    spec = spec_of("tables.toml", out=tmp_path, rows=10**11)
    with pytest.raises(DoesNotFit, match=r"need 1\d{3}\.\d GiB"):
        tables.measure(spec, lambda _: None)


def test_rows_that_cannot_differ_are_refused(tmp_path):
    spec = spec_of("tables.toml", out=tmp_path, dim=2)
    with pytest.raises(BadRequest, match="cannot all differ"):
        tables.measure(spec, lambda _: None)
