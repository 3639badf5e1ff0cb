"""State what was measured as lines, targets and notes."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

from iak.pipeline.bench.times import quantile
from iak.schemas.record import BenchmarkLine, BenchmarkResult, Target
from infra.benchmarks.serve import peft_batch
from infra.benchmarks.serve.offline import BASE as BASE_FILES
from infra.benchmarks.serve.offline import DAYS
from infra.benchmarks.serve.offline import KERNELS as KERNEL_FILES
from infra.benchmarks.serve.online import ALL, BASE, Asked
from infra.benchmarks.serve.peft_batch import MixedBatches
from infra.benchmarks.specs import BenchServeSpec

MIN_THROUGHPUT_SHARE = 0.8
"""Share of the base's rows per second, from Parquet to Parquet, that all kernels must reach."""
MAX_LATENCY_RATIO = {8: 1.15, 400: 1.6}
"""Distinct domains in a request -> times the base's latency that it may take."""
PROMOTION_S = 5.0
"""Seconds from a promotion to the first answer by its kernel."""


MIN_PEFT_RATIO = 10.0
"""Times the rows per second of PEFT's batch with the same adapters that kernels must reach."""


class AdaptersLine(BenchmarkLine):
    """One way to put a batch of rows through adapters, in one process and thread."""

    table: Literal["adapters"] = "adapters"
    what: str
    adapters: int
    """Distinct adapters in the batch; 0 for the base alone."""
    rows: int
    ms: float
    times_base: float


class FilesLine(BenchmarkLine):
    """Speed from Parquet to Parquet."""

    table: Literal["files"] = "files"
    what: str
    rows_per_s: int
    of_base: float
    """Rows per second over those of the base alone."""


class DomainsLine(BenchmarkLine):
    """Time of a request, by the number of distinct domains in it."""

    table: Literal["domains"] = "domains"
    server: str
    domains: int
    rows: int
    p50_ms: float
    p99_ms: float
    times_base: float


class SizesLine(BenchmarkLine):
    """Time of a request, by its rows."""

    table: Literal["sizes"] = "sizes"
    server: str
    rows: int
    p50_ms: float
    p99_ms: float
    rows_per_s: int


class PromotionsLine(BenchmarkLine):
    """Kernels promoted while clients ask."""

    table: Literal["promotions"] = "promotions"
    promotions: int
    seconds: float
    """Seconds from a promotion to the first answer by its kernel, the median."""
    slowest_s: float
    requests: int
    failed: int


def result(
    spec: BenchServeSpec,
    speeds: Mapping[str, Sequence[float]],
    asked: Asked,
    mixed: MixedBatches | None = None,
) -> BenchmarkResult:
    """Return what a record has.

    Args:
        spec: settings of the benchmark.
        speeds: rows per second from Parquet to Parquet, of each repeat.
        asked: seconds of requests.
        mixed: seconds of batches with PEFT; None where it is not installed.
    """
    return BenchmarkResult(
        rows=[line.as_row() for line in _lines(spec, speeds, asked, mixed)],
        targets=[*_targets(spec, speeds, asked), *(_peft_targets(mixed) if mixed else [])],
        notes=[*_notes(spec), _peft_note(mixed)],
    )


def _lines(
    spec: BenchServeSpec,
    speeds: Mapping[str, Sequence[float]],
    asked: Asked,
    mixed: MixedBatches | None,
) -> list[BenchmarkLine]:
    """Return the lines of all tables."""
    return [
        *_files(spec, speeds),
        *_domains(spec, asked),
        *_sizes(asked),
        _promotions(asked),
        *(_adapters(spec, mixed) if mixed else []),
    ]


def _adapters(spec: BenchServeSpec, mixed: MixedBatches) -> list[AdaptersLine]:
    (base,) = (median(s) for (name, _), s in mixed.seconds.items() if name == peft_batch.BASE)
    return [
        AdaptersLine(
            what=name,
            adapters=count,
            rows=spec.request_rows,
            ms=1e3 * median(seconds),
            times_base=median(seconds) / base,
        )
        for (name, count), seconds in mixed.seconds.items()
    ]


def _peft_targets(mixed: MixedBatches) -> list[Target]:
    """Compare kernels with PEFT's batch of the same adapters, at each number of them."""
    targets = []
    for (name, count), seconds in mixed.seconds.items():
        if name == peft_batch.TOWERS:
            ratio = median(seconds) / median(mixed.seconds[peft_batch.KERNELS, count])
            targets.append(
                Target(
                    name=f"rows/s over PEFT's mixed batch of {count} of the kernels' adapters",
                    wanted=f"at least {MIN_PEFT_RATIO:g}x",
                    measured=ratio,
                    is_met=ratio >= MIN_PEFT_RATIO,
                )
            )
    return targets


def _peft_note(mixed: MixedBatches | None) -> str:
    if mixed is None:
        return "PEFT is not installed where this was measured, so no batch of its was."
    return (
        f"PEFT {mixed.version}: one process and thread, from x to the logits, in turns. Kernels "
        "compute their encoders beside the adapters."
    )


def _files(spec: BenchServeSpec, speeds: Mapping[str, Sequence[float]]) -> list[FilesLine]:
    words = {BASE_FILES: "the base alone", KERNEL_FILES: f"{spec.domains[-1]:,} kernels"}
    base = median(speeds[BASE_FILES])
    return [
        FilesLine(
            what=words[name],
            rows_per_s=round(median(values)),
            of_base=median(values) / base,
        )
        for name, values in speeds.items()
    ]


def _domains(spec: BenchServeSpec, asked: Asked) -> list[DomainsLine]:
    base = _median_of(asked.by_domains, BASE)
    return [
        DomainsLine(
            server=server,
            domains=domains,
            rows=spec.request_rows,
            p50_ms=_quantile_ms(seconds, 0.5),
            p99_ms=_quantile_ms(seconds, 0.99),
            times_base=median(seconds) / base,
        )
        for (server, domains), seconds in asked.by_domains.items()
    ]


def _sizes(asked: Asked) -> list[SizesLine]:
    return [
        SizesLine(
            server=server,
            rows=rows,
            p50_ms=_quantile_ms(seconds, 0.5),
            p99_ms=_quantile_ms(seconds, 0.99),
            rows_per_s=round(rows / median(seconds)),
        )
        for (server, rows), seconds in asked.by_rows.items()
    ]


def _quantile_ms(seconds: Sequence[float], share: float) -> float:
    return 1e3 * quantile(seconds, share)


def _promotions(asked: Asked) -> PromotionsLine:
    return PromotionsLine(
        promotions=len(asked.promotion_s),
        seconds=median(asked.promotion_s),
        slowest_s=max(asked.promotion_s),
        requests=asked.requests,
        failed=asked.failed,
    )


def _targets(
    spec: BenchServeSpec, speeds: Mapping[str, Sequence[float]], asked: Asked
) -> list[Target]:
    share = median(speeds[KERNEL_FILES]) / median(speeds[BASE_FILES])
    kernels = f"{spec.domains[-1]:,} kernels"
    targets = [
        Target(
            name=f"Parquet to Parquet, rows/s with {kernels} over the base alone",
            wanted=f"at least {MIN_THROUGHPUT_SHARE:g}",
            measured=share,
            is_met=share >= MIN_THROUGHPUT_SHARE,
        )
    ]
    base = _median_of(asked.by_domains, BASE)
    for (server, domains), seconds in asked.by_domains.items():
        if server == ALL and domains in MAX_LATENCY_RATIO:
            times = median(seconds) / base
            targets.append(
                Target(
                    name=f"latency of {spec.request_rows} rows of {domains} domains over the base",
                    wanted=f"at most {MAX_LATENCY_RATIO[domains]:g}x",
                    measured=times,
                    is_met=times <= MAX_LATENCY_RATIO[domains],
                )
            )
    promotion_s = median(asked.promotion_s)
    return [
        *targets,
        Target(
            name="seconds from a promotion to the first answer",
            wanted=f"less than {PROMOTION_S:g}",
            measured=promotion_s,
            is_met=promotion_s < PROMOTION_S,
        ),
        Target(
            name="requests that failed while kernels were promoted",
            wanted="0",
            measured=asked.failed,
            is_met=asked.failed == 0,
        ),
    ]


def _median_of(asked: Mapping[tuple[str, int], Sequence[float]], server: str) -> float:
    """Return the median seconds of a server's requests."""
    return median(s for (name, _), seconds in asked.items() if name == server for s in seconds)


def _notes(spec: BenchServeSpec) -> list[str]:
    return [
        f"The base is that of `finetune` with {spec.table_rows:,} rows of tables, in int8; kernels "
        f"have {spec.kernel.hidden} hidden units, a code of {spec.kernel.code}, and weights that "
        "are drawn: they move no time.",
        "One process, one thread that predicts. Requests are Arrow streams over loopback, from one "
        "client with one connection; `wait_ms=0`. Servers are asked in turns.",
        f"From Parquet to Parquet: one worker, the last {DAYS} days of the log, timed from the "
        f"first batch to the last; {spec.repeats} repeats in turns.",
        f"Kernels are promoted while {spec.clients} clients ask without a pause. The server looks "
        "at the registry twice a second.",
    ]
