"""Simulate the time of a step on more workers than there are cores.

    step(W, r) = compute(r) + input(r) + collectives(W, r)
    of a collective:  rounds(W) wake + messages(W) latency + sent(W, r) / beta

`compute` and `input` are curves through the measured seconds of one worker alone for r rows.
Messages and bytes have constant costs (Hockney 1994). A round in which every worker waits for
another one's message costs `wake` in software. Nothing overlaps. The bytes of a collective follow
pipeline.bench.counters, with rings for the sums, as gloo has them:

                                  rounds        messages      sent
    all_reduce                    2 (W - 1)     2 (W - 1)     2 (W - 1) / W  of its size
    reduce_scatter, all_gather      W - 1         W - 1         W - 1        times a worker's part
    all_to_all                      1             W - 1        (W - 1) / W   of its size
    broadcast                       log2 W        log2 W       (W - 1) / W   of its size

A size is fixed + rows (per_row + grown_per_row * owners(W)), fitted to the bytes counted on several
numbers of workers. `owners` is the number of workers on which the parts of something lie:
W (1 - (1 - 1 / W)^L) for the rows of a history of L ids, and W for a question to all workers.

Shapes: W workers, r rows of a worker's step.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from iak.pipeline.bench.scaling.timeline import COMPUTE, INPUT

Owners = Callable[[int], float]
_GROWING = ("alltoall", "alltoall_base")


def every_worker(workers: int) -> float:
    """Return the owners of something that lies on every worker."""
    return float(workers)


def owners_of_history(ids: int) -> Owners:
    """Return the mean number of workers on which the ids of a history lie, placed at random."""
    return lambda workers: workers * (1 - (1 - 1 / workers) ** ids)


def share_sent(name: str, workers: int) -> float:
    """Return the share of a collective's size that a worker sends; see the module's table.

    Raises:
        NotImplementedError: the collective is not in the table.
    """
    match name:
        case "allreduce":
            return 2 * (workers - 1) / workers
        case "alltoall" | "alltoall_base" | "broadcast":
            return (workers - 1) / workers
        case "reduce_scatter_base" | "allgather_base" | "allgather":
            return workers - 1
        case "barrier" | "monitored_barrier":
            return 0
    raise NotImplementedError(
        f"what collective {name} sends on more workers is not known; add it to {__name__}"
    )


def messages(name: str, workers: int) -> int:
    """Return the number of messages that a worker sends, one after the other."""
    if name == "allreduce":
        return 2 * (workers - 1)
    if name in ("broadcast", "barrier", "monitored_barrier"):
        return math.ceil(math.log2(workers))
    return workers - 1


def rounds(name: str, workers: int) -> int:
    """Return the number of times a worker waits for a message; all_to_all posts all at once."""
    return 1 if name in ("alltoall", "alltoall_base") else messages(name, workers)


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds as a function of rows: linear between measurements, and beyond the ends."""

    points: tuple[tuple[float, float], ...]
    """(rows, seconds), rows rising, two or more."""

    @classmethod
    def through(cls, points: Iterable[tuple[float, float]]) -> "Curve":
        """Return the curve through these points, in any order; one point gives a proportion."""
        by_rows = dict(points)
        start = {0.0: 0.0} if len(by_rows) == 1 else {}
        return cls(tuple(sorted({**start, **by_rows}.items())))

    def seconds(self, rows: float) -> float:
        """Return the seconds of a step of these rows on a worker; never below 0."""
        after = next((i for i, (r, _) in enumerate(self.points) if r >= rows), len(self.points) - 1)
        (r0, s0), (r1, s1) = self.points[max(after, 1) - 1], self.points[max(after, 1)]
        return max(s0 + (rows - r0) * (s1 - s0) / (r1 - r0), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Costs of a round, a message and a byte."""

    wake_s: float
    byte_s: float
    latency_s: float = 0.0
    """Latency of the network; on loopback it is part of `wake_s`."""

    def seconds(self, name: str, *, calls: float, sent: float, workers: int) -> float:
        """Return the seconds of a step's collectives of one name that send these bytes."""
        each_s = rounds(name, workers) * self.wake_s + messages(name, workers) * self.latency_s
        return calls * each_s + sent * self.byte_s

    def behind(self, *, gb_per_s: float, latency_us: float) -> "Link":
        """Return the link of the same software over a network of this latency and bandwidth."""
        return replace(self, latency_s=latency_us * 1e-6, byte_s=1e-9 / gb_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Measured time of one collective alone."""

    name: str
    workers: int
    sent: float
    seconds: float


def link_of(points: Sequence[Timed]) -> Link:
    """Fit the link that explains the measured collectives best, in relative error."""
    known = [[rounds(p.name, p.workers), p.sent] for p in points]
    wake_s, byte_s = _fitted(known, [p.seconds for p in points])
    return Link(wake_s=wake_s, byte_s=byte_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Bytes that a worker sent in a step by collectives of one name."""

    workers: int
    rows: float
    """Rows of the worker's step."""
    sent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """A workload's collectives of one name: calls per step, and the size as defined above."""

    name: str
    calls: float
    fixed: float
    per_row: float
    grown_per_row: float
    owners: Owners = every_worker

    def sent(self, workers: int, rows: float) -> float:
        """Return the bytes out of a worker in a step."""
        each = self.per_row + self.grown_per_row * self.owners(workers)
        return share_sent(self.name, workers) * (self.fixed + rows * each)


def traffic_of(name: str, points: Iterable[Counted], *, calls: float, owners: Owners) -> Traffic:
    """Fit the sizes that explain the counted bytes best; sums and gathers do not grow.

    Points of a single worker say nothing, and are left out.
    """
    known, sent = [], []
    for p in points:
        share = share_sent(name, p.workers)
        if p.workers > 1 and p.sent:
            grown = share * p.rows * owners(p.workers) if name in _GROWING else 0.0
            known.append([share, share * p.rows, grown])
            sent.append(p.sent)
    fixed, per_row, grown_per_row = _fitted(known, sent) if sent else (0.0, 0.0, 0.0)
    return Traffic(
        name=name,
        calls=calls,
        fixed=fixed,
        per_row=per_row,
        grown_per_row=grown_per_row,
        owners=owners,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Simulation of one workload."""

    compute: Curve
    input: Curve
    traffic: Sequence[Traffic]

    def parts(self, link: Link, *, workers: int, rows: float) -> dict[str, float]:
        """Return the seconds of a step by part, on `workers` workers with `rows` rows each."""
        parts = {INPUT: self.input.seconds(rows), COMPUTE: self.compute.seconds(rows)}
        if workers == 1:
            return parts
        for traffic in self.traffic:
            parts[traffic.name] = link.seconds(
                traffic.name,
                calls=traffic.calls,
                sent=traffic.sent(workers, rows),
                workers=workers,
            )
        return parts

    def rows_per_s(self, link: Link, *, workers: int, rows: float) -> float:
        """Return the rows per second over all workers."""
        return workers * rows / sum(self.parts(link, workers=workers, rows=rows).values())

    def sent(self, *, workers: int, rows: float) -> Mapping[str, float]:
        """Return the bytes out of a worker in a step, by collective."""
        return {t.name: t.sent(workers, rows) for t in self.traffic}


def efficiency(rate: float, *, alone: float, workers: int) -> float:
    """Return the rows per second on `workers` workers, over that many times one worker's."""
    return rate / (workers * alone)


def _fitted(known: Sequence[Sequence[float]], wanted: Sequence[float]) -> tuple[float, ...]:
    """Fit non-negative factors of the columns to the wanted sums, in relative error.

    Points below a hundredth of the largest weigh no more than that: tiny values are noise.
    """
    wanted_P = np.asarray(wanted, dtype=np.float64)
    weights_P = 1 / np.maximum(wanted_P, max(wanted_P.max() / 100, 1e-12))
    columns = np.asarray(known, dtype=np.float64) * weights_P[:, None]
    sizes = np.maximum(columns.max(axis=0), 1e-300)
    factors, _ = nnls(columns / sizes, wanted_P * weights_P)
    return tuple(float(f / s) for f, s in zip(factors, sizes, strict=True))
