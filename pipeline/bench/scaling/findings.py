"""Turn measurements and simulations into lines of tables, each marked as one of the two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iak.pipeline.bench.scaling.links import Counted as CountedBytes
from iak.pipeline.bench.scaling.links import (
    Curve,
    Link,
    Model,
    efficiency,
    every_worker,
    owners_of_history,
    traffic_of,
)
from iak.pipeline.bench.scaling.measured import Measured, counted_of
from iak.pipeline.bench.scaling.timeline import COMPUTE, INPUT, WAITING
from iak.pipeline.bench.scaling.workloads import NAMES, PRETRAINING
from iak.pipeline.bench.wide_log import MEAN_HISTORY
from iak.schemas.bench import BenchScalingSpec
from iak.schemas.record import BenchmarkLine, Target
from iak.schemas.scaling_result import (
    BytesLine,
    ErrorLine,
    MeasuredLine,
    Scaling,
    SharesLine,
    SimulatedLine,
)

SCALINGS: tuple[Scaling, ...] = ("strong", "weak")
MAX_ERROR = 0.25
"""Largest error of the simulation, as a share of a measured step, with which it is believed."""
_KIB = 1024
Sent = Mapping[int, Mapping[str, tuple[float, Mapping[str, float]]]]
"""By number of workers and workload: rows of a worker's step, bytes it sent by collective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that the benchmark measured and counted."""

    spec: BenchScalingSpec
    measured: Sequence[Measured]
    counted: Sent
    """Bytes that were counted on more workers than were timed."""
    link: Link
    """Link of this machine's own loopback."""

    def at(self, name: str, workers: int, wanted_rows: int) -> Measured:
        """Return a workload on `workers` workers with `wanted_rows` rows each."""
        key = (name, workers, wanted_rows)
        return next(m for m in self.measured if (m.name, m.workers, m.wanted_rows) == key)

    def of(self, name: str, scaling: Scaling, workers: int) -> Measured:
        """Return a workload under a law of scaling."""
        return self.at(name, workers, rows_of_worker(self.spec, scaling, workers))

    def alone(self, name: str) -> float:
        """Return the rows per second of one worker."""
        return self.at(name, 1, self.spec.batch_rows).rows_per_s


def rows_of_worker(spec: BenchScalingSpec, scaling: Scaling, workers: int) -> int:
    """Return a worker's rows per step: its part in strong scaling, all of them in weak scaling."""
    return max(spec.batch_rows // workers, 1) if scaling == "strong" else spec.batch_rows


def model_of(findings: Findings, name: str) -> Model:
    """Return the simulation of a workload, from one worker's times and several workers' bytes."""
    own = [m for m in findings.measured if m.name == name]
    lone = [m for m in own if m.workers == 1]
    most = max(own, key=lambda m: (m.workers, m.rows))
    owners = every_worker if name == PRETRAINING else owners_of_history(MEAN_HISTORY)
    traffic = []
    for collective, calls in most.calls.items():
        points = counted_of(own, name, collective)
        for workers, sent in findings.counted.items():
            rows, by_name = sent[name]
            points.append(
                CountedBytes(workers=workers, rows=rows, sent=by_name.get(collective, 0.0))
            )
        traffic.append(traffic_of(collective, points, calls=calls, owners=owners))
    return Model(
        compute=Curve.through([(m.rows, m.step_s - m.parts[INPUT]) for m in lone]),
        input=Curve.through([(m.rows, m.parts[INPUT]) for m in lone]),
        traffic=traffic,
    )


def lines_of(findings: Findings) -> list[BenchmarkLine]:
    """Return every line, the measured ones first."""
    models = {name: model_of(findings, name) for name in NAMES}
    return [
        *(_measured_line(findings, n, s, w) for n, s, w in _cases(findings.spec.workers)),
        *(_shares_line(findings, n, s, w) for n, s, w in _cases(findings.spec.workers)),
        *_bytes_lines(findings, models),
        *(
            _error_line(findings, models[n], n, s, w)
            for n, s, w in _cases(findings.spec.workers[1:])
        ),
        *_simulated_lines(findings, models),
    ]


def _cases(workers: Sequence[int]) -> list[tuple[str, Scaling, int]]:
    return [(name, scaling, count) for name in NAMES for scaling in SCALINGS for count in workers]


def _measured_line(findings: Findings, name: str, scaling: Scaling, workers: int) -> MeasuredLine:
    m = findings.of(name, scaling, workers)
    reached = efficiency(m.rows_per_s, alone=findings.alone(name), workers=workers)
    return MeasuredLine(
        workload=name,
        scaling=scaling,
        workers=workers,
        rows_a_worker=round(m.rows, 1),
        step_ms=round(1e3 * m.step_s, 3),
        rows_per_s=round(m.rows_per_s),
        efficiency=round(reached, 4),
        slowest_over_fastest_slice=round(m.spread, 2),
        sent_kib_a_step=round(sum(m.sent.values()) / _KIB, 1),
        sent_kib_by_collective={n: round(sent / _KIB, 2) for n, sent in m.sent.items()},
        collectives_a_step={n: round(calls, 2) for n, calls in m.calls.items()},
        profiled_step_ms=round(1e3 * m.profiled_s, 3),
    )


def _shares_line(findings: Findings, name: str, scaling: Scaling, workers: int) -> SharesLine:
    m = findings.of(name, scaling, workers)
    kinds = dict.fromkeys(
        [INPUT, COMPUTE, WAITING, *(n for o in findings.measured for n in o.parts)]
    )
    shares = {kind: round(m.parts.get(kind, 0.0) / m.step_s, 4) for kind in kinds}
    return SharesLine.model_validate(
        {"workload": name, "scaling": scaling, "workers": workers, **shares}
    )


def _bytes_lines(findings: Findings, models: Mapping[str, Model]) -> list[BytesLine]:
    """Compare the counted bytes with those that the simulation assumes."""
    points = [(m.name, m.workers, m.rows, m.sent) for m in findings.measured if m.workers > 1] + [
        (name, workers, *findings.counted[workers][name])
        for workers in findings.counted
        for name in NAMES
    ]
    return [
        BytesLine(
            workload=name,
            workers=workers,
            rows_a_worker=round(rows, 1),
            collective=traffic.name,
            counted_kib=round(sent.get(traffic.name, 0.0) / _KIB, 2),
            simulated_kib=round(traffic.sent(workers, rows) / _KIB, 2),
        )
        for name, workers, rows, sent in points
        for traffic in models[name].traffic
    ]


def _error_line(
    findings: Findings, model: Model, name: str, scaling: Scaling, workers: int
) -> ErrorLine:
    """Return the error of the simulation of a measured case, over this machine's own loopback."""
    m = findings.of(name, scaling, workers)
    parts = model.parts(findings.link, workers=workers, rows=m.rows)
    predicted_s = sum(parts.values())
    collectives_s = predicted_s - parts[INPUT] - parts[COMPUTE]
    moved_s = sum(s for n, s in m.parts.items() if n not in (INPUT, COMPUTE, WAITING))
    return ErrorLine(
        workload=name,
        scaling=scaling,
        workers=workers,
        simulated_ms=round(1e3 * predicted_s, 3),
        measured_ms=round(1e3 * m.step_s, 3),
        error=round(predicted_s / m.step_s - 1, 4),
        simulated_compute_ms=round(1e3 * parts[COMPUTE], 3),
        measured_compute_ms=round(1e3 * m.parts[COMPUTE], 3),
        simulated_collectives_ms=round(1e3 * collectives_s, 3),
        measured_collectives_ms=round(1e3 * moved_s, 3),
        measured_waiting_ms=round(1e3 * m.parts[WAITING], 3),
    )


def _simulated_lines(findings: Findings, models: Mapping[str, Model]) -> list[SimulatedLine]:
    spec = findings.spec
    return [
        _simulated_line(findings, models[name], name, scaling, workers, gb_per_s)
        for gb_per_s in spec.link_gb_per_s
        for name, scaling, workers in _cases(spec.simulated)
    ]


def _simulated_line(
    findings: Findings, model: Model, name: str, scaling: Scaling, workers: int, gb_per_s: float
) -> SimulatedLine:
    spec = findings.spec
    rows = rows_of_worker(spec, scaling, workers)
    link = findings.link.behind(gb_per_s=gb_per_s, latency_us=spec.latency_us)
    parts = model.parts(link, workers=workers, rows=rows)
    step_s = sum(parts.values())
    rate = model.rows_per_s(link, workers=workers, rows=rows)
    alone = model.rows_per_s(link, workers=1, rows=spec.batch_rows)
    sent = sum(model.sent(workers=workers, rows=rows).values())
    return SimulatedLine(
        workload=name,
        scaling=scaling,
        link_gb_per_s=gb_per_s,
        workers=workers,
        rows_a_worker=rows,
        step_ms=round(1e3 * step_s, 3),
        rows_per_s=round(rate),
        efficiency=round(efficiency(rate, alone=alone, workers=workers), 4),
        input=round(parts[INPUT] / step_s, 4),
        compute=round(parts[COMPUTE] / step_s, 4),
        collectives=round(1 - (parts[INPUT] + parts[COMPUTE]) / step_s, 4),
        shares={kind: round(s / step_s, 4) for kind, s in parts.items()},
        sent_kib_a_step=round(sent / _KIB, 1),
        link_beats_loopback=link.byte_s < findings.link.byte_s,
    )


def targets_of(findings: Findings, lines: Sequence[BenchmarkLine]) -> list[Target]:
    """Return the target that the simulation predicts the measurements."""
    errors = [line for line in lines if isinstance(line, ErrorLine)]
    worst = max(errors, key=lambda line: abs(line.error))
    error = abs(worst.error)
    note = ""
    if error > MAX_ERROR:
        note = (
            f"{worst.workload}, {worst.scaling}, {worst.workers} workers: "
            f"{worst.simulated_ms:g} ms foreseen, {worst.measured_ms:g} measured; compute "
            f"{worst.simulated_compute_ms:g} against {worst.measured_compute_ms:g}, "
            f"collectives {worst.simulated_collectives_ms:g} against "
            f"{worst.measured_collectives_ms:g}, waiting 0 against "
            f"{worst.measured_waiting_ms:g}. Workers of one machine share its memory and caches "
            "and wait for the slower one; the model lets each have a machine of its own"
        )
    return [
        Target(
            name=f"largest error of the model on {findings.spec.workers[-1]} measured workers",
            wanted=f"at most {MAX_ERROR:g}",
            measured=round(error, 4),
            is_met=error <= MAX_ERROR,
            note=note,
        )
    ]


def notes_of(findings: Findings, cores: int) -> list[str]:
    """Return the notes that a reader needs to understand the numbers."""
    spec, loopback = findings.spec, findings.link
    return [
        f"Measured: {' and '.join(map(str, spec.workers))} gloo workers of one thread on {cores} "
        f"cores, over loopback; medians of {spec.repeats} slices, which all numbers of workers "
        f"take in turns. strong: {spec.batch_rows:,} rows a step over all workers; weak: "
        f"{spec.batch_rows:,} rows a step on each.",
        "Input is what a step waits for its rows: pre-training reads, encodes and batches them in "
        "a thread ahead of the steps, which takes from the same cores; tuning has read them and "
        "gathers them. Compute is all the rest.",
        "Shares come from a profile of their own, in which workers meet before each collective "
        "(waiting) and none overlaps with compute: what overlaps in truth counts as the "
        "collective's. Watching slows compute, so that it is what is left of the undisturbed step.",
        "Tuning moves one pooled kernel on int8 tables; its rows are cut into whole steps, which "
        "hold a little more or less than was asked for. A step on P domains' kernels sends P times "
        "as many bytes of gradients.",
        "Simulated: compute and input are curves through what one lone worker was measured to "
        "take, a machine and a link for each, and efficiency is of the simulation's own lone "
        "worker; bytes follow from those counted on "
        f"{', '.join(map(str, [*spec.workers[1:], *findings.counted]))} workers, beside which the "
        "table of bytes shows what the simulation takes for them. A round of messages costs this "
        f"machine's software ({1e6 * loopback.wake_s:.0f} us), a message and its bytes the link.",
        f"gloo moves {1e-9 / max(loopback.byte_s, 1e-15):.2f} GB/s through this machine's "
        "loopback. Where `link_beats_loopback`, the simulation asks for a transport that costs the "
        "processors less (RDMA, NCCL).",
        "The simulation leaves out: stragglers and jitter, congestion and shared uplinks, storage "
        "that many readers share, cores that reading and neighbours take, overlap of collectives "
        "with compute, work that grows with the number of workers (sorting by owner, sums of "
        "partial sums), uneven shards, failures.",
    ]


def limits_of(link: Link) -> dict[str, float]:
    """Return the loopback's latency and bandwidth, for the record."""
    limits = {"loopback_wake_s": link.wake_s}
    return limits | ({"loopback_bytes_per_s": 1 / link.byte_s} if link.byte_s else {})
