"""Draw the profile of a log: rows and label rates by day or split, and drift."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from iak.pipeline.data.drift import CHANGED, MOVED, Drift
from iak.pipeline.data.profile import UNKNOWN_DAY, Profile, SplitProfile
from iak.schemas.log import Catalog

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "legend.frameon": False,
    "axes.edgecolor": "#9aa0a6",
    "xtick.color": "#4a4f55",
    "ytick.color": "#4a4f55",
}
_SPLITS = {
    "pretrain": "#3465a4",
    "pretrain_valid": "#8fb0d9",
    "pretrain_test": "#c3d5ec",
    "tune": "#d9822b",
    "valid": "#e9b277",
    "gate": "#8f6bb3",
    "test": "#4e9a51",
}
_TASKS = ("#3465a4", "#d9822b", "#4e9a51", "#8f6bb3", "#6c7a89")
_MAX_FEATURES = 15
_MAX_TICKS = 8
_GRID = "#e3e6ea"


def draw_profile(profile: Profile, catalog: Catalog, path: Path) -> None:
    """Draw rows, label rates and drift as small multiples.

    Args:
        profile: the profile that `iak check` measured.
        catalog: the log's catalogue.
        path: file to write. Its suffix decides the format.
    """
    drifts = _most_moved(profile.drift)
    count = 2 + bool(drifts)
    height = max(3.6, 1.4 + 0.24 * len(drifts))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6 * count, height), layout="constrained")
        axes = figure.subplots(1, count, squeeze=False)[0]
        days = sorted({p.part for p in profile.days if p.part != UNKNOWN_DAY})
        if len(days) > 1:
            _rows_by_day(axes[0], profile.days, days)
            _rates_by_day(axes[1], profile.days, days)
        else:
            _rows_by_split(axes[0], profile.splits)
            _rates_by_split(axes[1], profile.splits)
        if drifts:
            _drift(axes[2], drifts)
        rows = sum(p.rows for p in profile.splits)
        title = f"log '{catalog.log.name}' · {rows:,} rows in {len(profile.splits)} splits"
        figure.suptitle(title, fontsize=9, color="dimgrey", x=0.01, ha="left")
        figure.savefig(path, dpi=140)


def _rows_by_day(ax: Axes, profiles: Sequence[SplitProfile], days: Sequence[str]) -> None:
    """Draw a stacked bar for each day: its rows, coloured by split."""
    by = {(p.split, p.part): p.rows for p in profiles}
    below = [0] * len(days)
    for split in dict.fromkeys(p.split for p in profiles):
        rows = [by.get((split, day), 0) for day in days]
        ax.bar(
            range(len(days)), rows, bottom=below, width=0.8, color=_SPLITS.get(split), label=split
        )
        below = [b + r for b, r in zip(below, rows, strict=True)]
    ax.set_title("Rows by day")
    ax.yaxis.set_major_formatter(FuncFormatter(_short))
    ax.set_ylim(top=max(below) * 1.3)
    ax.legend(fontsize=7, ncols=3, loc="upper left", handlelength=1, columnspacing=1)
    _day_ticks(ax, days)


def _rates_by_day(ax: Axes, profiles: Sequence[SplitProfile], days: Sequence[str]) -> None:
    """Draw a line for each task: positives among labelled rows, over all splits of a day."""
    lines: dict[str, list[float]] = {}
    for at, task in enumerate(labels.task for labels in profiles[0].labels):
        lines[task] = []
        for day in days:
            values = [p.labels[at] for p in profiles if p.part == day]
            rows = sum(labels.rows for labels in values)
            positives = sum(labels.positives for labels in values)
            lines[task].append(positives / rows if rows else float("nan"))
    for (task, rates), colour in zip(lines.items(), _TASKS, strict=False):
        style = "o-" if len(days) <= 2 * _MAX_TICKS else "-"
        ax.plot(range(len(days)), rates, style, markersize=3.5, color=colour, label=task)
    ax.set_title("Positives among labelled rows, by day")
    _rate_axis(ax)
    ax.legend(fontsize=8, loc="lower left")
    _day_ticks(ax, days)


def _rows_by_split(ax: Axes, profiles: Sequence[SplitProfile]) -> None:
    names = [p.split for p in profiles]
    bars = ax.barh(names, [p.rows for p in profiles], color=[_SPLITS.get(n) for n in names])
    ax.bar_label(bars, [f"{p.rows:,}" for p in profiles], padding=4, fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.25)
    ax.xaxis.set_major_formatter(FuncFormatter(_short))
    ax.set_title("Rows by split")


def _rates_by_split(ax: Axes, profiles: Sequence[SplitProfile]) -> None:
    """Draw a group of bars for each split: one bar for each task."""
    tasks = [labels.task for labels in profiles[0].labels]
    width = 0.8 / len(tasks)
    for at, (task, colour) in enumerate(zip(tasks, _TASKS, strict=False)):
        positions = [i + (at - (len(tasks) - 1) / 2) * width for i in range(len(profiles))]
        rates = [p.labels[at].rate or 0.0 for p in profiles]
        ax.bar(positions, rates, width=width * 0.92, color=colour, label=task)
    ax.set_xticks(range(len(profiles)), [p.split.replace("_", "\n") for p in profiles])
    ax.set_title("Positives among labelled rows, by split")
    _rate_axis(ax)
    ax.set_ylim(top=ax.get_ylim()[1] * 1.2)
    ax.legend(fontsize=8, ncols=3, loc="upper left")


def _rate_axis(ax: Axes) -> None:
    ax.set_ylim(bottom=0)
    top = ax.get_ylim()[1]
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=2 if top < 0.02 else 0))
    ax.grid(axis="y", color=_GRID, linewidth=0.8)
    ax.set_axisbelow(True)


def _most_moved(drift: Sequence[Drift]) -> Mapping[str, list[Drift]]:
    """Return the features that moved most, each with its windows in order."""
    names = list(dict.fromkeys(d.feature for d in drift))[:_MAX_FEATURES]
    order = {"pretrain": 0, "tune": 1}
    return {
        name: sorted((d for d in drift if d.feature == name), key=lambda d: order.get(d.before, 2))
        for name in names
    }


def _drift(ax: Axes, drifts: Mapping[str, Sequence[Drift]]) -> None:
    """Draw two bars for each feature, one for each window, with the bounds of the index."""
    pairs = sorted({(d.before, d.after) for values in drifts.values() for d in values})
    height = 0.8 / len(pairs)
    for at, ((before, after), colour) in enumerate(
        zip(pairs, ("#d9822b", "#4e9a51"), strict=False)
    ):
        index = [
            next((d.index for d in values if (d.before, d.after) == (before, after)), 0.0)
            for values in drifts.values()
        ]
        positions = [i + (at - (len(pairs) - 1) / 2) * height for i in range(len(drifts))]
        ax.barh(positions, index, height=height * 0.9, color=colour, label=f"{before} to {after}")
    for bound, name in ((MOVED, "moved"), (CHANGED, "changed")):
        ax.axvline(bound, color="#6c7a89", linestyle="--", linewidth=0.8)
        ax.text(bound, -0.75, f" {name}", fontsize=7, color="#6c7a89", va="bottom")
    ax.set_yticks(range(len(drifts)), list(drifts))
    ax.invert_yaxis()
    ax.set_xlim(right=max(ax.get_xlim()[1], 1.25 * CHANGED))
    ax.set_xlabel("population stability index")
    ax.set_title("Drift of features")
    ax.legend(fontsize=8, loc="lower right", frameon=True, facecolor="white", edgecolor="white")


def _day_ticks(ax: Axes, days: Sequence[str]) -> None:
    step = -(-len(days) // _MAX_TICKS)
    positions = range(0, len(days), step)
    # The month and day are enough where all days are of one year.
    short = len({day[:4] for day in days}) == 1
    ax.set_xticks(list(positions), [days[at][5:] if short else days[at] for at in positions])
    ax.tick_params(axis="x", rotation=0 if short else 30)
    if short:
        ax.set_xlabel(days[0][:4])


def _short(value: float, _: int) -> str:
    """Return a count for an axis: 12k, 3.4M."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"
