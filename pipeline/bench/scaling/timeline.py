"""Split a step's time into input, each collective, waiting for other workers, and the rest.

The rest is called compute. It is everything else, Python included.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import distributed as dist

from iak.pipeline.bench.counters import Wire, name_of

INPUT, COMPUTE, WAITING = "input", "compute", "waiting"


class Timeline(Wire):
    """A mode that times every collective while it is entered, and counts its bytes by name.

    All workers meet before a collective, which separates waiting for slower ones from moving bytes.
    The collective is waited for where it is issued, also DDP's in the backward pass. Nothing
    overlaps with compute then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting_s = 0.0
        self.moving_s: defaultdict[str, float] = defaultdict(float)
        self.sent_by: defaultdict[str, float] = defaultdict(float)

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own signature
        types: Any,  # noqa: ANN401
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Time the operator if it is a collective, and run it."""
        if func.namespace != "c10d":
            return func(*args, **(kwargs or {}))
        name, before = name_of(func), self.sent
        self._count(name, args)
        self.sent_by[name] += self.sent - before
        started = time.perf_counter()
        dist.barrier()
        met = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        work = result[-1] if isinstance(result, list | tuple) else result
        work.wait()
        self.waiting_s += met - started
        self.moving_s[name] += time.perf_counter() - met
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Parts of one step on one worker, with its collectives not overlapping compute."""

    step_s: float
    input_s: float
    waiting_s: float
    moving_s: Mapping[str, float]
    """Seconds by collective, after all workers have met."""
    sent: Mapping[str, float]
    """Bytes out of this worker by collective."""
    calls: Mapping[str, float]


def profile_of(timeline: Timeline, *, seconds: float, input_s: float, steps: int) -> Profile:
    """Return the mean of a timeline's measurements over its steps."""
    return Profile(
        step_s=seconds / steps,
        input_s=input_s / steps,
        waiting_s=timeline.waiting_s / steps,
        moving_s={name: s / steps for name, s in timeline.moving_s.items()},
        sent={name: sent / steps for name, sent in timeline.sent_by.items()},
        calls={name: calls / steps for name, calls in timeline.calls.items()},
    )


def parts_of(profiles: Sequence[Profile], *, step_s: float, input_s: float) -> dict[str, float]:
    """Return a measured step's seconds by part.

    Collectives take the seconds of the profile. The rest, without input, is compute and waiting in
    the profile's proportion, since profiling slows both. Where the profile's collectives took
    longer than the whole undisturbed step (tiny steps, or much overlap), all three take the
    profile's proportion.

    Args:
        profiles: profiles of all workers, which are averaged.
        step_s: seconds of the measured, undisturbed step.
        input_s: seconds that it waited for its rows.

    Returns:
        Seconds that add up to `step_s`.
    """
    workers, input_s = len(profiles), min(input_s, step_s)
    names = list(dict.fromkeys(name for p in profiles for name in p.moving_s))
    moving = {n: sum(p.moving_s.get(n, 0.0) for p in profiles) / workers for n in names}
    all_moving = sum(moving.values())
    waiting = sum(p.waiting_s for p in profiles) / workers
    beside = sum(p.step_s - p.input_s for p in profiles) / workers - all_moving
    waiting_share = min(waiting / beside, 1.0) if beside > 0 else 0.0
    working_s = step_s - input_s
    moved_s = all_moving
    if all_moving >= working_s:
        moved_s = working_s * all_moving / (all_moving + beside) if all_moving else 0.0
    left = working_s - moved_s
    return {
        INPUT: input_s,
        COMPUTE: left * (1 - waiting_share),
        WAITING: left * waiting_share,
        **{n: s * moved_s / all_moving if all_moving else 0.0 for n, s in moving.items()},
    }
