"""Count the bytes that a step sends and allocates, and its most expensive operators.

Bytes on the wire are counted where torch hands a collective to its process group (the `c10d`
operators), so that those of DDP and of autograd's backward pass are counted as well. Each rank's
bytes are those that must leave and reach it, whatever algorithm gloo takes:

    all_reduce of n bytes over W ranks   2 n (W - 1) / W   out, as much in (reduce-scatter, gather)
    reduce_scatter of n, all_gather to n   n (W - 1) / W   out, as much in
    all_to_all                           all but the rank's own part, each way
    broadcast of n from one               n (W - 1) / W   out and in, averaged over the ranks
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch import distributed as dist
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

Step = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Bytes, collectives and operators of one step on this worker."""

    sent_bytes: float
    received_bytes: float
    collectives: Mapping[str, int]
    peak_bytes: int
    """The most that the step allocated at once: activations, gradients and scratch."""
    top: tuple[tuple[str, float], ...]
    """The operators that take most of the time, and their shares."""


def cost_of(step: Step, *, steps: int = 1) -> Cost:
    """Count one call of `step`, and profile another; a collective call.

    Args:
        step: takes the step, or several of them.
        steps: steps that one call takes. Bytes are divided by them.
    """
    wire = Wire()
    with wire:
        step()
    peak, top = _profiled(step)
    return Cost(
        sent_bytes=wire.sent / steps,
        received_bytes=wire.received / steps,
        collectives={name: round(n / steps) for name, n in wire.calls.items()},
        peak_bytes=peak,
        top=top,
    )


class Wire(TorchDispatchMode):
    """A mode that counts the bytes which collectives move while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sent = self.received = 0.0
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own signature
        types: Any,  # noqa: ANN401
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Count the operator if it is a collective, and run it."""
        if func.namespace == "c10d":
            self._count(name_of(func), args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: Sequence[Any]) -> None:
        sent, received = moved(name, args, rank=dist.get_rank(), world=dist.get_world_size())
        self.sent += sent
        self.received += received
        self.calls[name] += 1


def name_of(func: Any) -> str:  # noqa: ANN401 - an operator of c10d
    """Return a collective's name in this module's spelling: `allreduce`."""
    name: str = func._schema.name
    return name.removeprefix("c10d::").strip("_")


def moved(name: str, args: Sequence[Any], *, rank: int, world: int) -> tuple[float, float]:
    """Return the bytes out of and into a rank for one collective; see the module's table.

    Raises:
        NotImplementedError: a collective that is not in the table.
    """
    away = (world - 1) / world
    match name:
        case "allreduce":
            return (2 * _bytes(args[0]) * away,) * 2
        case "broadcast" | "reduce_scatter_base":
            return (_bytes(args[1] if name == "reduce_scatter_base" else args[0]) * away,) * 2
        case "allgather_base" | "allgather":
            return (_bytes(args[0]) * away,) * 2
        case "alltoall_base":
            out, into, _, out_splits, in_splits = args[:5]
            return (
                _bytes(into) - _own(into, in_splits, rank, world),
                _bytes(out) - _own(out, out_splits, rank, world),
            )
        case "alltoall":
            return _bytes(args[1]) - _bytes(args[1][rank]), _bytes(args[0]) - _bytes(args[0][rank])
        case "barrier" | "monitored_barrier":
            return 0.0, 0.0
    raise NotImplementedError(
        f"the bytes of collective c10d::{name} are not known; add it to {__name__}.moved"
    )


def _bytes(tensors: Any) -> int:  # noqa: ANN401 - tensors, nested in lists as c10d has them
    if isinstance(tensors, Tensor):
        return tensors.numel() * tensors.element_size()
    return sum(_bytes(t) for t in tensors)


def _own(tensor: Tensor, splits: Sequence[int], rank: int, world: int) -> float:
    """Return the bytes of the part that a rank keeps."""
    rows = tensor.shape[0] if tensor.ndim else 1
    kept = splits[rank] / max(rows, 1) if splits else 1 / world
    return _bytes(tensor) * kept


def _profiled(step: Step) -> tuple[int, tuple[tuple[str, float], ...]]:
    """Return the step's peak of allocated bytes, and its most expensive operators."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        step()
    current = peak = 0
    assert run.profiler is not None
    assert run.profiler.kineto_results is not None
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            current += event.nbytes()
            peak = max(peak, current)
    expensive = sorted(run.key_averages(), key=lambda e: -e.self_cpu_time_total)
    whole = math.fsum(e.self_cpu_time_total for e in expensive) or 1.0
    return peak, tuple((e.key, round(e.self_cpu_time_total / whole, 3)) for e in expensive[:8])
