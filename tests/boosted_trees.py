"""A recommender that is not a network: gradient-boosted trees, whose log-odds become columns.

Nothing of `iak` is in the trees. They are trained by scikit-learn on the rows of a log's `pretrain`
split, and answer every row. Their log-odds and what they read are written beside the log's columns,
as a platform's serving stack would log them:

    logit_<task>    double           log-odds of each task
    h               list<float>[F]   the F inputs of the trees

`python -m tests.boosted_trees CATALOG DATA_ROOT OUT` does so with any log, and then adopts, tunes
and evaluates. The page that explains it is `pipeline/base/README.md`.
"""

import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier

from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.publish.predict import BASE
from iak.pipeline.runs import load
from iak.pipeline.runs.adopt import adopt_base
from iak.pipeline.runs.evaluate import evaluate
from iak.pipeline.runs.night import tune_night
from iak.pipeline.stats.metrics import ALL, MetricRow
from iak.schemas.job import AdoptSpec, EvaluateSpec, FinetuneSpec
from iak.schemas.log import Catalog
from iak.schemas.task import TaskSpec

SMOOTHING = 10.0
"""Rows of the mean rate that are added to those of an id."""


def rates(ids: np.ndarray, label: np.ndarray, is_old: np.ndarray) -> np.ndarray:
    """The log-odds of each row's id among old rows, smoothed towards the mean of all ids."""
    _, codes = np.unique(ids, return_inverse=True)
    is_known = is_old & ~np.isnan(label)
    rows = np.bincount(codes[is_known], minlength=codes.max() + 1)
    positives = np.bincount(codes[is_known], label[is_known], minlength=codes.max() + 1)
    mean = label[is_known].mean()
    rate = (positives + SMOOTHING * mean) / (rows + SMOOTHING)
    return np.log(rate / (1 - rate))[codes]


def inputs_of(table: pa.Table, catalog: Catalog, is_old: np.ndarray) -> np.ndarray:
    """The inputs of the trees: a rate for each id, the length of each list, each number."""
    click = table[catalog.tasks[0].label].cast(pa.float64()).to_numpy()
    columns = []
    for feature in catalog.features:
        column = table[feature.columns[0]]
        if feature.kind == "categorical":
            ids = column.cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False)
            columns.append(rates(ids.astype(str), click, is_old))
        elif feature.kind == "list":
            columns.append(pc.list_value_length(column).fill_null(0).to_numpy())
        else:
            columns.append(column.cast(pa.float64()).fill_null(0.0).to_numpy())
    return np.stack(columns, axis=1).astype(np.float32)


def log_odds(inputs: np.ndarray, label: np.ndarray, is_used: np.ndarray) -> np.ndarray:
    """The log-odds of trees that are trained on some rows, for all rows."""
    trees = HistGradientBoostingClassifier(max_iter=60, random_state=0)
    trees.fit(inputs[is_used], label[is_used])
    return trees.decision_function(inputs)


def split_rows(table: pa.Table, catalog: Catalog) -> np.ndarray:
    """Which rows the trees may learn from: those of `pretrain`, by date or by value."""
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


def write_columns(catalog: Catalog, source: Path, target: Path) -> int:
    """Write every file of a log again, with the trees' columns; the number of their inputs."""
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
    return columns["h"].type.list_size


def columns_of(table: pa.Table, catalog: Catalog) -> dict[str, pa.Array]:
    """The columns that the trees' server would log."""
    is_old = split_rows(table, catalog)
    # One half of the old rows gives rates, the other half trains: a tree that reads a rate which
    # its own row is part of learns the label by heart.
    is_first = np.random.default_rng(0).random(len(table)) < 0.5
    inputs = inputs_of(table, catalog, is_old & is_first)
    columns = {}
    for task in catalog.tasks:
        label = table[task.label].cast(pa.float64()).to_numpy()
        is_used = is_old & ~is_first & rows_of_task(table, task, catalog)
        columns[f"logit_{task.title}"] = pa.array(log_odds(inputs, label, is_used))
    flat = pa.array(inputs.reshape(-1))
    return columns | {"h": pa.FixedSizeListArray.from_arrays(flat, inputs.shape[1])}


def columns_catalog(document: dict[str, Any], units: int) -> dict[str, Any]:
    """A catalogue that reads the trees' columns in the place of the log's features."""
    logits = {t.title: f"logit_{t.title}" for t in Catalog.model_validate(document).tasks}
    base = {"kind": "columns", "logits": logits, "h": "h", "units": units, "version": "trees 1"}
    kept = {key: document[key] for key in ("log", "domain", "tasks", "splits")}
    return kept | {"base": base}


def gains(catalog: Catalog, root: Path, **settings: Any) -> list[MetricRow]:
    """Adopt the columns, tune on them and evaluate: every method but the base, on all domains."""
    common = {"catalog": "columns", "data_root": str(root)}
    adopt_base(AdoptSpec.model_validate(common | {"run_dir": root / "base"}), catalog)
    common |= {"workers": 1, "base": root / "base"}
    tuning = common | {"run_dir": root / "night"} | settings
    tune_night(FinetuneSpec.model_validate(tuning), catalog, ProcessLauncher())
    evaluating = common | {"run_dir": root / "test", "bundles": root / "night" / "bundles"}
    evaluation = evaluate(EvaluateSpec.model_validate(evaluating), catalog, ProcessLauncher())
    return [
        row
        for row in evaluation.rows
        if row.domain == ALL and row.method != BASE and row.delta_auc is not None
    ]


def main(name: str, data_root: Path, out: Path) -> None:
    """Train trees on a log, adopt them, tune kernels on them, and write what that gains."""
    document = tomllib.loads(load.catalog_path(Path(name)).read_text())
    catalog = Catalog.model_validate(document)
    folder = Path(catalog.log.path)
    units = write_columns(catalog, data_root / folder, out / folder)
    given = Catalog.model_validate(columns_catalog(document, units))
    for row in gains(given, out):
        sys.stdout.write(
            f"{row.task:8} {row.rows:9,} rows  base {row.auc - row.delta_auc:.4f}  "
            f"{row.method:13} {row.auc:.4f}  delta {row.delta_auc:+.4f} "
            f"[{row.delta_auc_low:+.4f}, {row.delta_auc_high:+.4f}]\n"
        )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
