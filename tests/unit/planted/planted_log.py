"""A planted log that is written in a moment, and its two tables."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iak.pipeline.planted.files import SynthResult, generate
from iak.pipeline.planted.population import Knobs, build_knobs
from iak.schemas.synth import SynthManifest, SynthSpec


def small(**changes: object) -> Knobs:
    """Knobs of a log that is written in a moment."""
    size = {"rows": 6_000, "days": 7, "regions": 3, "skew": 3.0}
    people = {"users": 60, "items": 80, "shops": 24, "seed": 3}
    return build_knobs(SynthSpec.model_validate({**size, **people, **changes}))


def write(out: Path, knobs: Knobs) -> SynthResult:
    return generate(knobs, out, lambda _: None)


def read(out: Path, kind: str) -> pa.Table:
    """All files of one kind in the order of the manifest, with region and day as columns."""
    manifest = SynthManifest.model_validate_json((out / "manifest.json").read_bytes())
    tables = []
    for part in manifest.parts:
        path = out / kind / f"region={part.region}" / f"dt={part.dt}" / "part-00000.parquet"
        table = pq.ParquetFile(path).read()
        assert table.num_rows == part.rows
        table = table.append_column("region", pa.array([part.region] * part.rows))
        tables.append(table.append_column("dt", pa.array([str(part.dt)] * part.rows)))
    return pa.concat_tables(tables)


def column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy()


@dataclass(frozen=True)
class Log:
    """A written log: its folder, what `generate` returned, and its two tables."""

    out: Path
    knobs: Knobs
    result: SynthResult
    events: pa.Table
    truth: pa.Table
