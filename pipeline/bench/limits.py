"""Measure the ceilings of one core: bytes copied and floating-point products per second.

Each is the best of a few rounds within half a second, since other work can only slow a round.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

_SECONDS = 0.5
_COPIED_BYTES = 256 * 2**20
_SIDE = 1024


def measured_limits() -> dict[str, float]:
    """Return copy bandwidth (bytes read and written) and matmul rates of one core; takes 2 s."""
    with one_torch_thread():
        source = torch.ones(_COPIED_BYTES, dtype=torch.uint8)
        target = torch.empty_like(source)
        limits = {"copy_bytes_per_s": 2 * _COPIED_BYTES / _best_s(lambda: target.copy_(source))}
        for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
            left, right = (torch.ones(_SIDE, _SIDE, dtype=dtype) for _ in range(2))
            out = torch.empty_like(left)
            seconds = _best_s(partial(torch.mm, left, right, out=out))
            limits[f"matmul_{name}_flops_per_s"] = 2 * _SIDE**3 / seconds
    return limits


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute on the calling thread alone while the block lasts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def free_bytes() -> int | None:
    """Return the free memory in bytes; None where the system does not say."""
    info = Path("/proc/meminfo")
    return kib_of(info, "MemAvailable") if info.is_file() else None


def kib_of(path: Path, name: str) -> int | None:
    """Return a line `NAME:  123 kB` of a file of /proc, in bytes; None where it is missing."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return None


def _best_s(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest round."""
    end = time.perf_counter() + _SECONDS
    seconds: list[float] = []
    while not seconds or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
