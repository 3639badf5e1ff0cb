"""Draw the memory of a plan."""

from itertools import cycle
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from iak.jobs.figures import BLUE, GREEN, GREY, ORANGE, STYLE
from iak.pipeline.planning.estimate import Estimate

_GIB = 2**30
_STACK = (BLUE, ORANGE, GREEN, GREY, "#8f6bb3", "#6c7a89", "#c4a000", "#a40000")


def draw_plan(estimate: Estimate, path: Path) -> None:
    """Draw the memory of every rank, stacked by kind, below the planned limit."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(6.0, min(16.0, 0.35 * len(estimate.memory))), 4.2))
        figure.set_layout_engine("constrained")
        ax = figure.subplots()
        below = [0.0] * len(estimate.memory)
        for colour, kind in zip(cycle(_STACK), estimate.memory[0], strict=False):
            gib = [memory[kind] / _GIB for memory in estimate.memory]
            ax.bar(range(len(gib)), gib, bottom=below, width=0.85, color=colour, label=kind)
            below = [b + h for b, h in zip(below, gib, strict=True)]
        cluster = estimate.cluster
        ax.axhline(
            estimate.usable_bytes / _GIB, color=ORANGE, linestyle="--", label="limit of a plan"
        )
        ax.axhline(cluster.device_memory_gib, color="black", linewidth=0.8, label="a device's")
        ax.set_xlabel("rank")
        ax.set_ylabel("GiB")
        ax.set_title(f"{estimate.document.job} on {cluster.name}: memory of a rank (counted)")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=140)
