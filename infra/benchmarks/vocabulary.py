"""Count a large vocabulary and open it: memory of each process, processor seconds, lookups.

    python -m infra.benchmarks vocabulary OUT [--rows 48_000_000]

OUT takes vocabulary.json and vocabulary.md, the table in README.md beside this file. The log has
two columns of ids: users, of which most rows have another one, and 100,000 items. Memory is
anonymous: pages of mapped files are left out, since the system takes them back when it needs them.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import distributed as dist

from iak.pipeline.base.encoding_fit import EncodingWork, fit_on_worker
from iak.pipeline.bench.limits import kib_of
from iak.pipeline.data import hashing, vocabulary
from iak.pipeline.data.ids import Memo, Table
from iak.pipeline.data.view import LogView, open_log
from iak.pipeline.process import Worker, run_on_workers
from iak.pipeline.runs.record import commit, machine
from iak.schemas.log import Catalog

CATALOG = Catalog.model_validate(
    {
        "log": {"name": "ids", "path": "log", "partition_keys": ["dt"], "user": "user"},
        "domain": {"keys": ["dt"]},
        "features": [
            {"kind": "categorical", "name": "user"},
            {"kind": "categorical", "name": "item"},
            {"kind": "numeric", "name": "price"},
        ],
        "tables": {"user": {"min_count": 1}},
        "tasks": [{"kind": "click", "label": "click"}],
        "splits": {"pretrain": {}},
    }
)
GROUP_ROWS, ITEMS = 250_000, 100_000
LOOKUPS, REPEATS = 32_768, 101
_MIB = 2**20
_EVERY_S = 0.05


def main(words: Sequence[str]) -> int:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.benchmarks vocabulary", description=__doc__
    )
    parser.add_argument("out", type=Path, help="folder of vocabulary.json and vocabulary.md")
    parser.add_argument("--rows", type=int, default=48_000_000, help="rows of the log")
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    measure(options.out.absolute(), options.rows)
    return 0


def measure(out: Path, rows: int) -> None:
    """Count by one worker and by two, open the result, and write the table."""
    with tempfile.TemporaryDirectory(dir=out) as name:
        folder = Path(name)
        draw_log(folder / "log" / "dt=2026-01-01", rows)
        view = open_log(CATALOG, name, wanted=["pretrain"])
        lines: list[dict[str, Any]] = []
        for workers in (1, 2):
            encoding = folder / f"encoding {workers}"
            parts = run_on_workers(counted, workers, view, encoding)
            lines.append({"what": "count", "workers": workers, **together(parts)})
        files = [(folder / f"encoding {n}" / "encoding.safetensors").read_bytes() for n in (1, 2)]
        assert files[0] == files[1], "two workers count what one does"
        parts = run_on_workers(opened, 2, folder / "encoding 1")
        lines.append({"what": "open and look up", "workers": 2, **together(parts)})
    found = {
        "rows": rows,
        "ids": int(parts[0]["ids"]),
        "mapped_over_in_memory": round(statistics.median(p["ratio"] for p in parts), 3),
        "bounded_over_whole": round(statistics.median(p["bounded"] for p in parts), 3),
    }
    record = {"commit": commit(), "machine": machine().model_dump(), **found, "lines": lines}
    (out / "vocabulary.json").write_text(json.dumps(record, indent=1))
    (out / "vocabulary.md").write_text(table(lines))


def draw_log(folder: Path, rows: int) -> None:
    """Write a log of random users and items, in row groups of `GROUP_ROWS` rows."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    writer: pq.ParquetWriter | None = None
    for start in range(0, rows, GROUP_ROWS):
        count = min(GROUP_ROWS, rows - start)
        group = pa.table(
            {
                "user": draw.integers(0, 2 * rows, count),
                "item": draw.integers(0, ITEMS, count),
                "price": draw.lognormal(size=count),
                "click": draw.integers(0, 2, count).astype(np.int8),
            }
        )
        writer = writer or pq.ParquetWriter(folder / "part.parquet", group.schema)
        writer.write_table(group)
    if writer:
        writer.close()


def counted(worker: Worker, view: LogView, folder: Path) -> dict[str, float]:
    """Return one worker's memory and seconds while it counts."""
    work = EncodingWork(view=view, before=None, grown=(), folder=folder)
    with watched() as result:
        fit_on_worker(worker, work, lambda _: None)
    return result()


def opened(worker: Worker, folder: Path) -> dict[str, float]:
    """Return one process's memory and seconds while it opens the encoding and looks up ids.

    Beside them: seconds of lookups in the mapped vocabulary over those in a copy in memory, and
    over those with a start for each key, as it was before starts were bounded.
    """
    del worker
    with watched() as result:
        encoding = vocabulary.load(folder)
        vocabulary.schema_hash(CATALOG, encoding)
        mapped = table_of(encoding.vocabularies["user"])
        mapped.rows_of_keys(hashing.mix(np.arange(LOOKUPS, dtype=np.uint64)))
    spent = result()
    keys = encoding.vocabularies["user"]
    in_memory = table_of(np.array(keys))
    whole = table_of(in_memory.vocabulary)
    bits = len(keys).bit_length()
    firsts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    whole.memo.starts["user"] = np.searchsorted(keys, firsts)
    draw = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"mapped": [], "in memory": [], "whole": []}
    for _ in range(REPEATS):
        asked = keys[draw.integers(0, len(keys), LOOKUPS)]
        for way, where in (("mapped", mapped), ("in memory", in_memory), ("whole", whole)):
            started = time.process_time()
            where.rows_of_keys(asked)
            seconds[way].append(time.process_time() - started)
    dist.barrier()
    median = {way: statistics.median(took) for way, took in seconds.items()}
    return {
        **spent,
        "ids": len(keys),
        "ratio": median["mapped"] / median["in memory"],
        "bounded": median["in memory"] / median["whole"],
    }


def table_of(keys: hashing.Keys | None) -> Table:
    """Return the table of users with this vocabulary."""
    return Table(name="user", spec=CATALOG.table_specs["user"], vocabulary=keys, memo=Memo())


@contextmanager
def watched() -> Iterator[Callable[[], dict[str, float]]]:
    """Yield a function that returns, after the block, its memory and processor seconds.

    Memory is the most anonymous memory of the process, and what it had before.
    """
    status, ended = Path("/proc/self/status"), threading.Event()
    before = kib_of(status, "RssAnon") or 0
    peaks = [before]

    def watch() -> None:
        while not ended.wait(_EVERY_S):
            peaks.append(max(peaks.pop(), kib_of(status, "RssAnon") or 0))

    thread = threading.Thread(target=watch)
    thread.start()
    started = time.process_time()
    took: list[float] = []
    try:
        yield lambda: {"before": before, "peak": peaks[0], "cpu_s": took[0]}
    finally:
        took.append(time.process_time() - started)
        ended.set()
        thread.join()


def together(parts: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return each process's memory, and the processor seconds of all."""
    return {
        "before_mib": [round(part["before"] / _MIB) for part in parts],
        "peak_mib": [round(part["peak"] / _MIB) for part in parts],
        "cpu_s": round(sum(part["cpu_s"] for part in parts), 1),
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the table, one line for each number of processes."""
    heads = ["what", "processes", "before it, MiB each", "at most, MiB each", "processor seconds"]
    rows = [heads, ["---"] * len(heads)]
    for line in lines:
        before, peak = (
            " and ".join(f"{mib:,}" for mib in line[name]) for name in ("before_mib", "peak_mib")
        )
        rows.append([line["what"], str(line["workers"]), before, peak, f"{line['cpu_s']:.1f}"])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"
