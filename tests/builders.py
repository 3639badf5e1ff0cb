"""A small log and its catalogue, made to order: any rows in any layout of files and row groups."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iak.pipeline.data import contract, hashing, logs, parquet, vocabulary
from iak.pipeline.data.encoding_counts import EncodingCounts
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.pieces import pieces_of
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.splits import Split
from iak.pipeline.runs.inputs import Inputs, inputs_of
from iak.schemas.log import Catalog
from iak.schemas.log_snapshot import LogSnapshot
from iak.schemas.training import TrainingResult, TrainingRunResult

REGIONS = ("hangzhou", "ningbo")
DAYS = ("2026-10-01", "2026-10-02", "2026-10-03")
DAY_S = 86_400
FIRST_S = 1_790_812_800
"""2026-10-01 00:00 UTC."""

SCHEMA = pa.schema(
    {
        "event_id": pa.int64(),
        "event_time": pa.int64(),
        "user_id": pa.string(),
        "item_id": pa.int64(),
        "hist": pa.list_(pa.int64()),
        "slot": pa.int32(),
        "price": pa.float64(),
        "age": pa.int16(),
        "scene": pa.string(),
        "click": pa.int8(),
        "order": pa.int8(),
    }
)

FEATURES: tuple[dict[str, Any], ...] = (
    {"kind": "categorical", "name": "user_id"},
    {"kind": "categorical", "name": "item", "column": "item_id"},
    {"kind": "categorical", "name": "slot"},
    {"kind": "categorical", "name": "region"},
    {"kind": "list", "name": "hist", "table": "item", "last": 3},
    {"kind": "cross", "name": "user_scene", "columns": ["user_id", "scene"]},
    {"kind": "numeric", "name": "price", "log": True},
    {"kind": "numeric", "name": "age", "buckets": 3},
)


def catalog_document(**changes: Any) -> dict[str, Any]:
    """The small log's catalogue as TOML would give it; `log__user=...` changes a nested key."""
    document: dict[str, Any] = {
        "log": {
            "name": "small",
            "partition_keys": ["region", "dt"],
            "date_key": "dt",
            "event_time": "event_time",
            "row_id": "event_id",
            "user": "user_id",
        },
        "domain": {"keys": ["region"]},
        "features": [dict(feature) for feature in FEATURES],
        "tables": {
            "user_id": {"min_count": 1},
            "slot": {"encoding": "identity", "rows": 6},
            "user_scene": {"encoding": "hash", "rows": 12},
        },
        "tasks": [{"label": "click", "kind": "click"}, {"label": "order", "kind": "conversion"}],
        "splits": {"pretrain": {}},
    }
    for path, value in changes.items():
        *outer, last = path.split("__")
        node = document
        for part in outer:
            node = node[part]
        node[last] = value
    return document


def small_catalog(**changes: Any) -> Catalog:
    return Catalog.model_validate(catalog_document(**changes))


def draw_rows(count: int, *, first: int = 0, seed: int = 0) -> pa.Table:
    """Rows with every kind of value that a sound log may hold, nulls among them."""
    draw = np.random.default_rng([seed, first])

    def some(values: Iterable[Any]) -> list[Any]:
        """The values, about a tenth of them null."""
        return [None if draw.random() < 0.1 else value for value in values]

    click = draw.integers(0, 2, count)
    columns = {
        "event_id": np.arange(first, first + count),
        "event_time": FIRST_S + draw.integers(0, 3 * DAY_S, count),
        "user_id": [f"u{i}" for i in draw.integers(0, 9, count)],
        "item_id": some(draw.integers(-5, 20, count).tolist()),
        "hist": some([some(draw.integers(0, 20, n).tolist()) for n in draw.integers(0, 6, count)]),
        "slot": some(draw.integers(-1, 6, count).tolist()),
        "price": some(np.where(draw.random(count) < 0.1, np.nan, draw.gamma(2, 9, count)).tolist()),
        "age": some(draw.integers(10, 90, count).tolist()),
        "scene": some(draw.choice(["search", "feed", "配送"], count).tolist()),
        "click": some(click.tolist()),
        "order": (click * draw.integers(0, 2, count)).astype(np.int8),
    }
    return pa.table(columns, schema=SCHEMA)


def write_file(path: Path, table: pa.Table, group_rows: Sequence[int] | None = None) -> Path:
    """A Parquet file with row groups of these sizes; a size of 0 makes an empty row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, table.schema) as writer:
        start = 0
        for rows in [len(table)] if group_rows is None else group_rows:
            writer.write_table(table.slice(start, rows))
            start += rows
    return path


def partition(region: str, day: str) -> str:
    return f"region={region}/dt={day}"


def write_log(
    root: Path, layout: Sequence[tuple[str, str, Sequence[int]]], seed: int = 0
) -> pa.Table:
    """Write one file for each (region, day, rows of its groups); all rows in the log's order.

    Returns:
        The rows with their partition columns, in the order in which a snapshot lists them.
    """
    first, written = 0, {}
    for number, (region, day, groups) in enumerate(layout):
        rows = draw_rows(sum(groups), first=first, seed=seed)
        first += len(rows)
        name = f"{partition(region, day)}/part-{number:05d}.parquet"
        write_file(root / name, rows, groups)
        rows = rows.append_column("region", pa.array([region] * len(rows), pa.string()))
        written[name] = rows.append_column("dt", pa.array([day] * len(rows), pa.string()))
    return pa.concat_tables([written[name] for name in sorted(written)])


def snapshot_of(root: Path, catalog: Catalog) -> Snapshot:
    return logs.take_snapshot(
        str(root),
        partition_keys=catalog.log.partition_keys,
        schema_problem=lambda schema: contract.schema_problem(schema, catalog),
    )


EVERYTHING = Split(name="all", first=None, last=None, where={}, slice=(0.0, 1.0))


def raw_rows(root: Path, catalog: Catalog) -> list[tuple[pa.RecordBatch, hashing.Keys]]:
    """All rows of a log, piece by piece, as `vocabulary.fit` wants them."""
    selection = parquet.select(snapshot_of(root, catalog), EVERYTHING, catalog)
    pieces = pieces_of(selection, rank=0, world=1)
    read = (parquet.read_piece(selection, piece, catalog) for piece in pieces)
    return [(raw.rows, raw.identity) for raw in read]


def batch_of(rows: pa.Table | Mapping[str, Any]) -> pa.RecordBatch:
    """One record batch of these rows."""
    table = rows if isinstance(rows, pa.Table) else pa.table(dict(rows))
    return table.combine_chunks().to_batches()[0]


def encoding_of(rows: pa.RecordBatch, catalog: Catalog) -> Encoding:
    """What these rows teach."""
    return vocabulary.fit([(rows, np.zeros(len(rows), np.uint64))], catalog)


def small_reader(
    root: Path,
    catalog: Catalog,
    *,
    encoding: Encoding,
    rank: int = 0,
    world: int = 1,
    split: Split = EVERYTHING,
    **rest: Any,
) -> Reader:
    return Reader(
        selection=parquet.select(snapshot_of(root, catalog), split, catalog),
        catalog=catalog,
        encoding=encoding,
        rank=rank,
        world=world,
        **rest,
    )


def encoding_after(
    before: Encoding | None, rows: pa.RecordBatch, catalog: Catalog, grown: Sequence[str] = ()
) -> Encoding:
    """The encoding of an earlier window, with what these rows add to it."""
    counts = EncodingCounts(catalog, before=before, grown=grown)
    counts.add(rows)
    return counts.encoding()


def rows_in_order(reader: Reader, counts: Counter[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The encoded rows of a worker in the log's order, one piece at a time."""
    return (reader.encoded(piece, counts) for piece in reader.pieces())


def keys_to_ids(count: int) -> dict[int, int]:
    """Row key -> event id, for reading the `row` column of encoded rows."""
    keys = hashing.keys_of(pa.array(np.arange(count))).view(np.int64)
    return {int(key): position for position, key in enumerate(keys)}


def digest_of(word: str) -> str:
    """A SHA-256 that differs from word to word."""
    return hashlib.sha256(word.encode()).hexdigest()


def run_inputs(files: Mapping[str, str] | None = None, as_of: str = "", **changes: Any) -> Inputs:
    """What a run of the small log reads: files by their content, and a base; all in words.

    Args:
        files: path -> what is in it.
        as_of: last date of labels.
        changes: of the catalogue, as `catalog_document` takes them; `base=` names another base.
    """
    document = {"a.parquet": "rows", "b.parquet": "rows"} if files is None else dict(files)
    others = {"base": digest_of(changes.pop("base", "base"))}
    snapshot = {
        "fingerprint": digest_of(str(document)),
        "files": [
            {"path": path, "fingerprint": digest_of(said)} for path, said in document.items()
        ],
        "splits": {"tune": {"first": "2026-10-01", "last": "2026-10-03", "rows": 9}},
        "as_of": as_of,
    }
    return inputs_of(small_catalog(**changes), LogSnapshot.model_validate(snapshot), others)


def training_result(**changes: Any) -> TrainingResult:
    """Return what the workers of a pre-training run measured: one step, and no task."""
    fields: dict[str, Any] = {
        "steps": 1,
        "steps_planned": 1,
        "rows": 1,
        "labelled": {},
        "best_step": 1,
        "best_valid_loss": 1.0,
        "best_tasks": (),
        "parent_valid_loss": None,
        "is_parent_best": False,
        "best_child_loss": 1.0,
        "stopped_early": False,
        "improving_at_the_end": False,
        "loaded": (),
        "plan": (),
    }
    return TrainingResult.model_validate(fields | changes)


def training_run_result(**changes: Any) -> TrainingRunResult:
    """Return what the record of such a run has."""
    fields: dict[str, Any] = {
        "contract": {},
        "settings": {"used": {"epochs": 2, "from_rates": 1.0}, "followed": ("epochs",)},
        "advice": (),
        "labels": {},
        "labelled_rows": "",
        "unseen": {},
    }
    return TrainingRunResult(**dict(training_result()), **(fields | changes))
