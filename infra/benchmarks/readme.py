"""Write the records of a folder into README.md beside this file, between its two markers.

    python -m infra.benchmarks readme infra/benchmarks/epyc-2-cores

Every number of a benchmark on the page comes from a record.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from iak.schemas.record import BenchmarkRecord, Target
from infra.benchmarks.record_lines import (
    AdaptersLine,
    BankLine,
    DifferenceLine,
    DurationLine,
    ErrorLine,
    FilesLine,
    FloorLine,
    LauncherLine,
    LayoutLine,
    LeagueLine,
    MeasuredLine,
    NightLine,
    PairLine,
    PowerLine,
    PromotionsLine,
    RequestDomainsLine,
    RequestLine,
    RequestSizeLine,
    SharesLine,
    SimulatedLine,
    SizeLine,
    StageLine,
    TermLine,
    TrunkLine,
    VariantLine,
)

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- benches -->", "<!-- /benches -->"


def written(readme: str, folder: Path) -> str:
    """Return the page with the folder's records in it."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{chapter(folder)}\n{END}{after}"


def chapter(folder: Path) -> str:
    """Return every record of the folder as Markdown."""
    parts = {
        "finetune": _finetune,
        "finetune-2": _finetune_again,
        "tables": tables_text,
        "gate": _gate,
        "serve": serve_text,
        "nights": nights_text,
        "quality": quality_text,
        "trunks": trunks_text,
        "terms": terms_text,
        "data": _data,
        "sharding": _sharding,
        "scaling": _scaling,
    }
    records = _records(folder, parts)
    elsewhere = {
        other: _records(other, parts)
        for other in sorted(folder.parent.iterdir())
        if other != folder
    }
    sections = []
    for name, text in parts.items():
        if name in records:
            sections.append(text(records[name], _subfolder(folder)))
            continue
        # Another machine's record has its section where this one's is missing, but a second run
        # beside its own first one does not.
        for other, found in elsewhere.items():
            if name in found and found[name].bench == name:
                sections.append(text(found.pop(name), _subfolder(other)))
                break
    others = [other for other in elsewhere.values() if other]
    return "\n".join([*sections, *_elsewhere(records, others)]).rstrip()


def _records(folder: Path, names: Iterable[str]) -> dict[str, BenchmarkRecord]:
    paths = {name: folder / f"{name}.json" for name in names}
    return {
        name: BenchmarkRecord.model_validate_json(path.read_bytes())
        for name, path in paths.items()
        if path.is_file()
    }


def _elsewhere(
    here: Mapping[str, BenchmarkRecord], others: Sequence[Mapping[str, BenchmarkRecord]]
) -> list[str]:
    """Return the targets' values on other machines."""
    lines: list[str] = []
    for records in others:
        commands = [f"`{record.command}`, commit {record.commit}" for record in records.values()]
        machine = next(iter(records.values())).machine
        lines += [
            f"**The same targets on another machine**, {machine.cores} cores, "
            f"{machine.processor} ({'; '.join(commands)}):",
            "",
        ]
        known = {t.name: t for record in here.values() for t in record.targets}
        lines += table_of(
            ["record", "target", "wanted", "there", "here"],
            [
                [name, t.name, t.wanted, _measured(t), _measured(known.get(t.name))]
                for name, record in records.items()
                for t in record.targets
            ],
        )
    return lines


def _measured(target: Target | None) -> str:
    """Return a number, emphasised where it misses its target."""
    if target is None:
        return "-"
    text = f"{target.measured:.4g}"
    return text if target.is_met else f"**{text}**"


def _subfolder(folder: Path) -> str:
    return folder.resolve().relative_to(HERE).as_posix()


def _head(record: BenchmarkRecord, subfolder: str, title: str, said: str) -> list[str]:
    """Return a heading with the command, the machine and the picture."""
    machine, name = record.machine, record.bench
    return [
        f"**{title}** (`{record.command}`, {record.seconds / 60:.0f} minutes on "
        f"{machine.cores} cores, {machine.processor}, commit {record.commit}). {said}",
        "",
        f"![{title}]({subfolder}/{name}.png)",
        "",
    ]


def _share(value: float | None) -> str:
    """Return a share of continued training, or a dash where that improved nothing."""
    return "-" if value is None else f"{value:.3f}"


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, with an empty line after it."""
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines] + [""]


def _targets(record: BenchmarkRecord) -> list[str]:
    """Return the targets, and below them the reasons why some were missed."""
    targets = record.targets
    rows = [
        [t.name, t.wanted, f"{t.measured:.4g}", "met" if t.is_met else "**missed**"]
        for t in targets
    ]
    notes = [f"- *{t.name}*: {t.note}." for t in targets if not t.is_met and t.note]
    table = table_of(["target", "wanted", "measured", ""], rows)
    return [*table, *(["Where a target was missed:", "", *notes, ""] if notes else [])]


def _finetune(record: BenchmarkRecord, subfolder: str) -> str:
    lines = _head(
        record,
        subfolder,
        "What a night costs on a frozen base",
        "The base: 26 ids and 2 histories of dimension 64, 20 M rows of tables, an MLP "
        "1024-512-256; 2 M rows of log, 2 gloo workers of one thread, fp32, 8,192 rows a step.",
    )
    lines += table_of(
        ["variant", "rows/s", "times (a)", "with the cache pass", "tables + optimiser, MiB",
         "sent a step, KiB", "times its floor"],
        [
            [
                f"{r.variant}: {r.what}",
                f"{r.rows_per_s:,}",
                f"{r.times_a:.2f}",
                f"{r.times_a_with_cache_pass:.1f}" if r.times_a_with_cache_pass else "",
                f"{r.tables_mib + r.optimiser_mib:,.0f}",
                f"{r.sent_kib_a_step:,.0f}",
                f"{r.times_the_floor:.1f}",
            ]
            for r in record.lines(VariantLine, "variants")
        ],
    )  # fmt: skip
    nights = record.lines(DurationLine, "nights")
    lines += table_of(
        ["a night", "seconds", "of continued training", "gain, nats a row"],
        [
            [r.what, f"{r.seconds:.1f}", _share(r.of_continued),
             f"{r.gain_nats_a_row:+.4f}"]
            for r in nights
        ],
    )  # fmt: skip
    lines += [_bought(nights), ""]
    lines += table_of(
        ["domains", "bank, an epoch", "one kernel, same rows", "one by one, an epoch",
         "bank, whole tuning", "one by one, whole", "of the bank's, not epochs"],
        [
            [f"{r.domains:,}"]
            + [
                f"{seconds:.1f} s"
                for seconds in (r.bank_epoch_s, r.bank_of_1_same_rows_epoch_s, r.separate_epoch_s,
                                r.bank_whole_s, r.separate_whole_s, r.bank_without_epochs_s)
            ]
            for r in record.lines(BankLine, "domains")
        ],
    )  # fmt: skip
    lines += _targets(record)
    return "\n".join([*lines, *(f"- {note}" for note in record.notes), ""])


def _bought(nights: Sequence[DurationLine]) -> str:
    """Return the gains of continued training by step, and of kernels in a night."""
    (_, start), *later = nights[0].losses
    gains = ", ".join(f"{start - loss:+.4f} at step {step}" for step, loss in later)
    first, _, steady = (r.gain_nats_a_row for r in nights[2:5])
    return (
        f"A speed is not a gain. Continued training comes to {gains}; kernels to "
        f"{first:+.4f} in the first night and {steady:+.4f} in a steady one. "
        "It moves every embedding; they leave the base as it is."
    )


def _finetune_again(record: BenchmarkRecord, _subfolder: str) -> str:
    """Return the nights of a second run, also with narrowed inputs, and its differences."""
    spreads = [r.slowest_over_fastest_slice for r in record.lines(VariantLine, "variants")]
    lines = [
        f"A second run (`finetune-2.json`, commit {record.commit}) also has a trunk that "
        "multiplies in bf16 and lean nights. Other work disturbed its first minutes (a variant's "
        f"slowest slice took up to {max(spreads):.1f} times its fastest), so read its nights, "
        "which came later, rather than its steps.",
        "",
    ]
    lines += table_of(
        ["variant of the second run", "rows/s", "times (a)", "slowest over fastest slice"],
        [
            [f"{r.variant}: {r.what}", f"{r.rows_per_s:,}", f"{r.times_a:.2f}",
             f"{r.slowest_over_fastest_slice:.1f}"]
            for r in record.lines(VariantLine, "variants")
            if r.variant[0] in "ad"
        ],
    )  # fmt: skip
    lines += table_of(
        ["a night of the second run", "seconds", "of continued training", "gain, nats a row",
         "seconds of"],
        [
            [r.what, f"{r.seconds:.1f}", _share(r.of_continued),
             f"{r.gain_nats_a_row:+.4f}",
             ", ".join(f"{k} {v:.1f}" for k, v in r.seconds_of.items())]
            for r in record.lines(DurationLine, "nights")
        ],
    )  # fmt: skip
    measured = "; ".join(f"{t.name} {t.measured:.4g}" for t in record.targets)
    return "\n".join([*lines, f"The same targets in that run: {measured}.", ""])


def tables_text(record: BenchmarkRecord, subfolder: str) -> str:
    """Return the section of `tables`: its settings, its table and its picture.

    Args:
        record: of the benchmark.
        subfolder: folder of the records, relative to the page.
    """
    lines = _head(
        record,
        subfolder,
        "A billion rows",
        "Dimension 8, int8, every row distinct, over 2 workers. Half of a step's lookups fall "
        "evenly over the table, half as Zipf's. The three sizes take turns.",
    )
    lines += table_of(
        ["rows", "step, median", "90 %", "against 1 M", "lookups/s, uniform", "Zipf"],
        [
            [
                f"{r.rows:,}",
                f"{r.step_p50_ms:.1f} ms",
                f"{r.step_p90_ms:.1f} ms",
                f"{r.ratio:.2f}",
                f"{r.uniform_through_all_workers_per_s / 1e6:.1f} M",
                f"{r.zipf_through_all_workers_per_s / 1e6:.1f} M",
            ]
            for r in record.lines(SizeLine, "tables")
        ],
    )
    return "\n".join([*lines, *_targets(record)])


def serve_text(record: BenchmarkRecord, subfolder: str) -> str:
    """Return the section of `serve`: files, requests by domains and by rows, promotions.

    Args:
        record: of the benchmark.
        subfolder: folder of the records, relative to the page.
    """
    lines = _head(
        record,
        subfolder,
        "What kernels cost where rows are predicted",
        "Each row by the kernel of its domain, beside the base alone in the same run.",
    )
    lines += table_of(
        ["from Parquet to Parquet", "rows/s", "of the base's"],
        [
            [r.what, f"{r.rows_per_s:,}", f"{r.of_base:.2f}"]
            for r in record.lines(FilesLine, "files")
        ],
    )
    lines += table_of(
        ["server", "domains in the request", "rows", "median", "99 %", "times the base"],
        [
            [r.server, str(r.domains), f"{r.rows:,}", *_latency(r),
             f"{r.times_base:.2f}"]
            for r in record.lines(RequestDomainsLine, "domains")
        ],
    )  # fmt: skip
    lines += table_of(
        ["server", "rows of the request", "median", "99 %", "rows/s of one client"],
        [
            [r.server, f"{r.rows:,}", *_latency(r), f"{r.rows_per_s:,}"]
            for r in record.lines(RequestSizeLine, "sizes")
        ],
    )
    lines += table_of(
        ["promotions under load", "seconds to the first answer", "slowest", "requests", "failed"],
        [
            [str(r.promotions), f"{r.seconds:.1f}", f"{r.slowest_s:.1f}",
             f"{r.requests:,}", f"{r.failed:,}"]
            for r in record.lines(PromotionsLine, "promotions")
        ],
    )  # fmt: skip
    if adapters := record.lines(AdaptersLine, "adapters"):  # a machine without PEFT has none
        lines += table_of(
            ["from x to the logits", "adapters in the batch", "rows", "median", "times the base"],
            [
                [r.what, str(r.adapters), f"{r.rows:,}", f"{r.ms:.1f} ms",
                 f"{r.times_base:.2f}"]
                for r in adapters
            ],
        )  # fmt: skip
    return "\n".join([*lines, *_targets(record), *(f"- {note}" for note in record.notes), ""])


def _latency(line: RequestLine) -> list[str]:
    """Return median and 99 % quantile of a request's time."""
    return [f"{milliseconds:.1f} ms" for milliseconds in (line.p50_ms, line.p99_ms)]


def _gate(record: BenchmarkRecord, subfolder: str) -> str:
    lines = _head(
        record,
        subfolder,
        "A gate over a month of nights",
        "Simulated domains; the chain's code is that of `pipeline/publish/chain.py`. A gain is a "
        "share of the base's loss.",
    )
    lines += table_of(
        ["domains without a gain", "gate", "promoted", "of", "share", "at most (95 %)"],
        [
            [r.world, r.gate, f"{r.promoted:,}", f"{r.domains:,}", f"{r.share:.1%}",
             f"{r.share_at_most:.1%}"]
            for r in record.lines(ErrorLine, "errors")
        ],
    )  # fmt: skip
    power = record.lines(PowerLine, "power")
    nights = sorted({r.nights for r in power})
    gains = {(r.rows_a_night, r.gate, r.nights): f"{r.smallest_gain:.2%}" for r in power}
    lines += table_of(
        ["new gate rows a night", "gate", *(f"gain found by night {n}" for n in nights)],
        [
            [f"{rows:,}", gate, *(gains[rows, gate, n] for n in nights)]
            for rows, gate in dict.fromkeys((rows, gate) for rows, gate, _ in gains)
        ],
    )
    lines += _floors(record.lines(FloorLine, "floors"))
    return "\n".join([*lines, *_targets(record), *(f"- {note}" for note in record.notes), ""])


def _floors(floors: Sequence[FloorLine]) -> list[str]:
    """Return what the bound of a night costs, and which rare losses it bears."""
    losses = [*floors[0].promoted]
    return table_of(
        [
            "bound of a night, by evidence alone",
            *(f"promoted where 1 night in 20 loses {loss:.0%}" for loss in losses),
            "gain found by night 30",
        ],
        [
            [f"{r.floor:g}", *(f"{r.promoted[loss]:.1%}" for loss in losses),
             f"{r.smallest_gain_of_30_nights:.2%}"]
            for r in floors
        ],
    )  # fmt: skip


def nights_text(record: BenchmarkRecord, subfolder: str) -> str:
    """Return the section of `nights`: what each method brings on the day after every night."""
    rows = record.lines(NightLine, "nights")
    task = rows[0].task
    methods = list(dict.fromkeys(r.method for r in rows))
    cells = {(r.night, r.method): r for r in rows if r.task == task}
    lines = _head(
        record,
        subfolder,
        "What a chain of nights brings",
        f"AUC of {task} on the day after each night, minus the base's, in units of 1e-4, with 95 % "
        "intervals in which a user's rows are dependent.",
    )
    lines += table_of(
        ["night", *methods],
        [
            [str(night), *(_delta(cells.get((night, method))) for method in methods)]
            for night in sorted({r.night for r in rows})
        ],
    )
    return "\n".join([*lines, *_targets(record), *(f"- {note}" for note in record.notes), ""])


def _delta(line: NightLine | None) -> str:
    """Return a difference with its interval, or a dash where nothing was measured."""
    if line is None:
        return "-"
    return f"{1e4 * line.delta_auc:+.0f} [{1e4 * line.low:+.0f}, {1e4 * line.high:+.0f}]"


def quality_text(record: BenchmarkRecord, subfolder: str) -> str:
    """Return the section of `quality`: the league of each log, IAK beside rivals, and targets.

    Args:
        record: of the benchmark.
        subfolder: folder of the records, relative to the page.
    """
    machine, title = record.machine, "What kernels bring, beside other uses of the recent rows"
    lines = [
        f"**{title}** (`{record.command}`, {machine.cores} cores, "
        f"{machine.processor}, commit {record.commit}; the command collects cells that "
        "earlier sittings ran). Differences in AUC are in units of 1e-4, on test rows, to the base "
        "of the same seed, for the first task of each log. Other tasks and single domains: "
        "`quality/cells`.",
        "",
        f"![{title}]({subfolder}/quality.png)",
        "",
    ]
    league = [r for r in record.lines(LeagueLine, "league") if r.is_first]
    pairs = [r for r in record.lines(PairLine, "pairs") if r.is_first and r.rival != "base"]
    lines += _league_tables([r for r in league if not r.by_day], [r for r in pairs if not r.by_day])
    dated = {r.log for r in league if r.by_day}
    if dated:
        lines += [
            "**Freshness.** Above, counts are out of fold. Here methods read labels of days before "
            "a row's own, up to the end of the window, on logs whose rows have times:",
            "",
        ]
        lines += _league_tables(
            [r for r in league if r.log in dated], [r for r in pairs if r.by_day]
        )
    lines += _targets(record)
    return "\n".join([*lines, *(f"- {note}" for note in record.notes), ""])


def _league_tables(league: Sequence[LeagueLine], pairs: Sequence[PairLine]) -> list[str]:
    """Return the table of methods beside the base, and that of IAK's forms beside rivals."""
    return [
        *table_of(
            ["log", "method", "AUC", "over the base, 95 %", "lowest and highest seed", "GAUC",
             "log-loss", "calibration", "harmed domains", "parameters", "CPU of continued",
             "at its cap"],
            [_quality_row(line) for line in league],
        ),
        *table_of(
            ["log", "method", "minus", "difference, 95 %", "lowest and highest seed", "shown"],
            [[r.log, r.method, r.what, _interval(r), _seeds(r), r.verdict] for r in pairs],
        ),
    ]  # fmt: skip


def _quality_row(line: LeagueLine) -> list[str]:
    loss = line.delta_log_loss
    return [
        line.log,
        line.what,
        _decimal(line.auc, ".4f"),
        _interval(line),
        _seeds(line),
        _units(line.delta_gauc),
        "-" if loss is None else f"{loss:+.2%}",
        _decimal(line.calibration, ".3f"),
        f"{line.harmed} of {line.domains}",
        f"{line.parameters:,} x {line.copies}" if line.parameters else "0",
        _decimal(line.of_continued, ".2f"),
        f"{line.at_cap} of {line.seeds}",
    ]


def terms_text(record: BenchmarkRecord, subfolder: str) -> str:
    """Return the section of `terms`: each variant under each condition, beside the shipped one.

    Args:
        record: of the benchmark.
        subfolder: folder of the records, relative to the page.
    """
    lines = _head(
        record,
        subfolder,
        "Where rate and compression pay",
        "Kernels without a term of the bottleneck, on planted logs whose tuning days are made "
        "harder. The share is that of the reachable gain, by the expected log-loss of clicks on "
        "the last two days.",
    )
    lines += table_of(
        ["tuning days", "kernels", "share", "minus shipped, 95 % over seeds", "shown",
         "AUC over the base", "calibration", "harmed domains"],
        [
            [
                line.condition,
                line.variant,
                f"{line.share:.3f}",
                _over_seeds(line),
                line.shown or "-",
                f"{line.delta_auc:+.4f}",
                f"{line.calibration:.3f}",
                f"{line.harmed} of {line.domains}",
            ]
            for line in record.lines(TermLine)
        ],
    )  # fmt: skip
    return "\n".join([*lines, *(f"- {note}" for note in record.notes), ""])


def _over_seeds(line: TermLine) -> str:
    """Return the difference to the shipped kernels with its interval; a dash for those."""
    if line.low is None or line.high is None:
        return "-"
    return f"{line.minus_shipped:+.3f} [{line.low:+.3f}, {line.high:+.3f}]"


def trunks_text(record: BenchmarkRecord, subfolder: str) -> str:
    """Return the section of `trunks`: each model's base, what kernels add, beside the first model.

    Args:
        record: of the benchmark.
        subfolder: folder of the records, relative to the page.
    """
    shown = [line for line in record.lines(TrunkLine, "trunks") if line.is_first]
    machine, title = record.machine, "Trunks and readers of histories"
    tasks = ", ".join(f"{log} {task}" for log, task in {r.log: r.task for r in shown}.items())
    lines = [
        f"**{title}** (`{record.command}`, {machine.cores} cores, {machine.processor}, commit "
        f"{record.commit}; the command collects cells that earlier sittings ran). AUC on test "
        f"rows, of the first task of each log ({tasks}); differences are in units of 1e-4, with "
        f"95 % intervals. *The first* is `{shown[0].method}`. Other tasks and single domains: "
        "`trunks/cells`.",
        "",
        f"![{title}]({subfolder}/trunks.png)",
        "",
    ]
    lines += table_of(
        ["log", "model", "seeds", "base", "minus the first's base", "with kernels",
         "kernels add", "lowest and highest seed", "minus the first's with kernels",
         "dense parameters", "CPU s, base", "CPU s, kernels", "base at its cap"],
        [_trunk_row(line) for line in shown],
    )  # fmt: skip
    return "\n".join([*lines, *_targets(record), *(f"- {note}" for note in record.notes), ""])


def _trunk_row(line: TrunkLine) -> list[str]:
    return [
        line.log,
        f"`{line.method}`",
        str(line.seeds),
        _decimal(line.base_auc, ".4f"),
        _ends(line.base_beside_first, line.base_beside_first_low, line.base_beside_first_high),
        _decimal(line.auc, ".4f"),
        _interval(line),
        _seeds(line),
        _ends(line.tuned_beside_first, line.tuned_beside_first_low, line.tuned_beside_first_high),
        f"{line.parameters:,}",
        f"{line.base_cpu_s:.0f}",
        f"{line.cpu_s:.1f}",
        f"{line.at_cap} of {line.seeds}",
    ]


def _interval(line: DifferenceLine) -> str:
    """Return a difference in 1e-4 of AUC with its interval."""
    return _ends(line.delta_auc, line.low, line.high)


def _ends(delta: float | None, low: float | None, high: float | None) -> str:
    """Return a difference with the ends of its interval; a dash where it has none."""
    return "-" if low is None else f"{_units(delta)} [{_units(low)}, {_units(high)}]"


def _seeds(line: DifferenceLine) -> str:
    """Return the lowest and highest seed's difference; a dash where there is one seed."""
    if line.seeds < 2 or line.lowest_seed is None:
        return "-"
    return f"{_units(line.lowest_seed)}, {_units(line.highest_seed)}"


def _units(value: float | None) -> str:
    return "-" if value is None else f"{1e4 * value:+.0f}"


def _decimal(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _data(record: BenchmarkRecord, subfolder: str) -> str:
    lines = _head(
        record,
        subfolder,
        "From Parquet to batches",
        "20 columns, two of them histories, zstd, one thread; ids are mixed.",
    )
    lines += table_of(
        ["stage", "rows/s", "of raw decode"],
        [
            [r.stage, f"{r.rows_per_s:,}", f"{r.of_raw_decode:.2f}"]
            for r in record.lines(StageLine, "stages")
            if r.encoding == "mixed"
        ],
    )
    return "\n".join([*lines, *_targets(record)])


def _sharding(record: BenchmarkRecord, subfolder: str) -> str:
    launchers = record.lines(LauncherLine, "launchers")
    names = " and ".join(r.launcher for r in launchers)
    lines = _head(
        record,
        subfolder,
        "Every way to cut and hold a table",
        f"Two workers, under {names}; `planner` is TorchRec's estimate by its own constants, "
        "`here` the same by this machine's measured ones (none for what it cannot count).",
    )
    titles = dict.fromkeys(r.table for r in record.lines(LayoutLine) if r.way)
    for title in titles:
        lines += table_of(
            [title, "launcher", "step p50, ms", "p90", "M lookups/s", "sent, KiB", "memory, MiB",
             "planner, ms", "here, ms"],
            [_layout_cells(r) for r in record.lines(LayoutLine, title)],
        )  # fmt: skip
    lines += table_of(
        ["launcher", "seconds in all", "measuring", "start and end"],
        [
            [r.launcher, f"{r.whole_s:.1f}", f"{r.measuring_s:.1f}",
             f"{r.start_and_end_s:.1f}"]
            for r in launchers
        ],
    )  # fmt: skip
    return "\n".join(lines)


def _layout_cells(line: LayoutLine) -> list[str]:
    """Return a combination that was measured, or its error."""
    if line.error:
        return [line.way, line.launcher, line.error, *[""] * 6]
    return [
        line.way,
        line.launcher,
        f"{line.p50_ms:.2f}",
        f"{line.p90_ms:.2f}",
        f"{line.lookups_per_s / 1e6:.2f}",
        f"{line.wire_kib:,.0f}",
        f"{line.held_mib:,.1f}",
        *(f"{ms:.3f}" if ms else "" for ms in (line.planner_ms, line.here_ms)),
    ]


def _scaling(record: BenchmarkRecord, subfolder: str) -> str:
    lines = _head(
        record,
        subfolder,
        "More workers",
        "The same rows a step over all workers (strong), and as many on each (weak). Efficiency "
        "is rows/s over as many lone workers'. Simulated lines are not measurements.",
    )
    shares = {
        (r.workload, r.scaling, r.workers): r
        for r in record.lines(SharesLine, "shares of a measured step")
    }
    measured = []
    for r in record.lines(MeasuredLine, "measured"):
        share = shares[r.workload, r.scaling, r.workers]
        measured.append(
            [r.workload, r.scaling, str(r.workers), f"{r.step_ms:.1f}",
             f"{r.rows_per_s:,}", f"{r.efficiency:.2f}", f"{share.input:.0%}",
             f"{share.compute:.0%}", f"{share.waiting:.0%}", f"{share.collectives:.0%}"]
        )  # fmt: skip
    heads = ["measured", "", "workers", "step, ms", "rows/s", "efficiency", "input", "compute",
             "waiting", "collectives"]  # fmt: skip
    lines += table_of(heads, measured)
    simulated = record.lines(SimulatedLine, "simulated")
    counts = sorted({r.workers for r in simulated})
    keys = dict.fromkeys((r.workload, r.scaling, r.link_gb_per_s) for r in simulated)
    cells = {
        (r.workload, r.scaling, r.link_gb_per_s, r.workers): f"{r.efficiency:.2f}"
        for r in simulated
    }
    lines += table_of(
        ["simulated efficiency", "", "link, GB/s", *(f"{n} workers" for n in counts)],
        [[w, law, f"{link:g}", *(cells[w, law, link, n] for n in counts)] for w, law, link in keys],
    )
    return "\n".join([*lines, *_targets(record)])


def main(words: Sequence[str]) -> int:
    """Read the command line, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m infra.benchmarks readme", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the records, below infra/benchmarks")
    page = HERE / "README.md"
    page.write_text(written(page.read_text(), parser.parse_args(words).folder))
    return 0
