"""Read an evaluation's predictions back: labels, probabilities, and the rows of two runs paired."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.formats import current_document, unchanged
from iak.schemas.predictions import (
    DOCUMENT,
    PREDICTIONS,
    PREDICTIONS_FORMAT,
    MetricTask,
    PredictionsDocument,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_NAME = re.compile(r"(?P<split>.+)-(?P<rank>\d+)\.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """All workers' predictions of one split, in the log's order."""

    table: pa.Table
    document: PredictionsDocument
    run_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskColumns:
    """Labels, masks of the rows that count, and kept shares of negatives, by metric task."""

    labels: dict[str, Floats]
    masks: dict[str, Bools]
    kept: dict[str, float]


def read_predictions(run_dir: Path, split: str) -> Predictions:
    """Read the predictions that an evaluation made of a split.

    Args:
        run_dir: folder of an `iak evaluate` run.
        split: split that was evaluated.

    Raises:
        BadRequest: the folder holds no predictions of that split.
        OtherFormat: another version wrote them.
        Corrupt: a file is damaged or missing, or its document cannot be read.
    """
    parts = _parts(run_dir)
    if split not in parts:
        splits = ", ".join(sorted(parts)) or "none at all"
        raise BadRequest(
            f"{run_dir} holds no predictions of split '{split}'; there are {splits}. Give the "
            f"run folder of an `iak evaluate`, or run one with split={split}"
        )
    paths = [parts[split][rank] for rank in sorted(parts[split])]
    tables = [_read(path) for path in paths]
    document = _document(tables[0].schema.metadata or {}, paths[0])
    table = pa.concat_tables([part.replace_schema_metadata(None) for part in tables])
    if document.rows not in (None, len(table)):
        raise Corrupt(
            f"the predictions of split '{split}' in {run_dir / PREDICTIONS} have {len(table):,} "
            f"rows, and {document.rows:,} were written; a worker's file is missing or was "
            "exchanged. Evaluate again with `iak evaluate`"
        )
    return Predictions(
        table=table.unify_dictionaries().combine_chunks(), document=document, run_dir=run_dir
    )


def _read(path: Path) -> pa.Table:
    """Return one worker's rows; a page with another content than its checksum is refused."""
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(
            f"{path} cannot be read: {error}. Evaluate again with `iak evaluate`"
        ) from error


def _parts(run_dir: Path) -> dict[str, dict[int, Path]]:
    """Return every split's files by worker: rank 10 comes after rank 9, not after rank 1."""
    parts: dict[str, dict[int, Path]] = {}
    for path in (run_dir / PREDICTIONS).glob("*.parquet"):
        if named := _NAME.fullmatch(path.name):
            parts.setdefault(named["split"], {})[int(named["rank"])] = path
    return parts


def _document(metadata: Mapping[bytes, bytes], path: Path) -> PredictionsDocument:
    """Return the document in a predictions file's metadata."""
    try:
        document = json.loads(metadata.get(DOCUMENT, b"{}"))
        current = current_document(
            document,
            kind="predictions",
            current=PREDICTIONS_FORMAT,
            where=path,
            remedy="Evaluate again with `iak evaluate`",
            migrations={1: unchanged},
        )
        return PredictionsDocument.model_validate(current)
    except (ValueError, ValidationError) as error:
        raise Corrupt(f"{path}: its entry `iak` is not a predictions document: {error}") from error


def task_columns(table: pa.Table, tasks: Sequence[MetricTask]) -> TaskColumns:
    """Return the labels of every metric task, and the rows that count for it."""
    columns = TaskColumns(labels={}, masks={}, kept={})
    for task in tasks:
        values, mask = _label(table, task.task)
        if task.given:
            given, is_known = _label(table, task.given)
            mask = mask & is_known & (given == 1)
        columns.labels[task.name], columns.masks[task.name] = values, mask
        columns.kept[task.name] = task.kept
    return columns


def _label(table: pa.Table, title: str) -> tuple[Floats, Bools]:
    """Return a task's label, 0 where it is masked, and whether it is known."""
    column = table.column(f"y.{title}")
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.float64)
    return values, valid


def probabilities_of(
    table: pa.Table, tasks: Sequence[MetricTask], methods: Sequence[str]
) -> dict[str, dict[str, Floats]]:
    """Return method -> metric task -> probabilities."""
    return {
        method: {
            task.name: table.column(f"{task.space}.{method}.{task.task}").to_numpy()
            for task in tasks
        }
        for method in methods
    }


def paired_rows(first: Predictions, second: Predictions, *, common: bool) -> tuple[Ints, Ints]:
    """Return the indices of the same rows in two runs' predictions, in the first one's order.

    A row is identified by its key. Where rows share a key, the n-th of one run is the n-th of the
    other.

    Args:
        first: predictions of the first run.
        second: predictions of the second run.
        common: pair only the rows that both have, where rows differ.

    Raises:
        BadRequest: rows differ and `common` was not asked for, no row is common, or labels differ.
    """
    one, other = (_keys(run.table) for run in (first, second))
    _, at_first, at_second = np.intersect1d(one, other, assume_unique=True, return_indices=True)
    lacking, more = one.size - at_first.size, other.size - at_second.size
    if (lacking or more) and not common:
        raise BadRequest(
            f"the rows differ: {first.run_dir} has {one.size:,}, {second.run_dir} has "
            f"{other.size:,}, and {at_first.size:,} are in both ({lacking:,} only in the first, "
            f"{more:,} only in the second). Evaluate both on one split of one log, or compare "
            "what both have with common=true"
        )
    if not at_first.size:
        raise BadRequest(f"{first.run_dir} and {second.run_dir} have no row in common")
    order = np.argsort(at_first)
    pairs = at_first[order], at_second[order]
    _check_labels(first, second, *pairs)
    return pairs


def _keys(table: pa.Table) -> npt.NDArray[Any]:
    """Return each row's key and its number among the rows that share it."""
    rows = table.column("row").to_numpy()
    # `nth` counts the rows with the same key, in the table's order.
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    is_new = np.r_[True, ordered[1:] != ordered[:-1]] if rows.size else np.zeros(0, np.bool_)
    starts = np.flatnonzero(is_new)
    nth = np.empty(rows.size, np.int64)
    nth[order] = np.arange(rows.size) - np.repeat(starts, np.diff(np.r_[starts, rows.size]))
    # One structured value, so that `intersect1d` compares both numbers.
    keys = np.empty(rows.size, dtype=[("row", np.int64), ("nth", np.int64)])
    keys["row"], keys["nth"] = rows, nth
    return keys


def _check_labels(first: Predictions, second: Predictions, one: Ints, other: Ints) -> None:
    """Refuse rows whose labels are not the same in both runs."""
    for name in (n for n in first.table.schema.names if n.startswith("y.")):
        if name not in second.table.schema.names:
            continue
        columns = [
            run.table.column(name).fill_null(np.nan).to_numpy(zero_copy_only=False)[index]
            for run, index in ((first, one), (second, other))
        ]
        if differ := int((~np.equal(*columns) & ~np.logical_and(*map(np.isnan, columns))).sum()):
            raise BadRequest(
                f"{differ:,} of {one.size:,} rows have another label {name[2:]} in "
                f"{second.run_dir} than in {first.run_dir}: the log or its ripeness changed in "
                "between. Evaluate both on the same snapshot, with the same as_of="
            )
