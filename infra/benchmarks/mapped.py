"""Compare tables in shares with tables mapped whole from disk: start, memory, lookups.

    python -m infra.benchmarks mapped BASE OUT

OUT takes mapped.json and mapped.md, the table in README.md beside this file. Each way starts in
processes of its own. A page that two workers share counts half a page for each of them (Pss).
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.base import published_base
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.precision import ANYTHING
from iak.pipeline.bench import ids
from iak.pipeline.bench.limits import kib_of
from iak.pipeline.model.tables import TableShape
from iak.pipeline.process import Worker, run_on_workers
from iak.pipeline.runs.record import commit, machine
from iak.schemas.job import FrozenTablesSpec, Precision
from iak.schemas.plan import ResolvedPlacement

STORAGES = ("in shares", "mapped, not yet written", "mapped, there already")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
WORKERS, ROWS, BATCHES = 2, 4096, 20
_PAGE, _MIB = 4096, 2**20


def main(words: Sequence[str]) -> int:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(prog="python -m infra.benchmarks mapped", description=__doc__)
    parser.add_argument("base", type=Path, help="a run of `iak pretrain`, or its base folder")
    parser.add_argument("out", type=Path, help="folder of mapped.json and mapped.md")
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    measure(options.base.absolute(), options.out.absolute())
    return 0


def measure(base: Path, out: Path) -> None:
    """Measure every precision and way, then write the table."""
    results = []
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory(dir=out) as folder:
            for storage in STORAGES:
                parts = run_on_workers(on_worker, WORKERS, base, precision, storage, Path(folder))
                results.append({"precision": precision, "way": storage, **together(parts)})
    record = {
        "commit": commit(),
        "machine": machine().model_dump(),
        "base": str(base),
        "rows": results,
    }
    (out / "mapped.json").write_text(json.dumps(record, indent=1))
    (out / "mapped.md").write_text(table(results))


def on_worker(
    worker: Worker, base: Path, precision: Precision, storage: str, folder: Path
) -> dict[str, float]:
    """Return one worker's seconds, bytes and lookups."""
    opened = published_base.open_base(base)
    asked = FrozenTablesSpec(precision=precision, mapped=storage != STORAGES[0], tolerance=ANYTHING)
    before = memory()
    dist.barrier()
    started = time.perf_counter()
    frozen = FrozenBase.load(opened, asked, ResolvedPlacement(), worker, map_folder=folder)
    dist.barrier()
    ready_s = time.perf_counter() - started
    tables = frozen.tables
    for local in tables.local_rows:
        local.bytes_RN.flatten()[::_PAGE].sum()  # a mapped page counts once it was read
    dist.barrier()
    after = memory()
    dist.barrier()
    shapes = published_base.table_shapes(opened.catalog, opened.encoding, opened.model)
    seconds = []
    for batch in range(BATCHES):
        rows = drawn(shapes, seed=batch * worker.world + worker.rank)
        dist.barrier()
        started = time.perf_counter()
        tables(rows)
        seconds.append(time.perf_counter() - started)
    grown = {name: after[name] - before[name] for name in before}
    return {"ready_s": ready_s, "step_s": statistics.median(seconds), **grown}


def memory() -> dict[str, int]:
    """Return this process's resident bytes, and its part of the machine's."""
    rollup = Path("/proc/self/smaps_rollup")
    return {name: kib_of(rollup, name) or 0 for name in ("Rss", "Pss")}


def drawn(shapes: tuple[TableShape, ...], *, seed: int) -> KeyedJaggedTensor:
    """Return rows with one id for each feature, uniform over its table."""
    draw = torch.Generator().manual_seed(seed)
    keys = {feature: shape.rows for shape in shapes for feature in shape.features}
    values = [ids.drawn("uniform", ROWS, rows, draw) for rows in keys.values()]
    return KeyedJaggedTensor(
        keys=list(keys),
        values=torch.cat(values),
        lengths=torch.ones(len(keys) * ROWS, dtype=torch.int32),
    )


def together(parts: list[dict[str, float]]) -> dict[str, Any]:
    """Return the slowest worker's seconds and the machine's memory."""
    return {
        "ready_s": round(max(part["ready_s"] for part in parts), 2),
        "step_ms": round(1e3 * max(part["step_s"] for part in parts), 2),
        "resident_mib": [round(part["Rss"] / _MIB) for part in parts],
        "machine_mib": round(sum(part["Pss"] for part in parts) / _MIB),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return the table, one line for each way."""
    heads = ["precision", "tables", "ready, s", "resident, MiB a worker", "of the machine, MiB"]
    heads.append("a lookup of 4,096 rows, ms")
    lines = [heads, ["---"] * len(heads)]
    for line in results:
        resident = " and ".join(f"{mib:,}" for mib in line["resident_mib"])
        lines.append(
            [
                *(line["precision"], line["way"], f"{line['ready_s']:.1f}", resident),
                *(f"{line['machine_mib']:,}", f"{line['step_ms']:.1f}"),
            ]
        )
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
