"""Measure how fast rows become batches, compared with the cost of decoding alone.

One worker and one thread read the same row groups in several ways. The ways take turns on each row
group, so that other work on the machine slows them alike. A ratio is the median over repeats of the
ratio of two ways in the same repeat.

Raw decode is pyarrow by itself: `ParquetFile(path).read_row_group(..., use_threads=False)` of the
columns that the catalogue names, everything else at pyarrow's defaults.
"""

import cProfile
import os
import pstats
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from iak.pipeline.bench.limits import measured_limits, one_torch_thread
from iak.pipeline.data import view, vocabulary
from iak.pipeline.data.batch import Batch, to_batch
from iak.pipeline.data.content import read_content
from iak.pipeline.data.fingerprints import content_columns
from iak.pipeline.data.footer import footer_of, unframed
from iak.pipeline.data.prefetch import prefetch
from iak.pipeline.data.reader import Reader
from iak.pipeline.events import BenchAdvanced, Report, WorkDone
from iak.pipeline.process import keep_freed_memory
from iak.schemas.record import BenchmarkLine, BenchmarkResult, Target
from infra.benchmarks.platform_log import ENCODINGS, HISTORY, catalog_with, write_log
from infra.benchmarks.specs import BenchDataSpec

WANTED = 0.70
RAW, OWN = "raw decode", "decode as the reader asks"
ENCODED, BATCHED = "decode + encode", "decode + encode + batch"
HASHED = "content hashed before a run"
UNVERIFIED = "decode + encode, content not verified"
CONTENT_WANTED = 0.03
PREFETCHED, SHUFFLED = "the same, prefetched", "the same, shuffled"

_CONSUMER_WIDTH = 512


def measure(spec: BenchDataSpec, report: Report) -> BenchmarkResult:
    """Return the table's lines, the target, notes, and the machine's ceilings."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="iak-bench-data-") as folder, _one_thread():
        root = Path(folder)
        report(BenchAdvanced("log", {"rows": spec.rows, "bytes": write_log(spec, root)}))
        cases = [open_case(spec, root, encoding) for encoding in ENCODINGS]
        limits = measured_limits()
        times = _timed(spec, cases, report)
        mixed = cases[0]
        stages = [line for case in cases for line in _stage_lines(case, times[case.encoding])]
        overlap = _overlap_lines(spec, mixed, report)
        profile = profile_of(mixed)
    ratio = _ratio(times["mixed"], BATCHED, RAW)
    targets = [_target(ratio, profile), *_content_targets(times["mixed"])]
    return BenchmarkResult(
        rows=[line.as_row() for line in (*stages, *overlap)],
        targets=targets,
        notes=_notes(spec, mixed, profile),
        limits=limits,
    )


class StageLine(BenchmarkLine):
    """The rows per second of one way to read the log."""

    table: Literal["stages"] = "stages"
    encoding: str
    stage: str
    rows_per_s: int
    ns_per_row: float
    of_raw_decode: float
    """Rows per second over those of decoding alone."""
    of_decode_as_asked: float
    """Rows per second over those of decoding the columns that the catalogue names."""
    slowest_over_fastest: float


class OverlapLine(BenchmarkLine):
    """The seconds of a producer and a consumer of batches, alone or together."""

    table: Literal["overlap"] = "overlap"
    what: str
    seconds: float


class OverlapFact(BenchmarkLine):
    """A number that says how well producer and consumer overlap."""

    table: Literal["overlap"] = "overlap"
    what: str
    found: int | float


# Ways to read it


@dataclass(frozen=True, kw_only=True)
class Case:
    """One worker's reader of the log under one catalogue."""

    encoding: str
    root: Path
    reader: Reader
    batch_rows: int
    depth: int

    @cached_property
    def columns(self) -> list[str]:
        """Return the columns inside the files that the catalogue names."""
        catalog = self.reader.catalog
        return [c for c in catalog.columns if c not in catalog.log.partition_keys]

    def of_group(self, index: int) -> "Case":
        """Return the case of one of the log's row groups."""
        selection = self.reader.selection
        one = replace(selection, groups=(selection.groups[index],))
        return replace(self, reader=replace(self.reader, selection=one))

    def unverified(self) -> "Case":
        """Return the case of a reader that does not verify the files' content."""
        selection = self.reader.selection
        files = tuple(replace(file, content=None) for file in selection.snapshot.files)
        snapshot = replace(selection.snapshot, files=files)
        return replace(
            self, reader=replace(self.reader, selection=replace(selection, snapshot=snapshot))
        )

    def batches(self) -> Iterator[Batch]:
        """Yield batches in the log's order."""
        for table in self.reader.in_step(self.batch_rows):
            yield to_batch(table, self.reader.catalog)

    def shuffled(self) -> Iterator[Batch]:
        """Yield batches in shuffled order, as pre-training reads them."""
        tables = self.reader.shuffled(
            seed=0, epoch=0, batch_rows=self.batch_rows, block_rows=self.reader.rows
        )
        for table, _ in tables:
            yield to_batch(table, self.reader.catalog)


def open_case(spec: BenchDataSpec, root: Path, encoding: str) -> Case:
    """Fit the encoding, and open the log."""
    catalog = catalog_with(encoding)
    log = view.open_log(catalog, str(root), wanted=["pretrain"])
    reader = Reader(
        selection=log.selections["pretrain"],
        catalog=catalog,
        encoding=vocabulary.fit(log.raw_rows("pretrain"), catalog),
        rank=0,
        world=1,
    )
    return Case(
        encoding=encoding,
        root=root,
        reader=reader,
        batch_rows=spec.batch_rows,
        depth=spec.prefetch,
    )


def _decode(case: Case) -> None:
    """Decode row groups with pyarrow's defaults."""
    selection = case.reader.selection
    for index, group, _ in selection.groups:
        path = case.root / "events" / selection.snapshot.files[index].path
        pq.ParquetFile(path).read_row_group(group, columns=case.columns, use_threads=False)


def _decode_as_asked(case: Case) -> None:
    """Decode row groups with the reader's options: text as dictionaries, checksums verified."""
    selection = case.reader.selection
    for index, group, _ in selection.groups:
        parquet = selection.snapshot.open(selection.snapshot.files[index])
        parquet.read_row_group(group, columns=case.columns, use_threads=False)


def _hash(case: Case) -> None:
    """Hash whole files by content, each with its first row group."""
    snapshot, columns = case.reader.selection.snapshot, content_columns(case.reader.catalog)
    for index, group, _ in case.reader.selection.groups:
        if group == 0:
            filesystem, path = snapshot.locate(snapshot.files[index].path)
            with filesystem.open_input_file(path) as handle:
                size, footer = footer_of(handle)
                read_content(handle, unframed(footer), columns, file_bytes=size)


def _used_up(items: Iterator[object]) -> None:
    for _ in items:
        pass


READINGS: dict[str, Callable[[Case], None]] = {
    RAW: _decode,
    OWN: _decode_as_asked,
    HASHED: _hash,
    UNVERIFIED: lambda case: _used_up(case.unverified().reader.in_step(case.batch_rows)),
    ENCODED: lambda case: _used_up(case.reader.in_step(case.batch_rows)),
    BATCHED: lambda case: _used_up(case.batches()),
    PREFETCHED: lambda case: _used_up(prefetch(case.batches(), depth=case.depth)),
    SHUFFLED: lambda case: _used_up(case.shuffled()),
}


# Measuring

Times = dict[str, list[float]]
"""Way -> seconds for all rows, by repeat."""


def _timed(spec: BenchDataSpec, cases: list[Case], report: Report) -> dict[str, Times]:
    times: dict[str, Times] = {}
    for number, case in enumerate(cases):
        _used_up(case.batches())  # files into the system's cache, small ids into the memo
        seconds: Times = {reading: [] for reading in READINGS}
        for repeat in range(spec.repeats):
            for reading, one in _once(case).items():
                seconds[reading].append(one)
            done = number * spec.repeats + repeat + 1
            report(WorkDone(case.encoding, done, len(cases) * spec.repeats))
        times[case.encoding] = seconds
    return times


def _once(case: Case) -> dict[str, float]:
    """Return the seconds of each way over all row groups. The ways take turns on each group."""
    seconds = dict.fromkeys(READINGS, 0.0)
    for index in range(len(case.reader.selection.groups)):
        group = case.of_group(index)
        for reading, read in READINGS.items():
            seconds[reading] += _seconds(partial(read, group))
    return seconds


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _ratio(times: Times, reading: str, to: str) -> float:
    """Return the rows per second of one way over another's."""
    return median(b / a for a, b in zip(times[reading], times[to], strict=True))


def _stage_lines(case: Case, times: Times) -> list[StageLine]:
    rows = case.reader.rows
    return [
        StageLine(
            encoding=case.encoding,
            stage=reading,
            rows_per_s=round(rows / median(seconds)),
            ns_per_row=round(1e9 * median(seconds) / rows, 1),
            of_raw_decode=round(_ratio(times, reading, RAW), 3),
            of_decode_as_asked=round(_ratio(times, reading, OWN), 3),
            slowest_over_fastest=round(max(seconds) / min(seconds), 2),
        )
        for reading, seconds in times.items()
    ]


def _overlap_lines(
    spec: BenchDataSpec, case: Case, report: Report
) -> list[OverlapLine | OverlapFact]:
    """Time a consumer that computes as long as a batch takes, with and without prefetching."""
    ready = list(case.batches())
    consume = _consumer(_seconds(lambda: _used_up(case.batches())) / len(ready))

    def all_of(batches: Iterator[Batch]) -> None:
        for batch in batches:
            consume(batch)

    readings: dict[str, Callable[[], object]] = {
        "batches alone": lambda: _used_up(case.batches()),
        "consumer alone": lambda: all_of(iter(ready)),
        "one after the other": lambda: all_of(case.batches()),
        "prefetched": lambda: all_of(prefetch(case.batches(), depth=case.depth)),
    }
    seconds: Times = {reading: [] for reading in readings}
    for repeat in range(spec.repeats):
        for reading, work in readings.items():
            seconds[reading].append(_seconds(work))
        report(WorkDone("overlap", repeat + 1, spec.repeats))
    hidden = median(
        (apart - together) / min(alone, consumer)
        for alone, consumer, apart, together in zip(*seconds.values(), strict=True)
    )
    facts = {
        "share of the shorter one that is hidden": hidden,
        "share of the time in which the producer holds the GIL": _gil_share(case),
        f"batches made and not used, at most (depth {case.depth})": most_in_flight(case),
    }
    return [
        *(OverlapLine(what=reading, seconds=median(took)) for reading, took in seconds.items()),
        *(OverlapFact(what=what, found=value) for what, value in facts.items()),
    ]


def _consumer(seconds: float) -> Callable[[Batch], None]:
    """Return a consumer of batches that multiplies matrices for about `seconds`."""
    weight = torch.full((_CONSUMER_WIDTH, _CONSUMER_WIDTH), 1e-3)
    product = min(_seconds(lambda: weight @ weight) for _ in range(20))
    count = max(round(seconds / product), 1)

    def consume(_batch: Batch) -> None:
        for _ in range(count):
            torch.mm(weight, weight)

    return consume


def _gil_share(case: Case) -> float:
    """Return the share of the time in which the prefetch thread keeps the main thread waiting."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # else the counting thread would keep the lock for 5 ms at a time
    try:
        alone = _counted(lambda: time.sleep(1.0))
        beside = _counted(lambda: _used_up(case.batches()))
    finally:
        sys.setswitchinterval(interval)
    return max(1 - beside / alone, 0.0)


def _counted(work: Callable[[], object]) -> float:
    """Return the turns per second of a loop of pure Python while another thread works."""
    other = threading.Thread(target=work)
    turns, started = 0, time.perf_counter()
    other.start()
    while other.is_alive():
        for _ in range(1_000):
            turns += 1
    return turns / (time.perf_counter() - started)


def most_in_flight(case: Case) -> int:
    """Return the most batches that are made and not yet used when the consumer is slow."""
    made, used, most = 0, 0, 0

    def counted() -> Iterator[Batch]:
        nonlocal made, most
        for batch in case.batches():
            made += 1
            most = max(most, made - used)
            yield batch

    for _ in prefetch(counted(), depth=case.depth):
        time.sleep(0.02)
        used += 1
    return most


def profile_of(case: Case, most: int = 8) -> list[str]:
    """Return the functions that take most of the time of making batches, without callees."""
    profiler = cProfile.Profile()
    profiler.runcall(lambda: _used_up(case.batches()))
    entries = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    own = {f"{Path(file).name}:{name}": entry[2] for (file, _, name), entry in entries.items()}
    total = sum(own.values())
    largest = sorted(own.items(), key=lambda item: -item[1])[:most]
    return [f"{name.removeprefix('~:')} {seconds / total:.0%}" for name, seconds in largest]


def _target(ratio: float, profile: list[str]) -> Target:
    is_met = ratio >= WANTED
    note = (
        f"time goes to {'; '.join(profile)}. Columns leave Arrow to be looked up in NumPy, a pass "
        "over memory each: one native function from decoded pages to ids would make it one"
    )
    return Target(
        name="batches over raw decode, rows/s on one thread",
        wanted=f"at least {WANTED:.2f}",
        measured=round(ratio, 3),
        is_met=is_met,
        note="" if is_met else note,
    )


def _content_targets(times: Times) -> list[Target]:
    """Measure the cost of naming files by their content, and of comparing it when they are read."""
    before = median(h / r for h, r in zip(times[HASHED], times[UNVERIFIED], strict=True))
    whole = [(h + e) / u for h, e, u in _columns_of(times)]
    shares = {
        "naming a file by its content, share of decode + encode": before,
        "verifying the content of what is read, share of decode + encode": (
            1 / _ratio(times, ENCODED, UNVERIFIED) - 1
        ),
        "both, where a run reads its rows once": median(whole) - 1,
    }
    return [
        Target(
            name=name,
            wanted=f"at most {CONTENT_WANTED:.2f}",
            measured=round(share, 4),
            is_met=share <= CONTENT_WANTED,
            note="" if share <= CONTENT_WANTED else "the stored bytes are read once more for it",
        )
        for name, share in shares.items()
    ]


def _columns_of(times: Times) -> Iterator[tuple[float, float, float]]:
    yield from zip(times[HASHED], times[ENCODED], times[UNVERIFIED], strict=True)


def _notes(spec: BenchDataSpec, case: Case, profile: list[str]) -> list[str]:
    """Return the notes that a reader needs to understand the numbers."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [
        f"{spec.rows:,} rows in row groups of {spec.row_group_rows:,}, {len(case.columns)} columns "
        f"({spec.compression}), two of them histories of 0 to {HISTORY}; batches of "
        f"{spec.batch_rows:,}. The files are in the system's cache.",
        "`raw decode` is pyarrow at its defaults; `decode as the reader asks` takes text as "
        "dictionaries and verifies page checksums. Both ratios are given; the target is the first.",
        "mixed: users (64-bit ids) hashed, weekday and age by identity, the others by vocabulary. "
        "identity: every counted id; hash: every id and text; vocabulary: everything, users too.",
        "`shuffled` shuffles one row group at a time here; pre-training shuffles more together.",
        f"Where the time of a batch goes (mixed): {'; '.join(profile)}.",
        f"Load average while it ran, this process included: {load} on {os.cpu_count()} cores.",
    ]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let Arrow and torch compute only on the calling thread while the block lasts."""
    threads = pa.cpu_count()
    pa.set_cpu_count(1)
    try:
        with one_torch_thread():
            yield
    finally:
        pa.set_cpu_count(threads)
