"""Draw the kernels of `terms`, each against the shipped ones: a panel for each condition."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from iak.schemas.record import BenchmarkRecord
from infra.benchmarks.record_lines import TermLine

_BETTER, _WORSE, _NEITHER = "#3465a4", "#a40000", "#b0b4ba"


def conditions_of(record: BenchmarkRecord) -> list[str]:
    """Return the conditions of a record of `terms` in its order."""
    return list(dict.fromkeys(line.condition for line in record.lines(TermLine)))


def draw_terms(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw the change in the share of the reachable gain, with its 95 % interval over seeds.

    Red: the shipped kernels are better. Blue: they are worse.
    """
    lines = record.lines(TermLine)
    for condition, ax in zip(conditions_of(record), axes, strict=True):
        shipped, *others = [line for line in lines if line.condition == condition]
        for height, line in enumerate(reversed(others)):
            _draw_variant(line, height, ax)
        ax.set_yticks(range(len(others)), [line.variant for line in reversed(others)])
        ax.set_ylim(-0.6, len(others) - 0.4)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_xlabel("share of the reachable gain, minus shipped")
        ax.set_title(f"{condition}: shipped {shipped.share:.3f}")


def _draw_variant(line: TermLine, height: int, ax: Axes) -> None:
    colour = _NEITHER
    if line.low is not None and line.high is not None:
        colour = _WORSE if line.high < 0 else _BETTER if line.low > 0 else _NEITHER
        ax.plot([line.low, line.high], [height] * 2, color=colour, linewidth=2.5, alpha=0.55)
    ax.plot(line.minus_shipped, height, "o", color=colour)
