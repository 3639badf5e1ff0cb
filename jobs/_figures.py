"""Draw one picture of each benchmark's record, and the memory of a plan."""

from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

from iak.jobs._figure_lines import (
    DomainsLine,
    ErrorLine,
    FaultLine,
    FilesLine,
    MeasuredLine,
    NightLine,
    PlacedLine,
    PowerLine,
    RequestLine,
    SharesLine,
    SimulatedLine,
    SizeLine,
    StageLine,
    VariantLine,
)
from iak.jobs._figures_quality import draw_quality, logs_of
from iak.jobs._figures_terms import conditions_of, draw_terms
from iak.pipeline.planning.estimate import Estimate
from iak.schemas.record import BenchmarkRecord

_GIB = 2**30
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
_BLUE, _GREY, _ORANGE, _GREEN = "#3465a4", "#b0b4ba", "#d9822b", "#4e9a51"
_STACK = (_BLUE, _ORANGE, _GREEN, _GREY, "#8f6bb3", "#6c7a89", "#c4a000", "#a40000")
_KINDS = {
    "tables": _BLUE,
    "optimiser": _ORANGE,
    "kernels": _GREEN,
    "cache": "#8f6bb3",
    "activations": _GREY,
}
_TARGET_VARIANTS = {
    "ours uncached": "d[fp32]",
    "cached [h;x]": "e[hx]",
    "cached h,": "e[h]",
}
"""First words of a target of `finetune` -> the variant that the target is about."""
_MAX_PANELS = 3
_VERDICTS = {"survived": _GREEN, "refused_by_name": _BLUE, "wrong": "#a40000"}
_GATES = {"chain of nights": _BLUE, "present gate, every night": _GREY}
_NIGHTS = {
    "first night's kernels": _GREY,
    "chain": _BLUE,
    "from scratch": _ORANGE,
    "chain through the gate": "#8f6bb3",
    "oracle": _GREEN,
}
_MODES = {
    ("trained", "fp32"): _ORANGE,
    ("frozen", "fp32"): "#204a87",
    ("frozen", "fp16"): _BLUE,
    ("frozen", "int8"): "#7ba3d4",
    ("frozen", "int4"): "#bcd0ea",
}


def draw(record: BenchmarkRecord, path: Path) -> None:
    """Draw a record. A benchmark that has no picture is skipped."""
    logs = logs_of(record) if record.bench in ("quality", "trunks") else []
    tables = _measured_tables(record) if record.bench == "sharding" else []
    conditions = conditions_of(record) if record.bench == "terms" else []
    panels = {
        "data": (_data, 1),
        "faults": (_faults, 1),
        "finetune": (_finetune, 3),
        "gate": (_gate, 2),
        "nights": (_nights, 2),
        "quality": (draw_quality, max(1, len(logs))),
        "scaling": (_scaling, 3),
        "serve": (_serve, 3),
        "sharding": (_sharding, max(1, min(_MAX_PANELS, len(tables)))),
        "tables": (_tables, 2),
        "terms": (draw_terms, max(1, len(conditions))),
        "trunks": (draw_quality, max(1, len(logs))),
    }
    if record.bench not in panels:
        return
    fill, count = panels[record.bench]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.8 * count + 2.2 * (count == 1), 3.9), layout="constrained")
        axes = figure.subplots(1, count, squeeze=False)[0]
        fill(record, axes)
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


def draw_plan(estimate: Estimate, path: Path) -> None:
    """Draw the memory of every rank, stacked by kind, below the planned limit."""
    with mpl.rc_context(_STYLE):
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
            estimate.usable_bytes / _GIB, color=_ORANGE, linestyle="--", label="limit of a plan"
        )
        ax.axhline(cluster.device_memory_gib, color="black", linewidth=0.8, label="a device's")
        ax.set_xlabel("rank")
        ax.set_ylabel("GiB")
        ax.set_title(f"{estimate.document.job} on {cluster.name}: memory of a rank (counted)")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=140)


def _data(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw rows per second against raw decoding, with the target's line."""
    (ax,) = axes
    lines = [line for line in record.lines(StageLine, "stages") if line.encoding == "mixed"]
    names = [line.stage for line in lines][::-1]
    rates = [line.rows_per_s / 1e6 for line in lines][::-1]
    raw = next(line.rows_per_s for line in lines if line.stage == "raw decode") / 1e6
    colours = [_GREY if "decode" in name and "+" not in name else _BLUE for name in names]
    bars = ax.barh(names, rates, color=colours)
    ax.bar_label(bars, [f"{rate:.2f} M/s  {rate / raw:.0%}" for rate in rates], padding=4)
    ax.axvline(0.7 * raw, color=_ORANGE, linestyle="--", label="70 % of raw decode")
    ax.set_xlim(0, max(rates) * 1.25)
    ax.set_xlabel("million rows a second, one worker")
    ax.set_title("From Parquet to batches")
    ax.legend(loc="lower right")


def _faults(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw the outcomes of the faults, grouped by the first word of their names."""
    (ax,) = axes
    groups: dict[str, Counter[str]] = {}
    for line in record.lines(FaultLine):
        group = "bad inputs" if line.table == "bad inputs" else line.fault.split()[0]
        groups.setdefault(group, Counter()).update({n: getattr(line, n) for n in _VERDICTS})
    names = list(groups)[::-1]
    before = [0] * len(names)
    for verdict, colour in _VERDICTS.items():
        counts = [groups[name][verdict] for name in names]
        ax.barh(names, counts, left=before, color=colour, label=verdict.replace("_", " "))
        before = [b + c for b, c in zip(before, counts, strict=True)]
    ax.set_xlabel("faults injected")
    ax.set_title("Outcomes")
    ax.legend(loc="lower right")


def _gate(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw the share of false promotions, and the smallest gain that is found."""
    _false_promotions(record.lines(ErrorLine, "errors"), axes[0])
    _smallest_gains(record.lines(PowerLine, "power"), axes[1])


def _false_promotions(lines: Sequence[ErrorLine], ax: Axes) -> None:
    worlds = list(dict.fromkeys(line.world for line in lines))[::-1]
    for offset, (gate, colour) in zip((0.2, -0.2), _GATES.items(), strict=True):
        own = {line.world: line for line in lines if line.gate == gate}
        shares = [own[world].share for world in worlds]
        above = [own[world].share_at_most - own[world].share for world in worlds]
        heights = [y + offset for y in range(len(worlds))]
        bars = ax.barh(
            heights, shares, 0.38, xerr=[[0.0] * len(above), above], color=colour, label=gate
        )
        ax.bar_label(bars, [f"{share:.1%}" for share in shares], padding=8, fontsize=8)
    ax.axvline(0.05, color=_ORANGE, linestyle="--", label="5 %")
    ax.set_yticks(range(len(worlds)), worlds)
    ax.set_xlim(0, 1.25)
    ax.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    ax.set_xlabel("promoted within 30 nights, and upper 95 % bound")
    ax.set_title("Domains without a gain")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), fontsize=8)


def _smallest_gains(lines: Sequence[PowerLine], ax: Axes) -> None:
    marks = cycle("os^D")
    for rows in dict.fromkeys(line.rows_a_night for line in lines):
        mark = next(marks)
        for gate, colour in _GATES.items():
            own = sorted(
                (line.nights, line.smallest_gain)
                for line in lines
                if (line.rows_a_night, line.gate) == (rows, gate)
            )
            nights, gains = zip(*own, strict=True)
            label = f"{rows:,} rows, {gate.partition(',')[0].removesuffix(' of nights')}"
            ax.plot(
                nights, [100 * g for g in gains], mark, linestyle="-", color=colour, label=label
            )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks([1, 7, 30], ["1", "7", "30"])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("nights (rows: new gate rows a night)")
    ax.set_ylabel("gain, % of the base's loss")
    ax.set_title("Smallest gain found in 80 % of domains")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, fontsize=8)


def _nights(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw each method's difference to the base over the nights, a panel for each task."""
    lines = record.lines(NightLine)
    tasks = list(dict.fromkeys(line.task for line in lines))
    for task, ax in zip((tasks[0], tasks[-1]), axes, strict=True):
        for method, colour in _NIGHTS.items():
            own = [line for line in lines if (line.method, line.task) == (method, task)]
            nights = [line.night for line in own]
            ax.plot(nights, [line.delta_auc for line in own], "o-", color=colour, label=method)
            low, high = [line.low for line in own], [line.high for line in own]
            ax.fill_between(nights, low, high, color=colour, alpha=0.12, linewidth=0)
        ax.axhline(0, color="black", linewidth=0.8, label="base")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("night")
        ax.set_ylabel("AUC over the base's, next day")
        ax.set_title(task)
    # A legend of the first panel that is wider than it would push the panels apart.
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)


def _finetune(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw rows per second, memory, and time against the number of domains."""
    variants = record.lines(VariantLine, "variants")
    _speeds(record, variants, axes[0])
    _memory(variants, axes[1])
    _domains(record.lines(DomainsLine, "domains"), axes[2])


def _speeds(record: BenchmarkRecord, variants: Sequence[VariantLine], ax: Axes) -> None:
    names = [line.variant for line in variants]
    rates = [line.rows_per_s for line in variants]
    # Variants a, b and c are what kernels are compared with.
    bars = ax.barh(names, rates, color=[_GREY if name in "abc" else _BLUE for name in names])
    ax.bar_label(bars, [f"{line.times_a:g}x" for line in variants], padding=4)
    by_name = dict(zip(names, rates, strict=True))
    wanted = [
        (variant, float(target.wanted.removeprefix("at least ").removesuffix("x")) * by_name["a"])
        for target in record.targets
        for begins, variant in _TARGET_VARIANTS.items()
        if target.name.startswith(begins) and variant in by_name
    ]
    if wanted:
        positions, rates_wanted = [names.index(name) for name, _ in wanted], [r for _, r in wanted]
        ends = [(y - 0.45, y + 0.45) for y in positions]
        starts, stops = zip(*ends, strict=True)
        ax.vlines(rates_wanted, starts, stops, color=_ORANGE, linestyle="--", label="target")
        ax.legend(loc="lower right")
    ax.set_xscale("log")
    ax.margins(x=0.2)
    ax.invert_yaxis()
    ax.set_xlabel("rows a second (log)")
    ax.set_title("Speed, and times (a)")


def _memory(variants: Sequence[VariantLine], ax: Axes) -> None:
    names = [line.variant for line in variants]
    before = [0.0] * len(names)
    for kind, colour in _KINDS.items():
        widths = [line.memory[kind] for line in variants]
        ax.barh(names, widths, left=before, color=colour, label=kind)
        before = [b + w for b, w in zip(before, widths, strict=True)]
    ax.invert_yaxis()
    ax.set_xlabel("MiB a worker")
    ax.set_title("Peak memory of a worker")
    ax.legend(loc="center right")


def _domains(lines: Sequence[DomainsLine], ax: Axes) -> None:
    counts = [line.domains for line in lines]
    curves = (
        ([line.separate_epoch_s for line in lines], "one after the other", _GREY),
        ([line.bank_epoch_s for line in lines], "bank", _BLUE),
        ([line.bank_of_1_same_rows_epoch_s for line in lines], "bank of 1, same rows", _GREEN),
    )
    for seconds, label, colour in curves:
        ax.plot(counts, seconds, "o-", color=colour, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("domains (log)")
    ax.set_ylabel("seconds an epoch (log)")
    ax.set_title("Many domains in one pass")
    ax.legend()


def _tables(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw the time of a step and lookups per second against the rows of the table."""
    lines = sorted(record.lines(SizeLine), key=lambda line: line.rows)
    rows = [line.rows for line in lines]
    axes[0].plot(rows, [line.step_p50_ms for line in lines], "o-", color=_BLUE, label="step")
    axes[0].plot(rows, [line.lookup_p50_ms for line in lines], "o-", color=_GREY, label="lookup")
    axes[0].axhline(
        1.5 * lines[0].step_p50_ms, color=_ORANGE, linestyle="--", label="1.5 x the smallest"
    )
    axes[0].set_ylabel("ms, median")
    axes[0].set_title("A tuning step, and its lookups")
    for name in lines[0].rates:
        axes[1].plot(rows, [line.rates[name] / 1e6 for line in lines], "o-", label=name)
    axes[1].set_ylabel("million lookups a second, all workers")
    axes[1].set_title("Lookups alone")
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xlabel("rows of the table (log)")
        ax.set_ylim(bottom=0)
        ax.legend()


def _serve(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw rows per second of files, and latency by domains and by rows of a request."""
    files = record.lines(FilesLine, "files")
    axes[0].bar([line.what for line in files], [line.rows_per_s for line in files], color=_BLUE)
    axes[0].set_ylabel("rows a second")
    axes[0].set_title("From Parquet to Parquet")
    domains = record.lines(RequestLine, "domains")
    labels = [f"{line.server},\n{line.domains} domains" for line in domains]
    axes[1].barh(labels, [line.p50_ms for line in domains], color=_BLUE)
    axes[1].invert_yaxis()
    axes[1].set_xlabel("ms, median")
    axes[1].set_title(f"A request of {domains[0].rows:,} rows")
    sizes = record.lines(RequestLine, "sizes")
    servers = dict.fromkeys(line.server for line in sizes)
    for server, colour in zip(servers, (_GREY, _BLUE, _ORANGE), strict=False):
        own = [line for line in sizes if line.server == server]
        rows = [line.rows for line in own]
        medians, slowest = [line.p50_ms for line in own], [line.p99_ms for line in own]
        axes[2].plot(rows, medians, "o-", color=colour, label=f"{server}, median")
        axes[2].plot(rows, slowest, "o:", color=colour, label=f"{server}, 99 %")
    axes[2].set_xscale("log")
    axes[2].set_yscale("log")
    axes[2].set_xlabel("rows of a request (log)")
    axes[2].set_ylabel("ms (log)")
    axes[2].set_title("Latency by size")
    axes[2].legend(fontsize=7)


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
    for name, colour in zip(names, (_BLUE, _ORANGE, _GREEN), strict=False):
        own = [line for line in measured if line.workload == name]
        _efficiency_line(own, ax, "o-", color=colour, label=name)
        for index, link in enumerate(links):
            over = [s for s in simulated if (s.workload, s.link_gb_per_s) == (name, link)]
            _efficiency_line(over, ax, ".--", color=colour, alpha=(index + 1) / len(links))
    for index, link in enumerate(links):
        label, shade = f"simulated, {link:g} GB/s", (index + 1) / len(links)
        ax.plot([], [], "--", color="black", alpha=shade, label=label)
    ax.axhline(1.0, color=_GREY, linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("workers (log)")
    ax.set_ylabel("efficiency, against one worker")


def _efficiency_line(
    lines: Sequence[MeasuredLine],
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
    colours = (_GREEN, _BLUE, _GREY, _ORANGE, "#8f6bb3", "#c4483b", "#57b0b0", "#777777")
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
    return list(dict.fromkeys(line.table for line in record.lines(PlacedLine) if line.p50_ms))


def _sharding(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw a step's time by sharding type and precision: a panel for each table, with estimates."""
    for ax, title in zip(axes, _measured_tables(record), strict=False):
        lines = record.lines(PlacedLine, title)
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
    lines: Sequence[PlacedLine],
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


def _ms(line: PlacedLine) -> float:
    """Return the median time of a step that was measured, in milliseconds."""
    assert line.p50_ms is not None, "lines without a measurement were left out"
    return line.p50_ms
