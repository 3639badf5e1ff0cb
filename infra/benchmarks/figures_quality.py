"""Draw the gain of each method or model: a panel for each log, a line with intervals for each."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from iak.schemas.record import BenchmarkRecord
from infra.benchmarks.record_lines import AucLine

_KERNELS, _OTHERS, _GREY = "#3465a4", "#d9822b", "#b0b4ba"
_SCALE = 1e4
"""Differences are drawn in units of 1e-4 of AUC."""


def logs_of(record: BenchmarkRecord) -> list[str]:
    """Return the logs of a record of `quality` or `trunks` in its order."""
    return list(dict.fromkeys(line.log for line in _league(record)))


def draw_quality(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw the difference in AUC to the base, the first task of every log.

    The thick line is the 95 % interval over rows, a mean over seeds. Crosses are the lowest and the
    highest seed.
    """
    for log, ax in zip(logs_of(record), axes, strict=False):
        lines = [line for line in _league(record) if line.log == log][::-1]
        for height, line in enumerate(lines):
            _draw_method(line, height, ax)
        ax.set_yticks(range(len(lines)), [line.method for line in lines])
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_xlabel("AUC over the base's, 1e-4")
        base = next((line.auc for line in lines if line.method == "base"), None)
        known = "" if base is None else f", base {base:.4f}"
        ax.set_title(f"{log}, {lines[0].task}{known}")


def _draw_method(line: AucLine, height: int, ax: Axes) -> None:
    colour = _KERNELS if line.method.startswith("iak") else _OTHERS
    low, delta, high = line.low, line.delta_auc, line.high
    if low is None or delta is None or high is None:
        ax.text(0, height, " no interval", color=_GREY, va="center", fontsize=7)
        return
    ax.plot([_SCALE * low, _SCALE * high], [height] * 2, color=colour, linewidth=2.5, alpha=0.55)
    ax.plot(_SCALE * delta, height, "o", color=colour)
    if line.seeds > 1 and line.lowest_seed is not None and line.highest_seed is not None:
        seeds = [_SCALE * line.lowest_seed, _SCALE * line.highest_seed]
        ax.plot(seeds, [height] * 2, "x", color="black", markersize=4)


def _league(record: BenchmarkRecord) -> list[AucLine]:
    table = "league" if record.bench == "quality" else record.bench
    return [line for line in record.lines(AucLine, table) if line.is_first]
