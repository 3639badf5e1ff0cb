"""Turn the workers' results into lines of a table, beside the planner's estimates."""

import statistics
from collections.abc import Mapping, Sequence

from iak.pipeline.bench.sharding.constants import rounded
from iak.pipeline.bench.sharding.layouts import LAYOUTS
from iak.pipeline.bench.sharding.sizes import Size
from iak.pipeline.bench.sharding.worker import Work
from iak.pipeline.bench.times import quantile
from iak.pipeline.sharding.cost_model import Bandwidths, Estimate, expected
from iak.schemas.sharding_result import (
    LauncherLine,
    LayoutLine,
    LayoutResult,
    MachineRates,
    ShardingResult,
)


def lines_of(work: Work, results: Mapping[str, ShardingResult]) -> list[LayoutLine]:
    """Return a line for each table, layout and launcher; those of one layout stand together."""
    return [
        _line(
            work,
            launcher,
            size,
            [by_table[table][layout] for by_table in result.workers],
            result,
        )
        for table, size in enumerate(work.sizes)
        for layout in range(len(LAYOUTS))
        for launcher, result in results.items()
    ]


def launchers_of(
    results: Mapping[str, ShardingResult], whole_s: Mapping[str, float]
) -> list[LauncherLine]:
    """Return a line for each launcher: seconds of measuring, and of starting and ending workers."""
    return [
        LauncherLine(
            launcher=name,
            whole_s=round(whole_s[name], 2),
            measuring_s=round(result.seconds, 2),
            start_and_end_s=round(whole_s[name] - result.seconds, 2),
        )
        for name, result in results.items()
    ]


def notes_of(work: Work, lines: Sequence[LayoutLine]) -> list[str]:
    """Return the notes that a reader needs to understand the numbers."""
    spec = work.spec
    notes = [
        f"All layouts of a table are in memory at once on {spec.workers} workers. They step in "
        f"slices of {spec.slice_steps}, in turns, {spec.repeats} times, after {spec.warmup_steps} "
        "warm-up steps before each slice. A step is as long as its slowest worker's.",
        f"A step has {spec.batch_rows:,} rows over all workers; every other id is uniform, the "
        "others Zipf's. Trained: lookup, backward pass, row-wise Adagrad. Frozen: the lookup.",
        "wire_kib leaves all workers in a step; held_mib is of the worker that holds most, "
        "optimiser included.",
        "planner_ms is TorchRec's estimate with its own constants, here_ms with this machine's "
        "measured ones; it knows TorchRec's exchange, which frozen tables do not use, and counts "
        "ids and sums in flight as memory of trained ones. It cannot count int4.",
        *_failures(lines),
    ]
    if spec.as_ray and spec.as_torchrun:
        notes.append(_ray_against_torchrun(lines))
    return notes


def _failures(lines: Sequence[LayoutLine]) -> list[str]:
    """Return each error once, with the combinations that had it."""
    met: dict[str, list[str]] = {}
    for line in lines:
        if line.error:
            where = f"{line.way} ({line.launcher}, {line.table})"
            met.setdefault(line.whole_error[0], []).append(where)
    return [f"Not measured: {', '.join(layouts)}: {error}" for error, layouts in met.items()]


def _ray_against_torchrun(lines: Sequence[LayoutLine]) -> str:
    """Compare the same steps under both launchers."""
    by_launcher: dict[str, dict[tuple[str, ...], float]] = {"ray": {}, "torchrun": {}}
    for line in lines:
        if line.p50_ms is not None:
            layout = (line.table, line.sharding, line.held, line.precision)
            by_launcher[line.launcher][layout] = line.p50_ms
    ray, torchrun = by_launcher["ray"], by_launcher["torchrun"]
    ratios = [ray[layout] / torchrun[layout] for layout in ray if layout in torchrun]
    if not ratios:
        return "No combination ran under both launchers."
    return (
        f"The same steps under Ray take {statistics.median(ratios):.3f} of their time under "
        f"torchrun (median of {len(ratios)}; from {min(ratios):.2f} to {max(ratios):.2f})."
    )


def _line(
    work: Work, launcher: str, size: Size, parts: Sequence[LayoutResult], result: ShardingResult
) -> LayoutLine:
    """Merge a layout's results over all workers into a line."""
    first = parts[0]
    line: dict[str, object] = {
        "table": size.title,
        "way": f"{first.kind.removesuffix('_wise')} {first.mode} {first.precision}",
        "launcher": launcher,
        "sharding": first.kind,
        "held": first.mode,
        "precision": first.precision,
    }
    if first.error:
        line |= {"error": first.error.partition(":")[0], "whole_error": (first.error,)}
        return LayoutLine.model_validate(line)
    measured = LayoutLine.model_validate(line | _measured(work, size, parts))
    plain, here = (
        _expected(work, size, first, result.hosts[0].device, bandwidths)
        for bandwidths in (None, _bandwidths(result.rates))
    )
    against = _against(measured, plain, here)
    return LayoutLine.model_validate(measured.as_row() | against | {"error": ""})


def _measured(work: Work, size: Size, parts: Sequence[LayoutResult]) -> dict[str, object]:
    """Return times, bytes and memory by column; a step is as long as its slowest worker's."""
    slices = [
        [max(step) for step in zip(*by_worker, strict=True)]
        for by_worker in zip(*(part.step_s for part in parts), strict=True)
    ]
    steps = [seconds for slice_ in slices for seconds in slice_]
    p50, p90 = quantile(steps, 0.5), quantile(steps, 0.9)
    rows = max(work.spec.batch_rows // work.spec.workers, 1) * work.spec.workers
    return {
        "p50_ms": round(1e3 * p50, 3),
        "p90_ms": round(1e3 * p90, 3),
        "lookups_per_s": round(rows * size.ids_per_row / p50),
        "wire_kib": round(sum(part.sent_bytes for part in parts) / 2**10, 1),
        "held_mib": round(max(part.held_bytes for part in parts) / 2**20, 3),
        "slice_p50_ms": tuple(round(1e3 * quantile(slice_, 0.5), 3) for slice_ in slices),
        "held_bytes_per_worker": tuple(part.held_bytes for part in parts),
        "sent_bytes_per_worker": tuple(round(part.sent_bytes) for part in parts),
        "received_bytes_per_worker": tuple(round(part.received_bytes) for part in parts),
        "collectives": tuple(f"{name} {count}" for name, count in parts[0].collectives.items()),
    }


def _expected(
    work: Work, size: Size, layout: LayoutResult, device_type: str, measured: Bandwidths | None
) -> Estimate | None:
    """Return the planner's estimate, where it has one."""
    return expected(
        size.shape,
        layout.kind,
        layout.precision,
        is_trained=layout.mode == "trained",
        world=work.spec.workers,
        device_type=device_type,
        local_rows=max(work.spec.batch_rows // work.spec.workers, 1),
        ids_per_row=size.ids_per_row,
        measured=measured,
    )


def _against(
    line: LayoutLine, plain: Estimate | None, here: Estimate | None
) -> dict[str, float | None]:
    """Return the planner's numbers by column, and the measured ones as multiples of them."""
    columns: dict[str, float | None] = {}
    for name, estimate in (("planner", plain), ("here", here)):
        estimated = None if estimate is None else rounded(estimate.step_ms)
        columns |= {f"{name}_ms": estimated, f"times_{name}": _times(line.p50_ms, estimated)}
    mib = None if plain is None else round(plain.held_bytes / 2**20, 3)
    return columns | {"planner_mib": mib, "times_planner_mib": _times(line.held_mib, mib)}


def _times(measured: float | None, estimate: float | None) -> float | None:
    return rounded(measured / estimate) if measured is not None and estimate else None


def _bandwidths(rates: MachineRates) -> Bandwidths:
    """Return the measured bandwidths; a single worker's link is its memory."""
    memory = rates.copy_bytes_per_s
    return Bandwidths(memory=memory, link=rates.link_bytes_per_s or memory)
