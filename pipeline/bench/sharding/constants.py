"""Measure the machine's rates per worker while all workers work, and describe it for `iak plan`.

`MachineRates` of `schemas/sharding_result.py` says what each rate is.
"""

import json
import os
import platform
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from iak.pipeline.bench.counters import Wire
from iak.pipeline.bench.ids import drawn
from iak.pipeline.bench.sharding.layouts import PlacedTable, ids_of, settle
from iak.pipeline.process import Worker
from iak.schemas.base import JsonObject
from iak.schemas.bench import BenchShardingSpec
from iak.schemas.cluster import ClusterSpec, ConstantsSpec
from iak.schemas.sharding_result import HostResult, MachineRates

_ROUNDS = 7
_COPIED_ELEMENTS = 1 << 24
_SIDE = 1024
_TRUNK = (2048, 256, 256)
_MOVED_TIMES = 3
"""A row that is trained is read for its sum, and read and written for its update."""
_SMALL_ROWS = 1
_RESERVE = ConstantsSpec().reserve_share


def of_machine(worker: Worker, *, link_bytes: int) -> dict[str, float]:
    """Measure memory, products and links; a collective call."""
    device = worker.device
    source = torch.ones(_COPIED_ELEMENTS, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.numel() * source.element_size()
    measured = {"copy_bytes_per_s": copied / _best_s(lambda: target.copy_(source), worker)}
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        rate = _flops_per_s((_SIDE, _SIDE, _SIDE), dtype, worker)
        measured[f"matmul_{name}_flops_per_s"] = rate
    measured["trunk_flops_per_s"] = _flops_per_s(_TRUNK, torch.float32, worker)
    one = torch.ones(1, device=device)
    measured["collective_s"] = _median_s(lambda: dist.all_reduce(one), worker)
    if worker.world > 1:
        sent = torch.ones(max(link_bytes // 4 // worker.world, 1) * worker.world, device=device)
        received = torch.empty_like(sent)
        leaving = 4 * sent.numel() * (worker.world - 1) / worker.world
        seconds = _best_s(lambda: dist.all_to_all_single(received, sent), worker)
        measured["link_bytes_per_s"] = leaving / seconds
    return measured


def of_steps(table: PlacedTable, worker: Worker, *, rows: int) -> dict[str, float]:
    """Measure the lookup rate of a trained table, and the fixed cost of a step; a collective call.

    Args:
        table: trained, cut by rows over the workers.
        worker: this worker.
        rows: rows of the log in this worker's step.
    """
    size = table.size
    draw = torch.Generator().manual_seed(worker.rank)
    per_row = size.ids_per_row
    ids_I = drawn("uniform", rows * per_row, table.own_rows, draw).to(worker.device)
    offsets_O = torch.arange(0, len(ids_I) + 1, per_row, device=worker.device)
    seconds = _median_s(lambda: table.update_own_rows(ids_I, offsets_O), worker)
    small = ids_of(size, rows=_SMALL_ROWS, worker=worker, seed=0)
    wire = Wire()
    with wire:
        table.step(small)
    step_s = _median_s(lambda: table.step(small), worker)
    return {
        "lookup_bytes_per_s": _MOVED_TIMES * len(ids_I) * size.width * 4 / seconds,
        "step_s": step_s,
        "step_collectives": float(sum(wire.calls.values())),
    }


def agreed(measured: Mapping[str, float], worker: Worker) -> MachineRates:
    """Return the slowest rate and the longest time of all workers; a collective call."""
    gathered: list[Any] = [None] * worker.world
    dist.all_gather_object(gathered, dict(measured))
    result = {}
    for name in measured:
        of_all = [constants[name] for constants in gathered]
        result[name] = min(of_all) if name.endswith("_per_s") else max(of_all)
    collectives = result.pop("step_collectives", 0.0)
    if "step_s" in result:
        beside = result["step_s"] - collectives * result["collective_s"]
        result["step_s"] = max(beside, 0.0)
    return MachineRates.model_validate(result)


def hosts(worker: Worker) -> tuple[HostResult, ...]:
    """Return each machine, its workers, and its memory; a collective call."""
    gathered: list[Any] = [None] * worker.world
    dist.all_gather_object(gathered, _host(worker))
    workers = Counter(host.name for host in gathered)
    by_name = {host.name: host for host in gathered}
    return tuple(
        host.model_copy(update={"workers": workers[name]}) for name, host in by_name.items()
    )


def cluster_of(
    spec: BenchShardingSpec, rates: MachineRates, machines: Sequence[HostResult], record: Path
) -> ClusterSpec:
    """Describe these machines as `iak plan` reads them.

    Args:
        spec: the settings of the benchmark.
        rates: rates from `agreed`.
        machines: machines from `hosts`, at least one.
        record: path of the record, for the note in the cluster file.
    """
    here, default = machines[0], ConstantsSpec()
    copied = rates.copy_bytes_per_s
    link = rates.link_bytes_per_s or copied
    looked_up = rates.lookup_bytes_per_s or copied * default.lookup_efficiency
    trunk = rates.trunk_flops_per_s / rates.matmul_fp32_flops_per_s
    step_s = default.step_ms / 1e3 if rates.step_s is None else rates.step_s
    return ClusterSpec(
        name="measured",
        device=here.device,
        accelerator=here.accelerator,
        nodes=len(machines),
        devices_per_node=here.workers,
        device_memory_gib=rounded((here.device_bytes or here.bytes / here.workers) / 2**30),
        host_memory_gib=rounded(here.bytes / 2**30),
        cores_per_node=here.cores,
        device_gb_per_s=rounded(copied / 1e9),
        intra_gb_per_s=rounded(link / 1e9),
        inter_gb_per_s=rounded(link / 1e9),
        tflops_fp32=rounded(rates.matmul_fp32_flops_per_s / 1e12),
        tflops_bf16=rounded(rates.matmul_bf16_flops_per_s / 1e12),
        constants=ConstantsSpec(
            lookup_efficiency=rounded(min(looked_up / copied, 1.0)),
            matmul_efficiency=rounded(min(trunk, 1.0)),
            network_efficiency=1.0,
            collective_us=rounded(1e6 * rates.collective_s),
            step_ms=rounded(1e3 * step_s),
            reserve_share=_RESERVE,
            measured=str(record),
        ),
        note=_note(spec, rates, machines),
    )


def toml_of(cluster: ClusterSpec) -> str:
    """Return the cluster as a settings file."""
    document = cluster.model_dump(exclude_none=True)
    constants = document.pop("constants")
    head = "# Measured by `iak bench sharding`; `iak plan` reads it as a cluster."
    lines = [head, "", *_settings(document), "", "[constants]", *_settings(constants)]
    return "\n".join(lines) + "\n"


def _settings(document: JsonObject) -> list[str]:
    """Return lines of TOML; strings and numbers are spelled as in JSON."""
    return [f"{name} = {json.dumps(value)}" for name, value in document.items()]


def _note(spec: BenchShardingSpec, rates: MachineRates, machines: Sequence[HostResult]) -> str:
    """Return a note on how each constant was measured, or that it was not."""
    parts = [
        f"measured by {spec.workers} workers at once: bandwidths are the slowest worker's, a link "
        f"is its share of an all-to-all of {spec.link_mib:g} MiB, so network_efficiency is 1"
    ]
    if len(machines) > 1:
        parts.append("links within and between machines were not measured apart")
    elif spec.workers > 1:
        parts.append("one machine: inter_gb_per_s is that of its own workers, set it for more")
    if rates.link_bytes_per_s is None:
        parts.append("one worker has no link: its memory's bandwidth stands for it")
    if rates.lookup_bytes_per_s is None:
        parts.append("no trained table cut by rows ran: lookup_efficiency and step_ms are assumed")
    if machines[0].bytes_are_assumed:
        parts.append("the machine's memory is unknown, 1 GiB is written")
    parts.append("rows_per_s_core and reserve_share are assumed")
    return "; ".join(parts)


def _host(worker: Worker) -> HostResult:
    """Describe this worker's machine."""
    is_cuda = worker.device.type == "cuda"
    memory = _host_bytes()
    card = torch.cuda.get_device_properties(worker.device) if is_cuda else None
    return HostResult(
        name=socket.gethostname(),
        device=worker.device.type,
        accelerator=card.name if card else platform.processor() or platform.machine(),
        device_bytes=card.total_memory if card else None,
        bytes=memory or 2**30,
        bytes_are_assumed=memory is None,
        cores=os.cpu_count() or 1,
    )


def _host_bytes() -> int | None:
    """Return the bytes of this machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _flops_per_s(sides: tuple[int, int, int], dtype: torch.dtype, worker: Worker) -> float:
    rows, inner, outer = sides
    left = torch.ones(rows, inner, dtype=dtype, device=worker.device)
    right = torch.ones(inner, outer, dtype=dtype, device=worker.device)
    out = torch.empty(rows, outer, dtype=dtype, device=worker.device)
    return 2 * rows * inner * outer / _best_s(lambda: torch.mm(left, right, out=out), worker)


def _best_s(work: Callable[[], object], worker: Worker) -> float:
    return min(_rounds_s(work, worker))


def _median_s(work: Callable[[], object], worker: Worker) -> float:
    return statistics.median(_rounds_s(work, worker))


def _rounds_s(work: Callable[[], object], worker: Worker) -> list[float]:
    """Return the seconds of each round but the first; all workers start together."""
    seconds = []
    for _ in range(_ROUNDS + 1):
        settle(worker)
        dist.barrier()
        started = time.perf_counter()
        work()
        settle(worker)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def rounded(value: float) -> float:
    """Round to four digits: the rest is noise."""
    return float(f"{value:.4g}")
