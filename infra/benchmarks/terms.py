"""Leave each term of the information bottleneck out, on planted logs that are made harder.

A log's days before the last two are a base's days and then six recent days. A base learns from the
older days as they are. The recent days, which kernels are tuned on, are

- as they are;
- noisy: some rows of each region and day trade their labels with each other;
- thin: few rows of each region and day are left;
- poisoned: on one of the six days, some rows without a click become clicks;
- old: the last three of the six days are missing.

Kernels are tuned as shipped, without the rate, with ten times its weight, without compression, and
without both. All are judged on the last two days, which are as they are. The probabilities that the
labels were drawn from are known there, so a method is judged by the share of the reachable gain:
its expected loss, free of the luck of single labels.

A term pays where leaving it out lowers that share beyond the 95 % interval over seeds. Each seed
has a log, a base and kernels of its own.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import stats

import iak
from iak.pipeline.events import BenchAdvanced, Report
from iak.pipeline.planted.files import generate
from iak.pipeline.planted.population import build_knobs
from iak.pipeline.runs.evaluate import Evaluation
from iak.pipeline.runs.load import nested
from iak.pipeline.stats.metrics import ALL, POOLED_ROWS, MetricRow
from iak.schemas.predictions import IAK
from iak.schemas.record import BenchmarkLine, BenchmarkResult
from iak.schemas.synth import SynthSpec
from infra.benchmarks.specs import BenchTermsSpec

RECENT_DAYS, TEST_DAYS = 6, 2
SHIPPED, TASK = "as shipped", "ctr"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    SHIPPED: {},
    "without the rate": {"kernel.beta": 0.0},
    "ten times the rate": {"kernel.beta": 1e-2},
    "without compression": {"pooled.compression_epochs": 0},
    "without both": {"kernel.beta": 0.0, "pooled.compression_epochs": 0},
}
"""Variant -> settings of the night that differ from the shipped ones."""
Alter = Callable[[pa.Table, int, np.random.Generator], pa.Table]
"""Takes the rows of a region's day, the number of that recent day, and a source of chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What becomes of the recent days, which kernels are tuned on."""

    alter: Alter
    last_day: int = -1 - TEST_DAYS
    """The last day that kernels are tuned on, counted from the log's end."""
    min_rows: int = 500
    """Tuning rows from which a domain has a kernel of its own."""


class TermLine(BenchmarkLine):
    """One variant of the kernels under one condition: the mean of its seeds."""

    table: Literal["terms"] = "terms"
    condition: str
    variant: str
    seeds: int
    share: float
    """Share of the reachable gain, by expected log-loss on test rows."""
    minus_shipped: float
    """`share` minus that of the shipped kernels of the same seed, log and base."""
    low: float | None
    """Lower end of the 95 % interval of `minus_shipped` over seeds, by Student's distribution. None
    for the shipped kernels, and with one seed."""
    high: float | None
    shown: str
    """What the interval says of the term that was left out."""
    delta_auc: float
    """AUC of clicks over the base's, a mean over domains by their rows."""
    calibration: float
    """Mean probability of a click over the share of clicks."""
    harmed: int
    """Domains, of all seeds, whose AUC is lower than the base's beyond its interval."""
    domains: int
    """Domains of all seeds."""


def as_they_are(rows: pa.Table, _day: int, _chance: np.random.Generator) -> pa.Table:
    """Return the rows as they are."""
    return rows


def noisy(share: float) -> Alter:
    """Return what makes some rows trade their labels with each other.

    Args:
        share: share of the rows. The rates of clicks and orders stay.
    """

    def alter(rows: pa.Table, _day: int, chance: np.random.Generator) -> pa.Table:
        order = np.arange(len(rows))
        chosen = np.flatnonzero(chance.random(len(rows)) < share)
        order[chosen] = chance.permutation(chosen)
        for name in ("label_click", "label_order"):
            column = rows.column(name).take(pa.array(order))
            rows = rows.set_column(rows.schema.get_field_index(name), name, column)
        return rows

    return alter


def thin(most: int) -> Alter:
    """Return what leaves at most a number of rows of a region's day."""

    def alter(rows: pa.Table, _day: int, chance: np.random.Generator) -> pa.Table:
        kept = np.sort(chance.permutation(len(rows))[:most])
        return rows.take(pa.array(kept))

    return alter


def poisoned(share: float, *, day: int) -> Alter:
    """Return what turns rows without a click into clicks, on one day.

    Args:
        share: share of the rows without a click.
        day: number of the recent day, from 0.
    """

    def alter(rows: pa.Table, number: int, chance: np.random.Generator) -> pa.Table:
        if number != day:
            return rows
        forged = pa.array(chance.random(len(rows)) < share)
        name = "label_click"
        clicks = pc.if_else(forged, pa.scalar(1, pa.int8()), rows.column(name))
        return rows.set_column(rows.schema.get_field_index(name), name, clicks)

    return alter


def conditions_of(spec: BenchTermsSpec) -> dict[str, Condition]:
    """Return the conditions by their names in the table."""
    thin_rows = RECENT_DAYS * spec.thin_rows
    return {
        "as they are": Condition(alter=as_they_are),
        f"{spec.noise:.0%} of labels traded": Condition(alter=noisy(spec.noise)),
        f"{thin_rows} rows a domain": Condition(
            alter=thin(spec.thin_rows), min_rows=max(1, thin_rows // 2)
        ),
        f"one day with {spec.poison:.0%} forged clicks": Condition(
            alter=poisoned(spec.poison, day=RECENT_DAYS // 2)
        ),
        "the last three days missing": Condition(
            alter=as_they_are, last_day=-1 - TEST_DAYS - RECENT_DAYS // 2
        ),
    }


def measure(spec: BenchTermsSpec, report: Report) -> BenchmarkResult:
    """Return a line for each condition and variant, and notes."""
    conditions = conditions_of(spec)
    evaluated: dict[tuple[str, str], list[Evaluation]] = {}
    for seed in spec.seeds:
        with tempfile.TemporaryDirectory(prefix="iak-terms-") as name:
            folder = Path(name)
            base = _train_base(spec, seed, folder, report)
            for condition, altered in conditions.items():
                log = altered_log(folder / "log", altered, spec.days, seed)
                for variant, settings in VARIANTS.items():
                    done = _evaluated(seed, log, base, altered, settings)
                    evaluated.setdefault((condition, variant), []).append(done)
                    shown = {"seed": seed, "condition": condition, "variant": variant}
                    report(BenchAdvanced("kernels", {**shown, "share": _share(done)}))
                shutil.rmtree(log)
    lines = lines_of(evaluated)
    return BenchmarkResult(rows=[line.as_row() for line in lines], notes=_notes(spec, lines))


def _train_base(spec: BenchTermsSpec, seed: int, folder: Path, report: Report) -> Path:
    """Write the log of a seed, and train a base on its older days. Return the base's run folder."""
    knobs = SynthSpec(
        rows=spec.rows,
        days=spec.days,
        base_share=(spec.days - RECENT_DAYS - TEST_DAYS) / spec.days,
        regions=spec.regions,
        users=spec.users,
        items=spec.items,
        shops=max(4 * spec.regions, spec.items * 3 // 20),
        seed=seed + 7,
    )
    generate(build_knobs(knobs), folder / "log", lambda _: None)
    trained = iak.pretrain(
        catalog_of(folder, Condition(alter=as_they_are)),
        folder / "log",
        run_dir=folder / "base",
        seed=seed,
        device="cpu",
        today=knobs.start_date + timedelta(days=spec.days),
    )
    report(BenchAdvanced("base", {"seed": seed}))
    return trained.run_dir


def catalog_of(folder: Path, condition: Condition) -> Path:
    """Write the planted log's catalogue for a condition, and return its path.

    Args:
        folder: folder of the catalogue.
        condition: the days and domains that kernels are tuned on.
    """
    text = (resources.files("iak.schemas") / "catalog" / "planted.toml").read_text()
    first, last = -TEST_DAYS - RECENT_DAYS, -1 - TEST_DAYS
    text = text.replace(f"days = [{first}, {last}]", f"days = [{first}, {condition.last_day}]")
    text = text.replace("min_rows = 500", f"min_rows = {condition.min_rows}")
    path = folder / "planted.toml"
    path.write_text(text)
    return path


def altered_log(log: Path, condition: Condition, days: int, seed: int) -> Path:
    """Write a log whose recent days are altered, beside the log, and return its folder.

    Files of all other days are links to those of the log.

    Args:
        log: folder of the log.
        condition: alters the rows of a region's recent day.
        days: days of the log.
        seed: of everything random.
    """
    altered = log.with_name("altered")
    shutil.copytree(log, altered, copy_function=os.link)
    recent = range(days - TEST_DAYS - RECENT_DAYS, days - TEST_DAYS)
    for number, region in enumerate(sorted((altered / "events").iterdir())):
        folders = sorted(region.iterdir())
        for recent_day, day in enumerate(recent):
            chance = np.random.default_rng([seed, number, recent_day])
            for path in sorted(folders[day].glob("*.parquet")):
                rows = pq.read_table(path, partitioning=None)
                path.unlink()  # the link, so that the log itself stays as it is
                pq.write_table(condition.alter(rows, recent_day, chance), path)
    return altered


def _evaluated(
    seed: int, log: Path, base: Path, condition: Condition, settings: Mapping[str, Any]
) -> Evaluation:
    """Tune kernels on the altered log, and evaluate them on the last days.

    Args:
        seed: of tuning.
        log: folder of the altered log.
        base: run folder of the base.
        condition: the days and domains that kernels are tuned on.
        settings: of the night, that differ from the shipped ones, with dots.
    """
    folder = log.parent
    night_dir, evaluation_dir = folder / "night", folder / "evaluation"
    catalog = catalog_of(folder, condition)
    asked: dict[str, Any] = {"activations": "memory", **nested(settings)}
    night = iak.tune_night(
        catalog, log, base=base, run_dir=night_dir, seed=seed, device="cpu", **asked
    )
    evaluation = iak.evaluate(
        catalog, log, base=base, bundles=night.bundles, run_dir=evaluation_dir, device="cpu"
    )
    for run_dir in (night_dir, evaluation_dir):
        shutil.rmtree(run_dir)
    return evaluation


def lines_of(evaluated: Mapping[tuple[str, str], Sequence[Evaluation]]) -> list[TermLine]:
    """Return a line for each condition and variant.

    Args:
        evaluated: condition and variant -> the evaluation of each seed, in the same order.
    """
    lines = []
    for (condition, variant), seeds in evaluated.items():
        shares = [_share(each) for each in seeds]
        shipped = [_share(each) for each in evaluated[condition, SHIPPED]]
        low, high = interval_of([own - other for own, other in zip(shares, shipped, strict=True)])
        rows = [_rows(each) for each in seeds]
        own = [row for each in rows for name, row in each.items() if name not in (ALL, POOLED_ROWS)]
        lines.append(
            TermLine(
                condition=condition,
                variant=variant,
                seeds=len(seeds),
                share=fmean(shares),
                minus_shipped=fmean(shares) - fmean(shipped),
                low=None if variant == SHIPPED else low,
                high=None if variant == SHIPPED else high,
                shown="" if variant == SHIPPED else shown_of(low, high),
                delta_auc=fmean(each[ALL].delta_auc or 0.0 for each in rows),
                calibration=fmean(each[ALL].calibration or 0.0 for each in rows),
                harmed=sum((row.delta_auc_high or 0.0) < 0 for row in own),
                domains=len(own),
            )
        )
    return lines


def interval_of(differences: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a mean by Student's distribution; None with one value."""
    count = len(differences)
    if count < 2:
        return None, None
    half = float(stats.t.ppf(0.975, count - 1)) * stdev(differences) / count**0.5
    return fmean(differences) - half, fmean(differences) + half


def shown_of(low: float | None, high: float | None) -> str:
    """Return what an interval says of the term that was left out."""
    if low is None or high is None:
        return "one seed shows nothing"
    if high < 0:
        return "shipped is better"
    return "shipped is worse" if low > 0 else "no difference shown"


def _share(evaluation: Evaluation) -> float:
    """Return the share of the reachable gain; the log is planted, so it is known."""
    share = evaluation.result.reachable_share
    assert share is not None, "a planted log without true probabilities"
    return share


def _rows(evaluation: Evaluation) -> dict[str, MetricRow]:
    """Return the kernels' metrics of clicks, by domain."""
    return {row.domain: row for row in evaluation.rows if (row.method, row.task) == (IAK, TASK)}


def _notes(spec: BenchTermsSpec, lines: Sequence[TermLine]) -> list[str]:
    pays = [f"{x.condition}: {x.variant}" for x in lines if x.shown == "shipped is better"]
    costs = [f"{x.condition}: {x.variant}" for x in lines if x.shown == "shipped is worse"]
    return [
        f"{spec.rows:,} planted rows over {spec.days} days and {spec.regions} regions, "
        f"{len(spec.seeds)} seed(s). Kernels are those before the gate, at the catalogue's "
        "settings; nothing was searched.",
        "Shipped kernels are shown to be better than: " + ("; ".join(pays) or "none") + ".",
        "They are shown to be worse than: " + ("; ".join(costs) or "none") + ".",
    ]
