"""Draw the gain of each method: a panel for each log, a line with intervals for each method."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from iak.schemas.base import JsonObject
from iak.schemas.record import BenchmarkRecord

_KERNELS, _OTHERS, _GREY = "#3465a4", "#d9822b", "#b0b4ba"
_SCALE = 1e4
"""Differences are drawn in units of 1e-4 of AUC."""


def logs_of(record: BenchmarkRecord) -> list[str]:
    """Return the logs of a record of `quality` in its order."""
    return list(dict.fromkeys(row["log"] for row in _league(record)))


def draw_quality(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw the difference in AUC to the base, the first task of every log.

    The thick line is the 95 % interval over rows, a mean over seeds. Crosses are the lowest and the
    highest seed.
    """
    for log, ax in zip(logs_of(record), axes, strict=False):
        rows = [row for row in _league(record) if row["log"] == log][::-1]
        for height, row in enumerate(rows):
            _draw_method(row, height, ax)
        ax.set_yticks(range(len(rows)), [row["method"] for row in rows])
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_xlabel("AUC over the base's, 1e-4")
        base = next((row["auc"] for row in rows if row["method"] == "base"), None)
        known = "" if base is None else f", base {base:.4f}"
        ax.set_title(f"{log}, {rows[0]['task']}{known}")


def _draw_method(row: JsonObject, height: int, ax: Axes) -> None:
    colour = _KERNELS if row["method"].startswith("iak") else _OTHERS
    low, delta, high = (row[name] for name in ("low", "delta_auc", "high"))
    if None in (low, delta, high):
        ax.text(0, height, " no interval", color=_GREY, va="center", fontsize=7)
        return
    ax.plot([_SCALE * low, _SCALE * high], [height] * 2, color=colour, linewidth=2.5, alpha=0.55)
    ax.plot(_SCALE * delta, height, "o", color=colour)
    if row["seeds"] > 1:
        seeds = [_SCALE * row["lowest_seed"], _SCALE * row["highest_seed"]]
        ax.plot(seeds, [height] * 2, "x", color="black", markersize=4)


def _league(record: BenchmarkRecord) -> list[JsonObject]:
    return [row for row in record.rows if row["table"] == "league" and row["is_first"]]
