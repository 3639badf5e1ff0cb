"""Lines of the scaling bench: measured, simulated, and the target."""

from types import SimpleNamespace

import pytest

from iak.pipeline.bench import scaling
from iak.pipeline.bench.scaling import findings, measured
from iak.pipeline.bench.scaling.links import (
    Link,
)
from iak.pipeline.bench.scaling.measured import CaseResult, WorkerResult
from iak.pipeline.bench.scaling.timeline import COMPUTE, INPUT, Profile
from iak.pipeline.bench.scaling.workloads import NAMES, Took
from iak.pipeline.errors import BadRequest
from iak.schemas.bench import BenchScalingSpec

LINK = Link(wake_s=1e-4, byte_s=1e-9)


def seen(name, rows, workers, *, seconds):
    moving = {"allreduce": 0.1 * seconds} if workers > 1 else {}
    took = Took(steps=1, rows=rows * workers, seconds=seconds, input_s=0.0)
    return CaseResult(
        name=name,
        rows=rows,
        took=(took,),
        profile=Profile(
            step_s=seconds,
            input_s=0.0,
            waiting_s=0.0,
            moving_s=moving,
            sent=dict.fromkeys(moving, 1000000.0),
            calls=dict.fromkeys(moving, 1.0),
        ),
    )


def measured_findings(spec, *, slower):
    """One worker takes 1 ms a row; of two, each takes `slower` times that."""
    by_count = {
        workers: [
            WorkerResult(
                cases=tuple(
                    seen(n, rows, workers, seconds=1e-3 * rows * (slower if workers > 1 else 1))
                    for n in NAMES
                    for rows in measured.grid_of(spec)
                ),
                alone=(),
            )
        ]
        * workers
        for workers in spec.workers
    }
    counted = {4: {name: (32.0, {"allreduce": 1.5e6}) for name in NAMES}}
    return findings.Findings(
        spec=spec, measured=measured.together(by_count), counted=counted, link=LINK
    )


@pytest.mark.parametrize(("slower", "is_met"), [(1.0, True), (2.0, False)])
def test_lines_tell_measured_from_simulated_and_the_model_from_what_it_missed(slower, is_met):
    spec = BenchScalingSpec(batch_rows=64, simulated=(8,), link_gb_per_s=(1.25,))
    found = measured_findings(spec, slower=slower)
    lines = findings.lines_of(found)
    rows = [line.as_row() for line in lines]
    by_table = {}
    for row in rows:
        by_table.setdefault(row["table"], []).append(row)
    reached = {(r["scaling"], r["workers"]): r["efficiency"] for r in by_table["measured"]}
    assert reached[("weak", 1)] == reached[("strong", 1)] == 1.0
    assert reached[("weak", 2)] == reached[("strong", 2)] == pytest.approx(1 / slower)
    for row in by_table["shares of a measured step"]:
        kinds = [v for k, v in row.items() if isinstance(v, float)]
        assert sum(kinds) == pytest.approx(1.0, abs=1e-3)
    assert {r["kind"] for r in by_table["simulated"]} == {"simulated"}
    for row in by_table["simulated"]:
        assert row[INPUT] + row[COMPUTE] + row["collectives"] == pytest.approx(1.0, abs=1e-3)
        assert 0 < row["efficiency"] < 1
    (target,) = findings.targets_of(found, lines)
    assert target.is_met == is_met
    assert bool(target.note) != is_met
    assert all(r["counted_kib"] == r["simulated_kib"]
               for r in by_table["bytes a worker sends in a step"])  # fmt: skip
    assert findings.notes_of(found, cores=2)


def test_more_workers_than_cores_are_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "os", SimpleNamespace(sched_getaffinity=lambda _: {0, 1}))
    spec = BenchScalingSpec(workers=(1, 2, 4), out=tmp_path, cache=tmp_path / "cache")
    with pytest.raises(BadRequest, match="4 workers cannot be measured on 2 cores"):
        scaling.measure(spec, lambda _: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [(2, 4), (1, 4, 2), (1,), (1, 1)])
def test_workers_begin_with_one_and_rise(workers):
    with pytest.raises(ValueError, match="workers"):
        BenchScalingSpec(workers=workers)
