"""Turn measurements into lines of tables, and into targets met or missed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iak.pipeline.bench.torchrec_variants import Trajectory
from iak.schemas.manifest import PrecisionEntry
from iak.schemas.record import BenchmarkLine, Target
from infra.benchmarks.finetune.lines import (
    DomainsLine,
    DurationLine,
    NightLine,
    TrainingLine,
    VariantLine,
)
from infra.benchmarks.finetune.nights import Night
from infra.benchmarks.finetune.rates import Rates
from infra.benchmarks.finetune.steps import Measured, Steps
from infra.benchmarks.finetune.sweep import AtK
from infra.benchmarks.specs import BenchFinetuneSpec

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that the benchmark measured."""

    spec: BenchFinetuneSpec
    rates: Rates
    steps: Steps
    first: Night
    steady: Night
    others: Mapping[str, tuple[Night, Night]]
    """Both nights run in other ways, by name of the way."""
    sweep: tuple[AtK, ...]
    window_rows: int
    """Tuning rows of a night."""
    auc_costs: Mapping[str, float]
    """Precision -> its largest cost in AUC over tasks, on the base's validation rows."""

    def variant(self, name: str) -> Measured:
        """Return the variant of this name."""
        return next(v for v in self.steps.variants if v.name == name)


def lines_of(findings: Findings) -> list[BenchmarkLine]:
    """Return every line: of the variants, the nights, the numbers of domains."""
    return [
        *(_variant_line(findings, v) for v in findings.steps.variants),
        *_duration_lines(findings),
        *(_domains_line(at) for at in findings.sweep),
    ]


def _variant_line(findings: Findings, v: Measured) -> VariantLine:
    seconds, how = _to_best(findings, v)
    floor_s = v.floor.seconds(
        flops_per_s=findings.rates.flops_per_s, bytes_per_s=findings.rates.bytes_per_s
    )
    by_flops = v.floor.flops / findings.rates.flops_per_s >= floor_s
    whole = round(_with_cache_pass(findings, v), 2) if v.first_pass_s else None
    return VariantLine(
        variant=v.name,
        what=v.title,
        rows_per_s=round(v.rows_per_s),
        times_a=round(v.rows_per_s / findings.variant("a").rows_per_s, 2),
        times_a_with_cache_pass=whole,
        slowest_over_fastest_slice=round(v.spread, 2),
        auc_cost=findings.auc_costs.get(v.name.removeprefix("d[").removesuffix("]")),
        seconds_to_best=round(seconds, 2),
        seconds_to_best_is=how,
        tables_mib=round(v.memory.get("tables", 0) / MIB, 1),
        optimiser_mib=round(v.memory.get("optimiser", 0) / MIB, 1),
        kernels_mib=round(v.memory.get("kernels", 0) / MIB, 1),
        cache_mib=round(v.memory.get("cache", 0) / MIB, 1),
        activations_mib=round(v.cost.peak_bytes / MIB, 1),
        sent_kib_a_step=round(v.cost.sent_bytes / 1024, 1),
        received_kib_a_step=round(v.cost.received_bytes / 1024, 1),
        collectives_a_step=dict(v.cost.collectives),
        times_the_floor=round(findings.spec.workers / v.rows_per_s / floor_s, 2),
        floor_is="flops" if by_flops else "bytes",
        top=tuple(f"{name} {share:.0%}" for name, share in v.cost.top[:5]),
    )


def _to_best(findings: Findings, v: Measured) -> tuple[float, str]:
    """Return the seconds of training to the best validation step, and how they were found."""
    if v.name in ("a", "b"):
        run = findings.steps.full if v.name == "a" else findings.steps.continued
        return run.best_s, f"measured, step {run.best_step}, {run.gain:+.4f} nats/row better"
    rows = findings.first.rows_to_best
    basis = f"the first night's {rows:,.0f} rows through kernels, at this variant's rows/s"
    if not v.first_pass_s:
        return rows / v.rows_per_s, basis
    first_s = v.first_pass_s * findings.window_rows / v.slice_rows
    left = max(rows - findings.window_rows, 0)
    return first_s + left / v.rows_per_s, f"{basis}, its first pass included"


def _with_cache_pass(findings: Findings, v: Measured) -> float:
    """Return rows per second against (a) over a first night, whose first pass fills the cache."""
    seconds, _ = _to_best(findings, v)
    whole: float = findings.first.rows_to_best / max(seconds, 1e-9)
    return whole / findings.variant("a").rows_per_s


def _duration_lines(findings: Findings) -> list[DurationLine]:
    runs = (
        ("continued training, to its best step", findings.steps.continued),
        ("full fine-tune, to its best step", findings.steps.full),
    )
    first, steady = findings.first, findings.steady
    nights = (
        ("first night, to its best steps", first.to_best_s, first),
        ("first night, to its end", first.seconds, first),
        ("steady night, to its best steps", steady.to_best_s, steady),
        ("steady night, to its end", steady.seconds, steady),
        *(
            (f"{which} night, {variation}, to its best steps", night.to_best_s, night)
            for variation, both in findings.others.items()
            for which, night in zip(("first", "steady"), both, strict=True)
        ),
    )
    return [
        *(_training_line(findings, what, run) for what, run in runs),
        *(_night_line(findings, what, seconds, night) for what, seconds, night in nights),
    ]


def _of_continued(findings: Findings, seconds: float) -> float | None:
    """Return seconds over those of continued training; None where that never improved."""
    whole = findings.steps.continued.best_s
    return round(seconds / whole, 3) if whole else None


def _training_line(findings: Findings, what: str, run: Trajectory) -> TrainingLine:
    return TrainingLine(
        what=what,
        seconds=round(run.best_s, 2),
        of_continued=_of_continued(findings, run.best_s),
        gain_nats_a_row=round(run.gain, 5),
        losses=tuple((step, round(loss, 5)) for step, loss in run.losses),
        cut_short=run.is_cut_short,
    )


def _night_line(findings: Findings, what: str, seconds: float, night: Night) -> NightLine:
    return NightLine(
        what=what,
        seconds=round(seconds, 2),
        of_continued=_of_continued(findings, seconds),
        gain_nats_a_row=round(night.gain, 5),
        pooled_gain_nats_a_row=round(night.pooled_gain, 5),
        rows_from_cache=night.rows_from_cache,
        rows_through_base=night.rows_computed,
        epochs=night.epochs,
        kernels_stopped_at_cap=night.stopped_at_cap,
        kernels_at_once=night.at_once,
        moments_mib=round(night.moment_bytes / MIB, 2),
        seconds_of={name: round(seconds, 2) for name, seconds in night.parts.items()},
    )


def _domains_line(at: AtK) -> DomainsLine:
    return DomainsLine(
        domains=at.domains,
        rows=at.rows,
        bank_steps=at.steps,
        bank_epoch_s=round(at.bank_epoch_s, 3),
        bank_of_1_same_rows_epoch_s=round(at.bank_alone_epoch_s, 3),
        separate_epoch_s=round(at.separate_epoch_s, 3),
        times_separate_an_epoch=round(at.separate_epoch_s / at.bank_epoch_s, 2),
        bank_whole_s=round(at.bank_whole_s, 2),
        separate_whole_s=round(at.separate_whole_s, 2),
        times_separate_whole=round(at.separate_whole_s / at.bank_whole_s, 2),
        separate_batch_rows=at.batch_rows,
        epochs_of_slowest=at.epochs,
        epochs_of_mean_row=round(at.domain_epochs, 2),
        separate_domains_measured=at.measured_domains,
    )


def targets_of(findings: Findings) -> list[Target]:
    """Return the targets, each with the reason where it was missed."""
    a, continued, many = findings.variant("a"), findings.steps.continued, findings.sweep[-1]
    rows_per_s = (
        ("ours uncached, rows/s over full fine-tune", 2.5, "d[fp32]"),
        ("cached [h;x], rows/s over full fine-tune", 15.0, "e[hx]"),
        ("cached h, rows/s over full fine-tune", 25.0, "e[h]"),
    )
    return [
        *(
            _at_least(
                name, wanted, findings.variant(v).rows_per_s / a.rows_per_s, _why(findings, v)
            )
            for name, wanted, v in rows_per_s
        ),
        *(
            _at_most(
                f"{which} night over continued training, each to its best step",
                wanted,
                night.to_best_s / continued.best_s,
                _why_night(findings, night),
            )
            for which, wanted, night in (
                ("steady", 1 / 8, findings.steady),
                ("first", 1 / 2, findings.first),
            )
            if continued.best_s  # else it never bettered its start, as a note tells
        ),
        *_memory_targets(findings),
        _at_most(
            f"bank of {many.domains} over a bank of 1, same rows and rows a step",
            1.25,
            many.bank_epoch_s / many.bank_alone_epoch_s,
            "each further kernel in a step brings its weights, gradients and moments, and a "
            "product of fewer rows; fewer, larger kernels a step or narrower inputs would cut them",
        ),
        _at_least(
            f"bank of {many.domains} over separate fine-tunes, an epoch",
            5.0,
            many.separate_epoch_s / many.bank_epoch_s,
            _why(findings, "e[hx]"),
        ),
        _at_least(
            f"bank of {many.domains} over separate fine-tunes, whole tuning",
            3.0,
            many.separate_whole_s / many.bank_whole_s,
            _why_whole(many),
        ),
    ]


def _memory_targets(findings: Findings) -> list[Target]:
    """Return the targets on bytes of tables and optimisers, with one kernel and with many.

    With many, only the first night's largest cohort has moments.
    """
    theirs = _total_bytes(findings.variant("a"))
    wanted = (("int8", 0.27), ("int4", 0.14))
    night = findings.first
    moments = {
        1: 2 * 4 * findings.steps.parameters_per_kernel,
        findings.spec.domains[-1]: night.moment_bytes,
    }

    def target(precision: str, most: float, kernels: int) -> Target:
        tables = findings.variant(f"d[{precision}]").memory["tables"]
        return _at_most(
            f"bytes of tables ({precision}) and optimiser of {kernels} kernels over (a)'s",
            most,
            (tables + moments[kernels]) / theirs,
            f"tables alone are {tables / theirs:.4f}; {night.at_once} kernels at once have "
            f"{night.moment_bytes / MIB:.2f} MiB of moments on every worker: fewer rows a step, "
            "sharding them over workers, or narrower inputs would shrink them",
        )

    return [target(*each, kernels) for each in wanted for kernels in moments]


def _total_bytes(v: Measured) -> int:
    return v.memory["tables"] + v.memory["optimiser"]


def _at_least(name: str, wanted: float, measured: float, note: str) -> Target:
    is_met = measured >= wanted
    return Target(
        name=name,
        wanted=f"at least {wanted:g}x",
        measured=round(measured, 4),
        is_met=is_met,
        note="" if is_met else note,
    )


def _at_most(name: str, wanted: float, measured: float, note: str) -> Target:
    is_met = measured <= wanted
    return Target(
        name=name,
        wanted=f"at most {wanted:g}",
        measured=round(measured, 4),
        is_met=is_met,
        note="" if is_met else note,
    )


def _why(findings: Findings, name: str) -> str:
    """Return a sentence on a variant's time, and its ratio to the lower bound."""
    v, line = findings.variant(name), _variant_line(findings, findings.variant(name))
    a = findings.variant("a").floor
    rates = {"flops_per_s": findings.rates.flops_per_s, "bytes_per_s": findings.rates.bytes_per_s}
    most = a.seconds(**rates) / v.floor.seconds(**rates)
    line_a = _variant_line(findings, findings.variant("a"))
    return (
        f"{name} takes {line.times_the_floor} times its floor ({line.floor_is}), (a) "
        f"{line_a.times_the_floor}; at their floors they would "
        f"stand {most:.1f} to 1. Time goes to {', '.join(line.top)}"
    )


def _why_whole(at: AtK) -> str:
    """Return a sentence on the share of epochs in a bank's tuning."""
    epochs_s = at.domain_epochs * at.bank_epoch_s
    rest_s = at.bank_whole_s - epochs_s
    return (
        f"{epochs_s:.1f} s of the bank's {at.bank_whole_s:.1f} s are epochs, {rest_s:.1f} s one "
        "pass of every row through the base, and validations; were epochs free, it would stand "
        f"{at.separate_whole_s / rest_s:.1f} to 1. A lower precision of the trunk would shorten "
        "that pass, and more epochs would share it"
    )


def _why_night(findings: Findings, night: Night) -> str:
    per_row = findings.first.rows_to_best / max(findings.window_rows, 1)
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in night.parts.items())
    base_s = night.rows_computed / findings.variant("d[int8]").rows_per_s
    return (
        f"{parts}. The base's pass alone is {base_s:.1f} s at d[int8]'s rate, of "
        f"{findings.steps.continued.best_s:.1f} s of continued training in all. "
        f"{night.rows_computed:,} rows went through the base, {night.rows_from_cache:,} came from "
        f"the cache; levels took {list(night.epochs)} epochs ({per_row:.1f} passes to the best "
        f"steps in the first night), {night.stopped_at_cap} kernels stopped at their cap. A lower "
        f"precision of the trunk and fewer passes would shorten it: see the other nights. "
        f"{_why(findings, 'e[hx]')}"
    )


def notes_of(findings: Findings) -> list[str]:
    """Return the notes that a reader needs to understand the numbers."""
    spec, steps = findings.spec, findings.steps
    return [
        f"Every variant: fp32 products, {spec.workers} workers of one thread, "
        f"{spec.batch_rows:,} rows a step over all workers, medians of {spec.repeats} interleaved "
        f"slices of about {spec.slice_steps} steps, batches decoded beforehand.",
        f"(c), (d) and (e) tune one kernel of {steps.parameters_per_kernel:,} weights, which all "
        f"domains share; `a kernel a domain` tunes {steps.domains} of the {spec.domains[-1]}, "
        "every n-th by size.",
        "Bytes on the wire are counted at the c10d operators, out of and into one worker.",
        "Activations are the most that a step allocated beyond what stood before it.",
        "Seconds to the best step leave validations out, for every variant.",
        f"A night's kernels read h and {spec.kernel.narrow or 'all'} components of x, as `iak "
        "finetune` has it. Its gain is that of the domains' own kernels over the base, on gate "
        "rows, which nothing else used; of continued training, on the validation rows that its "
        "best step was chosen on.",
        "The nights with products in bf16 are not at equal precision, those with x whole show what "
        "narrowing it costs or brings: no target is about them.",
        "(f)'s bank reads what a night's kernels read; separate fine-tunes read h and all of x, "
        "since projecting it again in every epoch would cost them more than it saves.",
        "A night is timed from the loaded base to the end of its last level: reading, the base "
        "for rows that the cache lacks, validations; not the gate's rows. Continued training is "
        "timed without validations and without writing the result.",
        *_doubts(steps.full, "(a)"),
        *_doubts(steps.continued, "(b)"),
    ]


def auc_costs(entries: Sequence[PrecisionEntry]) -> dict[str, float]:
    """Return the largest cost in AUC over tasks, by precision."""
    full = {e.task: e.auc for e in entries if e.precision == "fp32"}
    costs: dict[str, float] = {}
    for entry in entries:
        before = full.get(entry.task)
        if before is not None and entry.auc is not None:
            cost = round(before - entry.auc, 6)
            costs[entry.precision] = max(costs.get(entry.precision, cost), cost)
    return costs


def _doubts(run: Trajectory, name: str) -> Sequence[str]:
    """Return notes on the limits of a run to convergence."""
    if run.best_step == 0:
        return [f"{name} never got better than the base it started from."]
    if run.is_cut_short:
        return [f"{name} was still getting better when its passes ran out."]
    return []


def limits_of(rates: Rates) -> Mapping[str, float]:
    """Return the machine's ceilings, for the record."""
    return {
        "worker_flops_per_s": rates.flops_per_s,
        "worker_bytes_per_s": rates.bytes_per_s,
    }
