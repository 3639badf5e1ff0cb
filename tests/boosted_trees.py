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
from sklearn.ensemble import HistGradientBoostingClassifier

from iak.pipeline.runs import load
from iak.schemas.log import Catalog
from tests.answered_log import gains, of_the_log, rows_of_task, show, split_rows, write_beside

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


def columns_catalog(document: dict[str, Any], columns: dict[str, pa.Array]) -> dict[str, Any]:
    """A catalogue that reads the trees' columns in the place of the log's features."""
    units = columns["h"].type.list_size
    logits = {t.title: f"logit_{t.title}" for t in Catalog.model_validate(document).tasks}
    base = {"kind": "columns", "logits": logits, "h": "h", "units": units, "version": "trees 1"}
    return of_the_log(document) | {"base": base}


def main(name: str, data_root: Path, out: Path) -> None:
    """Train trees on a log, adopt them, tune kernels on them, and write what that gains."""
    document = tomllib.loads(load.catalog_path(Path(name)).read_text())
    catalog = Catalog.model_validate(document)
    folder = Path(catalog.log.path)
    columns = write_beside(catalog, data_root / folder, out / folder, columns_of)
    show(gains(Catalog.model_validate(columns_catalog(document, columns)), out))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
