"""The simulation's formulas, and shares that add up."""

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist

from iak.pipeline.bench import scaling
from iak.pipeline.bench.counters import moved
from iak.pipeline.bench.scaling import findings, measured
from iak.pipeline.bench.scaling.links import (
    Counted,
    Curve,
    Link,
    Model,
    Timed,
    Traffic,
    efficiency,
    every_worker,
    link_of,
    messages,
    owners_of_history,
    rounds,
    share_sent,
    traffic_of,
)
from iak.pipeline.bench.scaling.measured import CaseResult, WorkerResult
from iak.pipeline.bench.scaling.timeline import COMPUTE, INPUT, WAITING, Profile, Timeline, parts_of
from iak.pipeline.bench.scaling.turns import Turns
from iak.pipeline.bench.scaling.workloads import NAMES, Took
from iak.pipeline.errors import BadRequest
from iak.pipeline.process import process_group, run_on_workers
from iak.schemas.bench import BenchScalingSpec

LINK = Link(wake_s=1e-4, byte_s=1e-9)
PART, WHOLE = torch.zeros(24), object()
"""96 bytes of a worker, and those of all workers side by side."""


@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("allreduce", ([PART],)),
        ("broadcast", ([PART],)),
        ("alltoall_base", (PART, PART, None, [], [])),
        ("reduce_scatter_base", (PART, WHOLE)),
        ("allgather_base", (WHOLE, PART)),
        ("barrier", ()),
    ],
)
def test_the_simulation_sends_what_the_counter_counts(name, args, workers):
    args = [PART.repeat(workers) if arg is WHOLE else arg for arg in args]
    sent, _ = moved(name, args, rank=0, world=workers)
    assert share_sent(name, workers) * 96 == pytest.approx(sent)


def test_a_collective_nobody_has_met_is_refused():
    with pytest.raises(NotImplementedError, match="gather"):
        share_sent("gather", 4)


@pytest.mark.parametrize(
    ("name", "rounds_", "messages_"),
    [("allreduce", 14, 14), ("alltoall_base", 1, 7), ("allgather_base", 7, 7), ("broadcast", 3, 3)],
)
def test_rounds_follow_each_other_and_all_to_all_has_one(name, rounds_, messages_):
    assert (rounds(name, 8), messages(name, 8)) == (rounds_, messages_)


def test_a_link_costs_its_rounds_its_messages_and_its_bytes():
    far = LINK.behind(gb_per_s=100, latency_us=50)
    summed = far.seconds("allreduce", calls=2, sent=3e6, workers=4)
    assert summed == pytest.approx(2 * 6 * (1e-4 + 5e-5) + 3e-5)
    exchanged = far.seconds("alltoall_base", calls=1, sent=0.0, workers=4)
    assert exchanged == pytest.approx(1e-4 + 3 * 5e-5)


def test_a_network_sets_the_pace_of_bytes():
    assert LINK.behind(gb_per_s=0.1, latency_us=0).byte_s == pytest.approx(1e-8)
    assert LINK.behind(gb_per_s=100, latency_us=0).byte_s == pytest.approx(1e-11)


def test_a_link_is_found_again_from_what_it_takes():
    points = [
        Timed(
            name=name,
            workers=2,
            sent=share_sent(name, 2) * size,
            seconds=LINK.seconds(name, calls=1, sent=share_sent(name, 2) * size, workers=2),
        )
        for name in ("allreduce", "alltoall_base")
        for size in (2**10, 2**20, 2**24)
    ]
    found = link_of(points)
    assert (found.wake_s, found.byte_s) == pytest.approx((LINK.wake_s, LINK.byte_s))


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [(64, 0.1), (2048, 0.3), (4096, 0.7), (1056, 0.2), (3072, 0.5), (6144, 1.1), (0, 0.0935)],
)
def test_a_curve_goes_through_what_was_measured_and_on(rows, seconds):
    curve = Curve.through([(2048, 0.3), (64, 0.1), (4096, 0.7)])
    assert curve.seconds(rows) == pytest.approx(seconds, rel=1e-3)


def test_no_time_is_negative_and_one_measured_size_stands_for_all_in_proportion():
    assert Curve.through([(10, 0.1), (20, 0.3)]).seconds(1) == 0.0
    assert Curve.through([(10, 0.1), (10, 0.1)]).seconds(5) == pytest.approx(0.05)


@pytest.mark.parametrize("owners", [every_worker, owners_of_history(20)])
def test_sizes_are_found_again_from_bytes_on_a_few_workers(owners):
    true = Traffic(
        name="alltoall_base", calls=3, fixed=0.0, per_row=900.0, grown_per_row=120.0, owners=owners
    )
    points = [
        Counted(workers=workers, rows=rows, sent=true.sent(workers, rows))
        for workers, rows in ((1, 4096), (2, 4096), (2, 2048), (4, 2048))
    ]
    found = traffic_of("alltoall_base", points, calls=3, owners=owners)
    assert found.sent(64, 64) == pytest.approx(true.sent(64, 64), rel=1e-3)


def test_what_is_summed_over_all_workers_does_not_grow_with_them():
    points = [Counted(workers=w, rows=r, sent=share_sent("allreduce", w) * 8e6)
              for w, r in ((2, 4096), (2, 2048), (4, 1024))]  # fmt: skip
    found = traffic_of("allreduce", points, calls=1, owners=every_worker)
    assert found.sent(64, 10) == pytest.approx(2 * 63 / 64 * 8e6, rel=1e-3)


def test_a_collective_that_only_one_worker_makes_sends_nothing():
    found = traffic_of("alltoall_base", [Counted(workers=1, rows=9, sent=0.0)], calls=1,
                       owners=every_worker)  # fmt: skip
    assert found.sent(8, 100) == 0.0


@pytest.mark.parametrize(("workers", "owners"), [(1, 1.0), (2, 2.0), (64, 17.29), (10**6, 20.0)])
def test_a_history_lies_on_at_most_as_many_workers_as_it_has_ids(workers, owners):
    assert owners_of_history(20)(workers) == pytest.approx(owners, rel=1e-3)


def test_efficiency_is_of_as_many_lone_workers():
    assert efficiency(150.0, alone=100.0, workers=2) == 0.75


def profile(**changes):
    fields = {"step_s": 1.0, "input_s": 0.1, "waiting_s": 0.2, "moving_s": {"allreduce": 0.3},
              "sent": {}, "calls": {"allreduce": 1.0}}  # fmt: skip
    return Profile(**fields | changes)


def test_collectives_take_what_they_took_and_watching_slows_the_rest():
    parts = parts_of([profile(), profile(waiting_s=0.0)], step_s=0.85, input_s=0.05)
    assert sum(parts.values()) == pytest.approx(0.85)
    left = 0.85 - 0.05 - 0.3
    waited = 0.1 / (1.0 - 0.1 - 0.3)
    assert parts == pytest.approx(
        {INPUT: 0.05, COMPUTE: left * (1 - waited), WAITING: left * waited, "allreduce": 0.3}
    )


def test_where_collectives_took_longer_than_the_step_all_take_the_profiles_proportion():
    parts = parts_of([profile()], step_s=0.2, input_s=0.05)
    wanted = {INPUT: 0.05, COMPUTE: 0.4 / 6, WAITING: 0.2 / 6, "allreduce": 0.3 / 6}
    assert parts == pytest.approx(wanted)


def test_a_step_that_only_waits_for_rows_has_no_other_part():
    parts = parts_of([profile()], step_s=0.5, input_s=0.6)
    assert parts[INPUT] == 0.5
    assert sum(parts.values()) == pytest.approx(0.5)


def test_a_lone_worker_sends_nothing_in_the_simulation():
    traffic = traffic_of("allreduce", [Counted(workers=2, rows=4, sent=8.0)], calls=1,
                         owners=every_worker)  # fmt: skip
    model = Model(
        compute=Curve(((1, 0.1), (8, 0.1))), input=Curve(((1, 0.0), (8, 0.0))), traffic=[traffic]
    )
    assert sum(model.parts(LINK, workers=1, rows=4).values()) == 0.1
    assert sum(model.parts(LINK, workers=2, rows=4).values()) == pytest.approx(0.1 + 2e-4 + 8e-9)
    assert model.rows_per_s(LINK, workers=1, rows=4) == pytest.approx(40.0)


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
    rows = findings.rows_of(found)
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
    (target,) = findings.targets_of(found, rows)
    assert target.is_met == is_met
    assert bool(target.note) != is_met
    assert all(r["counted_kib"] == r["simulated_kib"]
               for r in by_table["bytes a worker sends in a step"])  # fmt: skip
    assert findings.notes_of(found, cores=2)


def test_collectives_are_timed_by_name_ddps_own_included():
    def backward_and_sum():
        replica = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 8))
        with Timeline() as timeline:
            replica(torch.ones(2, 8)).sum().backward()
            work = dist.all_reduce(torch.ones(4), async_op=True)
            work.wait()
            dist.all_to_all_single(torch.ones(2), torch.ones(2))
        return timeline

    with process_group(0, 1, backend="gloo"):
        timeline = backward_and_sum()
    assert timeline.calls == {"allreduce": 2, "alltoall_base": 1}
    assert set(timeline.moving_s) == set(timeline.calls)
    assert min(timeline.moving_s.values()) > 0
    assert timeline.waiting_s > 0


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


def write_in_turn(worker, turns, group, place, fails):
    for number in range(3):
        with turns.turn(group, worker):
            if fails and number == 1:
                raise OSError("the disk is full")
            if worker.rank == 0:
                with place.open("a") as file:
                    file.write(f"{group}")
    return worker.rank


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_groups_take_turns_and_none_waits_for_one_that_failed(fails, tmp_path):
    place, turns, errors = tmp_path / "order", Turns(2), []

    def run(group, world):
        try:
            run_on_workers(write_in_turn, world, turns, group, place, fails and group == 1)
        except (OSError, RuntimeError) as error:
            errors.append(error)
            turns.stop()

    threads = [threading.Thread(target=run, args=(g, w)) for g, w in ((0, 1), (1, 2))]
    for thread in threads:
        thread.start()
    turns.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    if fails:
        assert isinstance(errors[0], OSError)
        assert "another group" in str(errors[1])
    else:
        assert place.read_text() == "010101"
        assert not errors
