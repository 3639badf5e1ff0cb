"""Draw the records of `iak bench sharding` and `iak bench scaling`."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iak.jobs.figures import BLUE, GREEN, GREY, ORANGE, Picture
from iak.schemas.record import BenchmarkRecord
from iak.schemas.scaling_result import MeasuredLine, SharesLine, SimulatedLine
from iak.schemas.sharding_result import LayoutLine

_MAX_PANELS = 3
_MODES = {
    ("trained", "fp32"): ORANGE,
    ("frozen", "fp32"): "#204a87",
    ("frozen", "fp16"): BLUE,
    ("frozen", "int8"): "#7ba3d4",
    ("frozen", "int4"): "#bcd0ea",
}


def picture_of(record: BenchmarkRecord) -> Picture:
    """Return how a record of `sharding` or `scaling` is drawn."""
    if record.bench == "scaling":
        return Picture(fill=_scaling, panels=3)
    tables = _measured_tables(record)
    return Picture(fill=_sharding, panels=max(1, min(_MAX_PANELS, len(tables))))


def _scaling(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw efficiency against workers, measured and simulated, and shares of a measured step."""
    for scaling, ax in zip(("strong", "weak"), axes, strict=False):
        _efficiencies(record, scaling, ax)
    axes[0].set_title("The same work in all (strong)")
    axes[1].set_title("As much work each (weak)")
    axes[0].legend(fontsize=7)
    _shares_of_steps(record.lines(SharesLine, "shares of a measured step"), axes[2])


def _efficiencies(record: BenchmarkRecord, scaling: str, ax: Axes) -> None:
    """Draw a line for each workload, solid where measured. Simulated links have a shade each."""
    measured = [line for line in record.lines(MeasuredLine, "measured") if line.scaling == scaling]
    simulated = [
        line for line in record.lines(SimulatedLine, "simulated") if line.scaling == scaling
    ]
    names = list(dict.fromkeys(line.workload for line in measured))
    links = sorted({line.link_gb_per_s for line in simulated})
    for name, colour in zip(names, (BLUE, ORANGE, GREEN), strict=False):
        own = [line for line in measured if line.workload == name]
        _efficiency_line(own, ax, "o-", color=colour, label=name)
        for index, link in enumerate(links):
            over = [s for s in simulated if (s.workload, s.link_gb_per_s) == (name, link)]
            _efficiency_line(over, ax, ".--", color=colour, alpha=(index + 1) / len(links))
    for index, link in enumerate(links):
        label, shade = f"simulated, {link:g} GB/s", (index + 1) / len(links)
        ax.plot([], [], "--", color="black", alpha=shade, label=label)
    ax.axhline(1.0, color=GREY, linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("workers (log)")
    ax.set_ylabel("efficiency, against one worker")


def _efficiency_line(
    lines: Sequence[MeasuredLine] | Sequence[SimulatedLine],
    ax: Axes,
    style: str,
    **looks: Any,  # noqa: ANN401 - Matplotlib's own keywords
) -> None:
    ax.plot([line.workers for line in lines], [line.efficiency for line in lines], style, **looks)


def _shares_of_steps(lines: Sequence[SharesLine], ax: Axes) -> None:
    """Draw the shares of a measured step: a bar for each workload, law and number of workers."""
    kinds = list(lines[0].shares)
    names = [f"{line.workload}\n{line.scaling}, {line.workers}" for line in lines][::-1]
    before = [0.0] * len(names)
    colours = (GREEN, BLUE, GREY, ORANGE, "#8f6bb3", "#c4483b", "#57b0b0", "#777777")
    for kind, colour in zip(kinds, colours, strict=False):
        shares = [line.shares[kind] for line in lines][::-1]
        ax.barh(names, shares, left=before, color=colour, label=kind)
        before = [b + share for b, share in zip(before, shares, strict=True)]
    ax.set_xlim(0, 1)
    ax.tick_params(axis="y", labelsize=6)
    ax.set_xlabel("share of a measured step")
    ax.set_title("Where the time goes")
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.3, -0.14), ncols=4)


def _measured_tables(record: BenchmarkRecord) -> list[str]:
    """Return the titles of the tables of `sharding` on which something was measured."""
    return list(dict.fromkeys(row["table"] for row in record.rows if row.get("p50_ms")))


def _sharding(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw a step's time by sharding type and precision: a panel for each table, with estimates."""
    for ax, title in zip(axes, _measured_tables(record), strict=False):
        lines = record.lines(LayoutLine, title)
        launchers = list(dict.fromkeys(line.launcher for line in lines))
        kinds = list(dict.fromkeys(line.sharding for line in lines))
        for index, (mode, colour) in enumerate(_MODES.items()):
            shown = [line for line in lines if (line.held, line.precision) == mode]
            _bars(ax, shown, kinds, launchers, (index - 2) * 0.16, colour, " ".join(mode))
        ax.set_xticks(range(len(kinds)), [kind.replace("_", "-") for kind in kinds])
        ax.set_xlim(-0.5, len(kinds) - 0.5)
        ax.set_yscale("log")
        ax.set_ylabel("ms a step, median (log)")
        ax.set_title(title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure = axes[0].get_figure()
    assert isinstance(figure, Figure)
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7)


def _bars(
    ax: Axes,
    lines: Sequence[LayoutLine],
    kinds: Sequence[str],
    launchers: Sequence[str],
    shift: float,
    colour: str,
    series: str,
) -> None:
    """Draw the bars of one precision. Other launchers than the first, and estimates, are marks."""
    done = [line for line in lines if line.p50_ms]
    first = [line for line in done if line.launcher == launchers[0]]
    positions = [kinds.index(line.sharding) + shift for line in first]
    ax.bar(positions, [_ms(line) for line in first], width=0.15, color=colour, label=series)
    is_first = series == " ".join(next(iter(_MODES)))  # marks need one label each
    estimates = (
        ([line.planner_ms for line in first], "_", "planner"),
        ([line.here_ms for line in first], "d", "planner, measured"),
    )
    for times, mark, what in estimates:
        points = [(at, ms) for at, ms in zip(positions, times, strict=True) if ms]
        if points:
            label = what if is_first else None
            ax.plot(*zip(*points, strict=True), mark, color="black", markersize=4, label=label)
    for launcher in launchers[1:]:
        other = [line for line in done if line.launcher == launcher]
        at = [kinds.index(line.sharding) + shift for line in other]
        label = launcher if is_first else None
        ax.plot(at, [_ms(line) for line in other], "x", color="firebrick", label=label)


def _ms(line: LayoutLine) -> float:
    """Return the median time of a step that was measured, in milliseconds."""
    assert line.p50_ms is not None, "lines without a measurement were left out"
    return line.p50_ms
