"""Draw one picture of each benchmark's record."""

from collections import Counter
from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

from iak.jobs.figures import BLUE, GREEN, GREY, ORANGE, Picture
from iak.schemas.record import BenchmarkRecord
from infra.benchmarks.figures_quality import draw_quality, logs_of
from infra.benchmarks.figures_terms import conditions_of, draw_terms
from infra.benchmarks.record_lines import (
    BankLine,
    ErrorLine,
    FaultLine,
    FilesLine,
    NightLine,
    PowerLine,
    RequestDomainsLine,
    RequestSizeLine,
    SizeLine,
    StageLine,
    VariantLine,
)

_KINDS = {
    "tables": BLUE,
    "optimiser": ORANGE,
    "kernels": GREEN,
    "cache": "#8f6bb3",
    "activations": GREY,
}
_TARGET_VARIANTS = {
    "ours uncached": "d[fp32]",
    "cached [h;x]": "e[hx]",
    "cached h,": "e[h]",
}
"""First words of a target of `finetune` -> the variant that the target is about."""
_VERDICTS = {"survived": GREEN, "refused_by_name": BLUE, "wrong": "#a40000"}
_GATES = {"chain of nights": BLUE, "present gate, every night": GREY}
_NIGHTS = {
    "first night's kernels": GREY,
    "chain": BLUE,
    "from scratch": ORANGE,
    "chain through the gate": "#8f6bb3",
    "oracle": GREEN,
}


def picture_of(record: BenchmarkRecord) -> Picture:
    """Return how a record is drawn."""
    match record.bench:
        case "quality" | "trunks":
            return Picture(fill=draw_quality, panels=max(1, len(logs_of(record))))
        case "terms":
            return Picture(fill=draw_terms, panels=max(1, len(conditions_of(record))))
    fill, panels = _PICTURES[record.bench]
    return Picture(fill=fill, panels=panels)


def _data(record: BenchmarkRecord, axes: Sequence[Axes]) -> None:
    """Draw rows per second against raw decoding, with the target's line."""
    (ax,) = axes
    lines = [line for line in record.lines(StageLine, "stages") if line.encoding == "mixed"]
    names = [line.stage for line in lines][::-1]
    rates = [line.rows_per_s / 1e6 for line in lines][::-1]
    raw = next(line.rows_per_s for line in lines if line.stage == "raw decode") / 1e6
    colours = [GREY if "decode" in name and "+" not in name else BLUE for name in names]
    bars = ax.barh(names, rates, color=colours)
    ax.bar_label(bars, [f"{rate:.2f} M/s  {rate / raw:.0%}" for rate in rates], padding=4)
    ax.axvline(0.7 * raw, color=ORANGE, linestyle="--", label="70 % of raw decode")
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
    ax.axvline(0.05, color=ORANGE, linestyle="--", label="5 %")
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
    _domains(record.lines(BankLine, "domains"), axes[2])


def _speeds(record: BenchmarkRecord, variants: Sequence[VariantLine], ax: Axes) -> None:
    names = [line.variant for line in variants]
    rates = [line.rows_per_s for line in variants]
    # Variants a, b and c are what kernels are compared with.
    bars = ax.barh(names, rates, color=[GREY if name in "abc" else BLUE for name in names])
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
        ax.vlines(rates_wanted, starts, stops, color=ORANGE, linestyle="--", label="target")
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


def _domains(lines: Sequence[BankLine], ax: Axes) -> None:
    counts = [line.domains for line in lines]
    curves = (
        ([line.separate_epoch_s for line in lines], "one after the other", GREY),
        ([line.bank_epoch_s for line in lines], "bank", BLUE),
        ([line.bank_of_1_same_rows_epoch_s for line in lines], "bank of 1, same rows", GREEN),
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
    axes[0].plot(rows, [line.step_p50_ms for line in lines], "o-", color=BLUE, label="step")
    axes[0].plot(rows, [line.lookup_p50_ms for line in lines], "o-", color=GREY, label="lookup")
    axes[0].axhline(
        1.5 * lines[0].step_p50_ms, color=ORANGE, linestyle="--", label="1.5 x the smallest"
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
    axes[0].bar([line.what for line in files], [line.rows_per_s for line in files], color=BLUE)
    axes[0].set_ylabel("rows a second")
    axes[0].set_title("From Parquet to Parquet")
    domains = record.lines(RequestDomainsLine, "domains")
    labels = [f"{line.server},\n{line.domains} domains" for line in domains]
    axes[1].barh(labels, [line.p50_ms for line in domains], color=BLUE)
    axes[1].invert_yaxis()
    axes[1].set_xlabel("ms, median")
    axes[1].set_title(f"A request of {domains[0].rows:,} rows")
    sizes = record.lines(RequestSizeLine, "sizes")
    servers = dict.fromkeys(line.server for line in sizes)
    for server, colour in zip(servers, (GREY, BLUE, ORANGE), strict=False):
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


_PICTURES = {
    "data": (_data, 1),
    "faults": (_faults, 1),
    "finetune": (_finetune, 3),
    "gate": (_gate, 2),
    "nights": (_nights, 2),
    "serve": (_serve, 3),
    "tables": (_tables, 2),
}
