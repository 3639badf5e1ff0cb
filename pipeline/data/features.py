"""Encode raw columns as ids and floats, as the catalogue says. Pure; serving uses the same code.

A raw record batch becomes an encoded one with the same rows in the same order:

    f.<feature>   int64 or list<int64>   rows of the feature's table
    n.<feature>   float                  dense input
    y.<task>      float                  label; null where it is missing, unripe or quarantined
    l.<level>     dictionary<string>     name of the row's domain at each level
    k.<key>       dictionary<string>     the row's value of each key of its domain
    user          int64                  key of the user
    row           int64                  key of the row itself

The ids of an encoded batch are contiguous in one buffer, feature after feature, as a
KeyedJaggedTensor has them. So `batch.py` takes them without a copy.

Letters: P parts, F features that read a table.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import hashing
from iak.pipeline.data.ids import Fill, Ids, Memo, Table, fill_with, known, whole_numbers
from iak.schemas.domain import ESCAPES, POOLED, escaped
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
LARGEST = float(np.finfo(np.float32).max)
"""Numbers of this size or more are read as missing. No float32 can hold them, and writers use such
values (1.797e308, 3.4e38) to mean that there is no number."""


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
    unlabelled: npt.NDArray[np.bool_] | None = None,
    unripe: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> pa.RecordBatch:
    """Return the encoded rows. Each depends on its own columns alone.

    Args:
        rows: raw columns, partition keys included.
        identity: key of each row.
        catalog: the log's catalogue.
        encoding: encoding learned on the base's window.
        unlabelled: quarantined rows, which lose every label; None where there are none.
        unripe: task -> rows that lose its label, because it is not ripe or impossible.
    """
    (batch,) = encode_parts(
        rows,
        (len(rows),),
        identity=identity,
        catalog=catalog,
        encoding=encoding,
        unlabelled=unlabelled,
        unripe=unripe,
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
    unripe: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> list[pa.RecordBatch]:
    """Return the encoded rows in several batches, each with contiguous ids.

    Args:
        rows: rows and further arguments of `encode`.
        sizes: rows of each batch; their sum is the number of rows.
        identity: key of each row.
        catalog: the log's catalogue.
        encoding: encoding learned on the base's window.
        unlabelled: quarantined rows; None where there are none.
        unripe: task -> rows that lose its label.
    """
    ends = np.cumsum([0, *sizes])
    ids = _ids(rows, ends, catalog, encoding)
    columns: dict[str, pa.Array] = {}
    for number in catalog.numeric:
        columns[f"n.{number.name}"] = pa.array(_dense(number, rows, encoding))
    for task in catalog.tasks:
        masks = [m for m in (unlabelled, (unripe or {}).get(task.title)) if m is not None]
        columns[f"y.{task.title}"] = _label(rows.column(task.label), masks)
    for depth, keys in enumerate(catalog.domain.levels):
        columns[f"l.{depth}"] = domain_names(rows, keys)
    for key in catalog.domain.all_keys:
        columns[f"k.{key}"] = _key_values(rows.column(key))
    if catalog.log.user:
        columns["user"] = pa.array(hashing.keys_of(rows.column(catalog.log.user)).view(np.int64))
    columns["row"] = pa.array(identity.view(np.int64))
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
    types |= {f"n.{f.name}": pa.float32() for f in catalog.numeric}
    types |= {f"y.{t.title}": pa.float32() for t in catalog.tasks}
    names = pa.dictionary(pa.int32(), pa.string())
    types |= {f"l.{depth}": names for depth in range(len(catalog.domain.levels))}
    types |= {f"k.{key}": names for key in catalog.domain.all_keys}
    types |= {"user": pa.int64()} if catalog.log.user else {}
    return pa.schema({**types, "row": pa.int64()}).empty_table()


def domain_names(rows: pa.RecordBatch, keys: tuple[str, ...]) -> pa.DictionaryArray:
    """Return each row's `Domain.name` at the level of these keys; null where a key is null."""
    if not keys:
        return _repeated(pa.array([POOLED]), len(rows))
    coded = [_as_dictionary(rows.column(key)) for key in keys]
    if all(len(column.dictionary) == 1 and not column.null_count for column in coded):
        name = _joined(keys, coded, np.zeros(1, np.int64))
        if len(rows) and not name.null_count:  # usual: all rows are of one partition
            return _repeated(name, len(rows))
    combinations = _combined(coded).dictionary_encode()
    names = _joined(keys, coded, combinations.dictionary.to_numpy())
    named = pa.DictionaryArray.from_arrays(combinations.indices, names)
    # Two combinations may have one name where a dictionary repeats a word; then encode again.
    if names.null_count or len(names.unique()) < len(names):
        named = named.dictionary_decode().dictionary_encode()
    return cast("pa.DictionaryArray", named)


def _key_values(column: pa.Array) -> pa.DictionaryArray:
    """Return a key's values as text, each word once."""
    coded = _as_dictionary(column)
    words = coded.dictionary.cast(pa.string())
    if len(words) == 1 and not coded.null_count:  # usual: all rows are of one partition
        return _repeated(words, len(coded))
    return pa.DictionaryArray.from_arrays(coded.indices.cast(pa.int32()), words)


def _as_dictionary(column: pa.Array) -> pa.DictionaryArray:
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


def _combined(coded: list[pa.DictionaryArray]) -> pa.Array:
    """Return a number for each row's combination of words; null where a column is null.

    The number has the first column's code as its highest digit (a mixed radix system).
    """
    combined, missing = np.zeros(len(coded[0]), np.int64), np.zeros(len(coded[0]), np.bool_)
    for column in coded:
        combined = combined * len(column.dictionary) + whole_numbers(column.indices)
        if column.null_count:
            missing |= ~known(column)
    return pa.array(combined, mask=missing if missing.any() else None)


def _repeated(word: pa.Array, count: int) -> pa.DictionaryArray:
    zeros = pa.array(np.zeros(count, np.int32))
    return pa.DictionaryArray.from_arrays(zeros, word, safe=False)


def _joined(keys: tuple[str, ...], coded: list[pa.DictionaryArray], numbers: Ids) -> pa.Array:
    """Return the names of combinations that `_combined` numbered.

    Args:
        keys: key of each column.
        coded: the columns.
        numbers: numbers of the combinations.
    """
    parts: list[Any] = []
    for key, column in zip(reversed(keys), reversed(coded), strict=True):
        count = max(len(column.dictionary), 1)
        numbers, codes = np.divmod(numbers, count)
        text = column.dictionary.take(pa.array(codes)).cast(pa.string())
        for character, code in ESCAPES:
            text = pc.replace_substring(text, character, code)
        parts = [pa.scalar(f"{escaped(key)}="), text, *([pa.scalar("/"), *parts] if parts else [])]
    return pc.binary_join_element_wise(*parts, pa.scalar(""))


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
    """Return the number before standardising; NaN where it is null, not finite, or `LARGEST`."""
    column = _decoded(rows.column(feature.columns[0])).cast(pa.float64(), safe=False)
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
        column, _ = _last_values(column, feature)
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
        values, list_ends = _last_values(column, feature)
        return _Source(partial(table.fill, values), list_ends)
    return _Source(partial(table.fill, column))


def _bucket(values: Floats, boundaries: Floats) -> Ids:
    ids = np.searchsorted(boundaries, values, side="right") + FIRST_ROW
    return np.where(np.isnan(values), NULL_ROW, ids).astype(np.int64)


def is_padding(values: pa.Array, padding: int | str) -> npt.NDArray[np.bool_]:
    """Return True for each value that is the padding of short lists; False for null."""
    coded = hashing.coded(values)
    words = [str(word) == str(padding) for word in coded.dictionary.to_pylist()]
    return np.array([*words, False])[hashing.dictionary_indices(coded)]


def _without_padding(column: pa.Array, padding: int | str) -> pa.Array:
    """Return the lists without their padding; null lists stay null."""
    bounds = column.offsets.to_numpy()
    values = column.values.slice(bounds[0], bounds[-1] - bounds[0])
    is_item = ~is_padding(values, padding)
    if is_item.all():
        return column
    kept = np.concatenate([[0], np.cumsum(is_item)])[bounds - bounds[0]]
    mask = pa.array(~known(column)) if column.null_count else None
    return pa.ListArray.from_arrays(
        pa.array(kept.astype(np.int32)), values.filter(pa.array(is_item)), mask=mask
    )


PADDED_SHARE = 0.2
"""Share of lists that must end, or begin, with the same value twice before they look padded."""


@dataclass(slots=True)
class ListEnds:
    """Counts of the values that lists of one length end and begin with, batch by batch."""

    lists: int = 0
    length: int | None = None
    """Length of every list so far; -1 where they differ."""
    ends: Counter[object] = field(default_factory=Counter)
    starts: Counter[object] = field(default_factory=Counter)

    def add(self, column: pa.Array) -> None:
        """Count more lists."""
        column = column.drop_null()
        sizes = np.diff(column.offsets.to_numpy())
        if not len(sizes) or self.length == -1:
            return
        self.lists += len(sizes)
        if sizes.min() != sizes.max() or self.length not in (None, int(sizes[0])):
            self.length = -1
            return
        self.length = length = int(sizes[0])
        if length < 3:
            return
        first = column.offsets.to_numpy()[:-1]
        for counter, position in ((self.ends, length - 2), (self.starts, 0)):
            pairs = [column.values.take(pa.array(first + position + shift)) for shift in (0, 1)]
            pairs = [_decoded(pair) for pair in pairs]
            twice = pairs[0].filter(pc.fill_null(pc.equal(*pairs), False))
            counter.update({v["values"]: v["counts"] for v in pc.value_counts(twice).to_pylist()})

    def padding(self) -> tuple[object, int] | None:
        """Return the value that seems to fill lists up, and the number of lists that it fills.

        Return None where no value does.
        """
        most = [counter.most_common(1)[0] for counter in (self.ends, self.starts) if counter]
        best = max(most, key=lambda pair: pair[1], default=None)
        if self.length in (None, -1) or best is None or best[1] < PADDED_SHARE * self.lists:
            return None
        return best


def _last_values(column: pa.Array, feature: ListSpec) -> tuple[pa.Array, npt.NDArray[np.int32]]:
    """Return the last values of each list, flattened, and the offsets of the lists.

    A null list becomes one null value, and so reads the null row. An empty list stays empty, and
    its mean is zeros. Padding is dropped first: a list of nothing else becomes an empty one.
    """
    last = feature.last
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if feature.padding is not None:
        column = _without_padding(column, feature.padding)
    bounds = column.offsets.to_numpy()
    if not column.null_count and np.diff(bounds).max(initial=0) <= last:
        # Usual: nothing is cut, so the values are taken without a copy.
        values = column.values.slice(bounds[0], bounds[-1] - bounds[0])
        return values, (bounds - bounds[0]).astype(np.int32)
    ends, starts = bounds[1:].astype(np.int64), bounds[:-1].astype(np.int64)
    starts = np.maximum(starts, ends - last)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.where(valid, ends - starts, 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # Position of each kept value: its list's start, plus its index within the list.
    positions = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    if column.null_count:
        from_null = np.repeat(~valid, lengths)
        return column.values.take(pa.array(positions, mask=from_null)), offsets.astype(np.int32)
    is_whole = len(positions) == len(column.values)
    values = column.values if is_whole else column.values.take(pa.array(positions))
    return values, offsets.astype(np.int32)
