"""Give encoded rows the keys under which fresh statistics count them, and their period.

    s.period            int32         the row's day since 1970-01-01; its fold in a log without days
    s.key.<columns>     int64         key of the columns' values together
    s.list.<column>     list<int64>   keys of the last items of a history

These columns are stored with a row's labels, beside its activations: a statistic changes every day,
the key of its row does not.
"""

from collections.abc import Mapping
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import hashing, splits
from iak.pipeline.data.ids import known
from iak.pipeline.data.lists import last_values
from iak.schemas.feature import ListSpec
from iak.schemas.fresh import CoOccurrenceSpec, Keys
from iak.schemas.log import Catalog

PERIOD = "s.period"
FOLDS = 8
"""Parts of a log without days. A row reads counts of the other parts alone."""
NO_DAY = int(np.iinfo(np.int32).min)
"""Period of a row without a day: earlier than all counts, so that it reads none."""
_FOLD_SALT = 0xF0_1D
"""Makes folds independent of the slices of splits, which the same key cuts."""
_EPOCH = date(1970, 1, 1).toordinal()
_DAY_US = 86_400_000_000


def key_column(columns: Keys) -> str:
    """Return the name of the encoded column that holds the key of some columns."""
    return f"s.key.{'+'.join(columns)}"


def list_column(spec: CoOccurrenceSpec) -> str:
    """Return the name of the encoded column that holds the keys of a history's items."""
    return f"s.list.{spec.pair[1]}.{spec.last}"


def as_keys(column: pa.Array | pa.ChunkedArray) -> hashing.Keys:
    """Return a column of keys as unsigned words."""
    keys: hashing.Keys = column.to_numpy(zero_copy_only=False).view(np.uint64)
    return keys


def has_days(catalog: Catalog) -> bool:
    """Return whether rows have a day; otherwise statistics are counted out of fold."""
    return bool(catalog.log.date_key or catalog.log.event_time)


def fresh_columns(
    rows: pa.RecordBatch, identity: hashing.Keys, catalog: Catalog
) -> dict[str, pa.Array]:
    """Return the columns of `fresh_types` for some rows; none where the catalogue counts nothing.

    Args:
        rows: raw columns, partition keys included.
        identity: key of each row, by which it is in a fold where the log has no `slice_by`.
        catalog: the log's catalogue.
    """
    if not catalog.fresh:
        return {}
    period = _days(rows, catalog) if has_days(catalog) else _folds(rows, identity, catalog)
    columns = {PERIOD: pa.array(period, pa.int32())}
    for names in catalog.fresh_keys[1:]:
        columns[key_column(names)] = pa.array(_keys(rows, names).view(np.int64))
    for name, (spec, feature) in _histories(catalog).items():
        values, ends = last_values(
            rows.column(spec.pair[1]), feature.model_copy(update={"last": spec.last})
        )
        keys = hashing.combine(np.zeros(len(values), np.uint64), _own_keys(values))
        columns[name] = pa.ListArray.from_arrays(pa.array(ends), pa.array(keys.view(np.int64)))
    return columns


def as_of_now(columns: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """Return `fresh_columns` in which rows without a day are later than all that was counted.

    It is for rows that are scored and have no label: they then read the newest counts. A row with a
    label must not, since its own label may be among them.
    """
    if PERIOD not in columns:
        return dict(columns)
    periods = columns[PERIOD].to_numpy()
    later = np.where(periods == NO_DAY, np.iinfo(np.int32).max, periods)
    return {**columns, PERIOD: pa.array(later, pa.int32())}


def fresh_types(catalog: Catalog) -> dict[str, pa.DataType]:
    """Return the columns of fresh statistics with their types."""
    if not catalog.fresh:
        return {}
    keys = dict.fromkeys(map(key_column, catalog.fresh_keys[1:]), pa.int64())
    lists = dict.fromkeys(_histories(catalog), pa.list_(pa.int64()))
    return {PERIOD: pa.int32(), **keys, **lists}


def _histories(catalog: Catalog) -> Mapping[str, tuple[CoOccurrenceSpec, ListSpec]]:
    """Return each column of a history's keys, with the two specifications that make it."""
    lists = {f.columns[0]: f for f in catalog.features if isinstance(f, ListSpec)}
    pairs = [spec for spec in catalog.fresh if isinstance(spec, CoOccurrenceSpec)]
    return {list_column(spec): (spec, lists[spec.pair[1]]) for spec in pairs}


def _keys(rows: pa.RecordBatch, columns: Keys) -> hashing.Keys:
    """Return one key for the columns together; a null counts as a value of its own."""
    keys = np.zeros(len(rows), np.uint64)
    for name in columns:
        keys = hashing.combine(keys, _own_keys(rows.column(name)))
    return keys


def _own_keys(column: pa.Array) -> hashing.Keys:
    values = hashing.coded(column)
    words = values.dictionary
    own = np.where(known(words), hashing.keys_of_words(words), np.uint64(0))
    return np.append(own, np.uint64(0))[hashing.dictionary_indices(values)]


def _folds(rows: pa.RecordBatch, identity: hashing.Keys, catalog: Catalog) -> npt.NDArray[np.int32]:
    """Return the fold of each row, by the key that cuts slices of splits."""
    keys = identity
    if catalog.log.slice_by:
        column = rows.column(catalog.log.slice_by)
        is_null = column.is_null().to_numpy(zero_copy_only=False)
        keys = np.where(is_null, identity, hashing.keys_of(column))
    return (hashing.unit_interval(keys, salt=_FOLD_SALT) * FOLDS).astype(np.int32)


def _days(rows: pa.RecordBatch, catalog: Catalog) -> npt.NDArray[np.int32]:
    """Return the day of each row, in days since 1970-01-01; `NO_DAY` where it has none."""
    log = catalog.log
    if log.date_key:
        names = rows.column(log.date_key).dictionary_encode()
        parsed = [splits.day_of(name, log) for name in names.dictionary.to_pylist()]
        days = [day.toordinal() - _EPOCH if day else NO_DAY for day in parsed]
        return np.array([*days, NO_DAY], np.int32)[hashing.dictionary_indices(names)]
    seconds = splits.event_seconds(rows.column(log.event_time), log)
    is_known = np.isfinite(seconds)
    micros = pa.array(np.where(is_known, seconds * 1e6, 0).astype(np.int64))
    wall = pc.local_timestamp(micros.cast(pa.timestamp("us", log.time_zone))).cast(pa.int64())
    days_B = np.where(is_known, wall.to_numpy() // _DAY_US, NO_DAY)
    return days_B.astype(np.int32)
