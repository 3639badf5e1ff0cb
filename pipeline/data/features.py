"""Columns -> ids and floats, as the catalogue says; pure, and the same code at serving time.

A raw record batch becomes an encoded one, a row a row:

    f.<feature>   int64 or list<int64>   rows of the feature's table
    n.<feature>   float                  dense input
    y.<task>      float                  label; null where it is missing, unripe or quarantined
    l.<level>     dictionary<string>     the row's domain at each level
    user          int64                  key of the user
    row           int64                  key of the row itself
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data import hashing
from schemas.feature import (
    FIRST_ROW,
    NULL_ROW,
    UNSEEN_ROW,
    FeatureSpec,
    ListSpec,
    NumericSpec,
    table_of,
)
from schemas.log import Catalog

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
POOLED = "pooled"
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What encoding learned from the pre-training window (see vocabulary.py)."""

    vocabularies: Mapping[str, hashing.Keys]
    """Table -> sorted keys of its ids."""
    statistics: Mapping[str, tuple[float, float]]
    """Number -> mean and deviation, after the logarithm."""
    boundaries: Mapping[str, Floats]
    """Bucketed number -> its cuts."""

    def table_rows(self, catalog: Catalog) -> dict[str, int]:
        """Rows of every table, the null and unseen rows included."""
        rows: dict[str, int] = {}
        for name, table in catalog.table_specs.items():
            if name in self.boundaries:
                rows[name] = FIRST_ROW + len(self.boundaries[name]) + 1
            elif name in self.vocabularies:
                rows[name] = FIRST_ROW + len(self.vocabularies[name])
            else:
                rows[name] = table.rows or FIRST_ROW
        return rows


def encode(
    rows: pa.RecordBatch,
    *,
    identity: hashing.Keys,
    catalog: Catalog,
    encoding: Encoding,
    unlabelled: npt.NDArray[np.bool_] | None = None,
    unripe: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> pa.RecordBatch:
    """The encoded rows; each depends on its own columns alone.

    Args:
        rows: raw columns, partition keys included.
        identity: key of each row.
        catalog: the log's catalogue.
        encoding: what the base's window taught.
        unlabelled: quarantined rows, which lose every label.
        unripe: by task, rows whose label has not matured.
    """
    columns: dict[str, pa.Array] = {}
    for feature in catalog.keyed:
        columns[f"f.{feature.name}"] = _ids(feature, rows, catalog, encoding)
    for number in catalog.numeric:
        columns[f"n.{number.name}"] = pa.array(_dense(number, rows, encoding))
    for task in catalog.tasks:
        masks = [m for m in (unlabelled, (unripe or {}).get(task.title)) if m is not None]
        columns[f"y.{task.title}"] = _label(rows.column(task.label), masks)
    for depth, keys in enumerate(catalog.domain.levels):
        columns[f"l.{depth}"] = domain_names(rows, keys)
    if catalog.log.user:
        columns["user"] = pa.array(hashing.keys_of(rows.column(catalog.log.user)).view(np.int64))
    columns["row"] = pa.array(identity.view(np.int64))
    return pa.RecordBatch.from_pydict(columns)


def no_rows(catalog: Catalog) -> pa.Table:
    """An encoded batch without rows, for a worker that has run out of them."""
    ids = {f.name: pa.list_(pa.int64()) if f.kind == "list" else pa.int64() for f in catalog.keyed}
    types: dict[str, pa.DataType] = {f"f.{name}": kind for name, kind in ids.items()}
    types |= {f"n.{f.name}": pa.float32() for f in catalog.numeric}
    types |= {f"y.{t.title}": pa.float32() for t in catalog.tasks}
    names = pa.dictionary(pa.int32(), pa.string())
    types |= {f"l.{depth}": names for depth in range(len(catalog.domain.levels))}
    types |= {"user": pa.int64()} if catalog.log.user else {}
    return pa.schema({**types, "row": pa.int64()}).empty_table()


def domain_names(rows: pa.RecordBatch, keys: tuple[str, ...]) -> pa.DictionaryArray:
    """`key=value[/key=value...]` a row, `pooled` for no key; null where a key is null."""
    if not keys:
        zeros = pa.array(np.zeros(len(rows), np.int32))
        return pa.DictionaryArray.from_arrays(zeros, pa.array([POOLED]))
    parts: list[Any] = []
    for key in keys:
        text = _decoded(rows.column(key)).cast(pa.string())
        parts += [pa.scalar(f"{'/' if parts else ''}{key}="), text]
    joined = pc.binary_join_element_wise(*parts, pa.scalar(""))
    return cast("pa.DictionaryArray", joined.dictionary_encode())


def _decoded(column: pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _label(column: pa.Array, masks: list[npt.NDArray[np.bool_]]) -> pa.Array:
    values = column.cast(pa.float64(), safe=False).cast(pa.float32(), safe=False)
    for mask in masks:
        values = pc.if_else(pa.array(mask), pa.scalar(None, pa.float32()), values)
    return values


def raw_number(feature: NumericSpec, rows: pa.RecordBatch) -> Floats:
    """The number before standardising; NaN where it is null or not finite."""
    column = _decoded(rows.column(feature.columns[0])).cast(pa.float64(), safe=False)
    values: Floats = column.to_numpy(zero_copy_only=False)
    if feature.log:
        values = np.sign(values) * np.log1p(np.abs(values))
    return np.where(np.isfinite(values), values, np.nan)


def _dense(
    feature: NumericSpec, rows: pa.RecordBatch, encoding: Encoding
) -> npt.NDArray[np.float32]:
    values = raw_number(feature, rows)
    if feature.standardise:
        mean, deviation = encoding.statistics[feature.name]
        values = np.clip((values - mean) / deviation, -feature.clip, feature.clip)
    return np.clip(np.nan_to_num(values), -_LARGEST, _LARGEST).astype(np.float32)


def counted_keys(feature: FeatureSpec, rows: pa.RecordBatch) -> tuple[hashing.Keys, Ids]:
    """Keys of the feature's values that are not null, and how often each occurs."""
    if feature.kind == "cross":
        return np.unique(_crossed(feature, rows), return_counts=True)
    column = rows.column(feature.columns[0])
    if isinstance(feature, ListSpec):
        column, _ = _last_values(column, feature.last)
    values = hashing.coded(column)
    words = values.dictionary
    counts = np.bincount(hashing.places_in_dictionary(values), minlength=len(words))[: len(words)]
    counted = _known(words) & (counts > 0)
    return hashing.keys_of_words(words)[counted], counts[counted]


def _known(values: pa.Array) -> npt.NDArray[np.bool_]:
    """Where the values are not null."""
    return cast("npt.NDArray[np.bool_]", values.is_valid().to_numpy(zero_copy_only=False))


def _crossed(feature: FeatureSpec, rows: pa.RecordBatch) -> hashing.Keys:
    """One key for the columns together; a null takes part as a value of its own."""
    keys = np.zeros(len(rows), np.uint64)
    for name in feature.columns:
        values = hashing.coded(rows.column(name))
        words = values.dictionary
        own = np.where(_known(words), hashing.keys_of_words(words), np.uint64(0))
        own = np.append(own, np.uint64(0))[hashing.places_in_dictionary(values)]
        keys = hashing.combine(keys, own)
    return keys


def _ids(
    feature: FeatureSpec, rows: pa.RecordBatch, catalog: Catalog, encoding: Encoding
) -> pa.Array:
    if isinstance(feature, NumericSpec):
        return pa.array(_bucket(raw_number(feature, rows), encoding.boundaries[feature.name]))
    table = table_of(feature) or feature.name
    if isinstance(feature, ListSpec):
        values, offsets = _last_values(rows.column(feature.columns[0]), feature.last)
        ids = _rows_of(values, table, catalog, encoding)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
    if feature.kind == "cross":
        return pa.array(_rows_of_keys(_crossed(feature, rows), table, catalog, encoding))
    return pa.array(_rows_of(rows.column(feature.columns[0]), table, catalog, encoding))


def _bucket(values: Floats, boundaries: Floats) -> Ids:
    ids = np.searchsorted(boundaries, values, side="right") + FIRST_ROW
    return np.where(np.isnan(values), NULL_ROW, ids).astype(np.int64)


def _rows_of(column: pa.Array, table: str, catalog: Catalog, encoding: Encoding) -> Ids:
    """Table rows of a column's values; each distinct value is looked up once."""
    values = hashing.coded(column)
    words, spec = values.dictionary, catalog.table_specs[table]
    if spec.encoding == "identity":
        ids = _identity(words, (spec.rows or 0) - FIRST_ROW)
    else:
        ids = _rows_of_keys(hashing.keys_of_words(words), table, catalog, encoding)
    ids = np.where(_known(words), ids, NULL_ROW)
    return np.append(ids, NULL_ROW)[hashing.places_in_dictionary(values)]


def _rows_of_keys(keys: hashing.Keys, table: str, catalog: Catalog, encoding: Encoding) -> Ids:
    spec = catalog.table_specs[table]
    if spec.encoding == "vocabulary":
        return _look_up(keys, encoding.vocabularies[table])
    return (keys % np.uint64((spec.rows or 0) - FIRST_ROW)).astype(np.int64) + FIRST_ROW


def _look_up(keys: hashing.Keys, vocabulary: hashing.Keys) -> Ids:
    if not len(vocabulary):
        return np.full(len(keys), UNSEEN_ROW, np.int64)
    places = np.minimum(np.searchsorted(vocabulary, keys), len(vocabulary) - 1)
    return np.where(vocabulary[places] == keys, places + FIRST_ROW, UNSEEN_ROW).astype(np.int64)


def _identity(words: pa.Array, ids_in_table: int) -> Ids:
    """The numbers themselves; one too large for int64 turns negative, and so is unseen."""
    numbers = words.cast(pa.int64(), safe=False).fill_null(-1).to_numpy(zero_copy_only=False)
    inside = (numbers >= 0) & (numbers < ids_in_table)
    return np.where(inside, numbers + FIRST_ROW, UNSEEN_ROW)


def _last_values(column: pa.Array, last: int) -> tuple[pa.Array, npt.NDArray[np.int32]]:
    """The last values of each list, flattened, and where each list starts and ends.

    A null list becomes one null value, and so reads the null row; an empty list stays empty, and
    pools to zeros.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    ends = column.offsets.to_numpy()[1:].astype(np.int64)
    starts = column.offsets.to_numpy()[:-1].astype(np.int64)
    starts = np.maximum(starts, ends - last)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.where(valid, ends - starts, 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    if column.null_count:
        from_null = np.repeat(~valid, lengths)
        return column.values.take(pa.array(places, mask=from_null)), offsets.astype(np.int32)
    is_whole = len(places) == len(column.values)
    values = column.values if is_whole else column.values.take(pa.array(places))
    return values, offsets.astype(np.int32)
