"""The simulation's formulas: what a collective costs, and sizes fitted to counted bytes."""

import pytest
import torch

from iak.pipeline.bench.counters import moved
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


def test_a_lone_worker_sends_nothing_in_the_simulation():
    traffic = traffic_of("allreduce", [Counted(workers=2, rows=4, sent=8.0)], calls=1,
                         owners=every_worker)  # fmt: skip
    model = Model(
        compute=Curve(((1, 0.1), (8, 0.1))), input=Curve(((1, 0.0), (8, 0.0))), traffic=[traffic]
    )
    assert sum(model.parts(LINK, workers=1, rows=4).values()) == 0.1
    assert sum(model.parts(LINK, workers=2, rows=4).values()) == pytest.approx(0.1 + 2e-4 + 8e-9)
    assert model.rows_per_s(LINK, workers=1, rows=4) == pytest.approx(40.0)
