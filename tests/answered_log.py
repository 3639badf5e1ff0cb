"""A log with the answers of a recommender that runs elsewhere, and what kernels gain on it."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.runs.adopt import adopt_base
from iak.pipeline.runs.evaluate import evaluate
from iak.pipeline.runs.finetune import tune_night
from iak.pipeline.stats.metrics import ALL, MetricRow
from iak.schemas.job import AdoptSpec, EvaluateSpec, FinetuneSpec
from iak.schemas.log import Catalog
from iak.schemas.predictions import BASE
from iak.schemas.task import TaskSpec


def split_rows(table: pa.Table, catalog: Catalog) -> np.ndarray:
    """Which rows a recommender may learn from: those of `pretrain`, by date or by value."""
    split = catalog.splits["pretrain"]
    chosen = np.ones(len(table), bool)
    for column, values in split.where.items():
        chosen &= pc.is_in(table[column].cast(pa.string()), pa.array(values)).to_numpy()
    if split.days is not None:
        days = table[catalog.log.date_key].cast(pa.string()).to_numpy(zero_copy_only=False)
        known = np.unique(days)
        chosen &= (days >= known[split.days[0]]) & (days <= known[split.days[1]])
    return chosen


def rows_of_task(table: pa.Table, task: TaskSpec, catalog: Catalog) -> np.ndarray:
    """Which rows have the task's label; a conversion's are those that were clicked."""
    known = table[task.label].is_valid().to_numpy()
    click = next((t for t in catalog.tasks if t.kind == "click"), None)
    if task.kind == "conversion" and click is not None:
        known &= pc.equal(table[click.label], 1).fill_null(False).to_numpy()
    return known


def write_beside(
    catalog: Catalog,
    source: Path,
    target: Path,
    columns_of: Callable[[pa.Table, Catalog], dict[str, pa.Array]],
) -> dict[str, pa.Array]:
    """Write every file of a log again, with further columns of all its rows; these columns."""
    keys = pa.schema({key: pa.string() for key in catalog.log.partition_keys})
    log = ds.dataset(source, partitioning=ds.partitioning(keys, flavor="hive"))
    files = sorted(log.get_fragments(), key=lambda file: file.path)
    tables = [file.to_table(schema=log.schema) for file in files]
    columns = columns_of(pa.concat_tables(tables), catalog)
    start = 0
    for file, table in zip(files, tables, strict=True):
        path = target / Path(file.path).relative_to(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        out = table.drop_columns(list(catalog.log.partition_keys))
        for name, values in columns.items():
            out = out.append_column(name, values.slice(start, len(table)))
        start += len(table)
        pq.write_table(out, path, row_group_size=100_000)
    return columns


def of_the_log(document: dict[str, Any]) -> dict[str, Any]:
    """What of a catalogue holds for every recommender, but for a planted log's truth."""
    kept = {key: document[key] for key in ("log", "domain", "tasks", "splits")}
    return kept | {"log": {key: v for key, v in document["log"].items() if key != "truth"}}


def gains(catalog: Catalog, root: Path, **adopting: Any) -> list[MetricRow]:
    """Adopt a base, tune on it and evaluate: every method but the base, on all domains."""
    common = {"catalog": "answered", "data_root": str(root)}
    adopt_base(AdoptSpec.model_validate(common | {"run_dir": root / "base"} | adopting), catalog)
    common |= {"workers": 1, "base": root / "base"}
    tuning = common | {"run_dir": root / "night"}
    tune_night(FinetuneSpec.model_validate(tuning), catalog, ProcessLauncher())
    evaluating = common | {"run_dir": root / "test", "bundles": root / "night" / "bundles"}
    evaluation = evaluate(EvaluateSpec.model_validate(evaluating), catalog, ProcessLauncher())
    return [
        row
        for row in evaluation.rows
        if row.domain == ALL and row.method != BASE and row.delta_auc is not None
    ]


def show(rows: Iterable[MetricRow]) -> None:
    """Print a line for each method and task."""
    for row in rows:
        sys.stdout.write(
            f"{row.task:8} {row.rows:9,} rows  base {row.auc - row.delta_auc:.4f}  "
            f"{row.method:13} {row.auc:.4f}  delta {row.delta_auc:+.4f} "
            f"[{row.delta_auc_low:+.4f}, {row.delta_auc_high:+.4f}]\n"
        )
