"""Encode raw columns as ids and floats, as the catalogue says. Pure; serving uses the same code.

A raw record batch becomes an encoded one with the same rows in the same order:

    f.<feature>   int64 or list<int64>   rows of the feature's table
    n.<feature>   float                  dense input
    g.<column>    float or list<float>   logits and activations of a given base (given.py)
    y.<task>      float                  label; null where it is missing, unripe or quarantined
    l.<level>     dictionary<string>     name of the row's domain at each level
    k.<key>       dictionary<string>     the row's value of each key of its domain
    user          int64                  key of the user
    row           int64                  key of the row itself
    s.*                                  keys of fresh statistics, where the catalogue declares any
                                         (fresh_keys.py)

The ids of an encoded batch are contiguous in one buffer, feature after feature, as a
KeyedJaggedTensor has them. So `batch.py` takes them without a copy.

Letters: P parts, F features that read a table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import domain_columns, given, hashing
from iak.pipeline.data.fresh_keys import as_of_now, fresh_columns, fresh_types
from iak.pipeline.data.ids import Fill, Ids, Memo, Table, decoded, fill_with, known
from iak.pipeline.data.lists import last_values
from iak.pipeline.data.task_labels import label_of
from iak.schemas.feature import (
    FIRST_ROW,
    NULL_ROW,
    FeatureSpec,
    ListSpec,
    NumericSpec,
    TableSpec,
    table_of,
)
from iak.schemas.log import Catalog

Floats = npt.NDArray[np.float64]
INPUTS = ("f.", "n.", "g.")
"""Prefixes of the columns on which the base's answer to a row depends."""
LARGEST = float(np.finfo(np.float32).max)
"""Numbers of this size or more are read as missing. No float32 can hold them, and writers use such
values (1.797e308, 3.4e38) to mean that there is no number."""


class BaseNumbers(Protocol):
    """Fresh statistics that a base reads as numbers, as they were when it was trained."""

    @property
    def id(self) -> str:
        """Return SHA-256 over what was counted, and how it is standardised."""
        ...

    def of(self, rows: pa.Table) -> npt.NDArray[np.float32]:
        """Return the standardised statistics of rows with the columns of fresh_keys.py, (B, S)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Vocabularies and statistics learned from the pre-training window (see vocabulary.py)."""

    vocabularies: Mapping[str, hashing.Keys]
    """Table -> sorted keys of its ids."""
    statistics: Mapping[str, tuple[float, float]]
    """Numeric feature -> mean and standard deviation, after the logarithm where one is taken."""
    boundaries: Mapping[str, Floats]
    """Bucketed feature -> its boundaries, rising."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Table -> kind of its ids (see kinds.py); without an entry where it is not known."""
    fresh: BaseNumbers | None = None
    """Fresh statistics that the base reads; None where it reads none."""
    memo: Memo = field(default_factory=Memo, init=False, repr=False, compare=False)
    """Rows that were looked up before; not part of what was learned."""

    def __reduce__(self) -> tuple[Callable[..., "Encoding"], tuple[()]]:
        """Leave the memo out of a pickle: each worker fills its own."""
        learned = partial(
            Encoding,
            vocabularies=self.vocabularies,
            statistics=self.statistics,
            boundaries=self.boundaries,
            kinds=self.kinds,
            fresh=self.fresh,
        )
        return learned, ()

    def table_rows(self, catalog: Catalog) -> dict[str, int]:
        """Return the rows of every table, the null and unseen rows included."""
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
    is_scored: bool = False,
) -> pa.RecordBatch:
    """Return the encoded rows. Each depends on its own columns alone.

    Args:
        rows: raw columns, partition keys included.
        identity: key of each row.
        catalog: the log's catalogue.
        encoding: encoding learned on the base's window.
        is_scored: whether the rows are scored and have no label; one without a day then reads the
            newest statistics.
    """
    (batch,) = encode_parts(
        rows,
        (len(rows),),
        identity=identity,
        catalog=catalog,
        encoding=encoding,
        is_scored=is_scored,
    )
    return batch


def encode_parts(
    rows: pa.RecordBatch,
    sizes: Sequence[int],
    *,
    identity: hashing.Keys,
    catalog: Catalog,
    encoding: Encoding,
    unlabelled: npt.NDArray[np.bool_] | None = None,
    masked: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    is_scored: bool = False,
) -> list[pa.RecordBatch]:
    """Return the encoded rows in several batches, each with contiguous ids.

    Args:
        rows: raw columns, partition keys included.
        sizes: rows of each batch; their sum is the number of rows.
        identity: key of each row.
        catalog: the log's catalogue.
        encoding: encoding learned on the base's window.
        unlabelled: quarantined rows, which lose every label; None where there are none.
        masked: task -> rows that lose its label, because it is not ripe or impossible; None where
            there are none.
        is_scored: whether the rows are scored and have no label.
    """
    ends = np.cumsum([0, *sizes])
    ids = _ids(rows, ends, catalog, encoding)
    columns: dict[str, pa.Array] = {}
    for number in catalog.numeric:
        columns[f"n.{number.name}"] = pa.array(_dense(number, rows, encoding))
    fresh = fresh_columns(rows, identity, catalog)
    if is_scored:
        fresh = as_of_now(fresh)
    columns |= _base_statistics(fresh, catalog, encoding)
    columns |= given.encoded_columns(rows, catalog)
    for task in catalog.tasks:
        masks = [m for m in (unlabelled, (masked or {}).get(task.title)) if m is not None]
        columns[f"y.{task.title}"] = _label(label_of(rows, task), masks)
    for depth, keys in enumerate(catalog.domain.levels):
        columns[f"l.{depth}"] = domain_columns.domain_names(rows, keys)
    for key in catalog.domain.all_keys:
        columns[f"k.{key}"] = domain_columns.key_values(rows.column(key))
    if catalog.log.user:
        columns["user"] = pa.array(hashing.keys_of(rows.column(catalog.log.user)).view(np.int64))
    columns["row"] = pa.array(identity.view(np.int64))
    columns |= fresh
    return [
        pa.RecordBatch.from_arrays(
            [*own.values(), *(column.slice(start, size) for column in columns.values())],
            [*own, *columns],
        )
        for own, start, size in zip(ids, ends[:-1], sizes, strict=True)
    ]


def no_rows(catalog: Catalog) -> pa.Table:
    """Return an encoded batch without rows, for a worker that has run out of them."""
    ids = {f.name: pa.list_(pa.int64()) if f.kind == "list" else pa.int64() for f in catalog.keyed}
    types: dict[str, pa.DataType] = {f"f.{name}": kind for name, kind in ids.items()}
    types |= {f"n.{name}": pa.float32() for name in catalog.number_names}
    types |= given.encoded_types(catalog)
    types |= {f"y.{t.title}": pa.float32() for t in catalog.tasks}
    names = pa.dictionary(pa.int32(), pa.string())
    types |= {f"l.{depth}": names for depth in range(len(catalog.domain.levels))}
    types |= {f"k.{key}": names for key in catalog.domain.all_keys}
    types |= {"user": pa.int64()} if catalog.log.user else {}
    types |= {"row": pa.int64(), **fresh_types(catalog)}
    return pa.schema(types).empty_table()


def _base_statistics(
    fresh: Mapping[str, pa.Array], catalog: Catalog, encoding: Encoding
) -> dict[str, pa.Array]:
    """Return the statistics that the base reads as numbers; none before any is counted.

    Args:
        fresh: columns of fresh_keys.py.
        catalog: the log's catalogue.
        encoding: encoding learned on the base's window.
    """
    names = catalog.number_names[len(catalog.numeric) :]
    if not names or encoding.fresh is None:
        return {}
    s_BS = encoding.fresh.of(pa.table(dict(fresh)))
    return {f"n.{name}": pa.array(s_B) for name, s_B in zip(names, s_BS.T.copy(), strict=True)}


def _label(column: pa.Array, masks: list[npt.NDArray[np.bool_]]) -> pa.Array:
    values = column.cast(pa.float64(), safe=False).cast(pa.float32(), safe=False)
    for mask in masks:
        values = pc.if_else(pa.array(mask), pa.scalar(None, pa.float32()), values)
    return values


def raw_number(feature: NumericSpec, rows: pa.RecordBatch) -> Floats:
    """Return the number before standardising; NaN where it is null, not finite, or `LARGEST`."""
    column = decoded(rows.column(feature.columns[0])).cast(pa.float64(), safe=False)
    values: Floats = column.to_numpy(zero_copy_only=False)
    sizes = np.abs(values)
    is_usable = sizes < LARGEST  # False for NaN as well
    if feature.log:
        np.log1p(sizes, out=sizes)
        values = np.multiply(np.sign(values), sizes, out=sizes)
    return values if is_usable.all() else np.where(is_usable, values, np.nan)


def _dense(
    feature: NumericSpec, rows: pa.RecordBatch, encoding: Encoding
) -> npt.NDArray[np.float32]:
    values = raw_number(feature, rows)
    bound = LARGEST
    if feature.standardise:
        mean, deviation = encoding.statistics[feature.name]
        values = values - mean
        values /= deviation
        bound = min(feature.clip, bound)
    values = np.clip(values, -bound, bound)
    values[np.isnan(values)] = 0
    return values.astype(np.float32)


def counted_keys(feature: FeatureSpec, rows: pa.RecordBatch) -> tuple[hashing.Keys, Ids]:
    """Return the keys of the feature's values that are not null, and how often each occurs."""
    if feature.kind == "cross":
        return np.unique(_crossed(feature, rows), return_counts=True)
    column = rows.column(feature.columns[0])
    if isinstance(feature, ListSpec):
        column, _ = last_values(column, feature)
    values = hashing.coded(column)
    words = values.dictionary
    # A null has the index after the last word; its count is cut off.
    counts = np.bincount(hashing.dictionary_indices(values), minlength=len(words))[: len(words)]
    counted = known(words) & (counts > 0)
    return hashing.keys_of_words(words)[counted], counts[counted]


def _crossed(feature: FeatureSpec, rows: pa.RecordBatch) -> hashing.Keys:
    """Return one key for the columns together; a null counts as a value of its own."""
    keys = np.zeros(len(rows), np.uint64)
    for name in feature.columns:
        values = hashing.coded(rows.column(name))
        words = values.dictionary
        own = np.where(known(words), hashing.keys_of_words(words), np.uint64(0))
        own = np.append(own, np.uint64(0))[hashing.dictionary_indices(values)]
        keys = hashing.combine(keys, own)
    return keys


@dataclass(frozen=True, slots=True)
class _Source:
    """The ids of one feature, before they are written into a buffer."""

    fill: Fill
    list_ends: npt.NDArray[np.int32] | None = None
    """A 0, and then where the list of each row ends; None where each row has one id."""

    def ends(self, row_ends: Ids) -> Ids:
        """Return the end of the ids of all rows up to each of these positions."""
        return row_ends if self.list_ends is None else self.list_ends[row_ends].astype(np.int64)

    def column(self, values: pa.Buffer, offset: int, start: int, stop: int) -> pa.Array:
        """Return the column of some rows.

        Args:
            values: buffer that holds their ids.
            offset: position of their first id in the buffer.
            start: first row.
            stop: row after the last one.
        """
        if self.list_ends is None:
            return pa.Array.from_buffers(pa.int64(), stop - start, [None, values], offset=offset)
        ends = self.list_ends[start : stop + 1]
        ids = pa.Array.from_buffers(pa.int64(), ends[-1] - ends[0], [None, values], offset=offset)
        return pa.ListArray.from_arrays(pa.array(ends - ends[0]), ids)


def _ids(
    rows: pa.RecordBatch, ends: Ids, catalog: Catalog, encoding: Encoding
) -> list[dict[str, pa.Array]]:
    """Return the columns of ids of each part; the ids of a part are contiguous in one buffer.

    Args:
        rows: raw columns.
        ends: a 0, and then the row where each part ends, (P + 1,).
        catalog: the log's catalogue.
        encoding: encoding learned on the base's window.
    """
    tables = catalog.table_specs
    sources = [_source(feature, rows, tables, encoding) for feature in catalog.keyed]
    ends_FP = np.array([source.ends(ends) for source in sources], np.int64).reshape(-1, len(ends))
    counts_PF = np.diff(ends_FP, axis=1).T
    ends_PF = np.cumsum(counts_PF, axis=1)
    starts_PF = ends_PF - counts_PF
    # Lengths are known before ids are looked up. So each id is written once, where it belongs.
    buffers = [np.empty(count, np.int64) for count in counts_PF.sum(axis=1)]
    for index, source in enumerate(sources):
        bounds = zip(buffers, starts_PF[:, index], ends_PF[:, index], strict=True)
        source.fill([buffer[start:end] for buffer, start, end in bounds])
    names = [f"f.{feature.name}" for feature in catalog.keyed]
    written = map(pa.py_buffer, buffers)
    parts = zip(written, starts_PF.tolist(), ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    return [
        {
            name: source.column(values, offset, start, stop)
            for name, source, offset in zip(names, sources, starts_F, strict=True)
        }
        for values, starts_F, start, stop in parts
    ]


def _source(
    feature: FeatureSpec,
    rows: pa.RecordBatch,
    tables: Mapping[str, TableSpec],
    encoding: Encoding,
) -> _Source:
    if isinstance(feature, NumericSpec):
        ids = _bucket(raw_number(feature, rows), encoding.boundaries[feature.name])
        return _Source(partial(fill_with, ids))
    name = table_of(feature) or feature.name
    table = Table(
        name=name,
        spec=tables[name],
        vocabulary=encoding.vocabularies.get(name),
        memo=encoding.memo,
    )
    if feature.kind == "cross":
        return _Source(partial(fill_with, table.rows_of_keys(_crossed(feature, rows))))
    column = rows.column(feature.columns[0])
    if isinstance(feature, ListSpec):
        values, list_ends = last_values(column, feature)
        return _Source(partial(table.fill, values), list_ends)
    return _Source(partial(table.fill, column))


def _bucket(values: Floats, boundaries: Floats) -> Ids:
    ids = np.searchsorted(boundaries, values, side="right") + FIRST_ROW
    return np.where(np.isnan(values), NULL_ROW, ids).astype(np.int64)
