"""Compare a run with an earlier one, and find combinations that are slower, larger or fail."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from iak.pipeline.bench.records import benchmark_record_of
from iak.pipeline.errors import BadRequest
from iak.schemas.record import BenchmarkRecord, Target
from iak.schemas.sharding_result import LayoutLine

_COMPARED = {"p50_ms": "step time", "wire_kib": "bytes on the wire", "held_mib": "memory"}


def read(path: Path) -> BenchmarkRecord:
    """Read the record of an earlier `iak bench sharding`.

    Raises:
        BadRequest: there is no record, or it is another benchmark's.
    """
    try:
        record = benchmark_record_of(json.loads(path.read_text()), path)
    except (OSError, ValueError) as error:
        raise BadRequest(f"check_baseline={path} is not a benchmark's record: {error}") from error
    if record.bench != "sharding":
        raise BadRequest(f"check_baseline={path} is a record of bench {record.bench!r}")
    return record


def compared(
    lines: Sequence[LayoutLine], before: BenchmarkRecord, *, threshold: float, source: Path
) -> list[Target]:
    """Return a target for each number and one for the combinations that ran.

    Raises:
        BadRequest: the two have no combination in common.
    """
    earlier = [LayoutLine.model_validate(row) for row in before.rows if "sharding" in row]
    then = {line.key: line for line in earlier}
    now = {line.key: line for line in lines}
    common = [key for key in now if key in then and not then[key].error]
    if not common:
        raise BadRequest(
            f"check_baseline={source} has no combination in common with this run: other tables, "
            "launchers or workers"
        )
    ran = [key for key in common if not now[key].error]
    return [_runs(common, now, source)] + [
        _target(name, [(key, _ratio(*_pair(now[key], then[key], name))) for key in ran], threshold)
        for name in _COMPARED
        if ran
    ]


def _pair(now: LayoutLine, then: LayoutLine, name: str) -> tuple[float, float]:
    """Return a number of two lines that both ran."""
    return getattr(now, name), getattr(then, name)


def _ratio(now: float, then: float) -> float:
    if then > 0:
        return now / then
    return 1.0 if now <= 0 else float("inf")


def _runs(
    common: Sequence[tuple[str, ...]], now: Mapping[tuple[str, ...], LayoutLine], source: Path
) -> Target:
    """Return the target that all combinations of the earlier run still run."""
    failed = [key for key in common if now[key].error]
    return Target(
        name=f"combinations of {source} that fail now",
        wanted="at most 0",
        measured=len(failed),
        is_met=not failed,
        note="; ".join(f"{_label(key)}: {now[key].whole_error[0]}" for key in failed),
    )


def _target(name: str, ratios: Sequence[tuple[tuple[str, ...], float]], threshold: float) -> Target:
    """Return the worst ratio of one number, and all beyond the threshold."""
    worse = sorted((pair for pair in ratios if pair[1] > threshold), key=lambda pair: -pair[1])
    return Target(
        name=f"{_COMPARED[name]} against the baseline, worst of {len(ratios)}",
        wanted=f"at most {threshold:g}x",
        measured=round(max(ratio for _, ratio in ratios), 3),
        is_met=not worse,
        note="; ".join(f"{_label(key)}: {ratio:.2f}x" for key, ratio in worse),
    )


def _label(key: tuple[str, ...]) -> str:
    return " ".join(key)
