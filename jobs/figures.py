"""Draw the picture of a benchmark's record: a row of panels under one heading."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iak.schemas.record import BenchmarkRecord

BLUE, GREY, ORANGE, GREEN = "#3465a4", "#b0b4ba", "#d9822b", "#4e9a51"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """How a record is drawn."""

    fill: Callable[[BenchmarkRecord, Sequence[Axes]], None]
    """Draws the record into its panels."""
    panels: int


def draw(record: BenchmarkRecord, picture: Picture, path: Path) -> None:
    """Draw a record.

    Args:
        record: the record.
        picture: its panels, and what draws into them.
        path: file of the picture.
    """
    count = picture.panels
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8 * count + 2.2 * (count == 1), 3.9), layout="constrained")
        picture.fill(record, figure.subplots(1, count, squeeze=False)[0])
        where = f"{record.machine.cores or '?'} cores, {record.machine.processor or '?'}"
        smoke = "smoke sizes: the numbers mean nothing · " if record.is_smoke else ""
        figure.suptitle(
            f"{smoke}benchmark {record.bench} · {where} · {record.started_at:%Y-%m-%d} · "
            f"commit {record.commit or '?'}",
            fontsize=8,
            color="dimgrey",
            x=0.01,
            ha="left",
        )
        figure.savefig(path, dpi=140)
